"""A label volume has the geometry of its scan, says what it is, and carries nothing else of the scan."""

import gzip
import struct

import nibabel
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Extension

from secfed.data.preprocessing import read_volume
from secfed.errors import DataError
from secfed.predict.label_file import stored_grid, write_labels

AFFINE = np.array([[0.0, -2.0, 0.3, 10.0], [1.5, 0.1, 0.0, -3.0], [0.0, 0.2, -4.0, 7.0], [0.0, 0.0, 0.0, 1.0]])
SHAPE = (4, 5, 6)


def scan(path, *, kind=nibabel.Nifti1Image, codes=(1, 2), values=None):
    image = kind(np.arange(120, dtype=np.int16).reshape(SHAPE) if values is None else values, AFFINE)
    image.header.set_slope_inter(2.0, -1024.0)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(AFFINE if codes[0] else None, codes[0], strip_shears=True)
    image.set_sform(AFFINE if codes[1] else None, codes[1])
    for text in ("descrip", "aux_file", "intent_name"):
        image.header[text] = b"Jane Doe"
    image.header["cal_max"] = 400
    image.header.extensions.append(Nifti1Extension("comment", b"Jane Doe"))
    nibabel.save(image, path)
    return path


def written(folder, path):
    labels = (read_volume(path).voxels % 7).astype(np.uint8)
    out = folder / "out.nii.gz"
    write_labels(out, labels, stored_grid(path), highest=6, description="secfed federated, model 0123")
    return nibabel.load(path), nibabel.load(out), out


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("codes", [(1, 2), (0, 4), (3, 0), (0, 0)])
def test_the_grid_is_that_of_the_scan(tmp_path, kind, codes):
    before, after, _ = written(tmp_path, scan(tmp_path / "scan.nii.gz", kind=kind, codes=codes))
    assert type(after) is type(before)
    np.testing.assert_array_equal(after.affine, before.affine)
    kept = ("qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d")
    for field in (*kept, "qoffset_x", "qoffset_y", "qoffset_z", "pixdim", "xyzt_units", "dim"):
        np.testing.assert_array_equal(after.header[field], before.header[field])
    np.testing.assert_array_equal(np.asarray(after.dataobj), (before.get_fdata() % 7).astype(np.uint8))


def test_the_header_is_that_of_labels_and_names_nobody(tmp_path):
    _, after, out = written(tmp_path, scan(tmp_path / "scan.nii"))
    header = after.header
    assert header.get_data_dtype() == np.uint8
    assert header.get_intent()[0] == "label"
    assert (header["cal_min"], header["cal_max"]) == (0, 6)
    assert header["descrip"].item() == b"secfed federated, model 0123"
    data = gzip.decompress(out.read_bytes())
    assert b"Doe" not in data
    # Slope and intercept as they are stored: without a scale.
    assert struct.unpack("<2f", data[112:120]) == (1.0, 0.0)


def test_equal_labels_are_equal_files(tmp_path):
    path = scan(tmp_path / "scan.nii")
    first = written(tmp_path, path)[2].read_bytes()
    assert written(tmp_path, path)[2].read_bytes() == first


def test_a_long_description_is_cut(tmp_path):
    path = scan(tmp_path / "scan.nii")
    labels = np.zeros(read_volume(path).voxels.shape, np.uint8)
    write_labels(tmp_path / "o.nii.gz", labels, stored_grid(path), highest=1, description="ä" * 200)
    assert len(nibabel.load(tmp_path / "o.nii.gz").header["descrip"].item()) == 79


def test_what_does_not_fit_or_cannot_be_written_is_named_and_leaves_nothing(tmp_path):
    path = scan(tmp_path / "scan.nii")
    grid, shape = stored_grid(path), read_volume(path).voxels.shape
    with pytest.raises(DataError, match="but the scan is"):
        write_labels(tmp_path / "o.nii.gz", np.zeros((2, 2, 2), np.uint8), grid, highest=1, description="")
    with pytest.raises(DataError, match="cannot be written"):
        write_labels(tmp_path / "no" / "o.nii.gz", np.zeros(shape, np.uint8), grid, highest=1, description="")
    assert sorted(tmp_path.iterdir()) == [path]
