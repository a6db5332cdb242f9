"""Problems case by case: one that cannot be used hides no other, and each says its file, why, and what to do."""

import pickle
from pathlib import Path

import nibabel
import numpy as np
import pytest
from small_volumes import AFFINE, SHAPE, save_image, save_label, save_volume

from secfed.config import PreprocessingConfig
from secfed.data.cases import ABDOMEN
from secfed.data.problems import CaseProblem, find_problems
from secfed.data.readers import DataSet, read_data_set
from secfed.errors import DataError, FileError

CONFIG = PreprocessingConfig(spacing_mm=(5.0, 3.0, 3.0))
PATIENTS = ("anna", "bert", "cleo", "dora")


def write_table(folder: Path) -> DataSet:
    lines = ["patient,image,label,modality"]
    for seed, patient in enumerate(PATIENTS):
        save_image(folder / f"{patient}.nii.gz", seed)
        save_label(folder / f"{patient}-label.nii.gz", 1, 2)
        lines.append(f"{patient},{patient}.nii.gz,{patient}-label.nii.gz,CT")
    (folder / "cases.csv").write_text("\n".join(lines))
    (folder / "labels.csv").write_text("value,organ\n1,liver\n2,spleen\n")
    return read_data_set(folder)


def problems(data_set: DataSet, folder: Path, seen: list[str] | None = None) -> list[CaseProblem]:
    return find_problems(
        data_set,
        data_set.training,
        label_map=ABDOMEN,
        config=CONFIG,
        cache=folder / "cache",
        on_case=None if seen is None else seen.append,
    )


def test_cases_in_order_have_none(tmp_path: Path):
    seen: list[str] = []
    assert problems(write_table(tmp_path), tmp_path, seen) == []
    assert tuple(seen) == PATIENTS


def test_one_bad_case_hides_no_other(tmp_path: Path):
    data_set = write_table(tmp_path)
    (tmp_path / "anna.nii.gz").write_bytes((tmp_path / "anna.nii.gz").read_bytes()[:-20])
    save_label(tmp_path / "bert-label.nii.gz", 1, 9)
    save_label(tmp_path / "dora-label.nii.gz")
    seen: list[str] = []
    found = problems(data_set, tmp_path, seen)
    assert tuple(seen) == PATIENTS
    assert [(problem.case, problem.file.name, problem.severity) for problem in found] == [
        ("anna", "anna.nii.gz", "error"),
        ("bert", "bert-label.nii.gz", "error"),
        ("dora", "dora-label.nii.gz", "warning"),
    ]
    assert "truncated" in found[0].reason
    assert "copy" in found[0].todo
    assert found[1].reason.startswith("holds the label value 9")
    assert found[2].reason == "the label is empty: it has no voxel of liver, spleen"
    assert all(str(problem.file) not in problem.reason for problem in found)


def test_a_training_case_without_a_label_is_an_error_and_a_test_case_is_not(tmp_path: Path):
    write_table(tmp_path)
    table = tmp_path / "cases.csv"
    lines = table.read_text().splitlines()
    header, first, second = lines[0] + ",split", "anna,anna.nii.gz,,CT,train", "bert,bert.nii.gz,,CT,test"
    table.write_text("\n".join((header, first, second, *(f"{line},train" for line in lines[3:]))))
    data_set = read_data_set(tmp_path)
    found = find_problems(data_set, data_set.cases, label_map=ABDOMEN, config=CONFIG, cache=tmp_path / "cache")
    assert [(problem.case, problem.reason) for problem in found] == [("anna", "a training case without a label")]


def test_the_error_behind_a_problem_crosses_processes_whole():
    error = pickle.loads(pickle.dumps(FileError(Path("a.nii"), "is broken", "copy it again")))  # noqa: S301 - our own
    assert str(error) == "a.nii: is broken; copy it again"
    assert (error.file, error.reason, error.todo) == (Path("a.nii"), "is broken", "copy it again")


def test_two_affines_are_a_warning_about_the_image(tmp_path: Path):
    data_set = write_table(tmp_path)
    for name in ("cleo.nii.gz", "cleo-label.nii.gz"):
        stored = nibabel.load(tmp_path / name)
        image = nibabel.Nifti1Image(np.asarray(stored.dataobj), None)
        image.set_sform(AFFINE, code=1)
        image.set_qform(np.diag([-3.0, 3.0, 5.0, 1.0]), code=1)
        nibabel.save(image, tmp_path / name)
    (problem,) = problems(data_set, tmp_path)
    assert (problem.case, problem.file.name, problem.severity) == ("cleo", "cleo.nii.gz", "warning")
    assert "the sform is used" in problem.reason


def test_a_scan_of_another_shape_than_its_label_is_an_error_with_what_to_do(tmp_path: Path):
    data_set = write_table(tmp_path)
    save_volume(tmp_path / "anna-label.nii.gz", np.zeros((*SHAPE[:2], 9), np.uint8))
    (problem,) = problems(data_set, tmp_path)
    assert (problem.severity, problem.todo) == ("error", "export both on one grid")


def test_a_cache_that_cannot_be_written_is_no_fault_of_a_case(tmp_path: Path):
    data_set = write_table(tmp_path)
    (tmp_path / "cache").touch()
    with pytest.raises(DataError, match="cache entry cannot be written"):
        problems(data_set, tmp_path)
