"""Who was caught cheating in a job, and what proves it: kept over sessions and over restarts of the aggregator.

Runs at the aggregator. A client that was proven to cheat is not invited again in this job; its evidence lets the others
open a second sum over the same model without it (privacy.secagg.differencing). The evidence convicts by itself: nobody
has to believe the aggregator.
"""

import hashlib
from pathlib import Path

from privacy.cbor import MAX_MESSAGE_BYTES
from privacy.errors import HostileInputError, ProvenCheatingError
from privacy.secagg.blame import convict
from privacy.secagg.roster import Roster
from secfed.whole_file import write_whole

MAX_EVIDENCE_BYTES = MAX_MESSAGE_BYTES - 2**19
"""The rest of a request is for the survivors' headers."""


class Misconduct:
    """`banned` gives the reason by name; evidence lies in `folder`, one file each."""

    def __init__(self, folder: Path, *, roster: Roster) -> None:
        self.folder = folder
        self.banned: dict[str, str] = {}
        self._evidence: list[bytes] = []
        for path in sorted(folder.glob("*.cbor")):
            data = path.read_bytes()
            try:
                conviction = convict(data, roster=roster)
            except HostileInputError:
                # Damaged on the disk, or of another roster: it convicts nobody, here or at a site.
                continue
            self.banned[conviction.party] = conviction.reason
            self._evidence.append(data)

    def note(self, error: HostileInputError) -> None:
        """Ban the party that an error names, and keep what proves it."""
        if error.party is not None:
            self.banned[error.party] = str(error)
        if isinstance(error, ProvenCheatingError):
            self.folder.mkdir(parents=True, exist_ok=True)
            name = hashlib.sha256(error.evidence).hexdigest()[:16]
            write_whole(self.folder / f"{name}.cbor", error.evidence, durable=True)
            self._evidence.append(error.evidence)

    def evidence(self) -> tuple[bytes, ...]:
        """What convicts anybody, newest first, as much as fits into a message.

        Sites need it when they are asked for a second sum over the same model, and those that insist on a floor on
        change (`min_cohort_change`) in the rounds after that.
        """
        chosen: list[bytes] = []
        for data in reversed(self._evidence):
            if sum(map(len, chosen)) + len(data) > MAX_EVIDENCE_BYTES:
                break
            chosen.append(data)
        return tuple(chosen)
