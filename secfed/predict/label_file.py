"""A segmentation on disk: a NIfTI label volume on the scan's own grid, and a JSON file that says what its values mean.

Runs on the machine of whoever predicts. The header is the scan's (affine, sform and qform with their codes, voxel size,
units), apart from what would be false of labels, and from free text and extensions, in which scanners leave names.
Both files are there whole or not at all.
"""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from secfed.errors import DataError
from secfed.predict.restore import stored_axes
from secfed.whole_file import write_whole

# Text fields of a header hold 80, 24, 16 and 18 bytes, and are cut there.
_DESCRIPTION_BYTES = 79
_TEXTS = ("descrip", "aux_file", "intent_name", "db_name")

# Labels are long runs of one value, which the fast levels pack nearly as tightly.
_COMPRESSION = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredGrid:
    """How a scan is stored: NIfTI-1 or NIfTI-2, its header, and the affine that readers take from it, (4, 4)."""

    image_class: type[Any]
    header: Any
    affine: NDArray[np.float64]


def stored_grid(path: Path) -> StoredGrid:
    """Read a header.

    Raises:
        DataError: the file is no NIfTI file.
    """
    try:
        stored = nibabel.load(path)
    except (nibabel.filebasedimages.ImageFileError, OSError, EOFError, ValueError) as error:
        raise DataError(f"{path}: not a readable NIfTI file: {error}") from error
    for image_class in (nibabel.Nifti2Image, nibabel.Nifti1Image):
        if isinstance(stored, image_class):
            return StoredGrid(
                image_class=image_class, header=stored.header, affine=np.asarray(stored.affine, np.float64)
            )
    raise DataError(f"{path}: holds {type(stored).__name__}, where a single NIfTI-1 or NIfTI-2 file is needed")


def write_labels(path: Path, labels: NDArray[np.uint8], grid: StoredGrid, *, highest: int, description: str) -> None:
    """Write labels (z, y, x) in canonical axes to a .nii.gz file, in the axes that the scan is stored in.

    Args:
        path: replaced where it exists.
        labels: class indices.
        grid: of the scan.
        highest: the highest class index of the task, which viewers take for the end of the scale.
        description: one line for the header, cut where it is too long.

    Raises:
        DataError: the labels are not of the scan's shape, or the file cannot be written.
    """
    stored = stored_axes(labels, grid.affine)
    # A scan of several channels has one label per place.
    if stored.shape != grid.header.get_data_shape()[:3]:
        raise DataError(f"{path}: labels of shape {stored.shape}, but the scan is {grid.header.get_data_shape()}")
    header = grid.header.copy()
    header.extensions.clear()
    for text in _TEXTS:
        if text in header:
            header[text] = b""
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    header.set_intent("label", name="segmentation")
    header["cal_min"], header["cal_max"] = 0, highest
    header["descrip"] = description.encode("ascii", "replace")[:_DESCRIPTION_BYTES]
    image = grid.image_class(stored, grid.affine, header)
    # Without a time inside, equal labels are equal files.
    _write(path, gzip.compress(image.to_bytes(), _COMPRESSION, mtime=0))


def write_sidecar(path: Path, content: dict[str, Any]) -> None:
    """Write what the values mean, as JSON.

    Raises:
        DataError: the file cannot be written.
    """
    _write(path, (json.dumps(content, indent=1) + "\n").encode())


def _write(path: Path, data: bytes) -> None:
    try:
        write_whole(path, data, durable=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error
