"""The cache of prepared volumes: one folder per entry, whole or absent at any time, and checked when it is read.

A site keeps it on its own disk. Whoever can write there can also change the scans: hashes find damage, not attacks.
"""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secfed.errors import DataError, FileError


def digest_of(path: Path) -> str:
    """Hex SHA-256 of a file.

    Raises:
        FileError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise FileError(path, "no such file") from None
    except OSError as error:
        raise FileError(path, f"cannot be read: {error}") from error


def write_entry(entry: Path, image: NDArray[np.float32], label: NDArray[np.uint8] | None) -> None:
    """Write an entry beside its place and move it there.

    Raises:
        DataError: it cannot be written.
    """
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=entry.parent) as name:
            new = Path(name) / "entry"
            new.mkdir()
            np.save(new / "image.npy", np.ascontiguousarray(image))
            if label is not None:
                np.save(new / "label.npy", np.ascontiguousarray(label))
            digests = {path.name: digest_of(path) for path in sorted(new.iterdir())}
            (new / "meta.json").write_text(json.dumps({"sha256": digests}) + "\n", encoding="utf-8")
            _move(new, entry, aside=Path(name) / "damaged", labelled=label is not None)
    except OSError as error:
        raise DataError(f"{entry}: the cache entry cannot be written: {error}") from error


def _move(new: Path, entry: Path, *, aside: Path, labelled: bool) -> None:
    try:
        new.replace(entry)
    except OSError:
        # The place is taken: by another process that was faster with the same content, or by a damaged entry.
        if load_entry(entry, labelled=labelled) is not None:
            return
        entry.replace(aside)
        new.replace(entry)


def load_entry(entry: Path, *, labelled: bool) -> list[Any] | None:
    """Image and label of an entry as read-only memory maps; None where it is missing or damaged."""
    names = ["image.npy", "label.npy"] if labelled else ["image.npy"]
    try:
        digests = json.loads((entry / "meta.json").read_text(encoding="utf-8"))["sha256"]
        if any(digest_of(entry / name) != digests[name] for name in names):
            return None
        return [np.load(entry / name, mmap_mode="r") for name in names]
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return None
