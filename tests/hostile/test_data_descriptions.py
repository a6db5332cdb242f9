"""dataset.json from somebody else: it leads nowhere outside its folder and raises nothing but DataError."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secfed.data.readers import read_amos22
from secfed.errors import DataError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(["labels", "training", "validation", "test", "name", "modality"])


@pytest.mark.parametrize(
    "path", ["../secret.nii.gz", "/etc/hostname", "imagesTr/../../secret.nii.gz", "a\0b", "imagesTr/..", "."]
)
@pytest.mark.parametrize("field", ["image", "label"])
def test_paths_that_leave_the_folder_are_refused(tmp_path: Path, path: str, field: str):
    (tmp_path / "secret.nii.gz").touch()
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "amos_0001.nii.gz").touch()
    entry = {"image": "amos_0001.nii.gz"} | {field: path}
    (folder / "dataset.json").write_text(json.dumps({"labels": {"6": "liver"}, "training": [entry]}))
    with pytest.raises(DataError, match=r"does not lie in the folder|no such file"):
        read_amos22(folder)


@given(st.dictionaries(KEYS, JSON) | JSON)
def test_any_json_is_refused_cleanly(tmp_path_factory: pytest.TempPathFactory, content: object):
    folder = tmp_path_factory.getbasetemp()
    (folder / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"dataset\.json"):
        read_amos22(folder)


@given(st.binary(max_size=64))
def test_any_bytes_are_refused_cleanly(tmp_path_factory: pytest.TempPathFactory, content: bytes):
    folder = tmp_path_factory.getbasetemp()
    (folder / "dataset.json").write_bytes(content)
    with pytest.raises(DataError, match=r"dataset\.json"):
        read_amos22(folder)
