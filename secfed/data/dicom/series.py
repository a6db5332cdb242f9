"""Slices of one series as a volume: sorted by where they lie, and refused where they are not one even stack.

A site runs this on its own scans. Names and numbers of files do not count, positions do: slices go along the normal of
their common plane. Refused are slices of several series, sizes, directions or spacings; two in one place; a gap where
slices are missing; uneven distances; and a stack that leans (a tilted gantry), because what reads the result takes its
axes for perpendicular. A slice that is missing at an end leaves no trace that could be seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secfed.data.cases import Modality
from secfed.data.dicom.slices import DicomSlice, Vector, read_slice, read_values
from secfed.data.volumes import MOST_VOXELS
from secfed.errors import FileError

# From DICOM's axes (left, backwards, upwards) to those of NIfTI (right, forwards, upwards).
_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

_SAME_DIRECTION = 1e-3
_SAME_SPACING = 1e-3

# Two slices nearer than this lie in one place.
_ONE_PLACE_MM = 1e-2

# Positions are rounded, some to tenths of a millimetre, so a distance of two may be off by so much. Slices that grow
# apart slowly show as what lies off the even line, by more than the rounding and a tenth of a slice.
_ROUNDED_MM = 0.11
_ON_THE_LINE = 0.1

# How many pixels a stack may lean over its whole height.
_MOST_LEANING_PIXELS = 0.5

_OWN_FOLDER = "give each series a folder of its own"


@dataclass(frozen=True, kw_only=True, eq=False)
class Stack:
    """Slices in the order of their places, and where their voxels lie: (column, row, slice) to RAS in mm, (4, 4)."""

    slices: tuple[DicomSlice, ...]
    affine: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(columns, rows, slices)."""
        rows, columns = self.slices[0].shape
        return columns, rows, len(self.slices)

    @property
    def modality(self) -> Modality:
        """Of all slices."""
        return self.slices[0].modality


def slice_files(folder: Path) -> list[Path]:
    """What lies in a folder of slices, by name; hidden files, NIfTI files and a DICOMDIR are none."""
    try:
        found = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    except OSError as error:
        raise FileError(folder, f"is no folder that can be read: {error.strerror}") from error
    found = [path for path in found if path.name != "DICOMDIR" and not path.name.endswith((".nii", ".nii.gz"))]
    if not found:
        raise FileError(folder, "holds no DICOM slice")
    return found


def read_stack(folder: Path) -> Stack:
    """Read the headers of a folder that holds the slices of one series.

    Raises:
        FileError: a file is no slice, or they are not one even stack; the message names the file.
    """
    return stacked([read_slice(path) for path in slice_files(folder)])


def read_voxels(stack: Stack) -> NDArray[np.int16] | NDArray[np.float32]:
    """All values, shape (columns, rows, slices): as 16-bit integers where they are such, else as floats.

    Raises:
        FileError: a slice's pixels cannot be read.
    """
    voxels = np.empty(stack.shape, np.float32, order="F")
    for index, one in enumerate(stack.slices):
        voxels[:, :, index] = read_values(one).T
    limits = np.iinfo(np.int16)
    if limits.min <= voxels.min() and voxels.max() <= limits.max and (np.rint(voxels) == voxels).all():
        return voxels.astype(np.int16)
    return voxels


def stacked(slices: Sequence[DicomSlice]) -> Stack:
    """At least one slice, in any order, as a stack.

    Raises:
        FileError: they are not one even stack.
    """
    first = slices[0]
    for other in slices[1:]:
        _require_same_series(first, other)
    height = len(slices) * first.shape[0] * first.shape[1]
    if height > MOST_VOXELS:
        raise FileError(first.path.parent, f"has {height} voxels; up to {MOST_VOXELS} are accepted")
    normal = first.normal
    ordered = sorted(slices, key=lambda one: float(one.position_mm @ normal))
    step = _step(ordered, normal)
    rows_mm, columns_mm = first.pixel_mm
    affine = np.eye(4)
    affine[:3, 0] = first.row_direction * columns_mm
    affine[:3, 1] = first.column_direction * rows_mm
    affine[:3, 2] = step
    affine[:3, 3] = ordered[0].position_mm
    return Stack(slices=tuple(ordered), affine=_TO_RAS @ affine)


def _require_same_series(first: DicomSlice, other: DicomSlice) -> None:
    different = None
    if first.series != other.series or first.space != other.space or first.modality != other.modality:
        different = "belongs to another series"
    elif first.shape != other.shape:
        different = f"has {other.shape} pixels, not {first.shape}"
    elif not np.allclose(
        [*first.row_direction, *first.column_direction],
        [*other.row_direction, *other.column_direction],
        rtol=0,
        atol=_SAME_DIRECTION,
    ):
        different = "lies in another direction"
    elif not np.allclose(first.pixel_mm, other.pixel_mm, rtol=_SAME_SPACING, atol=0):
        different = f"has pixels of {other.pixel_mm} mm, not {first.pixel_mm}"
    if different is not None:
        raise FileError(other.path, f"{different}, unlike {first.path.name} in its folder", _OWN_FOLDER)


def _step(ordered: Sequence[DicomSlice], normal: Vector) -> Vector:
    """From a slice to the next, in mm, of slices that lie evenly."""
    if len(ordered) == 1:
        (only,) = ordered
        if only.thickness_mm is None:
            raise FileError(
                only.path, "is alone, and does not say how thick it is (SpacingBetweenSlices, SliceThickness)"
            )
        return normal * only.thickness_mm
    heights = np.array([one.position_mm @ normal for one in ordered])
    gaps = np.diff(heights)
    # The lower of two middle ones, so that of two gaps the double one is the odd one out.
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    for index, gap in enumerate(gaps):
        _require_usual(ordered[index], ordered[index + 1], float(gap), usual)
    positions = np.array([one.position_mm for one in ordered])
    step: Vector = (positions[-1] - positions[0]) / (len(ordered) - 1)
    _require_even_line(ordered, positions, step, normal)
    return step


def _require_even_line(ordered: Sequence[DicomSlice], positions: Vector, step: Vector, normal: Vector) -> None:
    """The line goes straight up, and every slice lies on it where it is due."""
    along, most_aside_mm = float(step @ normal), _MOST_LEANING_PIXELS * min(ordered[0].pixel_mm)
    leaning_mm = float(np.linalg.norm(step - along * normal)) * (len(ordered) - 1)
    if leaning_mm > most_aside_mm:
        raise FileError(
            ordered[-1].path,
            f"the stack leans: its last slice lies {leaning_mm:.3g} mm aside of its first (a tilted gantry?)",
            "resample it upright with another program first",
        )
    away = positions - positions[0] - np.arange(len(ordered))[:, None] * step
    early = np.abs(away @ normal) / max(_ROUNDED_MM, _ON_THE_LINE * along)
    aside = np.linalg.norm(away - (away @ normal)[:, None] * normal, axis=1) / most_aside_mm
    off = np.maximum(early, aside)
    if off.max() > 1:
        odd = ordered[int(np.argmax(off))]
        raise FileError(odd.path, "lies off the line of the other slices, which are not evenly spaced")


def _require_usual(one: DicomSlice, other: DicomSlice, gap: float, usual: float) -> None:
    between = f"{one.path.name} and this one"
    if gap < _ONE_PLACE_MM:
        echoes = one.echo_ms, other.echo_ms
        told = "" if None in echoes or echoes[0] == echoes[1] else f" (echo times {echoes[0]:g} and {echoes[1]:g} ms)"
        raise FileError(other.path, f"lies where {one.path.name} lies{told}", _OWN_FOLDER)
    times = gap / usual
    if round(times) >= 2 and abs(gap - round(times) * usual) <= _ROUNDED_MM:
        lost = "a slice is" if round(times) == 2 else f"{round(times) - 1} slices are"
        raise FileError(
            other.path,
            f"{lost} missing between {between}: they are {gap:.4g} mm apart, others {usual:.4g}",
            "copy the series again from its source",
        )
    if abs(gap - usual) > _ROUNDED_MM:
        raise FileError(
            other.path,
            f"the slices are not evenly spaced: {between} are {gap:.4g} mm apart, others {usual:.4g}",
            "resample it evenly with another program first",
        )
