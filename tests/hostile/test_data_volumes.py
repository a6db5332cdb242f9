"""Volumes that are broken or lie: each is refused with a message that names the file."""

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secfed.config import PreprocessingConfig
from secfed.data.cases import Case, LabelMap, Modality
from secfed.data.preprocessing import prepare, read_volume
from secfed.data.readers import DataSet
from secfed.errors import DataError

SHAPE = (6, 7, 8)
ORGANS = LabelMap(task="one", organs=("liver",))
DATA_SET = DataSet(name="made", training=(), validation=(), test=(), label_ids={6: "liver"})


def volume_bytes(values: np.ndarray | None = None, affine: np.ndarray | None = None) -> bytes:
    values = np.random.default_rng(0).normal(0, 100, SHAPE).astype(np.float32) if values is None else values
    return nibabel.Nifti1Image(values, np.diag([5.0, 5, 5, 1]) if affine is None else affine).to_bytes()


def refuse(path: Path, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_volume(path)
    assert str(path) in str(caught.value)


def test_a_missing_file(tmp_path: Path):
    refuse(tmp_path / "absent.nii.gz", "no such file")


def test_a_folder_in_place_of_a_file(tmp_path: Path):
    (tmp_path / "folder.nii.gz").mkdir()
    refuse(tmp_path / "folder.nii.gz", "not a readable NIfTI file")


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\x1f\x8b", bytes(400), gzip.compress(b"hello", mtime=0), gzip.compress(b"", mtime=0)]
)
@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.txt"])
def test_bytes_that_are_no_volume(tmp_path: Path, name: str, data: bytes):
    (tmp_path / name).write_bytes(data)
    refuse(tmp_path / name, "not a readable NIfTI file")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("compressed", [True, False])
def test_truncated_files(tmp_path: Path, share: float, compressed: bool):
    data = gzip.compress(volume_bytes()) if compressed else volume_bytes()
    path = tmp_path / ("cut.nii.gz" if compressed else "cut.nii")
    path.write_bytes(data[: int(share * len(data))])
    refuse(path, "not a readable NIfTI file|cannot be read|more than a file of this size")


def test_a_damaged_gzip_checksum_or_stream(tmp_path: Path):
    data = bytearray(gzip.compress(volume_bytes()))
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "bad.nii.gz").write_bytes(bytes(data))
    refuse(tmp_path / "bad.nii.gz", "voxels")


@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 8, 2), (6, 7, 8, 1, 3)])
def test_volumes_of_other_dimensions(tmp_path: Path, shape: tuple[int, ...]):
    nibabel.save(nibabel.Nifti1Image(np.ones(shape, np.float32), np.eye(4)), tmp_path / "d.nii")
    refuse(tmp_path / "d.nii", f"has {len(shape)} dimensions")


def with_dimensions(*sizes: int) -> bytes:
    """A header that claims these sizes, whatever follows it."""
    data = bytearray(volume_bytes())
    struct.pack_into("<8h", data, 40, 3, *sizes, 1, 1, 1, 1)
    return bytes(data)


@pytest.mark.parametrize("sizes", [(32767, 32767, 32767), (4000, 4000, 4000)])
def test_a_header_that_claims_more_than_any_scan(tmp_path: Path, sizes: tuple[int, int, int]):
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(with_dimensions(*sizes)))
    refuse(tmp_path / "bomb.nii.gz", "voxels")


def test_a_header_that_claims_more_than_its_file_can_hold(tmp_path: Path):
    """One gigavoxel in two kilobytes: refused before memory for it is taken."""
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(with_dimensions(1000, 1000, 1000)))
    refuse(tmp_path / "bomb.nii.gz", "claims 4000000000 bytes")


@pytest.mark.parametrize("sizes", [(0, 7, 8), (6, -7, 8)])
def test_a_header_without_voxels(tmp_path: Path, sizes: tuple[int, int, int]):
    (tmp_path / "none.nii").write_bytes(with_dimensions(*sizes))
    refuse(tmp_path / "none.nii", "voxels|not a readable")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite(tmp_path: Path, value: float):
    values = np.zeros(SHAPE, np.float32)
    values[1, 2, 3] = value
    (tmp_path / "v.nii").write_bytes(volume_bytes(values))
    refuse(tmp_path / "v.nii", "holds 1 voxels that are not finite")


@pytest.mark.parametrize(
    "affine",
    [
        np.diag([0.0, 0, 0, 1]),
        np.diag([5.0, 0, 5, 1]),
        np.array([[5.0, 5, 0, 0], [5, 5, 0, 0], [0, 0, 5, 0], [0, 0, 0, 1]]),
        np.diag([np.nan, 5, 5, 1]),
        np.diag([np.inf, 5, 5, 1]),
    ],
)
def test_singular_affines(tmp_path: Path, affine: np.ndarray):
    data = bytearray(volume_bytes())
    # Written into the header by hand, because the library itself refuses to make some of these.
    struct.pack_into("<2h", data, 252, 0, 1)
    struct.pack_into("<12f", data, 280, *affine[:3].ravel())
    (tmp_path / "flat.nii").write_bytes(bytes(data))
    refuse(tmp_path / "flat.nii", "affine is singular")


@given(st.binary(min_size=348, max_size=352), st.integers(0, 5000))
def test_random_headers_never_escape_as_another_error(
    tmp_path_factory: pytest.TempPathFactory, header: bytes, size: int
):
    path = tmp_path_factory.getbasetemp() / "random.nii"
    valid = bytearray(volume_bytes()[:352])
    # Random bytes with a true size and magic string get past the first look.
    valid[4 : min(len(header), 344)] = header[4 : min(len(header), 344)]
    path.write_bytes(bytes(valid) + bytes(size))
    try:
        volume = read_volume(path)
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert volume.voxels.ndim == 3
        assert np.isfinite(volume.voxels).all()


def prepare_with_label(folder: Path, label: bytes) -> None:
    (folder / "image.nii").write_bytes(volume_bytes())
    (folder / "label.nii").write_bytes(label)
    case = Case(patient="p", image=folder / "image.nii", label=folder / "label.nii", modality=Modality.CT)
    prepare(case, data_set=DATA_SET, label_map=ORGANS, config=PreprocessingConfig(), cache=folder / "cache")


def label_values(value: float = 6, dtype: type = np.uint8) -> np.ndarray:
    values = np.zeros(SHAPE, dtype)
    values[2, 2, 2] = value
    return values


def test_a_good_label_is_accepted(tmp_path: Path):
    prepare_with_label(tmp_path, volume_bytes(label_values()))


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (volume_bytes(np.zeros((6, 7, 9), np.uint8)), r"the label has \(9, 7, 6\) voxels.*image has \(8, 7, 6\)"),
        (volume_bytes(label_values(), np.diag([5.0, 5, 6, 1])), "mm away from its image"),
        (volume_bytes(label_values(), np.diag([-5.0, 5, 5, 1])), "mm away from its image"),
        (volume_bytes(label_values(17)), "holds the label value 17, which is not among those of data set"),
        (volume_bytes(label_values(-3, np.int16)), "holds the label value -3"),
        (volume_bytes(label_values(0.5, np.float32)), "not whole numbers"),
        (volume_bytes(label_values(1e30, np.float32)), r"holds the label value 1e\+30"),
        (volume_bytes(label_values())[:500], "label.nii"),
    ],
)
def test_labels_that_do_not_fit(tmp_path: Path, label: bytes, message: str):
    with pytest.raises(DataError, match=message) as caught:
        prepare_with_label(tmp_path, label)
    assert "label.nii" in str(caught.value)


@pytest.mark.parametrize(("modality", "level"), [(Modality.CT, 0.0), (Modality.CT, 3000.0), (Modality.MR, 7.0)])
def test_images_without_contrast(tmp_path: Path, modality: Modality, level: float):
    (tmp_path / "image.nii").write_bytes(volume_bytes(np.full(SHAPE, level, np.float32)))
    case = Case(patient="p", image=tmp_path / "image.nii", label=None, modality=modality)
    with pytest.raises(DataError, match=r"image\.nii: every voxel is the same after clipping"):
        prepare(case, data_set=DATA_SET, label_map=ORGANS, config=PreprocessingConfig(), cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_missing_image_is_named_before_the_cache_is_touched(tmp_path: Path):
    case = Case(patient="p", image=tmp_path / "gone.nii", label=None, modality=Modality.CT)
    with pytest.raises(DataError, match=r"gone\.nii: no such file"):
        prepare(case, data_set=DATA_SET, label_map=ORGANS, config=PreprocessingConfig(), cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("affine", "message"),
    [
        (np.diag([1e9, 5, 5, 1]), r"6e\+06 m long; 10 m are accepted"),
        (np.diag([5.0, 5, 1500, 1]), r"12 m long; 10 m are accepted"),
        (np.diag([1600.0, 1400, 1200, 1]), "would become more than 2000000000 of"),
    ],
)
def test_spacing_that_no_scan_has(tmp_path: Path, affine: np.ndarray, message: str):
    """Before any voxel is resampled: a single voxel of 1000 km would become gigabytes."""
    (tmp_path / "image.nii").write_bytes(volume_bytes(affine=affine))
    case = Case(patient="p", image=tmp_path / "image.nii", label=None, modality=Modality.CT)
    fine = PreprocessingConfig(spacing_mm=(5.0, 5.0, 5.0))
    with pytest.raises(DataError, match=message) as caught:
        prepare(case, data_set=DATA_SET, label_map=ORGANS, config=fine, cache=tmp_path / "cache")
    assert "is its spacing in millimetres?" in str(caught.value)
