"""One DICOM file as a slice: where it lies, and its values. A site runs this on its own scans.

Only the attributes listed here are taken from a file: none that says who the patient is, when and where the scan was
made, or who asked for it. Pixels come from pydicom, with whatever decoders it finds. What is not a single slice of CT
or MR in grey is refused with its reason.
"""

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError

from secfed.data.cases import Modality
from secfed.errors import FileError

Vector = NDArray[np.float64]

_READ = (
    "SOPClassUID",
    "Modality",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SpacingBetweenSlices",
    "SliceThickness",
    "EchoTime",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "RescaleSlope",
    "RescaleIntercept",
    "BurnedInAnnotation",
)

_READ_FOR_PIXELS = (
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "PixelData",
)

# Enhanced and legacy converted CT and MR (DICOM PS3.6, Annex A): many slices in a file, placed frame by frame.
_MANY_IN_ONE = {
    "1.2.840.10008.5.1.4.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.2.2",
    "1.2.840.10008.5.1.4.1.1.4.1",
    "1.2.840.10008.5.1.4.1.1.4.4",
}
_SPLIT_IT = "split it into one file per slice, or convert it with another program, such as dcm2niix"

# Cosines are written as decimal strings, some with four digits.
_SAME_DIRECTION = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class DicomSlice:
    """A slice without its pixels; positions and directions in DICOM's axes: to the left, backwards, upwards, in mm.

    `row_direction` is where columns go to along a row, `column_direction` where rows go to along a column. `pixel_mm`
    is between rows, then between columns. `thickness_mm` is what the file says of the distance to the next, if it does.
    """

    path: Path
    modality: Modality
    series: str
    space: str
    position_mm: Vector
    row_direction: Vector
    column_direction: Vector
    pixel_mm: tuple[float, float]
    thickness_mm: float | None
    echo_ms: float | None
    shape: tuple[int, int]
    slope: float
    intercept: float

    @property
    def normal(self) -> Vector:
        """Unit vector across the slice."""
        across: Vector = np.cross(self.row_direction, self.column_direction)
        return across / np.linalg.norm(across)


def read_slice(path: Path) -> DicomSlice:
    """Read a file's header.

    Raises:
        FileError: it is no DICOM file, or no single slice of CT or MR that could be placed.
    """
    header = _Header(path, _read(path, pixels=False))
    modality = header.text("Modality")
    if modality not in set(Modality):
        raise FileError(
            path, f"Modality = '{modality or 'none'}': CT and MR are accepted", "leave it out of the folder"
        )
    if header.number("NumberOfFrames", default=1.0) != 1 or header.text("SOPClassUID") in _MANY_IN_ONE:
        raise FileError(path, "holds many slices in one file (multi-frame DICOM), which are not read", _SPLIT_IT)
    grey = header.text("PhotometricInterpretation")
    if header.number("SamplesPerPixel", default=1.0) != 1 or grey != "MONOCHROME2":
        raise FileError(path, f"its pixels are '{grey or 'none'}'; grey ones (MONOCHROME2) are accepted")
    if header.text("BurnedInAnnotation") == "YES":
        raise FileError(path, "says that text about the patient is burnt into its pixels, which would be converted too")
    position, cosines = header.numbers("ImagePositionPatient", 3), header.numbers("ImageOrientationPatient", 6)
    row, column = np.array(cosines[:3]), np.array(cosines[3:])
    if not (
        abs(np.linalg.norm(row) - 1) < _SAME_DIRECTION
        and abs(np.linalg.norm(column) - 1) < _SAME_DIRECTION
        and abs(row @ column) < _SAME_DIRECTION
    ):
        raise FileError(path, f"ImageOrientationPatient = {list(cosines)} is no pair of perpendicular unit vectors")
    between = header.numbers("PixelSpacing", 2)
    if min(between) <= 0:
        raise FileError(path, f"PixelSpacing = {list(between)}: positive lengths in mm are needed")
    slope, intercept = _rescale(header, path, Modality(modality))
    thickness = header.number("SpacingBetweenSlices") or header.number("SliceThickness")
    return DicomSlice(
        path=path,
        modality=Modality(modality),
        series=header.text("SeriesInstanceUID"),
        space=header.text("FrameOfReferenceUID"),
        position_mm=np.array(position),
        row_direction=row / np.linalg.norm(row),
        column_direction=column / np.linalg.norm(column),
        pixel_mm=(between[0], between[1]),
        thickness_mm=None if not thickness else abs(thickness),
        echo_ms=header.number("EchoTime"),
        shape=(header.size("Rows"), header.size("Columns")),
        slope=slope,
        intercept=intercept,
    )


def read_values(one: DicomSlice) -> NDArray[np.float64]:
    """A slice's values, rescaled as it says (Hounsfield units in CT), shape (rows, columns).

    Raises:
        FileError: its pixels are missing or truncated, or compressed in a way for which there is no decoder.
    """
    path, dataset = one.path, _read(one.path, pixels=True)
    if "PixelData" not in dataset:
        raise FileError(path, "has no pixels")
    try:
        with _silent():
            pixels = np.asarray(dataset.pixel_array)
    except Exception as error:
        # Whatever a decoder raises over damaged bytes, and there are many decoders.
        syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
        if "plugins" in str(error) and syntax is not None:
            raise FileError(
                path,
                f"its pixels are compressed as '{syntax.name}', for which no decoder is installed",
                "pip install pylibjpeg[all], or decompress the files with another program, such as gdcmconv --raw",
            ) from error
        raise FileError(
            path, f"its pixels cannot be read, the file may be truncated: {error}", "copy it again from its source"
        ) from error
    if pixels.shape != one.shape:
        raise FileError(path, f"has pixels of shape {pixels.shape}, where its header says {one.shape}")
    return pixels * np.float64(one.slope) + one.intercept


def _rescale(header: "_Header", path: Path, modality: Modality) -> tuple[float, float]:
    slope, intercept = header.number("RescaleSlope"), header.number("RescaleIntercept")
    if modality is Modality.CT and (slope is None or intercept is None):
        raise FileError(path, "is a CT slice without RescaleSlope or RescaleIntercept, so its values are of no unit")
    if slope == 0:
        raise FileError(path, "RescaleSlope = 0 makes every value the same")
    return (1.0 if slope is None else slope), (0.0 if intercept is None else intercept)


def _read(path: Path, *, pixels: bool) -> Any:
    try:
        with _silent():
            return pydicom.dcmread(
                path, stop_before_pixels=not pixels, specific_tags=list(_READ_FOR_PIXELS if pixels else _READ)
            )
    except InvalidDicomError:
        raise FileError(path, "is no DICOM file", "leave slices of one series alone in their folder") from None
    except FileNotFoundError:
        raise FileError(path, "no such file") from None
    except Exception as error:
        # A parser of damaged bytes fails in many ways, and each of them is this file's fault.
        raise FileError(
            path, f"not a readable DICOM file, it may be truncated: {type(error).__name__}", "copy it again"
        ) from error


@contextmanager
def _silent() -> Iterator[None]:
    """What pydicom warns of, it prints with the values of the header: a name, a date of birth."""
    logger = logging.getLogger("pydicom")
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.disabled = before


class _Header:
    """Attributes of one file as checked Python values."""

    def __init__(self, path: Path, dataset: Any) -> None:
        self._path, self._dataset = path, dataset

    def _value(self, name: str) -> Any:
        try:
            with _silent():
                return self._dataset.get(name)
        except Exception as error:
            raise FileError(self._path, f"{name} cannot be read: {type(error).__name__}") from error

    def text(self, name: str) -> str:
        value = self._value(name)
        return "" if value is None else str(value).strip()

    def number(self, name: str, *, default: float | None = None) -> float | None:
        value = self._value(name)
        if value is None or value == "":
            return default
        return self._finite(name, value)

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        value = self._value(name)
        found = (
            () if value is None or isinstance(value, str) else tuple(value) if hasattr(value, "__iter__") else (value,)
        )
        if len(found) != count:
            said = "has no" if not found else f"has {len(found)} numbers in its"
            raise FileError(self._path, f"{said} {name}, so the slice cannot be placed; {count} are needed")
        return tuple(self._finite(name, one) for one in found)

    def size(self, name: str) -> int:
        value = self.number(name)
        if value is None or not 1 <= value <= 65_535:
            raise FileError(self._path, f"{name} = {value}: has no image")
        return int(value)

    def _finite(self, name: str, value: Any) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise FileError(self._path, f"{name} = {str(value)[:40]!r} is no number") from None
        if not math.isfinite(number):
            raise FileError(self._path, f"{name} = {number} is no finite number")
        return number
