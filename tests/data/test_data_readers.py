"""Reading folders in AMOS22 layout."""

import json
from pathlib import Path

import pytest

from secfed.data.cases import Modality
from secfed.data.labels import AMOS22_LABELS
from secfed.data.readers import DataSet, read_amos22
from secfed.errors import DataError


def write_data_set(folder: Path, **changes: object) -> Path:
    """A data set with empty volumes: a reader looks at names only."""
    content = {
        "name": "AMOS",
        "labels": {str(number): spelling for number, spelling in AMOS22_LABELS.items()},
        "training": [entry("Tr", "amos_0001"), entry("Tr", "amos_0507")],
        "validation": [entry("Va", "amos_0500")],
        "test": [{"image": "./imagesTs/amos_0501.nii.gz"}],
    } | changes
    for split in ("training", "validation", "test"):
        listed = content[split] if isinstance(content.get(split), list) else []
        for item in listed:
            for file in [item] if isinstance(item, str) else item.values():
                path = folder / str(file)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    folder.mkdir(exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def entry(split: str, name: str) -> dict[str, str]:
    return {"image": f"./images{split}/{name}.nii.gz", "label": f"./labels{split}/{name}.nii.gz"}


def test_cases_carry_patient_files_and_modality(tmp_path: Path):
    data_set = read_amos22(write_data_set(tmp_path))
    first = data_set.training[0]
    assert first.patient == "amos_0001"
    assert first.image == tmp_path / "imagesTr" / "amos_0001.nii.gz"
    assert first.label == tmp_path / "labelsTr" / "amos_0001.nii.gz"
    assert [case.modality for case in data_set.training] == [Modality.CT, Modality.MR]


def test_ids_up_to_500_are_ct_and_above_are_mri(tmp_path: Path):
    data_set = read_amos22(write_data_set(tmp_path))
    assert data_set.validation[0].modality is Modality.CT
    assert data_set.test[0].modality is Modality.MR


def test_test_cases_may_have_no_label(tmp_path: Path):
    assert read_amos22(write_data_set(tmp_path)).test[0].label is None


def test_test_cases_may_be_plain_paths(tmp_path: Path):
    data_set = read_amos22(write_data_set(tmp_path, test=["./imagesTs/amos_0009.nii.gz"]))
    assert data_set.test[0].patient == "amos_0009"


def test_names_of_a_channel_suffix_keep_their_id(tmp_path: Path):
    data_set = read_amos22(write_data_set(tmp_path, test=["./imagesTs/amos_0507_0000.nii.gz"]))
    assert data_set.test[0].modality is Modality.MR


def test_label_ids_use_our_names(tmp_path: Path):
    labels = read_amos22(write_data_set(tmp_path)).label_ids
    assert (labels[2], labels[3], labels[4], labels[9]) == ("kidney_right", "kidney_left", "gallbladder", "vena_cava")


def test_modality_can_be_said(tmp_path: Path):
    folder = write_data_set(tmp_path, training=[entry("Tr", "liver_17")])
    data_set = read_amos22(folder, modality=Modality.MR)
    assert {case.modality for case in (*data_set.training, *data_set.validation)} == {Modality.MR}


def test_a_name_without_an_id_asks_for_the_modality(tmp_path: Path):
    folder = write_data_set(tmp_path, training=[entry("Tr", "liver_17")])
    with pytest.raises(DataError, match=r"liver_17\.nii\.gz.*say it: modality = 'CT' or 'MR'"):
        read_amos22(folder)


def test_only_keeps_one_modality(tmp_path: Path):
    data_set = read_amos22(write_data_set(tmp_path))
    mri: DataSet = data_set.only(Modality.MR)
    assert [case.patient for case in mri.training] == ["amos_0507"]
    assert (len(mri.validation), len(mri.test)) == (0, 1)
    assert mri.label_ids == data_set.label_ids


def test_an_image_in_two_splits_is_refused(tmp_path: Path):
    folder = write_data_set(tmp_path, test=[{"image": "imagesTr/amos_0001.nii.gz"}])
    with pytest.raises(DataError, match=r"names amos_0001\.nii\.gz more than once"):
        read_amos22(folder)


def test_a_missing_description_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"dataset\.json: no such file"):
        read_amos22(tmp_path)


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_a_missing_volume_is_named(tmp_path: Path, kind: str):
    folder = write_data_set(tmp_path)
    (folder / f"{kind}Tr" / "amos_0507.nii.gz").unlink()
    with pytest.raises(DataError, match=rf"{kind}Tr/amos_0507\.nii\.gz: no such file"):
        read_amos22(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {}}, "'labels' must map"),
        ({"labels": ["liver"]}, "'labels' must map"),
        ({"labels": {"liver": 6}}, r"labels\['liver'\] = 6"),
        ({"labels": {"-1": "liver"}}, r"labels\['-1'\]"),
        ({"labels": {"65536": "liver"}}, r"labels\['65536'\].*0 to 65535"),
        ({"labels": {"9" * 5000: "liver"}}, r"labels\['9999"),
        ({"training": {"image": "x"}}, "'training' must be a list"),
        ({"training": [17]}, "training holds 17"),
        ({"training": [{"label": "x"}]}, "not an entry with an 'image'"),
        ({"training": [], "validation": [], "test": []}, "names no case"),
    ],
)
def test_a_description_that_makes_no_sense_is_explained(tmp_path: Path, changes: dict, message: str):
    content = {"labels": {"6": "liver"}, "training": [], "validation": [], "test": []} | changes
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        read_amos22(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "17", "\xff", '{"labels": ' + "[" * 200_000])
def test_a_description_that_is_no_json_object_is_named(tmp_path: Path, text: str):
    (tmp_path / "dataset.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"dataset\.json"):
        read_amos22(tmp_path)
