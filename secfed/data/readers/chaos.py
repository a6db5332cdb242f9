"""CHAOS (Kavur et al., Med Image Anal 2021;69:101950), converted to NIfTI: DICOM and PNG are not read here.

Two ways to lay out a conversion are read. As `secfed data convert` writes it, or in place, every series of the download
has one volume where its slices were:

    MR/1/T2SPIR/DICOM_anon/*.nii.gz            with  MR/1/T2SPIR/Ground/*.nii.gz
    MR/1/T1DUAL/DICOM_anon/InPhase/*.nii.gz    with  MR/1/T1DUAL/Ground/*.nii.gz, which is of OutPhase too
    CT/2/DICOM_anon/*.nii.gz                   with  CT/2/Ground/*.nii.gz

below the folder or its Train_Sets and Test_Sets. Or a folder per series, as few-shot segmentation has it (Ouyang et
al., ECCV 2020): T2SPIR/image_1.nii.gz with T2SPIR/label_1.nii.gz, and T1DUAL, T1DUAL_InPhase, T1DUAL_OutPhase, CT.

Labels hold the grey values of the PNG masks (63 liver, 126 right kidney, 189 left kidney, 252 spleen; white in CT), or
1 to 4 in this order. In CT the liver alone was drawn. A patient's MRI series share the patient; patients of CT are
others than those of MRI.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from secfed.data.cases import Case, Modality
from secfed.data.labels import CHAOS_CT_LABELS, CHAOS_MR_LABELS, organ_named
from secfed.data.readers.data_set import DataSet, require_patients_apart
from secfed.data.readers.names import is_volume
from secfed.errors import DataError

_SETS = {"": "training", "Train_Sets": "training", "Test_Sets": "test"}
_MR_SERIES = {"T1DUAL": ("DICOM_anon/InPhase", "DICOM_anon/OutPhase"), "T2SPIR": ("DICOM_anon",)}
_FLAT_SERIES = {"CT", "T1DUAL", "T1DUAL_InPhase", "T1DUAL_OutPhase", "T2SPIR"}
_FLAT_IMAGE = re.compile(r"image_(\d+)\.nii(?:\.gz)?")
_CONVERT = "convert the whole download to NIfTI: `secfed data convert DOWNLOAD OUT`, as in docs/data.md"


@dataclass(frozen=True, kw_only=True)
class _Scan:
    """One series of one patient; `label` is None where the challenge kept it."""

    patient: str
    modality: Modality
    image: Path
    label: Path | None


def read_chaos(folder: Path, *, modality: Modality | None = None, channel: int | None = None) -> DataSet:
    """Read CHAOS after its conversion to NIfTI.

    Args:
        folder: the download, its Train_Sets, or a folder with folders of series.
        modality: only the scans of this modality; of which one a scan is, its folder says beyond doubt.
        channel: the one to read of volumes with several.

    Raises:
        DataError: there is no such scan, slices were not converted, or a folder holds two volumes.
    """
    found: dict[str, list[Case]] = {"training": [], "test": []}
    for split, scan in (*_in_place(folder), *(("training", scan) for scan in _flat(folder))):
        if modality not in (None, scan.modality):
            continue
        values = CHAOS_CT_LABELS if scan.modality is Modality.CT else CHAOS_MR_LABELS
        found[split if scan.label is not None else "test"].append(
            Case(
                patient=scan.patient,
                image=scan.image,
                label=scan.label,
                modality=scan.modality,
                label_ids={value: organ_named(spelling) for value, spelling in values.items()},
                channel=channel,
            )
        )
    if not any(found.values()):
        raise DataError(
            f"{folder}: holds no {modality or ''} scan of CHAOS, such as MR/1/T2SPIR or T2SPIR/image_1.nii.gz"
        )
    data_set = DataSet(
        name="CHAOS",
        training=tuple(found["training"]),
        validation=(),
        test=tuple(found["test"]),
        label_ids={value: organ_named(spelling) for value, spelling in (CHAOS_CT_LABELS | CHAOS_MR_LABELS).items()},
    )
    require_patients_apart(data_set, source=folder)
    return data_set


def looks_like_chaos(folder: Path) -> bool:
    """Whether series of CHAOS lie in the folder, converted or not."""
    return any(True for _ in chaos_series(folder)) or any(True for _ in _flat(folder))


def _in_place(folder: Path) -> Iterator[tuple[str, _Scan]]:
    for split, patient, modality, place, slices in chaos_series(folder):
        image = _volume(place / slices)
        if image is None:
            raise DataError(f"{place / slices}: holds no NIfTI volume; {_CONVERT}")
        ground = place / "Ground"
        label = _volume(ground)
        if label is None and ground.is_dir() and any(ground.iterdir()):
            raise DataError(f"{ground}: holds no NIfTI volume; {_CONVERT}")
        yield split, _Scan(patient=patient, modality=modality, image=image, label=label)


def chaos_series(folder: Path) -> Iterator[tuple[str, str, Modality, Path, str]]:
    """Split, patient, modality, folder and where in it the slices lie, of all series in the tree of the download."""
    for name, split in _SETS.items():
        root = folder / name
        for patient in _folders(root / "CT"):
            if (patient / "DICOM_anon").is_dir():
                yield split, f"ct_{patient.name}", Modality.CT, patient, "DICOM_anon"
        for patient in _folders(root / "MR"):
            for series, places in _MR_SERIES.items():
                for slices in places:
                    if (patient / series / slices).is_dir():
                        yield split, f"mr_{patient.name}", Modality.MR, patient / series, slices


def _flat(folder: Path) -> Iterator[_Scan]:
    """Images beside their labels in folders that are called like their series: here, or one or two folders down."""
    if not folder.is_dir():
        return
    for place in (folder, *_folders(folder), *(inner for outer in _folders(folder) for inner in _folders(outer))):
        if place.name not in _FLAT_SERIES:
            continue
        modality = Modality.CT if place.name == "CT" else Modality.MR
        for image in sorted(place.iterdir()):
            match = _FLAT_IMAGE.fullmatch(image.name)
            if match is None or not image.is_file():
                continue
            label = image.with_name(image.name.replace("image_", "label_", 1))
            yield _Scan(
                patient=f"{modality.lower()}_{match[1]}",
                modality=modality,
                image=image,
                label=label if label.is_file() else None,
            )


def _volume(folder: Path) -> Path | None:
    """The one volume of a folder; None without any."""
    volumes = [path for path in sorted(folder.iterdir()) if is_volume(path)] if folder.is_dir() else []
    if len(volumes) > 1:
        raise DataError(f"{folder}: holds {len(volumes)} volumes ({volumes[0].name}, {volumes[1].name}); keep one")
    return volumes[0] if volumes else None


def _folders(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if path.is_dir()) if place.is_dir() else []
