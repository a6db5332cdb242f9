"""A masked run's transcript as `secfed audit verify` reads it: messages, sums, and the model's way along them."""

from collections.abc import Sequence
from pathlib import Path

from privacy.secagg.findings import Finding, Findings
from privacy.secagg.receipt import Receipt
from privacy.secagg.transcript import FORMAT, SUM, AbortEntry, RoundEntry, SessionEntry
from privacy.secagg.verifier import TranscriptVerifier
from secfed.audit.model_replay import ModelReplay
from secfed.audit.reading import AnyReceipt, ReadEntry, fail_foreign
from secfed.audit.transcript_folder import TranscriptFolder

CANNOT_BE_PROVED = (
    "that sites trained honestly, or on what they say: masks hide a poisoned update as well as a good one",
    "that the masked values lay in their range, or that the data are of good quality",
    "that nobody can learn about a patient from the sums themselves: only differential privacy bounds that",
    "that the aggregator kept, saw or was given nothing else than the transcript holds",
    "that the last entry is the last: no later round has signed it; the sites' receipts tell",
)


class MaskedReading:
    """The transcript of the aggregator folder `folder`."""

    protection = "masked"
    cannot_be_proved = CANNOT_BE_PROVED

    def __init__(self, folder: Path, transcript: TranscriptFolder, *, anchor: bytes | None) -> None:
        self._transcript = transcript
        self._verifier = TranscriptVerifier(anchor=anchor, vectors=transcript.vector)
        self._model = ModelReplay(folder)

    def add(self, data: bytes) -> ReadEntry:
        """Check the next entry, and follow the model."""
        checked = self._verifier.add(data)
        found = (*checked.findings, *self._model.take(checked).found)
        match checked.content:
            case None:
                self._transcript.expect_vectors(checked.number, None, ending=FORMAT.ending)
            case SessionEntry(session=session):
                return ReadEntry(number=checked.number, findings=found, session=session)
            case RoundEntry(server_round=server_round, upload_leaves=uploads):
                self._transcript.expect_vectors(checked.number, (*uploads, SUM), ending=FORMAT.ending)
                replayed = checked.sum is not None
                return ReadEntry(number=checked.number, findings=found, server_round=server_round, replayed=replayed)
            case AbortEntry():
                return ReadEntry(number=checked.number, findings=found, aborted=True)
        return ReadEntry(number=checked.number, findings=found)

    def finish(self, head: bytes) -> tuple[Finding, ...]:
        """Check the head, and the model against the last checkpoint."""
        return (*self._verifier.finish(head), *self._model.finish().found)

    def check_receipts(self, receipts: Sequence[AnyReceipt]) -> tuple[Finding, ...]:
        """Hold the sites' receipts against the transcript; those of another protection fail."""
        notes = Findings("receipts")
        own = [receipt for receipt in receipts if isinstance(receipt, Receipt)]
        fail_foreign(receipts, own, notes)
        return (*self._verifier.check_receipts(own), *notes.found)
