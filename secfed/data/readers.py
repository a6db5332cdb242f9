"""Readers of data sets on disk: from a folder to cases. A site runs them on its own folders.

Only AMOS22 is read so far (Ji et al., NeurIPS 2022, https://amos22.grand-challenge.org); `CaseReader` is the seam for
other layouts. A reader opens dataset.json alone: volumes are opened and checked by `secfed.data.preprocessing`.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from secfed.data.cases import Case, Modality
from secfed.data.labels import organ_named
from secfed.errors import DataError

# AMOS22: ids up to 500 are CT, above are MRI.
_LAST_CT_ID = 500
_AMOS_NAME = re.compile(r"amos_(\d+)(_\d{4})?")

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


def read_amos22(folder: Path, *, modality: Modality | None = None) -> DataSet:
    """Read a folder in AMOS22 layout.

    Args:
        folder: holds dataset.json and the files that it names.
        modality: of all cases, instead of the id rule (up to amos_0500 CT, above MRI).

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
    """What an AMOS22 id says: up to amos_0500 CT, above MRI; None for a name without such an id."""
    match = _AMOS_NAME.fullmatch(image.name.removesuffix(".gz").removesuffix(".nii"))
    if match is None:
        return None
    return Modality.CT if int(match[1]) <= _LAST_CT_ID else Modality.MR


def _modality(image: Path) -> Modality:
    modality = modality_by_name(image)
    if modality is None:
        raise DataError(
            f"{image}: the name holds no AMOS22 id (amos_0001 to amos_0500 CT, above MRI), so the modality cannot be "
            "told; say it: modality = 'CT' or 'MR'"
        )
    return modality
