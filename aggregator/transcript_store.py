"""A transcript on the aggregator's disk: entries whole or not at all, vectors kept as long as the run's setting says.

    keep ...  ->  note_open  ->  complete, or append

Runs at the aggregator, for the transcripts of every protection. A vector waits in `vectors/.open` until its round is
completed; then the folder takes the number of the entry, the entry appears, and the head follows. Whatever a kill
leaves half done is put right when the transcript is opened again: a folder of vectors without an entry goes, a head
behind the last entry is rewritten, and a round that sites had been asked about becomes an aborted one, so that nothing
that a site signed is without its entry.

It protects nothing from an aggregator that writes something else: that is the verifier's work, and the receipts'.
"""

import os
import shutil
from pathlib import Path
from typing import Generic

from privacy.chain import ENTRIES, HEAD, NO_ENTRY, VECTORS, ChainFormat, ContentT, Retention, entry_name
from privacy.errors import HostileInputError
from secfed.errors import RunFolderError

STOPPED = "the aggregator was stopped during this round"
_OPEN = ".open"
_OPEN_ROUND = ".open-round.cbor"
_TEMPORARY = ".new"


class TranscriptStore(Generic[ContentT]):
    """The transcript in `folder`, made or continued. Without `durable` nothing is flushed: a power cut may lose rounds.

    Raises:
        RunFolderError: the last entry is damaged or of another protection, or one is missing.
    """

    def __init__(self, folder: Path, *, chain: ChainFormat[ContentT], retention: Retention, durable: bool) -> None:
        self.folder = folder
        self.retention = retention
        self.durable = durable
        self._chain = chain
        self._kept: set[str] = set()
        for name in (ENTRIES, VECTORS):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._count, self._last = self._found()
        self._put_right()

    @property
    def previous(self) -> bytes:
        """The digest of the latest entry, for the next round's announcement; all zeros before the first."""
        return self._last

    @property
    def kept(self) -> tuple[str, ...]:
        """Whose vectors of the open round are on the disk, sorted by name."""
        return tuple(sorted(self._kept))

    def keep(self, owner: str, data: bytes | memoryview) -> None:
        """Keep one vector of the open round."""
        folder = self.folder / VECTORS / _OPEN
        folder.mkdir(exist_ok=True)
        with (folder / f"{owner}{self._chain.ending}").open("wb") as file:
            file.write(data)
            if self.durable:
                file.flush()
                os.fsync(file.fileno())
        self._kept.add(owner)

    def note_open(self, content: ContentT) -> None:
        """Note a round before any site is asked to sign: after a kill this is its entry in the chain."""
        data, _ = self._chain.encode_entry(content, number=self._count, previous=self._last)
        self._write(self.folder / _OPEN_ROUND, data, durable=self.durable)

    def complete(self, content: ContentT) -> None:
        """Append the entry of a completed round, with its vectors; those past the retention are deleted."""
        if self._kept:
            (self.folder / VECTORS / _OPEN).rename(self._vectors(self._count))
            self._flush_folder(self.folder / VECTORS)
            self._kept = set()
        self.append(content)
        self._prune()

    def append(self, content: ContentT) -> None:
        """Append an entry without vectors; those that were kept since the last entry are deleted."""
        data, digest = self._chain.encode_entry(content, number=self._count, previous=self._last)
        self._append_file(data, digest)
        self._drop_vectors()

    def _drop_vectors(self) -> None:
        shutil.rmtree(self.folder / VECTORS / _OPEN, ignore_errors=True)
        self._kept = set()

    def _append_file(self, data: bytes, digest: bytes) -> None:
        self._write(self.folder / entry_name(self._count), data, durable=self.durable)
        self._count, self._last = self._count + 1, digest
        # The head is put right from the entries when a kill or a power cut leaves it behind, so it is never waited for.
        self._write(self.folder / HEAD, self._chain.encode_head(count=self._count, last=digest), durable=False)
        (self.folder / _OPEN_ROUND).unlink(missing_ok=True)

    def _found(self) -> tuple[int, bytes]:
        """How many entries there are, and the digest of the last."""
        names = sorted(path.name for path in (self.folder / ENTRIES).glob("*.cbor"))
        if names != [Path(entry_name(number)).name for number in range(len(names))]:
            raise RunFolderError(f"{self.folder / ENTRIES}: an entry is missing; a transcript cannot go on without it")
        if not names:
            return 0, NO_ENTRY
        path = self.folder / ENTRIES / names[-1]
        try:
            return len(names), self._chain.decode_entry(path.read_bytes()).digest
        except (OSError, HostileInputError) as error:
            raise RunFolderError(f"{path}: the transcript cannot go on from a damaged entry: {error}") from error

    def _put_right(self) -> None:
        """Finish or drop what a kill left half done."""
        for stray in (*self.folder.glob(f".*{_TEMPORARY}"), *(self.folder / ENTRIES).glob(f".*{_TEMPORARY}")):
            stray.unlink()
        self._drop_vectors()
        for path in self._numbered_vectors():
            if int(path.name) >= self._count:
                shutil.rmtree(path)
        try:
            behind = self._chain.decode_head((self.folder / HEAD).read_bytes()) != (self._count, self._last)
        except (OSError, HostileInputError):
            behind = True
        if behind and self._count:
            head = self._chain.encode_head(count=self._count, last=self._last)
            self._write(self.folder / HEAD, head, durable=False)
        self._close_open_round()

    def _close_open_round(self) -> None:
        path = self.folder / _OPEN_ROUND
        try:
            data = path.read_bytes()
            entry = self._chain.decode_entry(data)
        except (OSError, HostileInputError):
            path.unlink(missing_ok=True)
            return
        if entry.number == self._count and entry.previous == self._last:
            self._append_file(data, entry.digest)
        # Otherwise the round's own entry was written before the kill.
        path.unlink(missing_ok=True)

    def _prune(self) -> None:
        if self.retention.rounds is None:
            return
        kept = self._numbered_vectors()
        for path in kept[: max(0, len(kept) - self.retention.rounds)]:
            shutil.rmtree(path)

    def _numbered_vectors(self) -> list[Path]:
        return sorted(path for path in (self.folder / VECTORS).iterdir() if path.name.isdecimal())

    def _vectors(self, number: int) -> Path:
        return self.folder / VECTORS / f"{number:06d}"

    def _write(self, path: Path, data: bytes, *, durable: bool) -> None:
        temporary = path.with_name(f".{path.name}{_TEMPORARY}")
        with temporary.open("wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
        if durable:
            self._flush_folder(path.parent)

    def _flush_folder(self, folder: Path) -> None:
        """A rename lives in the folder, so the folder is flushed too."""
        if not self.durable:
            return
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
