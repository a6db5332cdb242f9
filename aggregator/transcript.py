"""The aggregator's transcript of a masked run: what is noted of each session and round, and when.

    keep_upload ...  ->  note_open  ->  complete_round or abort_round

Runs at the aggregator. The entries are in `privacy.secagg.transcript`, how they come to the disk in
`aggregator.transcript_store`: after a kill, a round that sites had been asked to open becomes an aborted one, so that
no agreement of a site is without its entry.
"""

from collections.abc import Mapping
from pathlib import Path

from aggregator.transcript_store import STOPPED, TranscriptStore
from privacy.chain import Retention
from privacy.errors import MisuseError
from privacy.merkle import leaf_digests, merkle_root
from privacy.secagg.messages import KeyAdvertisement, KeyConfirmation, KeyEncapsulation
from privacy.secagg.transcript import FORMAT, SUM, AbortEntry, Content, RoundEntry, RoundMessages, SessionEntry
from privacy.streams import SUITE, Words, little_endian_bytes


class Transcript:
    """The transcript in `folder`, made or continued. Without `durable` nothing is flushed: a power cut may lose rounds.

    Raises:
        RunFolderError: the last entry is damaged, or one is missing.
    """

    def __init__(self, folder: Path, *, retention: Retention, durable: bool) -> None:
        self.retention = retention
        self._store: TranscriptStore[Content] = TranscriptStore(
            folder, chain=FORMAT, retention=retention, durable=durable
        )
        self._leaves: dict[str, tuple[bytes, ...]] = {}

    @property
    def previous(self) -> bytes:
        """The digest of the latest entry, for the next round's announcement; all zeros before the first."""
        return self._store.previous

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
        self._leaves = {}
        self._store.append(
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
        self._store.keep(site, little_endian_bytes(words))

    def note_open(self, messages: RoundMessages, *, server_round: int) -> None:
        """Note a round before any site is asked to agree: after a kill it stands in the chain as an aborted one."""
        self._store.note_open(_aborted(messages, server_round=server_round, reason=STOPPED, evidence=b""))

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
            self._store.keep(SUM, little_endian_bytes(total))
        self._store.complete(entry)
        self._leaves = {}

    def abort_round(self, messages: RoundMessages, *, server_round: int, reason: str, evidence: bytes = b"") -> None:
        """Note a round that failed, as far as it came; its vectors are deleted."""
        self._store.append(_aborted(messages, server_round=server_round, reason=reason, evidence=evidence))
        self._leaves = {}


def _aborted(messages: RoundMessages, *, server_round: int, reason: str, evidence: bytes) -> AbortEntry:
    return AbortEntry(messages=messages, server_round=server_round, reason=reason, evidence=evidence)
