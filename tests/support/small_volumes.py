"""Tiny NIfTI files, for copies of the true layouts of data sets."""

from pathlib import Path

import nibabel
import numpy as np

SHAPE = (6, 5, 4)
AFFINE = np.diag([3.0, 3.0, 5.0, 1.0])


def save_volume(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


def save_image(path: Path, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Path:
    return save_volume(path, np.random.default_rng(seed).normal(50, 90, shape).astype(np.float32))


def save_label(path: Path, *values: float, dtype: type = np.uint8) -> Path:
    """Each value has one row of voxels along x, the rest is 0."""
    return save_volume(path, rows(*values, dtype=dtype))


def rows(*values: float, dtype: type = np.uint8) -> np.ndarray:
    volume = np.zeros(SHAPE, dtype)
    for place, value in enumerate(values):
        volume[:, place % SHAPE[1], place // SHAPE[1]] = value
    return volume
