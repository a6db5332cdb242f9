"""Readers of data sets on disk: from a folder to cases. A site runs them on its own folders.

Two layouts are read: AMOS22 (Ji et al., NeurIPS 2022, https://amos22.grand-challenge.org), which describes itself in
dataset.json, and MM-WHS (Zhuang et al., Med Image Anal 2019;58:101537), whose file names say everything;
`read_data_set` tells them apart. Readers open no volume: `secfed.data.preprocessing` does, and checks it.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from secfed.data.cases import Case, Modality
from secfed.data.labels import MM_WHS_LABELS, MM_WHS_STRAY_LABELS, organ_named
from secfed.errors import DataError

# AMOS22: ids up to 500 are CT, above are MRI.
_LAST_CT_ID = 500
_AMOS_NAME = re.compile(r"amos_(\d+)(_\d{4})?")

# MM-WHS: ct_train_1001_image.nii.gz with ct_train_1001_label.nii.gz; labels of the test cases are not public.
_MM_WHS_FILE = re.compile(r"((?:ct|mr)_(train|test)_\d+)_(image|label)\.nii(?:\.gz)?")
_MM_WHS_NAME = re.compile(r"(ct|mr)_(?:train|test)_\d+(?:_image)?")

# Label volumes hold at most 16 bits per voxel.
_LARGEST_LABEL_DIGITS, _LARGEST_LABEL = 5, 65535


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """The cases of a folder by split; `label_ids` gives the organ of every value that a label volume may hold."""

    name: str
    training: tuple[Case, ...]
    validation: tuple[Case, ...]
    test: tuple[Case, ...]
    label_ids: Mapping[int, str]

    def only(self, modality: Modality) -> "DataSet":
        """The same data set with the cases of one modality."""

        def kept(cases: tuple[Case, ...]) -> tuple[Case, ...]:
            return tuple(case for case in cases if case.modality is modality)

        return replace(self, training=kept(self.training), validation=kept(self.validation), test=kept(self.test))


class CaseReader(Protocol):
    """What a reader of another layout has to offer."""

    def __call__(self, folder: Path, *, modality: Modality | None = None) -> DataSet:
        """Read the folder; `modality` overrides what the layout says."""


def read_data_set(folder: Path, *, modality: Modality | None = None) -> DataSet:
    """Read a folder in the layout that it has: with a dataset.json that of AMOS22, else that of MM-WHS.

    Raises:
        DataError: the folder has neither layout, or what it holds is not in order.
    """
    if (folder / "dataset.json").exists():
        return read_amos22(folder, modality=modality)
    if any(_mm_whs_files(folder)):
        return read_mm_whs(folder, modality=modality)
    raise DataError(
        f"{folder}: neither {folder / 'dataset.json'} (AMOS22 layout) nor files named as in MM-WHS "
        "(ct_train_1001_image.nii.gz, here or one folder down): no such file"
    )


def read_mm_whs(folder: Path, *, modality: Modality | None = None) -> DataSet:
    """Read a folder of MM-WHS as it is downloaded, or with all files in one folder.

    Args:
        folder: holds ct_train/ct_train_1001_image.nii.gz and the like, or the files themselves.
        modality: of all cases, instead of what their names say.

    Raises:
        DataError: there is no such file, a label has no image, or a case occurs twice.
    """
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for path, match in _mm_whs_files(folder):
        found = images if match[3] == "image" else labels
        if match[1] in found:
            raise DataError(f"{path}: {match[1]} stands in {found[match[1]]} too; a test on it would say nothing")
        found[match[1]] = path
    if not images:
        raise DataError(f"{folder}: holds no file named as in MM-WHS, such as ct_train_1001_image.nii.gz")
    orphans = sorted(set(labels) - set(images))
    if orphans:
        raise DataError(f"{labels[orphans[0]]}: there is no image for this label")

    def cases(split: str) -> tuple[Case, ...]:
        return tuple(
            Case(patient=patient, image=image, label=labels.get(patient), modality=modality or _modality(image))
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


def _mm_whs_files(folder: Path) -> Iterator[tuple[Path, re.Match[str]]]:
    """Volumes of MM-WHS in the folder and one folder down, where downloads put them."""
    for path in sorted((*folder.glob("*"), *folder.glob("*/*"))):
        match = _MM_WHS_FILE.fullmatch(path.name)
        if match is not None and path.is_file():
            yield path, match


def read_amos22(folder: Path, *, modality: Modality | None = None) -> DataSet:
    """Read a folder in AMOS22 layout.

    Args:
        folder: holds dataset.json and the files that it names.
        modality: of all cases, instead of what their names say (up to amos_0500 CT, above MRI).

    Raises:
        DataError: dataset.json is missing, unreadable or incomplete, names a file that does not exist or that lies
            outside the folder or one image twice, or the modality of a case cannot be told.
    """
    path = folder / "dataset.json"
    content = _read_json(path)

    def cases(key: str) -> tuple[Case, ...]:
        entries = content.get(key, [])
        if not isinstance(entries, list):
            raise DataError(f"{path}: '{key}' must be a list, not {type(entries).__name__}")
        return tuple(_case(folder, path, key, entry, modality) for entry in entries)

    data_set = DataSet(
        name=str(content.get("name", folder.name)),
        training=cases("training"),
        validation=cases("validation"),
        test=cases("test"),
        label_ids=_label_ids(path, content.get("labels")),
    )
    images = [case.image for case in (*data_set.training, *data_set.validation, *data_set.test)]
    if not images:
        raise DataError(f"{path}: names no case under 'training', 'validation' or 'test'")
    twice = [image for image, count in Counter(images).items() if count > 1]
    if twice:
        raise DataError(f"{path}: names {twice[0].name} more than once; a test on training data would say nothing")
    return data_set


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; a folder in AMOS22 layout holds one") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: must hold a JSON object, not {type(content).__name__}")
    return content


def _label_ids(path: Path, labels: object) -> dict[int, str]:
    if not isinstance(labels, dict) or not labels:
        raise DataError(f'{path}: \'labels\' must map label values to organs, such as {{"6": "liver"}}')
    ids = {}
    for number, spelling in labels.items():
        whole = number.isascii() and number.isdecimal() and len(number) <= _LARGEST_LABEL_DIGITS
        if not whole or int(number) > _LARGEST_LABEL or not isinstance(spelling, str):
            raise DataError(
                f"{path}: labels[{number!r}] = {spelling!r}: values from 0 to {_LARGEST_LABEL} map to organs"
            )
        ids[int(number)] = organ_named(spelling)
    return ids


def _case(folder: Path, path: Path, key: str, entry: object, modality: Modality | None) -> Case:
    # Data sets in this family list test cases as plain image paths, because their labels are not public.
    named = {"image": entry} if isinstance(entry, str) else entry
    if not isinstance(named, dict) or not isinstance(named.get("image"), str):
        raise DataError(f"{path}: {key} holds {entry!r}, not an entry with an 'image'")
    image = _file(folder, path, named["image"])
    label = named.get("label")
    if label is not None and not isinstance(label, str):
        raise DataError(f"{path}: {key} holds the label {label!r}, not a path")
    patient = image.name.removesuffix(".gz").removesuffix(".nii")
    return Case(
        patient=patient,
        image=image,
        label=_file(folder, path, label) if label else None,
        modality=modality or _modality(image),
    )


def _file(folder: Path, path: Path, relative: str) -> Path:
    parts = PurePosixPath(relative)
    if parts.is_absolute() or ".." in parts.parts or "\0" in relative:
        raise DataError(f"{path}: {relative!r} does not lie in the folder of the data set")
    file = folder / parts
    if not file.is_file():
        raise DataError(f"{file}: no such file, but {path.name} names it")
    return file


def modality_by_name(image: Path) -> Modality | None:
    """What a name says: AMOS22 ids up to 500 are CT, above MRI; MM-WHS says it; None for any other name."""
    name = image.name.removesuffix(".gz").removesuffix(".nii")
    amos, mm_whs = _AMOS_NAME.fullmatch(name), _MM_WHS_NAME.fullmatch(name)
    if amos is not None:
        return Modality.CT if int(amos[1]) <= _LAST_CT_ID else Modality.MR
    if mm_whs is not None:
        return Modality.CT if mm_whs[1] == "ct" else Modality.MR
    return None


def _modality(image: Path) -> Modality:
    modality = modality_by_name(image)
    if modality is None:
        raise DataError(
            f"{image}: the name holds no AMOS22 id (amos_0001 to amos_0500 CT, above MRI) and is not that of an MM-WHS "
            "case, so the modality cannot be told; say it: modality = 'CT' or 'MR'"
        )
    return modality
