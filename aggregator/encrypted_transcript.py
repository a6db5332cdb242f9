"""The aggregator's transcript of an encrypted run: what is noted of each session and round, and when.

    note_open  ->  keep_upload ...  ->  complete_round or abort_round
    note_open  ->  complete_end or abort_round

Runs at the aggregator. The entries are in `privacy.he.transcript`, how they come to the disk in
`aggregator.transcript_store`: after a kill, a round that sites had been asked to upload in becomes an aborted one, so
that no announcement that a site signed is without its entry.
"""

from collections.abc import Mapping
from pathlib import Path

from aggregator.transcript_store import STOPPED, TranscriptStore
from privacy.chain import Retention
from privacy.errors import MisuseError
from privacy.he.group_round import PublishedSum
from privacy.he.messages import GroupKeyConfirmation, GroupKeyOffer
from privacy.he.transcript import (
    FORMAT,
    Content,
    EncryptedAbortEntry,
    EncryptedEndEntry,
    EncryptedRoundEntry,
    EncryptedSessionEntry,
)
from privacy.secagg.messages import KeyAdvertisement, KeyConfirmation, KeyEncapsulation
from privacy.streams import SUITE


class EncryptedTranscript:
    """The transcript in `folder`, made or continued. Without `durable` nothing is flushed: a power cut may lose rounds.

    Raises:
        RunFolderError: the last entry is damaged or of another protection, or one is missing.
    """

    def __init__(self, folder: Path, *, retention: Retention, durable: bool) -> None:
        self.retention = retention
        self._store: TranscriptStore[Content] = TranscriptStore(
            folder, chain=FORMAT, retention=retention, durable=durable
        )

    @property
    def previous(self) -> bytes:
        """The digest of the latest entry, for the next E0; all zeros before the first."""
        return self._store.previous

    def begin_session(
        self,
        *,
        session: bytes,
        run: bytes,
        roster: bytes,
        plan: bytes,
        parameters: bytes,
        setup: Mapping[str, tuple[bytes, ...]],
        group_setup: Mapping[str, tuple[bytes, ...]],
        completed: int,
        code_digest: str,
    ) -> None:
        """Note a session whose sites hold one group key: the signed roster, the plan as JSON, and who said what.

        `parameters` are those of `HeParameters.to_bytes`, `setup` and `group_setup` the `setup_messages` of
        `SecAggServer` and `GroupServer`; `completed` counts the server rounds so far.
        """
        self._store.append(
            EncryptedSessionEntry(
                suite=SUITE,
                session=session,
                run=run,
                roster=roster,
                plan=plan,
                parameters=parameters,
                code_digest=code_digest,
                advertisements=setup[KeyAdvertisement.KIND],
                encapsulations=setup[KeyEncapsulation.KIND],
                confirmations=setup[KeyConfirmation.KIND],
                offers=group_setup[GroupKeyOffer.KIND],
                key_confirmations=group_setup[GroupKeyConfirmation.KIND],
                retention=self.retention,
                completed=completed,
            )
        )

    def note_open(self, *, announcement: bytes, server_round: int) -> None:
        """Note a round, or the end, before any site is asked: after a kill it stands in the chain as an aborted one."""
        self._store.note_open(
            EncryptedAbortEntry(announcement=announcement, headers=(), server_round=server_round, reason=STOPPED)
        )

    def keep_upload(self, site: str, ciphertext: bytes) -> None:
        """Keep one upload of the open round, once it was added to the sum."""
        if self.retention.rounds != 0:
            self._store.keep(site, ciphertext)

    def complete_round(self, published: PublishedSum, *, server_round: int) -> None:
        """Note a round whose sum is published; uploads past the retention are deleted.

        Raises:
            MisuseError: an upload of the sum was not kept, or one was that is not inside.
        """
        if self.retention.rounds != 0 and self._store.kept != published.contributors:
            raise MisuseError(
                f"uploads of {list(published.contributors)} are in the sum, kept were those of {list(self._store.kept)}"
            )
        self._store.complete(
            EncryptedRoundEntry(
                announcement=published.announcement,
                headers=published.headers,
                server_round=server_round,
                sum_root=published.root,
            )
        )

    def abort_round(self, *, announcement: bytes, headers: tuple[bytes, ...], server_round: int, reason: str) -> None:
        """Note a round, or an end, that came to nothing; its uploads are deleted."""
        self._store.append(
            EncryptedAbortEntry(announcement=announcement, headers=headers, server_round=server_round, reason=reason)
        )

    def complete_end(self, *, announcement: bytes, endings: tuple[bytes, ...], server_round: int) -> None:
        """Note the end of the run: the E2 as `EncryptedEnd.collect` returned them."""
        self._store.append(EncryptedEndEntry(announcement=announcement, endings=endings, server_round=server_round))
