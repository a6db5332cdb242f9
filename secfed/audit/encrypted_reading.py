"""An encrypted run's transcript as `secfed audit verify` reads it: messages, sums of ciphertexts, and what lies beside.

The model cannot be followed as in masked runs (`secfed.audit.model_replay`): it never leaves the sites in the clear.
"""

from collections.abc import Sequence
from pathlib import Path

from privacy.chain import entry_name
from privacy.he.receipt import EncryptedReceipt
from privacy.he.round_check import EncryptedFacts
from privacy.he.transcript import FORMAT, EncryptedAbortEntry, EncryptedRoundEntry, EncryptedSessionEntry
from privacy.he.verifier import EncryptedVerifier
from privacy.secagg.findings import Finding, Findings
from secfed.audit.plan_check import check_plan_hash, read_plan
from secfed.audit.reading import AnyReceipt, ReadEntry, fail_foreign
from secfed.audit.sum_files import SumFiles
from secfed.audit.transcript_folder import TranscriptFolder
from secfed.config import TrainingPlan

CANNOT_BE_PROVED = (
    "the model and the steps to it, which take the group key; only that a round's contributors signed one model",
    "that no site works with the aggregator: every site's key opens every upload",
    "that sites trained honestly, or on what they say: ciphertexts hide a poisoned update as well as a good one",
    "who spoiled a sum that did not decrypt: no upload is opened alone",
    "that nobody can learn about a patient from the sums themselves: only differential privacy bounds that",
    "that the aggregator kept, saw or was given nothing else than the transcript holds",
    "that the last entry is the last: no later round has signed it; the sites' receipts tell",
)


class EncryptedReading:
    """The transcript of the aggregator folder `folder`."""

    protection = "encrypted"
    cannot_be_proved = CANNOT_BE_PROVED

    def __init__(self, folder: Path, transcript: TranscriptFolder, *, anchor: bytes | None) -> None:
        self._folder, self._transcript = folder, transcript
        self._verifier = EncryptedVerifier(anchor=anchor, read=transcript.ciphertext)
        self._sums = SumFiles(folder)
        self._plan: TrainingPlan | None = None

    def add(self, data: bytes) -> ReadEntry:
        """Check the next entry and its plan, and note the sum that it publishes."""
        checked = self._verifier.add(data)
        notes = Findings(entry_name(checked.number))
        content, facts = checked.content, checked.facts
        names = tuple(facts.signed) if isinstance(facts, EncryptedFacts) else None
        session, completed = None, None
        match content:
            case None:
                self._transcript.expect_vectors(checked.number, None, ending=FORMAT.ending)
            case EncryptedSessionEntry():
                session = content.session
                self._plan = read_plan(content.plan, self._folder, notes)
            case EncryptedRoundEntry():
                completed = content.server_round
                self._transcript.expect_vectors(checked.number, names, ending=FORMAT.ending)
                self._sums.note(content.server_round, content.sum_root)
        if isinstance(facts, EncryptedFacts) and names:
            check_plan_hash(facts.announced.plan_hash, self._plan, notes)
        return ReadEntry(
            number=checked.number,
            findings=(*checked.findings, *notes.found),
            session=session,
            server_round=completed,
            replayed=checked.replayed,
            aborted=isinstance(content, EncryptedAbortEntry),
        )

    def finish(self, head: bytes) -> tuple[Finding, ...]:
        """Check the head, and the sums that the aggregator keeps for the sites."""
        return (*self._verifier.finish(head), *self._sums.check().found)

    def check_receipts(self, receipts: Sequence[AnyReceipt]) -> tuple[Finding, ...]:
        """Hold the sites' receipts against the transcript; those of another protection fail."""
        notes = Findings("receipts")
        own = [receipt for receipt in receipts if isinstance(receipt, EncryptedReceipt)]
        fail_foreign(receipts, own, notes)
        return (*self._verifier.check_receipts(own), *notes.found)
