"""The cache of prepared volumes: one folder per entry, whole or absent at any time, and checked when it is read.

A process that is killed leaves whole entries, and at most a folder `.new-...` that nothing reads. A site keeps the
cache on its own disk. Whoever can write there can also change the scans: hashes find damage, not attacks.
"""

import hashlib
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secfed.errors import DataError, FileError

_UNFINISHED = ".new-"

# Longer than any entry takes to write: what is older was left by a process that is gone.
_ABANDONED_SECONDS = 24 * 3600.0


def open_cache(cache: Path) -> None:
    """Make the folder of a cache, try whether it can be written, and remove what killed processes left unfinished.

    Raises:
        DataError: it cannot be made or written.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=cache):
            pass
    except OSError as error:
        raise DataError(
            f"{cache}: the cache cannot be written ({error.strerror}): let this user write there, or name another"
        ) from error
    for left in cache.glob(f"{_UNFINISHED}*"):
        try:
            if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(left)
        except OSError:
            # Another process was faster, or owns it: it is in nobody's way.
            continue


def entry_bytes(entry: Path) -> int:
    """What the files of an entry take on the disk."""
    return sum(path.stat().st_size for path in entry.iterdir())


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
        with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=entry.parent) as name:
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
