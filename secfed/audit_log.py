"""An audit log whose lines each name the digest of the line before.

No line can be changed, taken out or put in between without every later line showing it. One JSON object a line, in UTC:

    {"number": 7, "time": "2026-03-01T12:00:00.123456Z", "event": "joined", ..., "previous": HEX, "digest": HEX}

Kept by sites and by the aggregator, each for itself, and checked by `secfed audit verify`. Events and their fields are
a fixed list: no voxel, no patient, no statistic of an update, no path has a place there. Several processes may append;
a line that a kill or a full disk cut short is set aside, and the next line says so.

It does not show that lines were cut off at its end, nor that the whole was written anew by its keeper: note the digest
of its last line elsewhere (`secfed audit verify` prints it).
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from secfed.errors import SecfedError, StorageError

AUDIT_LOG = "audit.jsonl"
TORN = "audit.torn"
NOTHING_BEFORE = "0" * 64
MAX_LINE_BYTES = 2**16

FIELDS: Mapping[str, frozenset[str]] = {
    # At both sides.
    "started": frozenset({"side", "name", "version", "code", "roster", "consortium"}),
    "stopped": frozenset({"side"}),
    "service ended": frozenset({"service", "status", "restart_in_seconds"}),
    "line cut short": frozenset({"bytes", "digest_of_bytes"}),
    # At a site.
    "release approved": frozenset({"bundle", "code", "by", "reason"}),
    "approval withdrawn": frozenset({"bundle", "by"}),
    "bundle refused": frozenset({"bundle", "reason"}),
    "process ended early": frozenset({"stage", "status"}),
    "joined": frozenset({"run", "session", "plan", "protection", "privacy", "roster"}),
    "answered": frozenset({"run", "session", "stage", "round"}),
    "refused": frozenset({"run", "session", "stage", "round", "reason"}),
    # At the aggregator.
    "run started": frozenset({"run", "flower_run", "bundle", "resumed"}),
    "session opened": frozenset({"run", "session", "cohort"}),
    "round done": frozenset({"run", "round", "survivors", "model"}),
    "round failed": frozenset({"run", "round", "reason"}),
    "run ended": frozenset({"run", "status", "rounds"}),
    "node admitted": frozenset({"site", "node"}),
    "node removed": frozenset({"site", "node"}),
}
"""Every event, and the fields that it may have."""
_FRAME = frozenset({"number", "time", "event", "previous", "digest"})


@dataclass(frozen=True, kw_only=True)
class LogProblem:
    """A line that is not what it should be; lines are counted from 1."""

    line: int
    what: str


@dataclass(frozen=True, kw_only=True)
class LogCheck:
    """What `check_log` found; `last` is the digest of the last line, to be noted elsewhere."""

    lines: int
    last: str
    problems: tuple[LogProblem, ...]


class AuditLog:
    """The log in `folder`; `fields`, where given, are the only ones written beside the frame (`policy.log_fields`)."""

    def __init__(self, folder: Path, *, fields: Collection[str] | None = None) -> None:
        self._folder = folder
        self._fields = fields

    @property
    def path(self) -> Path:
        """The log's file."""
        return self._folder / AUDIT_LOG

    def append(self, event: str, **details: Any) -> None:
        """Add a line, durably; fields that the site's policy leaves out are left out.

        Raises:
            ValueError: an event or field that is not on the list: nothing else may be logged.
            StorageError: the line could not be written, as on a full disk; the log is as it was.
        SecfedError: the log's last line is damaged.
        """
        unknown = set(details) - FIELDS.get(event, frozenset())
        if event not in FIELDS or unknown:
            raise ValueError(
                f"audit event '{event}' with {sorted(unknown)}: not on the list of secfed.audit_log.FIELDS"
            )
        told = {name: value for name, value in details.items() if self._fields is None or name in self._fields}
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                self._write(file, event, told)
        except OSError as error:
            raise StorageError(f"{self.path}: the audit log cannot be written: {error.strerror}") from error

    def _write(self, file: BinaryIO, event: str, details: Mapping[str, Any]) -> None:
        end, number, previous, torn = _tail(file)
        if torn:
            # What a kill left of a line is no line: it is kept beside, and the chain goes on from the last whole one.
            with (self._folder / TORN).open("ab") as aside:
                aside.write(torn + b"\n")
            digest = hashlib.sha256(torn).hexdigest()
            lost, number, previous = _line(
                "line cut short", {"bytes": len(torn), "digest_of_bytes": digest}, number=number, previous=previous
            )
        else:
            lost = b""
        line, _, _ = _line(event, details, number=number, previous=previous)
        file.seek(end)
        try:
            file.write(lost + line)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            # A line that did not fit is taken back, so that the log stays whole.
            os.ftruncate(file.fileno(), end)
            raise


def check_log(path: Path) -> LogCheck:
    """Check every line of a log: form, number, digest, and what it names as the line before.

    Raises:
        SecfedError: the file cannot be read.
    """
    problems: list[LogProblem] = []
    count, last = 0, NOTHING_BEFORE
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SecfedError(f"{path}: cannot be read: {error.strerror}") from error
    lines = data.split(b"\n")
    if lines[-1]:
        problems.append(LogProblem(line=len(lines), what="the last line was cut short"))
    for count, line in enumerate(lines[:-1], start=1):
        entry = _entry(line)
        if entry is None:
            problems.append(LogProblem(line=count, what="not a line of an audit log"))
            last = ""
            continue
        if _digest({name: value for name, value in entry.items() if name != "digest"}) != entry["digest"]:
            problems.append(LogProblem(line=count, what="changed: its digest does not fit"))
        if entry["number"] != count:
            problems.append(LogProblem(line=count, what=f"it says that it is number {entry['number']}"))
        if last and entry["previous"] != last:
            problems.append(LogProblem(line=count, what="it does not follow the line before it"))
        extra = set(entry) - _FRAME - FIELDS.get(str(entry["event"]), frozenset())
        if entry["event"] not in FIELDS or extra:
            problems.append(LogProblem(line=count, what=f"an event or field that no log has: {entry['event']} {extra}"))
        last = str(entry["digest"])
    return LogCheck(lines=count, last=last, problems=tuple(problems))


def read_log(path: Path) -> list[dict[str, Any]]:
    """Every whole line of a log, unchecked; none where there is no file."""
    if not path.exists():
        return []
    entries = (_entry(line) for line in path.read_bytes().split(b"\n")[:-1])
    return [entry for entry in entries if entry is not None]


def _tail(file: BinaryIO) -> tuple[int, int, str, bytes]:
    """Where the last whole line ends, the number and predecessor of the next, and what stands after it."""
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - 2 * MAX_LINE_BYTES)
    file.seek(start)
    data = file.read()
    whole, _, torn = data.rpartition(b"\n")
    end = size - len(torn)
    last = whole.rpartition(b"\n")[2]
    if not last:
        return end, 1, NOTHING_BEFORE, torn
    entry = _entry(last)
    if entry is None:
        raise SecfedError(
            f"{file.name}: its last line is damaged: nothing is added to a broken log; keep it, and move it away"
        )
    return end, int(entry["number"]) + 1, str(entry["digest"]), torn


def _line(event: str, details: Mapping[str, Any], *, number: int, previous: str) -> tuple[bytes, int, str]:
    """The line, and number and predecessor of the one after it."""
    moment = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    entry = {"number": number, "time": moment, "event": event, **details, "previous": previous}
    digest = _digest(entry)
    line = json.dumps({**entry, "digest": digest}, ensure_ascii=False).encode() + b"\n"
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"an audit line of {len(line)} bytes: at most {MAX_LINE_BYTES} are allowed")
    return line, number + 1, digest


def _digest(entry: Mapping[str, Any]) -> str:
    text = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    if not isinstance(entry, dict) or not set(entry) >= _FRAME:
        return None
    whole = isinstance(entry["number"], int) and all(isinstance(entry[n], str) for n in _FRAME - {"number"})
    return entry if whole else None
