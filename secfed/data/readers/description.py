"""dataset.json, as AMOS22, the Medical Segmentation Decathlon and nnU-Net each write it: what they have in common."""

import json
from pathlib import Path
from typing import Any

from secfed.data.labels import organ_named
from secfed.errors import DataError

DESCRIPTION = "dataset.json"

# Label volumes hold at most 16 bits per voxel.
_LARGEST_LABEL_DIGITS, _LARGEST_LABEL = 5, 65535


def read_description(folder: Path, *, layout: str) -> dict[str, Any]:
    """The JSON object in a folder's dataset.json.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    path = folder / DESCRIPTION
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; a folder in {layout} layout holds one") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: must hold a JSON object, not {type(content).__name__}")
    return content


def label_ids_of(path: Path, labels: object) -> dict[int, str]:
    """Meanings of values, from `labels` as AMOS22 and the Decathlon write them: value to organ.

    Raises:
        DataError: `labels` is something else; `path` is named.
    """
    if not isinstance(labels, dict) or not labels:
        raise DataError(f'{path}: \'labels\' must map label values to organs, such as {{"6": "liver"}}')
    ids = {}
    for number, spelling in labels.items():
        value = label_value(number)
        if value is None or not isinstance(spelling, str):
            raise DataError(
                f"{path}: labels[{number!r}] = {spelling!r}: values from 0 to {_LARGEST_LABEL} map to organs"
            )
        ids[value] = organ_named(spelling)
    return ids


def label_value(number: str) -> int | None:
    """A value that a label volume may hold, from its decimal digits; None for any other text."""
    whole = number.isascii() and number.isdecimal() and len(number) <= _LARGEST_LABEL_DIGITS
    return int(number) if whole and int(number) <= _LARGEST_LABEL else None


def listed(path: Path, content: dict[str, Any], key: str) -> list[Any]:
    """The entries of one split; none where the key is missing.

    Raises:
        DataError: it is no list.
    """
    entries = content.get(key, [])
    if not isinstance(entries, list):
        raise DataError(f"{path}: '{key}' must be a list, not {type(entries).__name__}")
    return entries
