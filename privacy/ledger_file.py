"""An append-only file of lines that survives a kill or a power cut at any point, and excludes a second process.

Run by a site, for `privacy.ledger`. Beside the lines stands `NAME.last`, the newest line:

    1. the new line is written to NAME.last: whole or not at all, and flushed with its folder
    2. it is appended to NAME, and flushed

Whatever is cut off in 2 is completed from NAME.last at the next opening, so a line that may have been relied on is
never lost, and one that was not finished counts. `lock` in the folder belongs to one process at a time; all ledgers of
a folder share it.

It does not notice that NAME and NAME.last were both replaced by older copies.
"""

import contextlib
import fcntl
import os
import time
from pathlib import Path

from privacy.ledger_entries import LedgerError

LOCK = "lock"
LAST = ".last"
_RETRY_SECONDS = 0.02


class FolderLock:
    """The right to write in a folder, until it is closed or the process ends.

    Raises:
        LedgerError: another process, or another ledger of this one, still holds it after `wait_seconds`.
    """

    def __init__(self, folder: Path, *, wait_seconds: float) -> None:
        self._file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        until = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    os.close(self._file)
                    raise LedgerError(f"{folder}: a ledger of this folder is open already; one at a time") from None
                time.sleep(_RETRY_SECONDS)
            else:
                return

    def close(self) -> None:
        """Give the right back; closing twice does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def read_lines(path: Path) -> tuple[list[bytes], bytes]:
    """All lines with their ends, and what of the last one the file still lacks; nothing is written.

    A file that was never begun has no lines.

    Raises:
        LedgerError: the file does not end in its newest line or on the way to it, so something was changed or lost.
    """
    data, last = _content(path), _content(path.with_name(path.name + LAST))
    if data is None and last is None:
        return [], b""
    if last is None:
        raise LedgerError(f"{path}: {path.name}{LAST} is missing, which names the newest line")
    if not last.endswith(b"\n") or last.count(b"\n") != 1:
        raise LedgerError(f"{path}: {path.name}{LAST} is damaged")
    lines = (data or b"").splitlines(keepends=True)
    if lines and lines[-1] == last:
        return lines, b""
    cut = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
    if not last.startswith(cut):
        raise LedgerError(f"{path}: the file does not end as {path.name}{LAST} says")
    # Whether it really continues the lines is the chain's to say: it names the digest of the one before.
    return [*lines, last], last[len(cut) :]


def append_line(path: Path, line: bytes, *, durable: bool) -> None:
    """Add a line; when this returns it is on the disk (unless `durable` is off, as in simulations)."""
    newest = path.with_name(path.name + LAST)
    temporary = path.with_name(f".{newest.name}")
    _write(temporary, line, flags=os.O_TRUNC, durable=durable)
    temporary.replace(newest)
    _flush_folder(path.parent, durable=durable)
    complete_line(path, line, durable=durable)


def complete_line(path: Path, rest: bytes, *, durable: bool) -> None:
    """Append what a file lacks."""
    _write(path, rest, flags=os.O_APPEND, durable=durable)
    _flush_folder(path.parent, durable=durable)


def _write(path: Path, data: bytes, *, flags: int, durable: bool) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)
    try:
        while data:
            data = data[os.write(file, data) :]
        if durable:
            os.fsync(file)
    finally:
        os.close(file)


def _flush_folder(folder: Path, *, durable: bool) -> None:
    if durable:
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def _content(path: Path) -> bytes | None:
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    return None
