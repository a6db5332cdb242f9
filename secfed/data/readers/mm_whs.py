"""MM-WHS (Zhuang et al., Med Image Anal 2019;58:101537), whose file names say everything."""

import re
from collections.abc import Iterator
from pathlib import Path

from secfed.data.cases import Case, Modality
from secfed.data.labels import MM_WHS_LABELS, MM_WHS_STRAY_LABELS, organ_named
from secfed.data.readers.data_set import DataSet
from secfed.errors import DataError

# ct_train_1001_image.nii.gz with ct_train_1001_label.nii.gz; labels of the test cases are not public.
_FILE = re.compile(r"((ct|mr)_(train|test)_\d+)_(image|label)\.nii(?:\.gz)?")


def read_mm_whs(folder: Path, *, modality: Modality | None = None, channel: int | None = None) -> DataSet:
    """Read a folder of MM-WHS as it is downloaded, or with all files in one folder.

    Args:
        folder: holds ct_train/ct_train_1001_image.nii.gz and the like, or the files themselves.
        modality: of all cases, instead of what their names say.
        channel: the one to read of volumes with several.

    Raises:
        DataError: there is no such file, a label has no image, or a case occurs twice.
    """
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    told: dict[str, Modality] = {}
    for path, match in mm_whs_files(folder):
        found = images if match[4] == "image" else labels
        if match[1] in found:
            raise DataError(f"{path}: {match[1]} stands in {found[match[1]]} too; a test on it would say nothing")
        found[match[1]] = path
        told[match[1]] = Modality.CT if match[2] == "ct" else Modality.MR
    if not images:
        raise DataError(f"{folder}: holds no file named as in MM-WHS, such as ct_train_1001_image.nii.gz")
    orphans = sorted(set(labels) - set(images))
    if orphans:
        raise DataError(f"{labels[orphans[0]]}: there is no image for this label")

    def cases(split: str) -> tuple[Case, ...]:
        return tuple(
            Case(
                patient=patient,
                image=image,
                label=labels.get(patient),
                modality=modality or told[patient],
                channel=channel,
            )
            for patient, image in sorted(images.items())
            if f"_{split}_" in patient
        )

    known = MM_WHS_LABELS | MM_WHS_STRAY_LABELS
    return DataSet(
        name="MM-WHS",
        training=cases("train"),
        validation=(),
        test=cases("test"),
        label_ids={value: organ_named(spelling) for value, spelling in known.items()},
    )


def mm_whs_files(folder: Path) -> Iterator[tuple[Path, re.Match[str]]]:
    """Volumes of MM-WHS in the folder and one folder down, where downloads put them."""
    for path in sorted((*folder.glob("*"), *folder.glob("*/*"))):
        match = _FILE.fullmatch(path.name)
        if match is not None and path.is_file():
            yield path, match
