"""What is in data sets, and what is wrong with them: counted right, each problem with file, reason and what to do."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_volumes import SHAPE, save_image, save_label, save_volume
from table_folder import PATIENTS, write_lines, write_table

from secfed.config import PreprocessingConfig
from secfed.data.cases import Modality
from secfed.data.site_data import FolderEntry
from secfed.inspection.facts import InspectedDataSet, Inspection, Spread
from secfed.inspection.inspect import InspectionOrder, inspect_data
from secfed.inspection.intensities import Intensities, implausible, intensities_of

CONFIG = PreprocessingConfig(spacing_mm=(5.0, 3.0, 3.0))
ABSENT = "nobody draws kidney_right, kidney_left, pancreas, gallbladder, stomach, aorta, of the task 'abdomen'"


def inspect(
    *folders: Path, task: str | None = None, at_site: bool = False, seen: list[str] | None = None, **entry: object
) -> Inspection:
    entries = tuple((folder.name, FolderEntry(folder=folder, **entry)) for folder in folders)
    order = InspectionOrder(entries=entries, config=CONFIG, task=task, at_site=at_site)
    names = [] if seen is None else seen
    return inspect_data(order, on_start=lambda _: None, on_case=lambda _found, case, _read: names.append(case.patient))


def one(*folders: Path, **options: object) -> InspectedDataSet:
    (found,) = inspect(*folders, **options).data_sets
    return found


def reasons(found: InspectedDataSet, severity: str = "error") -> list[tuple[str, str]]:
    return [(problem.case, problem.reason) for problem in found.problems if problem.severity == severity]


def test_a_folder_in_order_is_counted_and_measured(tmp_path: Path):
    seen: list[str] = []
    found = one(write_table(tmp_path), seen=seen)
    assert tuple(seen) == PATIENTS
    assert found.counts() == {"training": {"CT": 4, "labelled": 4, "patients": 4}}
    assert found.errors == ()
    assert reasons(found, "warning") == [("", ABSENT)]
    measures = found.measures("CT")
    assert measures["spacing z, mm"] == Spread(lowest=5.0, median=5.0, highest=5.0)
    assert measures["size x, voxels"] == Spread(lowest=6, median=6, highest=6)
    values = [np.random.default_rng(seed).normal(50, 90, SHAPE).astype(np.float32) for seed in range(4)]
    medians = [float(np.median(value)) for value in values]
    expected = Spread(lowest=min(medians), median=float(np.median(medians)), highest=max(medians))
    assert vars(measures["half lie below"]) == pytest.approx(vars(expected), rel=1e-6)
    assert measures["lowest value"].lowest == min(float(value.min()) for value in values)
    assert found.organs()["liver"] == (4, 4)
    assert found.organs()["aorta"] == (0, 0)


def test_modalities_splits_and_patients_with_several_scans_are_told_apart(tmp_path: Path):
    for name in ("a", "b", "c", "d"):
        save_volume(tmp_path / f"{name}.nii.gz", np.arange(120, dtype=np.float32).reshape(SHAPE))
        save_label(tmp_path / f"{name}-label.nii.gz", 1, 2)
    rows = (("anna", "a", "MR", "training"), ("anna", "b", "MR", "training"), ("bert", "c", "MR", "validation"))
    lines = [f"{who},{file}.nii.gz,{file}-label.nii.gz,{kind},{split}" for who, file, kind, split in rows]
    found = one(write_lines(tmp_path, [*lines, "cleo,d.nii.gz,,CT,test"]))
    assert found.counts() == {
        "training": {"CT": 0, "MR": 2, "labelled": 2, "patients": 1},
        "validation": {"CT": 0, "MR": 1, "labelled": 1, "patients": 1},
        "test": {"CT": 1, "MR": 0, "labelled": 0, "patients": 1},
    }
    assert found.several_scans() == {"anna": 2}
    assert found.errors == ()


def test_one_bad_case_hides_no_other_and_is_named(tmp_path: Path):
    write_table(tmp_path)
    (tmp_path / "0.nii.gz").write_bytes((tmp_path / "0.nii.gz").read_bytes()[:-20])
    save_label(tmp_path / "1-label.nii.gz", 1, 9)
    save_label(tmp_path / "3-label.nii.gz")
    seen: list[str] = []
    found = one(tmp_path, seen=seen)
    assert tuple(seen) == PATIENTS
    assert [(problem.case, problem.file.name) for problem in found.errors] == [
        ("anna", "0.nii.gz"),
        ("bert", "1-label.nii.gz"),
    ]
    assert all(problem.todo for problem in found.problems)
    assert ("dora", "the label is empty: it has no voxel of liver, spleen") in reasons(found, "warning")
    assert [facts.case.patient for facts in found.usable] == ["cleo", "dora"]
    assert found.organs()["liver"] == (2, 1)


def test_a_data_set_that_cannot_be_read_hides_no_other(tmp_path: Path):
    bad, good = tmp_path / "bad", write_table(tmp_path / "good")
    bad.mkdir()
    first, second, third = inspect(bad, good, tmp_path / "absent").data_sets
    assert first.data_set is None
    assert [problem.severity for problem in (*first.problems, *third.problems)] == ["error", "error"]
    assert "neither a dataset.json" in first.problems[0].reason
    assert "no such file or folder" in third.problems[0].reason
    assert second.errors == ()


def test_an_organ_that_the_labels_name_and_nobody_drew_is_a_warning(tmp_path: Path):
    write_table(tmp_path)
    for number in range(4):
        save_label(tmp_path / f"{number}-label.nii.gz", 1)
    said = [reason for case, reason in reasons(one(tmp_path), "warning") if not case]
    assert "drawn by what the labels say, but without a voxel in any case: spleen" in said
    assert not [reason for _, reason in reasons(one(tmp_path, organs=("liver",)), "warning") if "spleen," not in reason]


def test_a_misspelt_organ_is_an_error_of_the_data_set(tmp_path: Path):
    found = one(write_table(tmp_path), organs=("livr",))
    assert "organs names livr, which no label has" in found.errors[0].reason


def test_the_task_is_what_is_drawn_or_what_is_said(tmp_path: Path):
    write_table(tmp_path)
    assert one(tmp_path).label_map.task == "abdomen"
    assert len(one(tmp_path, task="whole_heart").errors) == 4
    (tmp_path / "labels.csv").write_text("value,organ\n1,left ventricle\n2,myocardium\n")
    assert one(tmp_path).label_map.task == "whole_heart"
    assert one(tmp_path).errors == ()


def test_a_training_case_without_a_label_is_an_error(tmp_path: Path):
    save_image(tmp_path / "a.nii.gz")
    save_label(tmp_path / "b-label.nii.gz", 1, 2)
    save_image(tmp_path / "b.nii.gz")
    found = one(write_lines(tmp_path, ("anna,a.nii.gz,,CT,training", "bert,b.nii.gz,b-label.nii.gz,CT,training")))
    assert reasons(found) == [("anna", "a training case without a label")]


def test_what_a_site_must_have_a_test_set_need_not(tmp_path: Path):
    write_table(tmp_path, split="test")
    assert reasons(one(tmp_path, at_site=True)) == [("", "there is no training case")]
    found = one(tmp_path)
    assert found.errors == ()
    assert ("", "there is no training case") in reasons(found, "warning")


def test_scans_without_any_label_are_nothing_for_a_run(tmp_path: Path):
    save_image(tmp_path / "a.nii.gz")
    found = one(write_lines(tmp_path, ("anna,a.nii.gz,,CT,test",)))
    assert reasons(found) == [("", "no scan has a label")]


def test_a_name_that_says_another_modality_is_what_a_run_refuses(tmp_path: Path):
    save_image(tmp_path / "amos_0501.nii.gz")
    save_label(tmp_path / "l.nii.gz", 1, 2)
    write_lines(tmp_path, ("anna,amos_0501.nii.gz,l.nii.gz,CT,training",))
    assert reasons(one(tmp_path)) == [("anna", "its name is that of a scan by MR, and it is taken for one by CT")]
    assert one(tmp_path, at_site=True).errors == ()


def test_a_patient_who_trains_in_one_data_set_and_validates_another_is_a_warning_at_a_site(tmp_path: Path):
    first = write_table(tmp_path / "first", ("anna", "bert"))
    second = write_table(tmp_path / "second", ("cleo",))
    third = write_table(tmp_path / "third", ("bert", "dora"), split="validation")
    found = inspect(first, second, third, at_site=True).data_sets[2]
    assert [case for case, reason in reasons(found, "warning") if "trained on in 'first'" in reason] == ["bert"]


def intensities(*values: float) -> Intensities:
    return intensities_of(np.array(values, np.float32))


@pytest.mark.parametrize(
    ("found", "modality", "word"),
    [
        (intensities(-1000, -1000, -100, 40, 60, 900), Modality.CT, None),
        (intensities(-160, -100, 40, 60, 240), Modality.CT, None),
        (intensities(0, 24, 1064, 1084, 1900), Modality.CT, "no voxel is negative"),
        (intensities(0, 0.3, 0.5, 1), Modality.CT, "no voxel is negative"),
        (intensities(-2, -1, 0, 1, 3), Modality.CT, "closer together than fat and bone"),
        (intensities(-10, 2000, 2100, 3000), Modality.CT, "neither air nor soft tissue"),
        (intensities(0, 3, 200, 1200), Modality.MR, None),
        (intensities(-2, -1, 0, 1, 3), Modality.MR, "negative"),
        (intensities(*[100.0] * 999, -0.5), Modality.MR, None),
    ],
)
def test_values_that_are_none_of_the_modality_are_doubted(found: Intensities, modality: Modality, word: str | None):
    reason = implausible(found, modality)
    assert reason is None if word is None else word in str(reason)


def test_implausible_values_keep_no_case_out(tmp_path: Path):
    write_table(tmp_path)
    save_volume(tmp_path / "2.nii.gz", np.random.default_rng(0).uniform(0, 1000, SHAPE).astype(np.float32))
    found = one(tmp_path)
    assert found.errors == ()
    (problem,) = [problem for problem in found.warnings if problem.case == "cleo"]
    assert "Hounsfield" in problem.reason
    assert "DICOM" in problem.todo


def test_one_scan_is_in_memory_at_a_time(tmp_path: Path):
    """Twelve scans take no more than three."""
    shape, peaks = (64, 64, 48), []
    for count in (3, 12):
        folder = tmp_path / str(count)
        lines = []
        for number in range(count):
            save_volume(folder / f"{number}.nii", np.random.default_rng(number).normal(0, 90, shape).astype(np.float32))
            save_volume(folder / f"{number}-label.nii", np.ones(shape, np.uint8))
            lines.append(f"p{number},{number}.nii,{number}-label.nii,CT,training")
        write_lines(folder, lines)
        tracemalloc.start()
        assert one(folder).errors == ()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    volume = 4 * int(np.prod(shape))
    assert peaks[0] > volume
    assert peaks[1] < peaks[0] + volume / 2


def test_the_json_has_what_the_tables_have(tmp_path: Path):
    inspection = inspect(write_table(tmp_path))
    found = inspection.as_dict()
    (data_set,) = found["data_sets"]
    assert (found["errors"], found["warnings"], data_set["usable"]) == (0, 1, 4)
    assert data_set["measures"]["CT"]["spacing y, mm"] == {"lowest": 3.0, "median": 3.0, "highest": 3.0}
    assert data_set["organs"]["spleen"] == {"drawn": 4, "seen": 4}
    assert data_set["problems"][0]["reason"] == ABSENT
    assert replace(inspection.data_sets[0], problems=()).as_dict()["problems"] == []
