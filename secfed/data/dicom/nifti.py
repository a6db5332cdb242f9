"""A converted volume on disk: voxels and where they lie, and nothing else. A site runs this on its own scans.

The header has the grid (sform and qform alike, as of the scanner), the voxel size and its unit. All free text is empty
and there is no extension, so nothing of a DICOM header but place and spacing gets in: no name, number, date, hospital,
scanner or UID. Pixels stay what they are: of a head, the face is in them. The same slices give the same bytes.
"""

import gzip
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from secfed.errors import DataError
from secfed.whole_file import write_whole

# Fast, and close to the smallest for scans.
_COMPRESSION = 4

# Of NIfTI's codes for what coordinates mean, that for those of the scanner.
_SCANNER = 1


def write_nifti(
    path: Path, voxels: NDArray[np.int16] | NDArray[np.float32] | NDArray[np.uint8], affine: NDArray[np.float64]
) -> int:
    """Write a .nii or .nii.gz file, whole or not at all; returns its size in bytes.

    Raises:
        DataError: it cannot be written.
    """
    image = nibabel.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    image.header.set_sform(affine, _SCANNER)
    image.header.set_qform(affine, _SCANNER)
    data = image.to_bytes()
    if path.name.endswith(".gz"):
        # Without a time, which is written otherwise.
        data = gzip.compress(data, _COMPRESSION, mtime=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data, durable=False)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error
    return len(data)
