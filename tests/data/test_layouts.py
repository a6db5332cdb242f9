"""Telling layouts apart: each by its sign, two signs by name, and what is said wins."""

import json
from pathlib import Path

import pytest
from small_volumes import save_image, save_label

from secfed.data.cases import WHOLE_HEART, Case, LabelMap, Modality
from secfed.data.readers import READERS, DataSet, read_data_set
from secfed.data.readers.layouts import layout_of
from secfed.errors import DataError


def amos22(folder: Path) -> Path:
    return described(folder, "amos_0001", {"labels": {"6": "liver"}, "modality": {"0": "CT"}})


def described(folder: Path, name: str, content: dict) -> Path:
    save_image(folder / "imagesTr" / f"{name}.nii.gz")
    entry = {"image": f"./imagesTr/{name}.nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content | {"training": [entry]}))
    return folder


def msd(folder: Path) -> Path:
    return described(folder, "liver_17", {"labels": {"1": "liver"}, "modality": {"0": "CT"}})


def nnunet(folder: Path) -> Path:
    save_image(folder / "imagesTr" / "liver_17_0000.nii.gz")
    save_label(folder / "labelsTr" / "liver_17.nii.gz", 1)
    content = {"labels": {"liver": 1}, "channel_names": {"0": "CT"}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def mm_whs(folder: Path) -> Path:
    save_image(folder / "ct_train" / "ct_train_1001_image.nii.gz")
    return folder


def totalsegmentator(folder: Path) -> Path:
    save_image(folder / "s0011" / "ct.nii.gz")
    save_label(folder / "s0011" / "segmentations" / "liver.nii.gz", 1)
    return folder


def chaos(folder: Path) -> Path:
    save_image(folder / "MR" / "1" / "T2SPIR" / "DICOM_anon" / "a.nii.gz")
    save_label(folder / "MR" / "1" / "T2SPIR" / "Ground" / "a.nii.gz", 63)
    return folder


def table(folder: Path) -> Path:
    save_image(folder / "a.nii.gz")
    (folder / "cases.csv").write_text("patient,image,label,modality\na,a.nii.gz,,CT\n")
    return folder


WRITERS = {
    "amos22": amos22,
    "mm-whs": mm_whs,
    "totalsegmentator": totalsegmentator,
    "chaos": chaos,
    "msd": msd,
    "nnunet": nnunet,
    "table": table,
}
# A dataset.json decides over files that are named as in MM-WHS, and there is one dataset.json.
APART = [
    (one, other)
    for one in WRITERS
    for other in WRITERS
    if one < other and {one, other} - {"amos22", "msd", "nnunet", "mm-whs"}
]


def test_every_layout_has_a_reader_and_a_test():
    assert set(READERS) == set(WRITERS)


@pytest.mark.parametrize("layout", WRITERS)
def test_a_layout_is_told_by_its_sign_or_said(tmp_path: Path, layout: str):
    folder = WRITERS[layout](tmp_path)
    assert layout_of(folder) == layout
    assert read_data_set(folder) == read_data_set(folder, layout=layout)


@pytest.mark.parametrize(("one", "other"), APART)
def test_the_signs_of_two_are_refused_by_name_and_saying_one_decides(tmp_path: Path, one: str, other: str):
    WRITERS[one](tmp_path)
    WRITERS[other](tmp_path)
    with pytest.raises(DataError) as caught:
        read_data_set(tmp_path)
    assert all(f"'{layout}'" in str(caught.value) for layout in (one, other))
    assert len(read_data_set(tmp_path, layout=one).cases) == 1


def test_a_description_of_both_nnunet_versions_is_refused(tmp_path: Path):
    content = {"labels": {"1": "liver"}, "modality": {"0": "CT"}, "channel_names": {"0": "CT"}}
    described(tmp_path, "liver_17", content)
    with pytest.raises(DataError, match=r"looks like nnunet .* and like msd"):
        read_data_set(tmp_path)


def test_ct_beside_mri_are_scanners_of_amos22_and_no_channels(tmp_path: Path):
    described(tmp_path, "patient_a", {"labels": {"1": "liver"}, "modality": {"0": "CT", "1": "MRI"}})
    assert layout_of(tmp_path) == "amos22"
    assert read_data_set(tmp_path, modality=Modality.CT).training[0].patient == "patient_a"


def test_an_unknown_layout_and_a_missing_folder_are_named(tmp_path: Path):
    with pytest.raises(DataError, match="layout = 'dicom': amos22, mm-whs"):
        read_data_set(tmp_path, layout="dicom")
    with pytest.raises(DataError, match="gone: no such file"):
        read_data_set(tmp_path / "gone")
    (tmp_path / "scan.nii").touch()
    with pytest.raises(DataError, match=r"scan\.nii: not a folder"):
        read_data_set(tmp_path / "scan.nii", layout="amos22")


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    amos22(tmp_path)
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=r"cannot be read: .*Permission denied"):
        read_data_set(tmp_path)


def one_case(*organs: str, whole_vessels: bool = False) -> tuple[DataSet, Case]:
    case = Case(patient="p", image=Path("i.nii"), label=Path("l.nii"), modality=Modality.CT)
    ids = dict(enumerate(("background", *organs)))
    data_set = DataSet(name="d", training=(case,), validation=(), test=(), label_ids=ids, whole_vessels=whole_vessels)
    return data_set, case


ABDOMINAL_AORTA = LabelMap(task="abdomen", organs=("liver", "aorta"))


@pytest.mark.parametrize(
    ("organs", "whole_vessels", "of_heart", "of_abdomen"),
    [
        (("liver", "aorta"), False, False, True),
        (("aorta",), False, False, True),
        (("left_ventricle", "aorta"), False, True, False),
        (("left_ventricle", "liver", "aorta"), False, False, True),
        (("left_ventricle", "aorta", "pulmonary_artery"), True, False, True),
    ],
)
def test_an_aorta_counts_in_the_task_that_means_the_same_part(
    organs: tuple[str, ...], whole_vessels: bool, of_heart: bool, of_abdomen: bool
):
    data_set, case = one_case(*organs, whole_vessels=whole_vessels)
    assert ("aorta" in data_set.annotated(case, WHOLE_HEART)) == of_heart
    assert ("aorta" in data_set.annotated(case, ABDOMINAL_AORTA)) == of_abdomen
    assert ("pulmonary_artery" in data_set.annotated(case, WHOLE_HEART)) == (
        "pulmonary_artery" in organs and not whole_vessels
    )


def test_what_a_site_says_was_drawn_counts_whatever_the_name_meant():
    data_set, _ = one_case("liver", "aorta", "spleen")
    only = data_set.restricted_to({"aorta"})
    assert only.annotated(only.training[0], WHOLE_HEART) == ("aorta",)
    assert only.annotated(only.training[0], ABDOMINAL_AORTA) == ("aorta",)
    with pytest.raises(DataError, match="organs names kidney_left, which no label has; drawn are aorta, liver, spleen"):
        data_set.restricted_to({"kidney_left", "liver"})
