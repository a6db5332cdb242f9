"""A transcript on disk as the auditor reads it: entries one by one, vectors block by block, receipts, unknown files.

Reads and judges nothing; the checks are in `privacy.secagg.verifier` and `privacy.he.verifier`. Nothing here follows a
link or a name that a transcript contains: paths are made of numbers and of names that rosters accept.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from privacy.chain import ENTRIES, HEAD, VECTORS, entry_name, label_of
from privacy.errors import HostileInputError
from privacy.he.receipt import EncryptedReceipt
from privacy.he.transcript import FORMAT as ENCRYPTED
from privacy.merkle import LEAF_BYTES
from privacy.secagg.receipt import Receipt
from privacy.secagg.transcript import vector_name
from secfed.audit.reading import AnyReceipt

RECEIPTS = "sites/*/books/receipts.jsonl"


class TranscriptFolder:
    """The transcript in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        stems = [path.stem for path in (folder / ENTRIES).glob("*.cbor") if path.stem.isdecimal()]
        numbers = [int(stem) for stem in stems if len(stem) < 10 and Path(entry_name(int(stem))).stem == stem]
        # A file of an absurd number does not make the auditor count up to it; it is named as unknown instead.
        self.count = min(max(numbers, default=-1) + 1, 2 * len(numbers) + 1)
        self._known = {HEAD}

    def entries(self) -> Iterator[bytes]:
        """The files of all entries in order; empty bytes for one that is missing."""
        for number in range(self.count):
            yield self.read(entry_name(number))

    def head(self) -> bytes:
        """The head's file, empty where it is missing."""
        return self.read(HEAD)

    def read(self, name: str) -> bytes:
        """A small file, empty where it is missing or cannot be read."""
        self._known.add(name)
        try:
            return (self.folder / name).read_bytes()
        except OSError:
            return b""

    def vector(self, number: int, owner: str) -> Iterable[bytes] | None:
        """The blocks of a vector, each of one Merkle leaf; None where there is no file."""
        name = vector_name(number, owner)
        self._known.add(name)
        path = self.folder / name
        return _blocks(path) if path.is_file() else None

    def ciphertext(self, number: int, owner: str, *, limit: int) -> bytes | None:
        """The first `limit` bytes of an encrypted upload; None where there is no file."""
        name = ENCRYPTED.vector_name(number, owner)
        self._known.add(name)
        try:
            with (self.folder / name).open("rb") as file:
                return file.read(limit)
        except OSError:
            return None

    def label(self) -> str:
        """Which kind of transcript this is, by its first entry that can be read; empty where none can."""
        return next(filter(None, map(label_of, self.entries())), "")

    def expect_vectors(self, number: int, owners: Iterable[str] | None, *, ending: str) -> None:
        """Expect the vectors of an entry; None stands for whatever is there, where the entry cannot be read."""
        folder = self.folder / VECTORS / f"{number:06d}"
        files = folder.glob(f"*{ending}") if owners is None else (folder / f"{owner}{ending}" for owner in owners)
        self._known.update(path.relative_to(self.folder).as_posix() for path in files)

    def unknown_files(self) -> list[str]:
        """What lies in the folder and is no part of the transcript, by relative path; call it at the end."""
        found = {path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if not path.is_dir()}
        return sorted(found - self._known)

    def size_bytes(self) -> int:
        """Everything in the folder."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


def read_receipts(path: Path) -> tuple[list[AnyReceipt], list[str]]:
    """The receipts in a site's file, and what is wrong with the lines that are none."""
    receipts: list[AnyReceipt] = []
    problems: list[str] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        return [], [f"cannot be read: {error}"]
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            kind = EncryptedReceipt if isinstance(record, dict) and "protection" in record else Receipt
            receipts.append(kind.from_json(record))
        except (ValueError, RecursionError, HostileInputError) as error:
            problems.append(f"line {number} is no receipt: {error}")
    return receipts, problems


def _blocks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while block := file.read(LEAF_BYTES):
                yield block
    except OSError:
        # What was read so far is shorter than announced, and that is how the verifier will name the file.
        return
