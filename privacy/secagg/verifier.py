"""The offline verifier of a transcript: entry by entry, with the public keys of the roster and nothing else.

    TranscriptVerifier   add, once per entry in order -> finish -> check_receipts

Run by auditors, in a process that holds no role of the protocol. Input is UNVERIFIED bytes; problems become findings,
all of them, and nothing that a transcript holds makes a method raise. What the sites signed binds every entry but the
last; that the sites saw this history and no other is shown by their receipts alone.

It cannot show honest training, the range or the quality of what was uploaded, or that the aggregator kept nothing else.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from privacy.chain import HEAD, NO_ENTRY, Retention, entry_name
from privacy.chain_check import check_head, check_link, check_retention
from privacy.errors import HostileInputError, PrivacyError
from privacy.secagg.blame import convicted_in
from privacy.secagg.differencing import NOTHING_OPENED
from privacy.secagg.findings import Finding, Findings, Status
from privacy.secagg.receipt import Receipt
from privacy.secagg.receipt_check import ReceiptBook
from privacy.secagg.replay import VectorReader, check_sum_root, replay_sum
from privacy.secagg.requests import RoundInvitation
from privacy.secagg.round_check import RoundFacts, check_evidence, check_round
from privacy.secagg.session_check import SessionFacts, check_session
from privacy.secagg.transcript import FORMAT, SUM, AbortEntry, Content, Entry, RoundEntry, SessionEntry
from privacy.streams import Words


@dataclass(frozen=True, kw_only=True)
class CheckedEntry:
    """One entry after its checks; `content` is None where it cannot be read.

    `sum` is the replayed sum of a completed round, shape (vector_length,), None where its vectors are not all at hand.
    """

    number: int
    content: Content | None
    facts: SessionFacts | RoundFacts | None
    sum: Words | None
    findings: tuple[Finding, ...]


class TranscriptVerifier:
    """Checks one transcript; `anchor` is the consortium's public key, or None where the auditor has none."""

    def __init__(self, *, anchor: bytes | None, vectors: VectorReader) -> None:
        self._anchor = anchor
        self._vectors = vectors
        self._count = 0
        self._last: bytes | None = NO_ENTRY
        self._session: SessionFacts | None = None
        self._gap = False
        self._sessions: set[bytes] = set()
        self._last_round = 0
        self._completed: int | None = None
        self._models: dict[int, bytes] = {}
        self._opened = NOTHING_OPENED
        self._settings: list[tuple[int, Retention]] = []
        self._rounds: list[tuple[int, bool]] = []
        self._book = ReceiptBook()

    def add(self, data: bytes) -> CheckedEntry:
        """Check the next entry; empty bytes stand for a file that is missing."""
        number, notes = self._count, Findings(entry_name(self._count))
        self._count += 1
        try:
            entry = FORMAT.decode_entry(data)
        except HostileInputError as error:
            notes.fail(f"{error if data else 'the entry is missing'}")
            # Whatever stood here, the next entry cannot be held against it; it may have been a session's.
            self._last, self._completed, self._gap = None, None, True
            self._book.damaged = True
            return CheckedEntry(number=number, content=None, facts=None, sum=None, findings=tuple(notes.found))
        check_link(entry, notes, number=number, last=self._last)
        match entry.content:
            case SessionEntry():
                checked = self._add_session(number, entry.content, notes)
            case RoundEntry():
                checked = self._add_round(number, entry, entry.content, notes)
            case AbortEntry():
                checked = self._add_abort(number, entry, entry.content, notes)
        self._last = entry.digest
        return replace(checked, findings=tuple(notes.found))

    def finish(self, head: bytes) -> tuple[Finding, ...]:
        """Check the head, and whether every vector that should be kept is; call it after the last entry."""
        notes = Findings(HEAD)
        check_head(head, FORMAT, notes, count=self._count, last=self._last)
        check_retention(self._rounds, self._settings, notes)
        return tuple(notes.found)

    def check_receipts(self, receipts: Iterable[Receipt]) -> tuple[Finding, ...]:
        """Hold what sites kept against the transcript; call it after the last entry."""
        return self._book.check(receipts)

    def _add_session(self, number: int, entry: SessionEntry, notes: Findings) -> CheckedEntry:
        self._session = check_session(entry, notes, anchor=self._anchor)
        self._last_round, self._gap = 0, False
        notes.require(entry.session not in self._sessions, "the session's identifier was used before")
        self._sessions.add(entry.session)
        self._settings.append((len(self._rounds), entry.retention))
        known = self._models.get(entry.completed)
        if not self._models and number == 0:
            if entry.completed:
                notes.add(
                    "unchecked", f"the transcript begins after round {entry.completed}; nothing shows those before"
                )
        elif self._completed is None:
            notes.add("unchecked", "whether the session goes on from the rounds before it: an entry is damaged")
        elif known is None:
            notes.fail(f"the session goes on after round {entry.completed}, whose entry is missing or damaged")
        elif known != entry.model_hash:
            notes.fail(f"the session starts from another model than round {entry.completed} ended with")
        elif entry.completed < self._completed:
            notes.add(
                "unchecked", f"rounds after {entry.completed} were run again, as after a kill: see the second sums"
            )
        self._completed = entry.completed
        self._models[entry.completed] = entry.model_hash
        return CheckedEntry(number=number, content=entry, facts=self._session, sum=None, findings=())

    def _add_round(self, number: int, entry: Entry, content: RoundEntry, notes: Findings) -> CheckedEntry:
        facts = self._check_messages(entry, content, notes)
        names = (*(facts.survivors if facts else content.upload_leaves), SUM)
        kept = any(self._vectors(number, name) is not None for name in names)
        self._rounds.append((number, kept))
        total = None
        if facts is not None:
            check_sum_root(content, notes, length=facts.announced.vector_length)
            if kept:
                try:
                    total = replay_sum(number, content, facts, self._vectors, notes)
                except (PrivacyError, MemoryError) as error:
                    notes.fail(f"its sum cannot be replayed: {error}")
        self._completed = content.server_round if self._completed is None else self._completed + 1
        self._models[self._completed] = content.model_after
        return CheckedEntry(number=number, content=content, facts=facts, sum=total, findings=())

    def _add_abort(self, number: int, entry: Entry, content: AbortEntry, notes: Findings) -> CheckedEntry:
        facts = self._check_messages(entry, content, notes)
        if content.evidence and self._session is not None:
            check_evidence(content.evidence, self._session, facts, notes)
        if facts is not None and facts.sum_opened and not content.evidence:
            notes.add("unchecked", "the round was aborted after enough shares had been revealed to open its sum")
        return CheckedEntry(number=number, content=content, facts=facts, sum=None, findings=())

    def _check_messages(self, entry: Entry, content: RoundEntry | AbortEntry, notes: Findings) -> RoundFacts | None:
        """What completed and aborted rounds have in common."""
        if self._gap and self._session is not None and not _is_of(content, self._session):
            self._session = None
        if self._session is None:
            status: Status = "unchecked" if self._gap else "failed"
            notes.add(status, "the round's messages cannot be checked: its session's entry is missing or damaged")
            return None
        complete = isinstance(content, RoundEntry)
        if self._completed is not None and content.server_round != self._completed + 1:
            notes.fail(f"the entry is about round {content.server_round}, round {self._completed + 1} is next")
        facts = check_round(content.messages, self._session, notes, previous=entry.previous, complete=complete)
        if facts is None:
            return None
        announced = facts.announced
        with notes.claim("the round is newer than those before and starts from the model that they led to"):
            notes.require(
                announced.round_number > self._last_round,
                f"number {announced.round_number} of its session follows {self._last_round}",
            )
            if self._completed is not None:
                notes.require(
                    announced.model_hash == self._models[self._completed],
                    "the sites were shown another model than the entries before lead to",
                )
        self._last_round = max(self._last_round, announced.round_number)
        self._book.note(entry.number, facts, session=self._session.session, server_round=content.server_round)
        if facts.sum_opened:
            self._check_second_sum(facts, content, notes)
        return facts

    def _check_second_sum(self, facts: RoundFacts, content: RoundEntry | AbortEntry, notes: Findings) -> None:
        model, session = facts.announced.model_hash, self._session
        with notes.claim("no two sums over one model single a site out"):
            convicted: frozenset[str] = frozenset()
            if session is not None and content.messages.evidence:
                convicted = convicted_in(
                    content.messages.evidence, context=self._opened.last_context, roster=session.roster
                )
            self._opened.check(
                facts.survivors,
                model_hash=model,
                convicted=convicted,
                second_sum="same survivors",
                min_cohort_change=1,
            )
        self._opened = self._opened.including(
            facts.survivors, model_hash=model, context=facts.announced.context, min_cohort_change=1
        )


def _is_of(content: RoundEntry | AbortEntry, session: SessionFacts) -> bool:
    try:
        return RoundInvitation.from_bytes(content.messages.invitation).session == session.session
    except HostileInputError:
        return False
