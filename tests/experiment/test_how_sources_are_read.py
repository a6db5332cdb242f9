"""`[[sites]]` and `[[test]]` of a run say how their folders are read, in the keys of a site's own entries."""

import shutil
import typing
from pathlib import Path

import pytest
from small_federation import config, provision, tree
from small_volumes import save_image, save_label
from table_folder import write_lines, write_table

from secfed import config as configuration
from secfed.config import RunConfig, load_run_config, parse_run_config
from secfed.data.cases import ABDOMEN
from secfed.errors import ConfigError, DataError
from secfed.experiment import data as run_data
from secfed.experiment.checks import check_run
from secfed.experiment.data import data_tasks, prepare_data, used_cases
from secfed.experiment.run_folder import load_resolved_config, resolved_toml
from secfed.site_config import SiteData, load_site_file


def with_keys(scans: Path, **keys: object) -> RunConfig:
    """The small federation, whose first site has these keys."""
    base = tree(scans)
    base["sites"][0] |= keys
    return parse_run_config(base)


def test_the_keys_are_those_of_a_site_s_own_entries():
    own = set(SiteData.model_fields) - {"cache"}
    for entry in (RunConfig.model_fields["sites"], RunConfig.model_fields["test"]):
        (table, _) = typing.get_args(entry.annotation)
        assert own <= set(table.model_fields)


def test_a_configuration_without_them_has_the_digest_that_it_had(scans):
    """Run folders and studies made before the keys were there are bound to digests without them."""
    plain = config(scans)
    for entry in (*plain.model_dump(mode="json")["sites"], *plain.model_dump(mode="json")["test"]):
        assert set(entry) == {"folder", "phantom", "name"} | ({"modality"} if "modality" in entry else set())
    assert [set(entry) for entry in plain.model_dump(mode="json")["test"]] == [{"folder", "phantom", "name"}] * 2


@pytest.mark.parametrize("keys", [{"layout": "amos22"}, {"organs": ["liver"]}, {"channel": 0}])
def test_a_key_that_is_given_is_another_run_and_is_kept_in_its_folder(scans, tmp_path, keys):
    given = with_keys(scans, **keys)
    assert given.run_digest() != config(scans).run_digest()
    assert given.plan().digest() == config(scans).plan().digest()
    (tmp_path / "config.toml").write_text(resolved_toml(given))
    assert load_resolved_config(tmp_path / "config.toml").run_digest() == given.run_digest()


def test_the_modality_of_a_test_set_is_another_run(scans):
    base = tree(scans)
    base["test"][0]["modality"] = "CT"
    assert parse_run_config(base).run_digest() != config(scans).run_digest()


def test_a_simulated_site_is_told_what_the_configuration_says(scans, tmp_path):
    keys = {"layout": "amos22", "organs": ("liver", "spleen"), "channel": 0}
    job = provision(tmp_path / "run", with_keys(scans, **keys))
    (data,) = load_site_file(job.site_folders[0]).data
    assert {key: getattr(data, key) for key in keys} == keys
    (other,) = load_site_file(job.site_folders[1]).data
    assert {getattr(other, key) for key in keys} == {None}


def test_only_the_organs_that_are_named_count_as_drawn(scans, tmp_path):
    base = tree(scans)
    base["sites"][0]["organs"] = ["Liver"]
    base["test"][0]["organs"] = ["spleen", "left kidney"]
    run_config = parse_run_config(base)
    prepare_data(run_config, run_folder=tmp_path, workers=1, on_volume=lambda _: None)
    first, second, *_ = data_tasks(run_config, run_folder=tmp_path)
    assert {first.read().annotated(case, ABDOMEN) for case in first.read().training} == {("liver",)}
    assert {second.read().annotated(case, ABDOMEN) for case in second.read().training} == {ABDOMEN.organs}
    unlabelled = {name: case.unlabelled for name, case in run_data.test_cases(run_config, run_folder=tmp_path)}
    drawn = {ABDOMEN.index(organ) for organ in ("spleen", "kidney_left")}
    assert unlabelled == {"test-ct": tuple(sorted(set(range(1, 9)) - drawn)), "test-mr": ()}


def test_an_organ_that_no_label_has_is_named_with_those_that_there_are(scans, tmp_path):
    with pytest.raises(DataError, match=r"organs names pankreas, which no label has; drawn are aorta, gallbladder"):
        prepare_data(with_keys(scans, organs=["pankreas"]), run_folder=tmp_path, workers=1, on_volume=lambda _: None)


def test_a_layout_decides_where_a_folder_could_be_two_things(scans, tmp_path):
    both = tmp_path / "both"
    shutil.copytree(scans / "ct-a", both)
    write_table(both)
    base = tree(scans)
    base["sites"][0]["folder"] = str(both)
    (task, *_) = data_tasks(parse_run_config(base), run_folder=tmp_path)
    with pytest.raises(DataError, match="say which: layout ="):
        task.read()
    found = {}
    for layout in ("amos22", "table"):
        base["sites"][0]["layout"] = layout
        (task, *_) = data_tasks(parse_run_config(base), run_folder=tmp_path)
        found[layout] = [case.patient for case in used_cases(task, task.read())]
    assert found == {"amos22": ["amos_0001", "amos_0002"], "table": ["anna", "bert", "cleo", "dora"]}


def test_a_channel_is_read_of_scans_with_several(scans, tmp_path):
    folder = write_lines(tmp_path / "scans", ["anna,0.nii.gz,0-label.nii.gz,CT,training"])
    image = save_image(folder / "0.nii.gz", 0, (6, 5, 4, 2))
    save_label(folder / "0-label.nii.gz", 1, 2)
    for keys, outcome in (({}, "say which of its 2 channels"), ({"channel": 2}, "0 to 1 are accepted")):
        with pytest.raises(DataError, match=rf"{image.name}: .*{outcome}"):
            prepare_data(
                with_keys(scans, folder=str(folder), **keys),
                run_folder=tmp_path / outcome[:3],
                workers=1,
                on_volume=lambda _: None,
            )
    seen = []
    prepare_data(
        with_keys(scans, folder=str(folder), channel=1), run_folder=tmp_path / "run", workers=1, on_volume=seen.append
    )
    assert seen.count("ct-a") == 1


def test_a_test_set_may_say_a_modality_that_its_names_do_not(scans, tmp_path):
    folder = tmp_path / "chaos"
    save_image(folder / "MR" / "1" / "T2SPIR" / "DICOM_anon" / "v.nii.gz")
    save_label(folder / "MR" / "1" / "T2SPIR" / "Ground" / "v.nii.gz", 63, 252)
    save_image(folder / "CT" / "2" / "DICOM_anon" / "v.nii.gz")
    save_label(folder / "CT" / "2" / "Ground" / "v.nii.gz", 255)
    found = {}
    for modality in (None, "CT", "MR"):
        base = tree(
            scans, test=[{"name": "chaos", "folder": str(folder), **({"modality": modality} if modality else {})}]
        )
        *_, task = data_tasks(parse_run_config(base), run_folder=tmp_path)
        found[modality] = [case.patient for case in used_cases(task, task.read())]
    assert found == {None: ["ct_2", "mr_1"], "CT": ["ct_2"], "MR": ["mr_1"]}


def test_a_test_set_of_one_modality_does_not_take_scans_named_for_the_other(scans, tmp_path):
    base = tree(scans, test=[{"name": "t", "folder": str(scans / "test-ct"), "modality": "MR"}])
    *_, task = data_tasks(parse_run_config(base), run_folder=tmp_path)
    with pytest.raises(DataError, match=r"the name of a CT scan in test set 't', which is configured as MR"):
        used_cases(task, task.read())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"layout": "dicom"}, r"sites\.0\.layout = 'dicom'"),
        ({"organs": []}, r"sites\.0\.organs"),
        ({"channel": -1}, r"sites\.0\.channel = -1"),
        ({"layuot": "table"}, r"unknown key 'sites\.0\.layuot': did you mean 'layout'\?"),
        ({"cache": "x"}, r"unknown key 'sites\.0\.cache'"),
    ],
)
def test_a_key_that_makes_no_sense_is_named(scans, keys, message):
    with pytest.raises(ConfigError, match=message):
        with_keys(scans, **keys)


@pytest.mark.parametrize("keys", [{"layout": "table"}, {"channel": 0}])
def test_a_phantom_has_no_layout_and_no_channel(keys):
    with pytest.raises(ValueError, match=rf"{next(iter(keys))} = .* is for a folder"):
        configuration.TestSetConfig.model_validate({"name": "t", "phantom": {"protocol": "ct-any", "test": 1}, **keys})


def test_a_phantom_may_have_drawn_some_organs_only(tmp_path):
    (tmp_path / "run.toml").write_text(
        "[federation]\nmin_cohort = 1\n"
        '[[sites]]\nname = "a"\nmodality = "CT"\norgans = ["liver"]\n'
        'phantom = { protocol = "ct-any", train = 1 }\n'
    )
    run_config = load_run_config(tmp_path / "run.toml")
    prepare_data(run_config, run_folder=tmp_path / "run", workers=1, on_volume=lambda _: None)
    (task,) = data_tasks(run_config, run_folder=tmp_path / "run")
    (case,) = used_cases(task, task.read())
    assert task.read().annotated(case, ABDOMEN) == ("liver",)


def test_the_phantom_of_a_test_set_has_the_modality_that_it_says():
    base = {"sites": [{"name": name, "modality": "CT", "folder": name} for name in ("a", "b")]}
    test = {"name": "t", "modality": "MR", "phantom": {"protocol": "ct-any", "test": 1}}
    with pytest.raises(ConfigError, match="test set 't': protocol = 'ct-any'"):
        check_run(parse_run_config({**base, "test": [test]}))


def test_masks_of_other_organs_are_not_opened(scans, tmp_path):
    """What a site has not drawn may lie beside it, unfinished: it is not read."""
    folder = write_lines(tmp_path / "scans", ["anna,0.nii.gz,masks,CT,training"])
    save_image(folder / "0.nii.gz")
    save_label(folder / "masks" / "liver.nii.gz", 1)
    (folder / "masks" / "spleen.nii.gz").write_bytes(b"unfinished")
    prepare_data(
        with_keys(scans, folder=str(folder), organs=["liver"]),
        run_folder=tmp_path / "run",
        workers=1,
        on_volume=lambda _: None,
    )
