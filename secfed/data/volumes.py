"""NIfTI files as arrays in canonical axes, checked before any voxel is used. A site runs this on its own scans.

Where a voxel lies is what the header's sform says; where that is not set, its qform; where neither is, the size of the
voxels alone. If both are set and disagree, the sform wins, as in nibabel, and `doubts_about` says so: scanners write
the qform, and programs that register or crop write the sform after it. Flipped and swapped axes, and grids of either
handedness, come out alike. What a NaN stands for nobody can know, so a volume with one is refused.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from secfed.errors import FileError

Spacing = tuple[float, float, float]

# A header may claim any size; more than this is no scan (a whole body at 0.5 mm has 1.3e9 voxels).
MOST_VOXELS = 2_000_000_000

# Deflate expands at most 1032 times (zlib's technical notes), so a larger claim is refused before memory is taken.
_DEFLATE_LIMIT = 1032

_DIMENSIONS = 3

# Header fields are 32-bit floats; a disagreement of a tenth of a voxel is none of rounding.
_SAME_PLACE_VOXELS = 0.1

_NIFTI_ERRORS = (
    ImageFileError,
    HeaderDataError,
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    zlib.error,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class NiftiVolume:
    """A volume in canonical axes (z, y, x): inferior to superior, posterior to anterior, left to right.

    `affine` maps voxel (x, y, z) to RAS world coordinates in mm, shape (4, 4).
    """

    voxels: NDArray[np.float32]
    affine: NDArray[np.float64]
    spacing_mm: Spacing


def read_volume(path: Path, *, channel: int | None = None) -> NiftiVolume:
    """Read a three-dimensional NIfTI file into canonical axes; an oblique grid keeps its nearest axes.

    Of a file with a fourth axis, `channel` is read; one with a single channel needs no choice.

    Raises:
        FileError: the file is missing, truncated, no NIfTI, not 3D, empty, not finite, lacks the channel, or its affine
            is singular.
    """
    stored = _load(path)
    _check_size(path, stored)
    _check_affine(path, stored)
    try:
        volume = _three_dimensional(path, stored, channel)
        canonical = nibabel.as_closest_canonical(volume)
        values = np.asarray(canonical.get_fdata(dtype=np.float32, caching="unchanged"))
    except (*_NIFTI_ERRORS, MemoryError) as error:
        raise FileError(
            path, f"the voxels cannot be read, the file may be truncated: {error}", "copy it again from its source"
        ) from error
    if not np.isfinite(values).all():
        raise FileError(
            path,
            f"holds {int((~np.isfinite(values)).sum())} voxels that are not finite numbers",
            "fill them with what lies outside the field of view (air in CT, 0 in MRI), or leave the scan out",
        )
    spacing = voxel_sizes(canonical.affine)
    return NiftiVolume(
        voxels=np.ascontiguousarray(values.transpose(2, 1, 0)),
        affine=np.asarray(canonical.affine, np.float64),
        spacing_mm=(float(spacing[2]), float(spacing[1]), float(spacing[0])),
    )


def doubts_about(path: Path) -> tuple[str, ...]:
    """What a header leaves open about the place of its voxels, in words; none for a header that is in order.

    Raises:
        FileError: the file is missing or no NIfTI.
    """
    header = _load(path).header
    if not hasattr(header, "get_sform"):
        return ()
    try:
        sform, sform_code = header.get_sform(coded=True)
        qform, qform_code = header.get_qform(coded=True)
    except _NIFTI_ERRORS:
        return ("its qform cannot be read, so its sform alone says where voxels lie",)
    if not sform_code and not qform_code:
        return ("neither sform nor qform is set, so left and right are not known",)
    if not sform_code or not qform_code or sform is None or qform is None:
        return ()
    sizes = np.array((*header.get_data_shape(), 1, 1, 1)[:_DIMENSIONS]) - 1
    corners = np.array([[*(sizes * place), 1.0] for place in np.ndindex(2, 2, 2)])
    apart = float(np.linalg.norm((corners @ (sform - qform).T)[:, :_DIMENSIONS], axis=1).max())
    if apart > _SAME_PLACE_VOXELS * float(voxel_sizes(sform).min()):
        return (f"its sform and qform place voxels up to {apart:.3g} mm apart; the sform is used",)
    return ()


def _load(path: Path) -> Any:
    try:
        stored = nibabel.load(path)
    except FileNotFoundError:
        raise FileError(path, "no such file") from None
    except _NIFTI_ERRORS as error:
        said = str(error).replace(str(path), path.name)
        raise FileError(
            path, f"not a readable NIfTI file, it may be truncated: {said}", "copy or convert it again"
        ) from error
    if not isinstance(stored, nibabel.spatialimages.SpatialImage):
        raise FileError(
            path, f"holds a {type(stored).__name__}, whose values have no place in space", "give the volume itself"
        )
    return stored


def _check_size(path: Path, stored: Any) -> None:
    shape = tuple(int(size) for size in stored.shape)
    voxels = int(np.prod(shape, dtype=object))
    if not 0 < voxels <= MOST_VOXELS:
        raise FileError(path, f"has {voxels} voxels {shape}; 1 to {MOST_VOXELS} are accepted")
    claimed_bytes = voxels * stored.get_data_dtype().itemsize
    if claimed_bytes > _DEFLATE_LIMIT * path.stat().st_size:
        raise FileError(
            path, f"its header claims {claimed_bytes} bytes {shape}, more than a file of this size can hold"
        )


def _check_affine(path: Path, stored: Any) -> None:
    affine = np.asarray(stored.affine, np.float64)
    # The determinant is compared with the voxel size it should be near, because spacing may be given in any unit.
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or not abs(np.linalg.det(affine[:3, :3])) > 1e-3 * np.prod(edges):
        raise FileError(path, f"its affine is singular, so voxels have no place in the body: {affine.tolist()}")


def _three_dimensional(path: Path, stored: Any, channel: int | None) -> Any:
    """The stored volume, or the one of its channels that is to be read."""
    shape = tuple(int(size) for size in stored.shape)
    if len(shape) == _DIMENSIONS:
        if channel:
            raise FileError(path, f"channel = {channel}, but it has one channel {shape}")
        return stored
    channels = shape[_DIMENSIONS] if len(shape) == _DIMENSIONS + 1 else None
    if channels is None or (channels > 1 and channel is None):
        raise FileError(
            path,
            f"has {len(shape)} dimensions {shape}; a three-dimensional volume is needed",
            "" if channels is None else f"say which of its {channels} channels to read: channel = 0",
        )
    if channel is not None and channel >= channels:
        raise FileError(path, f"channel = {channel}: 0 to {channels - 1} are accepted {shape}")
    return stored.slicer[..., channel or 0]
