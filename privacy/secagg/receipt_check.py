"""The sites' receipts against a transcript: whether the sites saw this history or another one.

Run by auditors. A receipt is believed because a site handed it over; it is not signed. An aggregator that runs two
histories, or leaves out the last rounds, can make each of them consistent in itself: the receipts are what tells.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from privacy.secagg.findings import Finding, Findings
from privacy.secagg.receipt import Receipt
from privacy.secagg.round_check import RoundFacts
from privacy.secagg.transcript import entry_name


@dataclass(frozen=True, kw_only=True)
class _Round:
    number: int
    server_round: int
    session: bytes
    round_number: int
    model_hash: bytes
    previous: bytes
    headers: dict[str, bytes]
    survivors_digest: bytes
    agreed: tuple[str, ...]


class ReceiptBook:
    """What receipts must agree with: the announced rounds of a transcript by their digest.

    `damaged` is set where an entry could not be read.
    """

    def __init__(self) -> None:
        self.damaged = False
        self._rounds: dict[bytes, _Round] = {}

    def note(self, number: int, facts: RoundFacts, *, session: bytes, server_round: int) -> None:
        """Add a round, completed or aborted."""
        self._rounds[facts.announced.context] = _Round(
            number=number,
            server_round=server_round,
            session=session,
            round_number=facts.announced.round_number,
            model_hash=facts.announced.model_hash,
            previous=facts.announced.previous,
            headers={name: found.digest for name, found in facts.headers.items()},
            survivors_digest=facts.survivors_digest,
            agreed=facts.agreed,
        )

    def check(self, receipts: Iterable[Receipt]) -> tuple[Finding, ...]:
        """Every contradiction, and per site how many receipts match and how many it lacks."""
        notes = Findings("receipts")
        matched: dict[str, set[bytes]] = {}
        for receipt in receipts:
            found = matched.setdefault(receipt.site, set())
            if self._matches(receipt, notes):
                found.add(receipt.context)
        for site, contexts in sorted(matched.items()):
            where = f"receipts of {site}"
            if not any(finding.where == where for finding in notes.found):
                notes.add("proved", "every receipt of the site names a round of this transcript as it is", where=where)
            lacking = [
                round_.server_round
                for context, round_ in self._rounds.items()
                if site in round_.agreed and context not in contexts
            ]
            if lacking:
                notes.add("unchecked", f"the site has no receipt of {len(lacking)} rounds that it signed", where=where)
        if not matched:
            notes.add("unchecked", "no receipts were given: another history, shown to the sites, would not be noticed")
        return tuple(notes.found)

    def _matches(self, receipt: Receipt, notes: Findings) -> bool:
        where = f"receipts of {receipt.site}"
        shown = self._rounds.get(receipt.context)
        if shown is None:
            notes.fail(
                f"{receipt.site} agreed to round {receipt.round_number} of session {receipt.session.hex()[:8]} with "
                f"{len(receipt.survivors)} survivors, which is not in the transcript: "
                + ("it may be in a damaged entry, or " if self.damaged else "")
                + "entries were removed, or the sites were shown another history",
                where=where,
            )
            return False
        differences = [
            name
            for name, ours, theirs in (
                ("session", receipt.session, shown.session),
                ("round number", receipt.round_number, shown.round_number),
                ("model", receipt.model_hash, shown.model_hash),
                ("entry before", receipt.previous, shown.previous),
                ("own upload", receipt.header_digest, shown.headers.get(receipt.site)),
                ("survivors", receipt.survivors, tuple(sorted(shown.headers))),
                ("survivor set", receipt.survivors_digest, shown.survivors_digest),
            )
            if ours != theirs
        ]
        if differences:
            notes.fail(
                f"{receipt.site} holds another {', '.join(differences)} than {entry_name(shown.number)}", where=where
            )
        return not differences
