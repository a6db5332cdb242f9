"""The sites' receipts of encrypted rounds against a transcript: whether the sites saw this history or another one.

Run by auditors. A receipt is believed because a site handed it over; it is not signed. An aggregator that runs two
histories, or leaves out the last rounds, can make each of them consistent in itself: the receipts are what tells.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from privacy.chain import entry_name
from privacy.he.receipt import EncryptedReceipt
from privacy.he.round_check import EncryptedFacts
from privacy.secagg.findings import Finding, Findings

MATCHED = "every receipt of the site names a round of this transcript as it is"


@dataclass(frozen=True, kw_only=True)
class _Round:
    number: int
    completed: bool
    facts: EncryptedFacts


class EncryptedReceiptBook:
    """What receipts must agree with: the announcements of a transcript by their digest.

    `damaged` is set where an entry could not be read.
    """

    def __init__(self) -> None:
        self.damaged = False
        self._rounds: dict[bytes, _Round] = {}

    def note(self, number: int, facts: EncryptedFacts, *, completed: bool) -> None:
        """Add a round or an end, completed or aborted."""
        self._rounds[facts.announced.context] = _Round(number=number, completed=completed, facts=facts)

    def check(self, receipts: Iterable[EncryptedReceipt]) -> tuple[Finding, ...]:
        """Every contradiction, and per site what it signed that is not in the transcript, or has no receipt."""
        notes = Findings("receipts")
        given: dict[str, list[EncryptedReceipt]] = {}
        for receipt in receipts:
            given.setdefault(receipt.site, []).append(receipt)
        for site, held in sorted(given.items()):
            notes.where = f"receipts of {site}"
            failures = notes.failures
            for receipt in held:
                self._compare(receipt, notes)
            if notes.failures == failures:
                notes.add("proved", MATCHED)
            contexts = {receipt.context for receipt in held}
            signed = [context for context, round_ in self._rounds.items() if site in round_.facts.signed]
            lacking = len(set(signed) - contexts)
            if lacking:
                notes.add("unchecked", f"the site has no receipt of {lacking} rounds that it signed")
        notes.where = "receipts"
        if not given:
            notes.add("unchecked", "no receipts were given: another history, shown to the sites, would not be noticed")
        return tuple(notes.found)

    def _compare(self, receipt: EncryptedReceipt, notes: Findings) -> None:
        shown = self._rounds.get(receipt.context)
        if shown is None:
            notes.fail(
                f"{receipt.site} signed round {receipt.round_number} of session {receipt.session.hex()[:8]}, which is "
                "not in the transcript: "
                + ("it may be in a damaged entry, or " if self.damaged else "")
                + "entries were removed, or the sites were shown another history"
            )
            return
        announced, before = shown.facts.announced, shown.facts.before
        found = shown.facts.signed.get(receipt.site)
        differences = [
            name
            for name, ours, theirs in (
                ("session", receipt.session, announced.session),
                ("round number", receipt.round_number, announced.round_number),
                ("server round", receipt.server_round, announced.server_round),
                ("group key", receipt.fingerprint, announced.fingerprint),
                ("sum before", receipt.sum_root, announced.sum_root),
                (
                    "inputs before",
                    receipt.inputs_digest,
                    receipt.inputs_digest if before is None else before.inputs_digest,
                ),
                ("own message", receipt.message_digest, receipt.message_digest if found is None else found.digest),
            )
            if ours != theirs
        ]
        if differences:
            notes.fail(f"{receipt.site} holds another {', '.join(differences)} than {entry_name(shown.number)}")
        elif found is None and shown.completed:
            notes.add(
                "unchecked",
                f"what it signed in server round {announced.server_round} is not in {entry_name(shown.number)}: "
                "it came late, was refused, or was left out",
            )
