"""Who was caught cheating in a job, and what proves it: kept over sessions and over restarts of the aggregator.

Runs at the aggregator. A client that was proven to cheat is not invited again in this job; its evidence lets the others
open a second sum over the same model without it (privacy.secagg.differencing). The evidence convicts by itself: nobody
has to believe the aggregator.
"""

import hashlib
from pathlib import Path

from privacy.errors import HostileInputError, ProvenCheatingError
from privacy.secagg.blame import Evidence, convict
from privacy.secagg.requests import RoundAnnouncement
from privacy.secagg.roster import Roster


class Misconduct:
    """`banned` gives the reason by name; evidence lies in `folder`, one file each."""

    def __init__(self, folder: Path, *, roster: Roster) -> None:
        self.folder = folder
        self.banned: dict[str, str] = {}
        self._evidence: dict[bytes, tuple[bytes, ...]] = {}
        for path in sorted(folder.glob("*.cbor")):
            data = path.read_bytes()
            try:
                conviction = convict(data, roster=roster)
            except HostileInputError:
                # Damaged on the disk, or of another roster: it convicts nobody, here or at a site.
                continue
            self.banned[conviction.party] = conviction.reason
            self._remember(data)

    def note(self, error: HostileInputError) -> None:
        """Ban the party that an error names, and keep what proves it."""
        if error.party is not None:
            self.banned[error.party] = str(error)
        if isinstance(error, ProvenCheatingError):
            self.folder.mkdir(parents=True, exist_ok=True)
            name = hashlib.sha256(error.evidence).hexdigest()[:16]
            temporary = self.folder / f".{name}.cbor"
            temporary.write_bytes(error.evidence)
            temporary.replace(self.folder / f"{name}.cbor")
            self._remember(error.evidence)

    def evidence_for(self, model_hash: bytes) -> tuple[bytes, ...]:
        """What convicts somebody in a round over that model."""
        return self._evidence.get(model_hash, ())

    def _remember(self, data: bytes) -> None:
        model = RoundAnnouncement.from_bytes(Evidence.from_bytes(data).announcement).model_hash
        self._evidence[model] = (*self._evidence.get(model, ()), data)
