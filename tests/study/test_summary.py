"""The tables of a study: right means, right pairs, honest about holes, and the same numbers whatever the order."""

import dataclasses
import json
import statistics

import numpy as np
import pytest
from scipy import stats
from small_study import METHODS, ORGANS, cell, digest, paid, small_study, without_model

from secfed.errors import RunFolderError
from secfed.results import NO_DP, SIMULATED_NOISE
from secfed.study.frontier import companions, privacy_text
from secfed.study.record import CellRecord, Experiment, ModalityScores, StudyRecord, Variant
from secfed.study.scores import matched
from secfed.study.statistics import holm
from secfed.study.summary import ExperimentSummary, StudySummary, summarise

RECORD = small_study()
SUMMARY = summarise(RECORD)


def of(key: str, summary: StudySummary = SUMMARY) -> ExperimentSummary:
    return next(one for one in summary.experiments if one.experiment.key == key)


def per_patient(cells: tuple[CellRecord, ...], modality: str) -> dict[str, float]:
    """By another road than the code: each patient's mean over organs, then over seeds."""
    found: dict[str, list[float]] = {}
    for one in cells:
        (scores,) = [scores for scores in one.scores if scores.modality == modality]
        for index, patient in enumerate(scores.patients):
            values = [column[index] for column in scores.dice.values() if column[index] is not None]
            found.setdefault(patient, []).append(statistics.fmean(value for value in values if value is not None))
    return {patient: statistics.fmean(values) for patient, values in found.items()}


def study_of(
    *variants: tuple[str, list[CellRecord]], kind: str = "methods", reference: str | None = None
) -> StudyRecord:
    return dataclasses.replace(
        RECORD,
        cells=tuple(one for _, cells in variants for one in cells),
        experiments=(
            Experiment(
                key="only",
                title="Only",
                question="What?",
                kind=kind,  # type: ignore[arg-type]
                task="abdomen",
                reference=reference,
                variants=tuple(Variant(name=name, cells=tuple(one.key for one in cells)) for name, cells in variants),
            ),
        ),
        leakage=(),
        claims=(),
    )


def seeds(name: str, count: int = 3, **facts: object) -> list[CellRecord]:
    given = {"quality": {"CT": 0.95, "MR": 0.8}, "seen": ("CT",)} | facts
    return [cell(name, seed=seed, **given) for seed in range(count)]  # type: ignore[arg-type]


def scored(name: str, seed: int, values: dict[str, float | None], patients: tuple[str, ...] = ()) -> CellRecord:
    """A cell whose two patients have the Dice given by organ."""
    names = patients or ("a", "b")
    dice = {organ: (value,) * len(names) for organ, value in values.items()}
    scores = ModalityScores(modality="CT", patients=names, dice=dice, hd95_mm={})
    return dataclasses.replace(cell(name, seed=seed, quality={"CT": 0.9}, seen=("CT",)), scores=(scores,))


def test_means_are_those_of_the_patients() -> None:
    for row in of("unseen").methods.rows:
        cells = RECORD.complete(next(one for one in of("unseen").experiment.variants if one.name == row.variant))
        for result in row.modalities:
            assert result.mean is not None
            assert result.mean.mean == pytest.approx(statistics.fmean(per_patient(cells, result.modality).values()))
            assert result.mean.patients == 12


def test_p_is_scipys_on_the_differences_of_patients_and_holms_over_the_whole_experiment() -> None:
    table = of("federated").methods
    trained = {one.name: RECORD.complete(one) for one in of("federated").experiment.variants}
    plain, corrected = [], []
    for row in table.rows:
        for result in row.modalities:
            if row.is_reference:
                assert result.comparison is None
                continue
            ours, theirs = (
                per_patient(trained[name], result.modality) for name in (row.variant, table.reference or "")
            )
            differences = [ours[patient] - theirs[patient] for patient in ours]
            assert result.comparison is not None
            assert result.comparison.difference.mean == pytest.approx(statistics.fmean(differences))
            plain.append(float(stats.wilcoxon(differences, method="exact").pvalue))
            assert result.comparison.test.p == pytest.approx(plain[-1])
            corrected.append(result.p_holm)
    assert table.family == len(plain) == 14
    assert corrected == pytest.approx(holm(plain))


def test_the_best_of_a_column_is_marked_and_its_equals_too() -> None:
    table = summarise(
        study_of(("A", [scored("a", 0, {"liver": 0.8004})]), ("B", [scored("b", 0, {"liver": 0.8})]), ("C", []))
    ).experiments[0]
    assert [row.modality("CT").best for row in table.methods.rows] == [("mean", "liver"), ("mean", "liver"), ()]


def test_a_failed_cell_leaves_the_seeds_that_are_there_and_is_listed() -> None:
    row = of("unseen").methods.row("FDA")
    assert (row.seeds, row.planned) == ((0, 1), 3)
    result = row.modality("MR")
    assert result.mean is not None
    assert (result.mean.seeds, result.shared_seeds) == (2, 2)
    hole = SUMMARY.holes[0]
    assert hole.cell == "ct-fda-s2"
    assert hole.places == (("unseen", "FDA"),)
    assert "round 17" in hole.reason


def test_a_variant_without_any_model_is_a_row_of_holes() -> None:
    row = of("federation").methods.row("FedAvg, 8 sites")
    assert (row.seeds, row.planned, row.overall) == ((), 3, None)
    assert all(result.mean is None and result.comparison is None for result in row.modalities)
    assert "FedAvg, 8 sites" not in [cost.variant for cost in of("federation").costs]
    assert len(SUMMARY.holes) == 4
    assert (SUMMARY.complete, SUMMARY.planned) == (len(RECORD.cells) - 4, len(RECORD.cells))


def test_without_the_reference_nothing_is_compared() -> None:
    gone = [without_model(one, status="failed", reason="no") for one in seeds("a")]
    table = summarise(study_of(("A", gone), ("B", seeds("b")), reference="A")).experiments[0].methods
    assert table.reference == "A"
    assert table.family == 0
    assert table.row("B").modality("CT").mean is not None


def test_a_reference_that_is_no_variant_is_none() -> None:
    table = summarise(study_of(("A", seeds("a")), reference="nobody")).experiments[0].methods
    assert table.reference is None


def test_patients_missing_on_one_side_are_dropped_and_counted() -> None:
    ours, theirs = seeds("a"), seeds("b")
    shortened = []
    for one in ours:
        scores = tuple(
            dataclasses.replace(
                part,
                patients=part.patients[2:],
                dice={organ: values[2:] for organ, values in part.dice.items()},
                hd95_mm={},
            )
            for part in one.scores
        )
        shortened.append(dataclasses.replace(one, scores=scores))
    table = summarise(study_of(("B", theirs), ("A", shortened), reference="B")).experiments[0].methods
    result = table.row("A").modality("CT")
    assert result.comparison is not None
    assert result.comparison.difference.patients == 10
    assert (result.dropped, result.dropped_in_comparison) == (0, 2)


def test_the_order_of_patients_in_a_cell_does_not_matter() -> None:
    def shuffled(one: CellRecord, seed: int) -> CellRecord:
        parts = []
        for part in one.scores:
            order = list(range(len(part.patients)))
            order = [int(index) for index in np.random.default_rng(seed).permutation(order)]
            parts.append(
                dataclasses.replace(
                    part,
                    patients=tuple(part.patients[index] for index in order),
                    dice={organ: tuple(values[index] for index in order) for organ, values in part.dice.items()},
                    hd95_mm={organ: tuple(values[index] for index in order) for organ, values in part.hd95_mm.items()},
                )
            )
        return dataclasses.replace(one, scores=tuple(parts))

    ours, theirs = seeds("a"), seeds("b")
    moved = [shuffled(one, one.seed) for one in ours]
    before, after = (
        summarise(study_of(("B", theirs), ("A", cells), reference="B")).as_dict()["experiments"]
        for cells in (ours, moved)
    )
    assert before == after


def test_an_organ_that_one_side_lacks_is_left_out_of_both_sides_of_a_pair() -> None:
    ours = [scored("a", 0, {"liver": 0.9, "spleen": None})]
    theirs = [scored("b", 0, {"liver": 0.8, "spleen": 0.2})]
    found = matched([ours, theirs], ["CT"])
    assert found is not None
    np.testing.assert_allclose([found.tables[0][0], found.tables[1][0]], [[[0.9, 0.9]], [[0.8, 0.8]]])
    alone = matched([theirs], ["CT"])
    assert alone is not None
    np.testing.assert_allclose(alone.tables[0][0], [[0.5, 0.5]])


def test_an_organ_without_a_value_at_every_seed_of_a_patient_is_left_out_of_his_mean() -> None:
    cells = [scored("a", 0, {"liver": 0.9, "spleen": 0.1}), scored("a", 1, {"liver": 0.7, "spleen": None})]
    found = matched([cells], ["CT"])
    assert found is not None
    np.testing.assert_allclose(found.tables[0][0], [[0.9, 0.9], [0.7, 0.7]])


def test_a_ratio_stands_at_equal_passes_and_is_marked_at_others() -> None:
    ratios = {(row.variant, row.modality): row for row in of("federated").ratios}
    assert set(ratios) == {
        (name, modality) for name in ("Federated, GIN", "Federated, no augmentation") for modality in ("CT", "MR", None)
    }
    fair, unfair = ratios["Federated, GIN", None], ratios["Federated, no augmentation", None]
    assert (fair.centralised, fair.like_for_like, fair.passes) == ("Centralised, GIN", True, 4.0)
    assert (unfair.centralised, unfair.like_for_like) == ("Centralised, no augmentation", False)
    assert (unfair.passes, unfair.centralised_passes) == (4.0, 5.0)
    overall = {row.variant: row.overall for row in of("federated").methods.rows}
    ours, theirs = overall["Federated, GIN"], overall["Centralised, GIN"]
    assert ours is not None
    assert theirs is not None
    assert fair.ratio.mean == pytest.approx(ours.mean / theirs.mean)


def test_a_ratio_needs_a_centralised_model_of_the_same_augmentation() -> None:
    federated = seeds("a", augmentation="gin")
    pooled = seeds("b", augmentation="none", training="centralised")
    assert summarise(study_of(("A", federated), ("B", pooled))).experiments[0].ratios == ()


def test_passes_that_are_not_recorded_make_no_ratio_fair() -> None:
    federated = [dataclasses.replace(one, job=None) for one in seeds("a")]
    (first, *_) = summarise(study_of(("A", federated), ("B", seeds("b", training="centralised")))).experiments[0].ratios
    assert first.like_for_like is None


def test_equal_models_are_found_at_every_seed_and_another_model_is_too() -> None:
    assert [one.same for one in of("protection").models] == [True, True, True]
    cells = [
        [
            cell("p", seed=0, quality={"CT": 0.9}, seen=("CT",), protection=mode, model_hash=digest(model))
            for mode in [name]
        ]
        for name, model in (("plain", "one"), ("masked", "one"), ("encrypted", "other"))
    ]
    named = [(name, [dataclasses.replace(found[0], key=name)]) for name, found in zip("ABC", cells, strict=True)]
    (only,) = summarise(study_of(*named, kind="cost")).experiments[0].models
    assert not only.same
    assert set(only.variants_of.values()) == {("A", "B"), ("C",)}


def test_costs_are_per_site_and_round() -> None:
    costs = {row.variant: row for row in of("protection").costs}
    assert costs["Plain"].bytes_up == pytest.approx(1_015_808)
    assert costs["Masked"].bytes_up == pytest.approx(2 * 1_015_808)
    assert costs["Masked"].exchanges == pytest.approx(2)
    assert costs["Plain"].peak_memory_bytes == pytest.approx(1.69e9)


def test_a_model_that_trains_in_one_place_has_no_traffic() -> None:
    costs = {row.variant: row for row in of("federated").costs}
    pooled = costs["Centralised, GIN"]
    assert (pooled.bytes_up, pooled.exchanges, pooled.protection_seconds) == (None, None, None)
    assert pooled.seconds is not None


def test_the_frontier_has_its_curves_in_order_and_its_levels() -> None:
    found = of("privacy").frontier
    assert found is not None
    assert {series.mode: [point.epsilon for point in series.points] for series in found.series} == {
        "distributed": [0.98, 2.98, 7.98, 19.98],
        "local": [0.98, 2.98, 7.98, 19.98],
    }
    assert [level.variant for level in found.levels] == [
        "Federated, no DP",
        "Clipped, no noise",
        "Centralised, GIN",
        "Pretrained on phantoms only",
    ]
    assert [level.clipped for level in found.levels] == [False, True, False, False]
    for point in found.points:
        for part in ("delta 1e-05", "patient", "add or remove one", "RDP", SIMULATED_NOISE):
            assert part in point.text
            assert part in point.companions
        assert point.share is not None
        assert point.share.mean < 1


def test_of_several_seeds_the_largest_epsilon_counts() -> None:
    cells = [dataclasses.replace(one, epsilon=2.0 + one.seed) for one in seeds("a", privacy=paid("local", 2.0))]
    found = summarise(study_of(("A", cells), kind="frontier")).experiments[0].frontier
    assert found is not None
    assert found.points[0].epsilon == 4.0


def test_an_epsilon_whose_companions_were_not_recorded_says_so() -> None:
    (found,) = seeds("a", 1)
    bare = dataclasses.replace(found, epsilon=3.0, delta=None, privacy="local")
    assert "no guarantee can be read" in companions(bare)
    assert privacy_text(bare).startswith("local: epsilon 3 at an unknown delta; unit, relation and accountant")
    told = dataclasses.replace(
        found, job=None, epsilon=3.0, privacy="local: epsilon 3 at delta 1e-05 per patient, x, y"
    )
    assert companions(told) == "at delta 1e-05 per patient, x, y"
    clipped = dataclasses.replace(found, job=dataclasses.replace(found.job, privacy=paid("clip_only", None)))  # type: ignore[type-var]
    assert privacy_text(clipped) == NO_DP


def test_the_summary_is_plain_json_and_the_same_each_time() -> None:
    text = json.dumps(SUMMARY.as_dict(), allow_nan=False)
    assert text == json.dumps(summarise(small_study()).as_dict(), allow_nan=False)
    assert len(json.loads(text)["experiments"]) == len(RECORD.experiments)


def test_every_method_of_the_fixture_is_in_the_paper_form() -> None:
    table = of("unseen").methods
    assert [row.variant for row in table.rows] == list(METHODS)
    assert table.organs == ORGANS
    assert {(result.modality, result.seen) for row in table.rows for result in row.modalities} == {
        ("CT", True),
        ("MR", False),
    }


def test_a_record_survives_its_file(tmp_path) -> None:
    RECORD.save(tmp_path)
    assert StudyRecord.load(tmp_path) == RECORD


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda tree: tree["cells"][0]["scores"][0]["patients"].pop(), "'liver' has 12 values for 11 patients"),
        (
            lambda tree: tree["cells"][0]["scores"][0]["patients"].__setitem__(0, "test-ct/p-001"),
            "patient stands twice",
        ),
        (lambda tree: tree["experiments"][0]["variants"][1].__setitem__("name", "FDA"), "two variants of one name"),
        (lambda tree: tree["cells"][1].__setitem__("seed", 0), "one cell per seed"),
        (lambda tree: tree["cells"].pop(0), "names the cell 'ct-none-s0', which is not there"),
        (lambda tree: tree["cells"][0].__setitem__("epsilon", "1"), "cells[0].epsilon"),
    ],
)
def test_a_damaged_study_is_refused(tmp_path, change, complaint: str) -> None:
    path = RECORD.save(tmp_path)
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))
    with pytest.raises(RunFolderError) as caught:
        StudyRecord.load(tmp_path)
    assert complaint in str(caught.value)


def test_an_epsilon_that_bounds_nothing_makes_a_level_and_keeps_its_text() -> None:
    noiseless = seeds("a", privacy=paid("distributed", 5427.0))
    private = seeds("b", privacy=paid("distributed", 8.0))
    found = summarise(study_of(("no noise", noiseless), ("8", private), kind="frontier", reference="no noise"))
    drawn = found.experiments[0].frontier
    assert drawn is not None
    assert [point.variant for point in drawn.points] == ["8"]
    (level,) = drawn.levels
    assert level.epsilon == 5427.0
    assert level.text is not None
    assert "delta 1e-05 per patient" in level.text
    assert drawn.points[0].share is not None


def test_of_several_centralised_models_the_most_alike_is_divided_by() -> None:
    both = ("CT", "MR")
    federated = seeds("a", seen=both, normalisation="batch", sites=8)
    others = [
        (f"{normalisation}, {sites}", normalisation, sites) for normalisation, sites in (("instance", 4), ("batch", 8))
    ]
    pooled = [
        (name, seeds(name, seen=both, training="centralised", normalisation=normalisation, sites=sites))
        for name, normalisation, sites in others
    ]
    ratios = summarise(study_of(("A", federated), *pooled)).experiments[0].ratios
    assert {row.centralised for row in ratios} == {"batch, 8"}
    one_modality = [("C", seeds("c", seen=("CT",), training="centralised"))]
    assert summarise(study_of(("A", federated), *one_modality)).experiments[0].ratios == ()
