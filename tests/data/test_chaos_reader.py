"""CHAOS after its conversion to NIfTI, in both ways to lay it out, and what is said about the slices themselves."""

from pathlib import Path

import numpy as np
import pytest
from small_volumes import save_image, save_label

from secfed.config import PreprocessingConfig
from secfed.data.cases import ABDOMEN, Modality
from secfed.data.preprocessing import prepare
from secfed.data.readers import read_chaos, read_data_set
from secfed.errors import DataError

GREY = (63, 126, 189, 252)
ORGANS_OF_MR = ["liver", "spleen", "kidney_right", "kidney_left"]


def convert_in_place(root: Path, *, mr: tuple[int, ...] = (1, 2), ct: tuple[int, ...] = (5,), labelled: bool = True):
    for number in mr:
        for series, places in (("T1DUAL", ("InPhase", "OutPhase")), ("T2SPIR", ("",))):
            for place in places:
                save_image(root / "MR" / str(number) / series / "DICOM_anon" / place / f"{series}_e1.nii.gz", number)
            if labelled:
                save_label(root / "MR" / str(number) / series / "Ground" / "ground.nii.gz", *GREY)
    for number in ct:
        save_image(root / "CT" / str(number) / "DICOM_anon" / "ct.nii", number)
        if labelled:
            save_label(root / "CT" / str(number) / "Ground" / "liver.nii.gz", 255)
    return root


def per_series(root: Path, series: str, *numbers: int) -> Path:
    for number in numbers:
        save_image(root / series / f"image_{number}.nii.gz", number)
        save_label(root / series / f"label_{number}.nii.gz", *((1,) if series == "CT" else (1, 2, 3, 4)))
    return root


def test_series_are_cases_and_a_patients_series_share_the_patient(tmp_path: Path):
    data_set = read_data_set(convert_in_place(tmp_path / "Train_Sets").parent)
    assert [(case.patient, case.modality.value, case.image.parent.name) for case in data_set.training] == [
        ("ct_5", "CT", "DICOM_anon"),
        *((f"mr_{number}", "MR", place) for number in (1, 2) for place in ("InPhase", "OutPhase", "DICOM_anon")),
    ]


def test_both_phases_share_the_label(tmp_path: Path):
    one, other, _ = read_data_set(convert_in_place(tmp_path, mr=(1,), ct=())).training
    assert one.label == other.label
    assert one.image != other.image


def test_scans_of_the_test_sets_have_no_labels(tmp_path: Path):
    convert_in_place(tmp_path / "Train_Sets", mr=(1,), ct=())
    convert_in_place(tmp_path / "Test_Sets", mr=(4,), ct=(3,), labelled=False)
    data_set = read_data_set(tmp_path)
    assert {case.patient for case in data_set.training} == {"mr_1"}
    assert {case.patient for case in data_set.test} == {"mr_4", "ct_3"}
    assert all(case.label is None for case in data_set.test)


@pytest.mark.parametrize("write", [convert_in_place, lambda root: per_series(per_series(root, "T2SPIR", 1), "CT", 5)])
def test_ct_has_the_liver_and_mri_four_organs(tmp_path: Path, write):
    data_set = read_data_set(write(tmp_path / "set"))
    config = PreprocessingConfig(spacing_mm=(5.0, 3.0, 3.0))
    for case in data_set.training:
        drawn = ["liver"] if case.modality is Modality.CT else ORGANS_OF_MR
        assert list(data_set.annotated(case, ABDOMEN)) == drawn
        found = prepare(case, data_set=data_set, label_map=ABDOMEN, config=config, cache=tmp_path / "cache")
        assert set(np.unique(found.label)) == {0, *(ABDOMEN.index(organ) for organ in drawn)}
        assert found.unlabelled == tuple(ABDOMEN.index(organ) for organ in ABDOMEN.organs if organ not in drawn)


def test_white_of_ct_is_no_value_of_mri(tmp_path: Path):
    """255 is the liver in CT; in MRI, where 252 is the spleen, it is a mistake of the conversion."""
    convert_in_place(tmp_path / "set", mr=(1,), ct=())
    save_label(tmp_path / "set" / "MR" / "1" / "T2SPIR" / "Ground" / "ground.nii.gz", 63, 255)
    data_set = read_data_set(tmp_path / "set")
    with pytest.raises(DataError, match=r"ground\.nii\.gz: holds the label value 255"):
        prepare(
            data_set.training[2],
            data_set=data_set,
            label_map=ABDOMEN,
            config=PreprocessingConfig(),
            cache=tmp_path / "cache",
        )


@pytest.mark.parametrize("outer", ["", "niis"])
def test_folders_per_series_are_found(tmp_path: Path, outer: str):
    per_series(tmp_path / outer, "T2SPIR", 1, 13)
    data_set = read_data_set(tmp_path)
    assert [case.patient for case in data_set.training] == ["mr_1", "mr_13"]
    assert read_data_set(tmp_path / outer / "T2SPIR").training == data_set.training


def test_a_site_of_one_modality_reads_its_scans_alone(tmp_path: Path):
    convert_in_place(tmp_path)
    assert {case.modality for case in read_data_set(tmp_path, modality=Modality.MR).training} == {Modality.MR}
    assert len(read_chaos(tmp_path, modality=Modality.CT).training) == 1
    with pytest.raises(DataError, match="holds no CT scan of CHAOS"):
        read_chaos(per_series(tmp_path / "other", "T2SPIR", 1), modality=Modality.CT)


@pytest.mark.parametrize("part", ["T2SPIR/DICOM_anon", "T2SPIR/Ground", "T1DUAL/DICOM_anon/OutPhase"])
def test_slices_that_were_not_converted_are_refused_with_what_to_do(tmp_path: Path, part: str):
    place = convert_in_place(tmp_path, mr=(1,)) / "MR" / "1" / part
    for volume in place.glob("*.nii*"):
        volume.unlink()
    (place / "IMG-0001.dcm").touch()
    with pytest.raises(DataError, match=rf"{part}: holds no NIfTI volume; convert .*secfed data convert"):
        read_data_set(tmp_path)


def test_slices_beside_their_volume_do_no_harm_but_two_volumes_do(tmp_path: Path):
    place = convert_in_place(tmp_path, mr=(1,)) / "MR" / "1" / "T2SPIR" / "DICOM_anon"
    (place / "IMG-0001.dcm").touch()
    assert len(read_data_set(tmp_path).training) == 4
    save_image(place / "again.nii.gz")
    with pytest.raises(DataError, match=r"DICOM_anon: holds 2 volumes \(T2SPIR_e1.nii.gz, again.nii.gz\)|again"):
        read_data_set(tmp_path)
