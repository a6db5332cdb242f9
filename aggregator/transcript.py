"""The aggregator's transcript on disk: entries whole or not at all, vectors kept as long as the run's setting says.

    keep_upload ...  ->  note_open  ->  complete_round or abort_round

Runs at the aggregator. Format and chain are in `privacy.secagg.transcript`. An upload waits in `vectors/.open` until
its round is completed; then the folder takes the number of the entry, the entry appears, and the head follows. Whatever
a kill leaves half done is put right when the transcript is opened again: a folder of vectors without an entry goes, a
head behind the last entry is rewritten, and a round that sites had been asked to open becomes an aborted one, so that
no agreement of a site is without its entry.

It protects nothing from an aggregator that writes something else: that is the verifier's work, and the receipts'.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from privacy.errors import HostileInputError, MisuseError
from privacy.merkle import leaf_digests, merkle_root
from privacy.secagg.messages import KeyAdvertisement, KeyConfirmation, KeyEncapsulation
from privacy.secagg.transcript import (
    ENTRIES,
    HEAD,
    NO_ENTRY,
    SUM,
    VECTORS,
    AbortEntry,
    Content,
    Retention,
    RoundEntry,
    RoundMessages,
    SessionEntry,
    decode_entry,
    decode_head,
    encode_entry,
    encode_head,
    entry_name,
)
from privacy.streams import SUITE, Words, little_endian_bytes
from secfed.errors import RunFolderError

STOPPED = "the aggregator was stopped during this round"
_OPEN = ".open"
_OPEN_ROUND = ".open-round.cbor"
_TEMPORARY = ".new"


class Transcript:
    """The transcript in `folder`, made or continued. Without `durable` nothing is flushed: a power cut may lose rounds.

    Raises:
        RunFolderError: the last entry is damaged, or one is missing.
    """

    def __init__(self, folder: Path, *, retention: Retention, durable: bool) -> None:
        self.folder = folder
        self.retention = retention
        self.durable = durable
        self._leaves: dict[str, tuple[bytes, ...]] = {}
        for name in (ENTRIES, VECTORS):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._count, self._last = self._found()
        self._put_right()

    @property
    def previous(self) -> bytes:
        """The digest of the latest entry, for the next round's announcement; all zeros before the first."""
        return self._last

    def begin_session(
        self,
        *,
        session: bytes,
        roster: bytes,
        plan: bytes,
        setup: Mapping[str, tuple[bytes, ...]],
        completed: int,
        model_hash: bytes,
        code_digest: str,
    ) -> None:
        """Note a session that is ready: the signed roster, the plan as JSON, and `SecAggServer.setup_messages`.

        `completed` counts the server rounds so far, `model_hash` is the model's after them.
        """
        self._drop_uploads()
        self._append(
            SessionEntry(
                suite=SUITE,
                session=session,
                roster=roster,
                plan=plan,
                code_digest=code_digest,
                advertisements=setup[KeyAdvertisement.KIND],
                encapsulations=setup[KeyEncapsulation.KIND],
                confirmations=setup[KeyConfirmation.KIND],
                retention=self.retention,
                completed=completed,
                model_hash=model_hash,
            )
        )

    def keep_upload(self, site: str, words: Words, *, leaves: tuple[bytes, ...]) -> None:
        """Keep one upload of the open round, uint32 of shape (vector_length,), once it was added to the sum.

        `leaves` are its Merkle leaves (privacy.merkle).
        """
        if self.retention.rounds == 0:
            return
        self._leaves[site] = leaves
        self._write_vector(site, words)

    def note_open(self, messages: RoundMessages, *, server_round: int) -> None:
        """Note a round before any site is asked to agree: after a kill it stands in the chain as an aborted one."""
        content = self._aborted(messages, server_round=server_round, reason=STOPPED, evidence=b"")
        data, _ = encode_entry(content, number=self._count, previous=self._last)
        self._write(self.folder / _OPEN_ROUND, data, durable=self.durable)

    def complete_round(self, messages: RoundMessages, *, server_round: int, total: Words, model_after: bytes) -> None:
        """Note a round whose sum was opened and stepped on; vectors past the retention are deleted.

        Raises:
            MisuseError: an upload of the sum was not kept.
        """
        keeps = self.retention.rounds != 0
        if keeps and len(self._leaves) != len(messages.headers):
            raise MisuseError(f"{len(messages.headers)} uploads are in the sum, but {len(self._leaves)} were kept")
        leaves = leaf_digests(total)
        entry = RoundEntry(
            messages=messages,
            server_round=server_round,
            sum_root=merkle_root(leaves),
            sum_leaves=leaves,
            upload_leaves=self._leaves,
            model_after=model_after,
        )
        if keeps:
            self._write_vector(SUM, total)
            (self.folder / VECTORS / _OPEN).rename(self._vectors(self._count))
            self._flush_folder(self.folder / VECTORS)
        self._append(entry)
        self._prune()

    def abort_round(self, messages: RoundMessages, *, server_round: int, reason: str, evidence: bytes = b"") -> None:
        """Note a round that failed, as far as it came; its vectors are deleted."""
        self._append(self._aborted(messages, server_round=server_round, reason=reason, evidence=evidence))
        self._drop_uploads()

    def _drop_uploads(self) -> None:
        shutil.rmtree(self.folder / VECTORS / _OPEN, ignore_errors=True)
        self._leaves = {}

    @staticmethod
    def _aborted(messages: RoundMessages, *, server_round: int, reason: str, evidence: bytes) -> AbortEntry:
        return AbortEntry(messages=messages, server_round=server_round, reason=reason, evidence=evidence)

    def _append(self, content: Content) -> None:
        data, digest = encode_entry(content, number=self._count, previous=self._last)
        self._append_file(data, digest)

    def _append_file(self, data: bytes, digest: bytes) -> None:
        self._write(self.folder / entry_name(self._count), data, durable=self.durable)
        self._count, self._last = self._count + 1, digest
        self._leaves = {}
        # The head is put right from the entries when a kill or a power cut leaves it behind, so it is never waited for.
        self._write(self.folder / HEAD, encode_head(count=self._count, last=digest), durable=False)
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
            return len(names), decode_entry(path.read_bytes()).digest
        except (OSError, HostileInputError) as error:
            raise RunFolderError(f"{path}: the transcript cannot go on from a damaged entry: {error}") from error

    def _put_right(self) -> None:
        """Finish or drop what a kill left half done."""
        for stray in (*self.folder.glob(f".*{_TEMPORARY}"), *(self.folder / ENTRIES).glob(f".*{_TEMPORARY}")):
            stray.unlink()
        self._drop_uploads()
        for path in self._numbered_vectors():
            if int(path.name) >= self._count:
                shutil.rmtree(path)
        try:
            behind = decode_head((self.folder / HEAD).read_bytes()) != (self._count, self._last)
        except (OSError, HostileInputError):
            behind = True
        if behind and self._count:
            self._write(self.folder / HEAD, encode_head(count=self._count, last=self._last), durable=False)
        self._close_open_round()

    def _close_open_round(self) -> None:
        path = self.folder / _OPEN_ROUND
        try:
            data = path.read_bytes()
            entry = decode_entry(data)
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

    def _write_vector(self, owner: str, words: Words) -> None:
        folder = self.folder / VECTORS / _OPEN
        folder.mkdir(exist_ok=True)
        with (folder / f"{owner}.u32").open("wb") as file:
            file.write(little_endian_bytes(words))
            if self.durable:
                os.fsync(file.fileno())

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
