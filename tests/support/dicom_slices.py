"""DICOM files as scanners write them, with a patient's identity in every one, for tests of their conversion."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
ROWS, COLUMNS = 5, 4

# Whatever of a header must not be found in what is made of it.
IDENTITY = {
    "PatientName": "Doe^Jane",
    "PatientID": "PID-4711",
    "PatientBirthDate": "19630229",
    "AccessionNumber": "ACC-0815",
    "InstitutionName": "St. Nowhere Hospital",
    "ReferringPhysicianName": "House^Gregory",
    "StudyDate": "20240229",
    "StudyTime": "112233",
    "StudyDescription": "query metastasis",
    "SeriesDescription": "abdomen portal",
    "StationName": "SCANNER-9",
    "DeviceSerialNumber": "SN-31337",
    "ImageComments": "called home at noon",
}


def values_of(seed: int, *, rows: int = ROWS, columns: int = COLUMNS) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3000, (rows, columns)).astype(np.uint16)


def write_slice(path: Path, values: np.ndarray, **changes: Any) -> Path:
    """One slice; `changes` set attributes by keyword, and None removes one. `syntax` is the transfer syntax."""
    syntax = changes.pop("syntax", ExplicitVRLittleEndian)
    meta = FileMetaDataset()
    storage = MRImageStorage if changes.get("Modality") == "MR" else CTImageStorage
    meta.MediaStorageSOPClassUID = storage
    meta.MediaStorageSOPInstanceUID = "1.2.3.9"
    meta.TransferSyntaxUID = UID(syntax)
    found = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    given: dict[str, Any] = {
        **IDENTITY,
        "SOPClassUID": storage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": "1.2.3.4",
        "SeriesInstanceUID": "1.2.3.4.5",
        "FrameOfReferenceUID": "1.2.3.4.6",
        "Modality": "CT",
        "ImagePositionPatient": [0.0, 0.0, 0.0],
        "ImageOrientationPatient": list(AXIAL),
        "PixelSpacing": [2.0, 3.0],
        "SliceThickness": 5.0,
        "Rows": values.shape[0],
        "Columns": values.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": int(np.issubdtype(values.dtype, np.signedinteger)),
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        "PixelData": values.tobytes(),
    }
    for name, value in (given | changes).items():
        if value is not None:
            setattr(found, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        pydicom.dcmwrite(file, found, enforce_file_format="PixelData" in found)
    return path


def write_series(
    folder: Path,
    places: Iterable[Any],
    *,
    orientation: tuple[float, ...] = AXIAL,
    names: Iterable[str] | None = None,
    **changes: Any,
) -> list[np.ndarray]:
    """Slices at these places in mm along z, or at these points; returns their stored values in the order given."""
    values = []
    listed = list(places)
    given = [f"i{index:04d},0000b.dcm" for index in range(len(listed))] if names is None else list(names)
    for index, (place, name) in enumerate(zip(listed, given, strict=True)):
        point = [0.0, 0.0, float(place)] if np.isscalar(place) else [float(part) for part in place]
        values.append(values_of(index))
        own = {
            key: value[index] if isinstance(value, list) and len(value) == len(listed) else value
            for key, value in changes.items()
        }
        write_slice(
            folder / name,
            values[-1],
            **{"ImagePositionPatient": point, "ImageOrientationPatient": list(orientation), **own},
        )
    return values


def write_mask(path: Path, values: np.ndarray, *, mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.asarray(values, np.uint8), "L").convert(mode).save(path)
    return path
