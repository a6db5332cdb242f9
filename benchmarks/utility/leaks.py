"""Leakage rows of `benchmarks.leakage --study FILE`, as the study's record takes them."""

import json
from pathlib import Path

from secfed.errors import RunFolderError
from secfed.results import decode
from secfed.study.record import LeakageRow


def read_leakage(path: Path) -> tuple[LeakageRow, ...]:
    """Read the rows.

    Raises:
        RunFolderError: the file is missing or holds something else.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        return tuple(decode(LeakageRow, entry, f"[{index}]") for index, entry in enumerate(tree))
    except (OSError, ValueError, TypeError) as error:
        raise RunFolderError(f"{path}: no leakage rows that can be read: {error}") from error
