"""The grid of the utility benchmark: what stands in it, who is trained and tested on whom, and how bad entries end."""

import json
from pathlib import Path

import pytest
import tomli_w

from benchmarks.utility import __main__ as utility
from benchmarks.utility.cells import cells_of
from benchmarks.utility.claims import (
    CENTRALISED,
    CT_ONLY,
    ENCRYPTED,
    EPSILON_8,
    FEDERATED,
    GIN,
    IPA,
    LEAD,
    MASKED,
    MR_ONLY,
    NO_NOISE,
    NONE,
    PLAIN,
)
from benchmarks.utility.grid_file import load_grid
from benchmarks.utility.real_data import split_real
from secfed.data.cases import ABDOMEN, WHOLE_HEART
from secfed.errors import ConfigError, DataError
from secfed.experiment.checks import check_run

SCALES = ("smoke", "standard", "full")


def grid(scale="standard"):
    return load_grid(utility.GRID, scale=scale)


def cells(scale="standard", **given):
    return cells_of(grid(scale), **given)


def tiny(**changes):
    """A grid of one experiment with one variant, as a TOML tree."""
    return {
        "name": "tiny",
        "scales": {"only": {"seeds": [0], "cases": 1, "test_cases": 1, "private_cases": 1}},
        "site_sets": {"one": [{"name": "ct-a", "modality": "CT", "protocol": "ct-portal"}]},
        "test_sets": {"abdomen": [{"name": "test-ct", "modality": "CT", "protocol": "ct-any"}]},
        "methods": {"none": {"method": "none"}, "gin": {"method": "gin"}},
        "profiles": {"run": {}},
        "experiments": [
            {
                "key": "asked",
                "title": "t",
                "question": "q",
                "kind": "methods",
                "sites": "one",
                "variants": [{"name": "plain"}],
            }
        ],
        **changes,
    }


def loaded(folder, tree):
    path = folder / "grid.toml"
    path.write_text(tomli_w.dumps(tree))
    return load_grid(path, scale="only")


@pytest.mark.parametrize("scale", SCALES)
def test_every_variant_of_the_shipped_grid_is_a_run_that_could_start(scale):
    for cell in cells(scale, seeds=1):
        assert cell.problem is None
        check_run(cell.config)


def test_every_method_of_the_paper_s_comparison_is_asked_about_the_unseen_modality():
    asked = {cell.config.augmentation.label() for cell in cells(only=("unseen",), seeds=1)}
    bare = {"none", "nnunet", "randconv", "fda", "apr", "bezier", "slaug", "gin", "gin_ipa (consistency 10)"}
    assert {label for label in asked if label.partition(" ")[0] == label} >= bare - {"gin_ipa (consistency 10)"}
    assert any(label.startswith("gin_ipa") for label in asked)


def test_every_axis_of_the_issue_has_its_values():
    found = cells(seeds=1)
    config = [cell.config for cell in found]
    assert {cell.model.partition(":")[0] for cell in found} >= {"federated", "centralised", "site"}
    rules = {(one.model.normalisation, one.federation.normalisation) for one in config}
    wanted = [("batch", "shared"), ("batch", "fedbn"), ("batch", "silobn"), ("batch", "fednorm")]
    assert rules >= {*wanted, ("instance", "shared"), ("group", "shared")}
    assert {one.federation.server_optimizer for one in config} >= {"fedavg", "fedadam"}
    assert any(one.federation.proximal_mu for one in config)
    assert {len(one.sites) for one in config} >= {2, 4, 8}
    assert {one.protection.mode for one in config} == {"plain", "masked", "encrypted"}
    assert {one.privacy.mode for one in config} == {"off", "clip_only", "local", "distributed", "silo"}
    for mode in ("local", "distributed"):
        assert {one.privacy.epsilon for one in config if one.privacy.mode == mode} >= {1.0, 3.0, 8.0}
    assert {one.task for one in config} == {"abdomen", "whole_heart"}


def test_claims_name_variants_that_are_there():
    named = {(cell.experiment, cell.variant) for cell in cells(seeds=1)}
    assert named >= {("federated", name) for name in (FEDERATED, CENTRALISED, CT_ONLY, MR_ONLY)}
    assert named >= {("unseen", name) for name in (NONE, GIN, IPA, LEAD)}
    assert named >= {("protection", name) for name in (PLAIN, MASKED, ENCRYPTED)}
    assert named >= {("privacy", name) for name in (EPSILON_8, NO_NOISE)}


def test_references_and_pictures_name_variants_that_are_there():
    table = grid().table
    named = {(cell.experiment, cell.variant) for cell in cells(seeds=1)}
    for experiment in table.experiments:
        assert experiment.reference is None or (experiment.key, experiment.reference) in named
    assert table.pictured
    assert {tuple(place.split("/", 1)) for place in table.pictured} <= named


def test_equal_variants_of_two_experiments_are_one_run():
    found = {(cell.experiment, cell.variant): cell for cell in cells(seeds=1)}
    masked = {
        found["federated", FEDERATED].run_key,
        found["protection", MASKED].run_key,
        found["federation", "FedAvg, 4 sites"].run_key,
        found["normalisation", "instance"].run_key,
    }
    assert len(masked) == 1


def test_test_patients_are_the_same_at_every_seed_and_nobody_trains_on_them():
    def seeds(source):
        return {test.phantom.seed for cell in cells(**source) for test in cell.config.test}

    tested, tuning = seeds({}), seeds({"tuning": True})
    assert None not in tested | tuning
    assert not tested & tuning
    for cell in cells():
        assert {site.phantom.seed for site in cell.config.sites} == {None}
        assert not {site.name for site in cell.config.sites} & {test.name for test in cell.config.test}


def test_a_private_run_s_patients_share_no_population_with_those_that_it_was_pretrained_on():
    found = {cell.variant: cell for cell in cells(only=("privacy",), seeds=1)}
    public = found["pretrained"]
    assert {site.phantom.population for site in public.config.sites} == {"north"}
    for name, cell in found.items():
        if name != "pretrained":
            assert cell.needs == public.run_key
            assert {site.phantom.population for site in cell.config.sites} == {"south"}


def test_a_cell_s_hash_says_the_same_on_every_machine():
    for cell in cells(seeds=1):
        assert "/" not in str(cell.config.start_from or "").removeprefix("cells/").partition("/")[0]
        assert cell.config.start_from is None or not cell.config.start_from.is_absolute()


def test_all_first_seeds_come_before_any_second_and_late_experiments_give_way():
    order = [(cell.experiment, cell.seed) for cell in cells()]
    first = [place for place, (_, seed) in enumerate(order) if seed == 0]
    assert first == list(range(len(first)))
    giving_way = {experiment.key for experiment in grid().table.experiments if experiment.late}
    assert giving_way >= {"privacy"}
    late = [place for place, (key, seed) in enumerate(order) if key in giving_way and seed > 0]
    assert late == list(range(len(order) - len(late), len(order)))


@pytest.mark.parametrize(
    ("variant", "problem"),
    [
        ({"name": "typo", "method": "gim"}, "method 'gim' is unknown: did you mean 'gin'?"),
        ({"name": "typo", "sites": "tow"}, "site set 'tow' is unknown"),
        ({"name": "typo", "methd": "gin"}, "unknown key 'methd': did you mean 'method'?"),
        ({"name": "typo", "start": "pretrained"}, "variant 'pretrained' is unknown"),
        ({"name": "typo", "set": {"training": {"lerning_rate": 1.0}}}, "did you mean 'learning_rate'?"),
        ({"name": "typo", "train": "centralized"}, "centralised"),
    ],
)
def test_a_variant_that_cannot_be_read_is_named_and_the_rest_goes_on(tmp_path, variant, problem):
    tree = tiny()
    tree["experiments"][0]["variants"] = [variant, {"name": "good", "train": "centralised", "set": ALONE}]
    bad, good = cells_of(loaded(tmp_path, tree))
    assert bad.config is None
    assert problem in bad.problem
    assert bad.variant == "typo"
    assert good.problem is None


ALONE = {"federation": {"min_cohort": 1}}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"experimets": []}, "did you mean 'experiments'?"),
        ({"scales": {"big": {"seeds": [0], "cases": 1, "test_cases": 1, "private_cases": 1}}}, "no scale 'only'"),
        ({"experiments": tiny()["experiments"] * 2}, "the experiment 'asked' stands twice"),
    ],
)
def test_a_grid_that_is_wrong_as_a_whole_is_refused(tmp_path, changes, problem):
    with pytest.raises(ConfigError, match=problem.replace("?", r"\?")):
        loaded(tmp_path, tiny(**changes))


def test_a_grid_that_is_not_there_or_no_toml_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_grid(tmp_path / "none.toml", scale="only")
    (tmp_path / "broken.toml").write_text("name = ")
    with pytest.raises(ConfigError, match="not a readable TOML file"):
        load_grid(Path(tmp_path / "broken.toml"), scale="only")


def test_an_unknown_experiment_on_the_command_line_is_named():
    with pytest.raises(ConfigError, match="experiment 'unsen' is unknown: did you mean 'unseen'"):
        cells(only=("unsen",))


def write_real(folder, *, ct, mr, organs):
    """A data set in AMOS22 layout whose volumes nobody opens."""
    entries = []
    for first, count in ((1, ct), (501, mr)):
        for number in range(first, first + count):
            entry = {kind: f"{kind}s/amos_{number:04d}.nii.gz" for kind in ("image", "label")}
            for name in entry.values():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).touch()
            entries.append(entry)
    labels = {"0": "background", **{str(value): organ for value, organ in enumerate(organs, start=1)}}
    (folder / "dataset.json").write_text(json.dumps({"name": "real", "labels": labels, "training": entries}))
    return folder


def patients(study, folder):
    content = json.loads((study / folder / "dataset.json").read_text())
    entries = [*content["training"], *content["validation"], *content["test"]]
    return {Path(entry["image"]).name for entry in entries}


def test_real_scans_take_the_place_of_phantoms_and_test_patients_train_nowhere(tmp_path):
    source = write_real(tmp_path / "amos", ct=40, mr=24, organs=ABDOMEN.organs)
    real = split_real(source, grid(), study=tmp_path / "study")
    found = cells_of(grid(), real=real, seeds=1)
    assert not [cell.problem for cell in found if cell.problem]
    assert {cell.task for cell in found} == {"abdomen"}
    for cell in found:
        tested = {name for test in cell.config.test for name in patients(tmp_path / "study", test.folder)}
        assert len(tested) == 16
        seen = [patients(tmp_path / "study", site.folder) for site in cell.config.sites if site.folder is not None]
        assert not tested & set().union(*seen)
        assert sum(map(len, seen)) == len(set().union(*seen))
        # What is pretrained on belongs to nobody, in a study on real scans too.
        assert len(seen) == len(cell.config.sites) or cell.variant == "pretrained"
        assert not any(one.folder.is_absolute() for one in (*cell.config.sites, *cell.config.test) if one.folder)


def test_a_site_has_the_same_real_patients_in_every_site_set(tmp_path):
    source = write_real(tmp_path / "amos", ct=40, mr=24, organs=ABDOMEN.organs)
    real = split_real(source, grid(), study=tmp_path / "study")
    assert real.sites["even"]["ct-b"] == real.sites["ct-only"]["ct-b"] == real.sites["ct-b"]["ct-b"]
    few, all_of_it = (patients(tmp_path / "study", real.sites[name]["mr-a"]) for name in ("limited-mri", "even"))
    assert len(few) == len(all_of_it) // 4


def test_a_whole_heart_data_set_runs_the_same_grid_on_its_task(tmp_path):
    source = write_real(tmp_path / "heart", ct=20, mr=20, organs=WHOLE_HEART.organs)
    real = split_real(source, grid(), study=tmp_path / "study")
    found = cells_of(grid(), real=real, seeds=1, only=("unseen", "federated"))
    assert {cell.config.task for cell in found} == {"whole_heart"}
    assert not [cell.problem for cell in found if cell.problem]


def test_experiments_whose_modality_is_missing_are_named(tmp_path):
    source = write_real(tmp_path / "ct", ct=20, mr=0, organs=ABDOMEN.organs)
    real = split_real(source, grid(), study=tmp_path / "study")
    found = cells_of(grid(), real=real, seeds=1)
    good = {cell.experiment for cell in found if cell.problem is None}
    assert "unseen" in good
    bad = [cell for cell in found if cell.experiment == "unseen-ct"]
    assert all("no labelled scan" in cell.problem for cell in bad)


def test_a_data_set_of_no_known_task_is_refused(tmp_path):
    source = write_real(tmp_path / "other", ct=8, mr=8, organs=("tumour",))
    with pytest.raises(DataError, match="of no task that is known here"):
        split_real(source, grid(), study=tmp_path / "study")


def test_tuning_patients_are_phantoms(tmp_path):
    source = write_real(tmp_path / "amos", ct=40, mr=24, organs=ABDOMEN.organs)
    real = split_real(source, grid(), study=tmp_path / "study")
    with pytest.raises(ConfigError, match="tuning patients are phantoms"):
        cells_of(grid(), real=real, tuning=True)
