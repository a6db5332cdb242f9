"""Folders of any content, and with parts of several layouts: read, or refused cleanly, and nothing else."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secfed.data.readers import READERS, DataSet, read_data_set
from secfed.errors import DataError

DESCRIPTIONS = [
    "{",
    '{"labels": {"1": "liver"}, "modality": {"0": "CT"}, "training": ["imagesTr/a.nii.gz"]}',
    '{"labels": {"liver": 1}, "channel_names": {"0": "CT"}, "file_ending": ".nii.gz"}',
    '{"labels": {"1": "liver"}, "training": [{"image": "imagesTr/amos_0001.nii.gz", "label": "labelsTr"}]}',
]
TABLES = [
    "patient,image,label\n",
    "patient,image,label,modality\np,imagesTr/a.nii.gz,labelsTr,CT\n",
    "image_id;split\ns0001;train\n",
    "value,organ\n1,liver\n",
    "\0",
]
PLACES = [
    "imagesTr/a.nii.gz",
    "imagesTr/a_0000.nii.gz",
    "imagesTr/amos_0001.nii.gz",
    "labelsTr/a.nii.gz",
    "labelsTr/liver.nii.gz",
    "ct_train/ct_train_1001_image.nii.gz",
    "ct_train_1001_label.nii.gz",
    "s0001/ct.nii.gz",
    "s0001/mri.nii",
    "s0001/segmentations/liver.nii.gz",
    "s0001/segmentations/background.nii.gz",
    "MR/1/T2SPIR/DICOM_anon/a.nii.gz",
    "MR/1/T2SPIR/DICOM_anon/a.dcm",
    "MR/1/T2SPIR/Ground/a.png",
    "MR/1/T1DUAL/DICOM_anon/InPhase/a.nii",
    "CT/2/DICOM_anon/a.nii.gz",
    "T2SPIR/image_1.nii.gz",
    "T2SPIR/label_1.nii.gz",
]
ENTRIES = st.one_of(
    st.tuples(st.sampled_from(PLACES), st.sampled_from(["file", "folder"])),
    st.tuples(st.just("dataset.json"), st.sampled_from([*DESCRIPTIONS, "folder"])),
    st.tuples(st.sampled_from(["cases.csv", "labels.csv", "meta.csv"]), st.sampled_from([*TABLES, "folder"])),
)


def write(folder: Path, entries: list[tuple[str, str]]) -> None:
    for name, content in entries:
        path = folder / name
        # A file that stands where a folder should is a case of its own, so what does not fit is left out.
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if content == "folder":
                path.mkdir(exist_ok=True)
            else:
                path.write_text("" if content == "file" else content)
        except OSError:
            continue


@settings(max_examples=150, deadline=None)
@given(entries=st.lists(ENTRIES, max_size=8), layout=st.sampled_from([None, *READERS]), nested=st.booleans())
def test_any_folder_is_read_or_refused_cleanly(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, str]], layout, nested: bool
):
    folder = tmp_path_factory.getbasetemp() / "any"
    shutil.rmtree(folder, ignore_errors=True)
    root = folder / "Train_Sets" if nested else folder
    root.mkdir(parents=True)
    write(root, entries)
    try:
        found = read_data_set(folder, layout=layout)
    except DataError as error:
        assert str(folder) in str(error)
    else:
        assert isinstance(found, DataSet)
        assert found.cases
        for case in found.cases:
            assert case.patient
            assert case.image.is_file()
            assert case.label is None or case.label.exists()
        images = [case.image for case in found.cases]
        assert len(set(images)) == len(images)


def test_a_file_in_place_of_a_folder_of_the_layout_is_refused_cleanly(tmp_path: Path):
    (tmp_path / "imagesTr").touch()
    (tmp_path / "dataset.json").write_text(DESCRIPTIONS[2])
    with pytest.raises(DataError, match="holds no case"):
        read_data_set(tmp_path)
