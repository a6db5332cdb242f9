"""TotalSegmentator as it is downloaded: a folder per subject, a mask per class, and what its names mean here."""

from pathlib import Path

import numpy as np
import pytest
from small_volumes import SHAPE, rows, save_image, save_label, save_volume

from secfed.config import DataSource, PreprocessingConfig
from secfed.data.cases import ABDOMEN, WHOLE_HEART, LabelMap, Modality
from secfed.data.preprocessing import PreparedCase, prepare
from secfed.data.readers import DataSet, read_data_set, read_total_segmentator
from secfed.errors import DataError
from secfed.experiment.data import DataTask, used_cases

AT_REST = PreprocessingConfig(spacing_mm=(5.0, 3.0, 3.0))
ABDOMINAL = ("spleen", "kidney_right", "kidney_left", "gallbladder", "liver", "stomach", "pancreas", "aorta")
CHAMBERS = ("heart_atrium_left", "heart_ventricle_left", "heart_atrium_right", "heart_ventricle_right")
VERSION_1 = (*ABDOMINAL, "inferior_vena_cava", "heart_myocardium", *CHAMBERS, "pulmonary_artery", "rib_left_1")
VERSION_2 = (*ABDOMINAL, "inferior_vena_cava", "heart", "pulmonary_vein", "atrial_appendage_left", "kidney_cyst_left")
META = "image_id;age;gender;institute;study_type;split;manufacturer\n"


def write_subject(folder: Path, *, image: str = "ct", classes: tuple[str, ...] = VERSION_2) -> Path:
    save_image(folder / f"{image}.nii.gz", seed=sum(folder.name.encode()))
    for place, name in enumerate(classes):
        volume = np.zeros(SHAPE, np.uint8)
        volume.reshape(-1)[3 * place : 3 * place + 3] = 1
        save_volume(folder / "segmentations" / f"{name}.nii.gz", volume)
    return folder


def write_data_set(folder: Path, **options) -> Path:
    for subject in ("s0000", "s0011", "s0235"):
        write_subject(folder / subject, **options)
    rows_of_meta = "s0000;55;m;A;ct abdomen;train;siemens\ns0011;60;f;B;ct;val;ge\ns0235;;;C;ct;test;ge\n"
    (folder / "meta.csv").write_text(META + rows_of_meta, encoding="utf-8-sig")
    return folder


def prepared(data_set: DataSet, folder: Path, label_map: LabelMap = ABDOMEN) -> PreparedCase:
    case = data_set.training[0]
    return prepare(case, data_set=data_set, label_map=label_map, config=AT_REST, cache=folder / "cache")


def test_subjects_are_cases_in_the_splits_of_meta_csv(tmp_path: Path):
    data_set = read_data_set(write_data_set(tmp_path / "set"))
    assert data_set.name == "TotalSegmentator"
    splits = (data_set.training, data_set.validation, data_set.test)
    assert [[case.patient for case in split] for split in splits] == [["s0000"], ["s0011"], ["s0235"]]
    (case,) = data_set.training
    assert (case.image.name, case.label, case.modality) == ("ct.nii.gz", case.image.parent / "segmentations", "CT")


def test_mri_is_told_by_its_name(tmp_path: Path):
    data_set = read_data_set(write_data_set(tmp_path, image="mri"))
    assert {case.modality for case in data_set.cases} == {Modality.MR}


def test_a_site_of_ct_does_not_take_mri(tmp_path: Path):
    folder = write_data_set(tmp_path, image="mri")
    source = DataSource(folder=folder)
    task = DataTask(name="a", source=source, folder=folder, modality=Modality.CT, is_test=False, seed=0)
    with pytest.raises(DataError, match=r"mri\.nii\.gz: the name of a MR scan in site 'a', which is configured as CT"):
        used_cases(task, read_data_set(folder, modality=Modality.CT))


def test_without_meta_csv_all_are_training_cases(tmp_path: Path):
    (write_data_set(tmp_path) / "meta.csv").unlink()
    assert len(read_data_set(tmp_path).training) == 3


def test_masks_become_class_indices(tmp_path: Path):
    data_set = read_data_set(write_data_set(tmp_path / "set"))
    case = prepared(data_set, tmp_path)
    assert case.unlabelled == ()
    for name in ABDOMINAL:
        mask = np.zeros(SHAPE, bool)
        place = VERSION_2.index(name)
        mask.reshape(-1)[3 * place : 3 * place + 3] = True
        np.testing.assert_array_equal(case.label == ABDOMEN.index(name), mask.transpose(2, 1, 0))


def test_of_the_heart_version_1_has_chambers_and_muscle_but_not_the_vessels_of_mm_whs(tmp_path: Path):
    data_set = read_data_set(write_data_set(tmp_path / "set", classes=VERSION_1))
    case = prepared(data_set, tmp_path, WHOLE_HEART)
    assert [WHOLE_HEART.organs[index - 1] for index in case.unlabelled] == ["aorta", "pulmonary_artery"]
    assert set(np.unique(case.label)) == {0, 1, 2, 3, 4, 5}
    assert prepared(data_set, tmp_path).unlabelled == ()


@pytest.mark.parametrize("image", ["ct", "mri"])
def test_of_the_heart_version_2_and_mri_have_nothing(tmp_path: Path, image: str):
    data_set = read_data_set(write_data_set(tmp_path / "set", image=image))
    with pytest.raises(DataError, match=r"segmentations: .*nothing of the task 'whole_heart'"):
        prepared(data_set, tmp_path, WHOLE_HEART)


def test_a_mask_that_a_subject_lacks_is_unlabelled_there_alone(tmp_path: Path):
    folder = write_data_set(tmp_path / "set")
    (folder / "s0000" / "segmentations" / "pancreas.nii.gz").unlink()
    data_set = read_data_set(folder)
    assert prepared(data_set, tmp_path).unlabelled == (ABDOMEN.index("pancreas"),)
    assert "pancreas" in data_set.annotated(data_set.test[0], ABDOMEN)


def test_only_masks_of_the_task_are_opened(tmp_path: Path):
    folder = write_data_set(tmp_path / "set")
    (folder / "s0000" / "segmentations" / "rib_left_1.nii.gz").write_bytes(b"broken")
    prepared(read_data_set(folder), tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (rows(2), r"liver\.nii\.gz: holds the values 0, 2; a mask has 0 and 1"),
        (rows(0.5, dtype=np.float32), r"liver\.nii\.gz: holds label values that are not whole numbers, such as 0.5"),
        (np.ones(SHAPE, np.uint8), r"\d+ of its voxels are in .*\.nii\.gz too"),
        (np.zeros((6, 5, 3), np.uint8), r"liver\.nii\.gz: the label has \(3, 5, 6\) voxels"),
    ],
)
def test_masks_that_cannot_be_are_named(tmp_path: Path, values: np.ndarray, message: str):
    folder = write_data_set(tmp_path / "set")
    save_volume(folder / "s0000" / "segmentations" / "liver.nii.gz", values)
    with pytest.raises(DataError, match=message):
        prepared(read_data_set(folder), tmp_path)


def test_masks_may_hold_255_for_the_inside(tmp_path: Path):
    folder = write_data_set(tmp_path / "set")
    path = folder / "s0000" / "segmentations" / "liver.nii.gz"
    before = prepared(read_data_set(folder), tmp_path).label.copy()
    place = VERSION_2.index("liver")
    volume = np.zeros(SHAPE, np.uint8)
    volume.reshape(-1)[3 * place : 3 * place + 3] = 255
    save_volume(path, volume)
    np.testing.assert_array_equal(prepared(read_data_set(folder), tmp_path).label, before)


def test_a_changed_mask_is_another_cache_entry(tmp_path: Path):
    folder = write_data_set(tmp_path / "set")
    prepared(read_data_set(folder), tmp_path)
    save_label(folder / "s0000" / "segmentations" / "liver.nii.gz")
    assert not (prepared(read_data_set(folder), tmp_path).label == ABDOMEN.index("liver")).any()


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        (META + "s0000;1;m;A;ct;train;x\ns0011;1;m;A;ct;holdout;x\n", r"meta\.csv, line 3: split = 'holdout'"),
        (META + "s0000;1;m;A;ct;train;x\n", r"meta\.csv: has no row for the subject s0011"),
        ("image_id;age\ns0000;1\n", r"meta\.csv: has no column split"),
        (META.encode("utf-16"), r"meta\.csv: not UTF-8"),
    ],
)
def test_a_meta_csv_that_does_not_fit_is_named(tmp_path: Path, meta: str | bytes, message: str):
    folder = write_data_set(tmp_path)
    (folder / "meta.csv").write_bytes(meta.encode() if isinstance(meta, str) else meta)
    with pytest.raises(DataError, match=message):
        read_total_segmentator(folder)


def test_two_images_of_a_subject_and_two_masks_of_an_organ_are_refused(tmp_path: Path):
    folder = write_data_set(tmp_path)
    save_label(folder / "s0000" / "segmentations" / "liver.nii", 1)
    with pytest.raises(DataError, match="liver has another mask"):
        read_total_segmentator(folder)
    (folder / "s0000" / "segmentations" / "liver.nii").unlink()
    save_image(folder / "s0000" / "mri.nii.gz")
    with pytest.raises(DataError, match="the subject has another image"):
        read_total_segmentator(folder)


def test_companions_that_macos_leaves_are_no_masks(tmp_path: Path):
    folder = write_data_set(tmp_path)
    (folder / "s0000" / "segmentations" / "._liver.nii.gz").write_bytes(b"x")
    assert "._liver" not in read_total_segmentator(folder).training[0].masks
