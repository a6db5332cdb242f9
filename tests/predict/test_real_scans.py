"""Scan files that other packages ship go through reading, preparing and writing, or are refused by name."""

import importlib.util
from pathlib import Path

import nibabel
import numpy as np
import pytest

from secfed.config import PreprocessingConfig
from secfed.data.cases import Modality
from secfed.data.preprocessing import normalise, read_volume, resample_image
from secfed.errors import DataError
from secfed.predict.label_file import stored_grid, write_labels

SHIPPED = Path(nibabel.__file__).parent / "tests" / "data"
NIFTI = sorted(path for path in SHIPPED.glob("*.nii*") if path.name.endswith((".nii", ".nii.gz")))
VOLUMES = {"anatomical.nii", "reoriented_anat_moved.nii", "standard.nii.gz"}

if not NIFTI:
    pytest.skip(f"nibabel is installed without its test data: no NIfTI file in {SHIPPED}", allow_module_level=True)


def to_the_grid_and_back(path, out):
    volume = read_volume(path)
    config = PreprocessingConfig(spacing_mm=(4.0, 3.0, 3.5))
    image = normalise(resample_image(volume, config.spacing_mm), modality=Modality.MR, config=config, source=path)
    assert np.isfinite(image).all()
    labels = (volume.voxels > np.median(volume.voxels)).astype(np.uint8)
    write_labels(out, labels, stored_grid(path), highest=1, description="bright")
    stored, written = nibabel.load(path), nibabel.load(out)
    assert written.shape == stored.shape
    np.testing.assert_array_equal(written.affine, stored.affine)
    bright = np.asarray(stored.get_fdata(dtype=np.float32)) > np.median(volume.voxels)
    np.testing.assert_array_equal(np.asarray(written.dataobj), bright)


@pytest.mark.parametrize("path", NIFTI, ids=lambda path: path.name)
def test_nibabel_s_own_files_are_read_or_refused_by_name(path, tmp_path):
    """Refused are series of volumes, a surface file, and a resampled volume with NaN outside its field of view."""
    if path.name in VOLUMES:
        to_the_grid_and_back(path, tmp_path / "labels.nii.gz")
        return
    with pytest.raises(DataError, match=path.name.replace(".", r"\.")):
        read_volume(path)


def test_the_volumes_among_nibabel_s_files_are_there():
    assert {path.name for path in NIFTI} >= VOLUMES


@pytest.mark.parametrize("name", ["0.dcm", "analyze.hdr", "T1.PAR"])
def test_what_is_no_single_nifti_file_is_refused_by_name(name, tmp_path):
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        stored_grid(SHIPPED / name)


def test_the_mni152_template_goes_to_the_grid_and_back(tmp_path):
    folder = Path(str(importlib.util.find_spec("nilearn").origin)).parent / "datasets" / "data"
    paths = sorted(folder.glob("mni_icbm152_t1*.nii.gz"))
    assert paths
    for path in paths:
        to_the_grid_and_back(path, tmp_path / path.name)


def test_pydicom_s_files_are_refused_by_name():
    folder = Path(str(importlib.util.find_spec("pydicom").origin)).parent / "data" / "test_files"
    paths = sorted(folder.glob("[CM][TR]_small.dcm"))
    assert len(paths) == 2
    for path in paths:
        with pytest.raises(DataError, match=path.name.replace(".", r"\.")):
            read_volume(path)
