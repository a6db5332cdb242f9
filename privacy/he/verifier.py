"""The offline verifier of an encrypted run's transcript: entry by entry, with the roster's public keys and no other.

    EncryptedVerifier   add, once per entry in order -> finish -> check_receipts

Run by auditors, in a process that holds no role of the protocol and no encryption library. Input is UNVERIFIED bytes;
problems become findings, all of them, and nothing that a transcript holds makes a method raise. What the sites signed
binds every entry but the last; that the sites saw this history and no other is shown by their receipts alone.

It cannot follow the model: nobody without the group key can. It cannot show honest training, who spoiled a sum that did
not decrypt, or that no holder of the key works with the aggregator.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from privacy.chain import HEAD, NO_ENTRY, Retention, entry_name
from privacy.chain_check import check_head, check_link, check_retention
from privacy.errors import HostileInputError, PrivacyError
from privacy.he.group_check import GroupFacts, check_group
from privacy.he.messages import EncryptedInput
from privacy.he.receipt import EncryptedReceipt
from privacy.he.receipt_check import EncryptedReceiptBook
from privacy.he.replay import CiphertextReader, replay_sum
from privacy.he.requests import EncryptedAnnouncement, Step
from privacy.he.round_check import EncryptedFacts, SumFacts, check_announcement, check_endings, check_inputs
from privacy.he.transcript import (
    FORMAT,
    Content,
    EncryptedAbortEntry,
    EncryptedEndEntry,
    EncryptedRoundEntry,
    EncryptedSessionEntry,
    Entry,
)
from privacy.secagg.envelope import Admitted
from privacy.secagg.findings import Finding, Findings, Status

FOLLOWS = "the sum to step on is the one that was published, by its root and its contributors"
UNSIGNED_SUM = "no site has signed a step on its sum: no later round, and no end, is in the transcript"
RUN_AGAIN = "the server round was run again before anybody had signed a step on its first sum"


@dataclass(frozen=True, kw_only=True)
class CheckedEncryptedEntry:
    """One entry after its checks; `content` is None where it cannot be read.

    `replayed` says whether the sum of a completed round was added again from its uploads.
    """

    number: int
    content: Content | None
    facts: GroupFacts | EncryptedFacts | None
    replayed: bool
    findings: tuple[Finding, ...]


@dataclass(frozen=True, kw_only=True)
class _Stepped:
    """By which sum a server round's successors came to their model, and who said so first."""

    total: bytes
    number: int
    names: tuple[str, ...]


class EncryptedVerifier:
    """Checks one transcript; `anchor` is the consortium's public key, or None where the auditor has none."""

    def __init__(self, *, anchor: bytes | None, read: CiphertextReader) -> None:
        self._anchor = anchor
        self._read = read
        self._count = 0
        self._last: bytes | None = NO_ENTRY
        self._first: EncryptedSessionEntry | None = None
        self._group: GroupFacts | None = None
        self._gap = False
        self._hole = False
        self._ended = False
        self._before_first = 0
        self._plan_hash = b""
        self._sessions: frozenset[bytes] = frozenset()
        self._last_round = 0
        self._completed: int | None = None
        # Published sums by the digest of their announcement, and the newest of every server round.
        self._sums: Mapping[bytes, SumFacts] = {}
        self._newest: Mapping[int, SumFacts] = {}
        self._stepped: Mapping[int, _Stepped] = {}
        self._settings: tuple[tuple[int, Retention], ...] = ()
        self._rounds: tuple[tuple[int, bool], ...] = ()
        self._book = EncryptedReceiptBook()

    def add(self, data: bytes) -> CheckedEncryptedEntry:
        """Check the next entry; empty bytes stand for a file that is missing."""
        number, notes = self._count, Findings(entry_name(self._count))
        self._count += 1
        try:
            entry = FORMAT.decode_entry(data)
        except HostileInputError as error:
            notes.fail(f"{error if data else 'the entry is missing'}")
            # Whatever stood here, the next entry cannot be held against it; it may have been a session's.
            self._last, self._completed, self._gap, self._hole = None, None, True, True
            self._book.damaged = True
            return CheckedEncryptedEntry(
                number=number, content=None, facts=None, replayed=False, findings=tuple(notes.found)
            )
        check_link(entry, notes, number=number, last=self._last)
        facts: GroupFacts | EncryptedFacts | None
        replayed = False
        match entry.content:
            case EncryptedSessionEntry() as content:
                facts = self._add_session(content, notes)
            case EncryptedRoundEntry() as content:
                facts, replayed = self._add_round(entry, content, notes)
            case EncryptedAbortEntry() as content:
                facts = self._add_abort(entry, content, notes)
            case EncryptedEndEntry() as content:
                facts = self._add_end(entry, content, notes)
        self._last = entry.digest
        return CheckedEncryptedEntry(
            number=number, content=entry.content, facts=facts, replayed=replayed, findings=tuple(notes.found)
        )

    def finish(self, head: bytes) -> tuple[Finding, ...]:
        """Check the head, and whether every upload that should be kept is; call it after the last entry."""
        notes = Findings(HEAD)
        check_head(head, FORMAT, notes, count=self._count, last=self._last)
        check_retention(self._rounds, self._settings, notes)
        newest = self._newest.get(max(self._newest, default=0))
        if newest is not None and newest.announced.server_round not in self._stepped:
            notes.add("unchecked", UNSIGNED_SUM, where=entry_name(newest.number))
        return tuple(notes.found)

    def check_receipts(self, receipts: Iterable[EncryptedReceipt]) -> tuple[Finding, ...]:
        """Hold what sites kept against the transcript; call it after the last entry."""
        return self._book.check(receipts)

    def _add_session(self, entry: EncryptedSessionEntry, notes: Findings) -> GroupFacts | None:
        before, self._group = self._group, check_group(entry, notes, anchor=self._anchor)
        self._gap = False
        notes.require(entry.session not in self._sessions, "the session's identifier was used before")
        self._sessions |= {entry.session}
        self._settings = (*self._settings, (len(self._rounds), entry.retention))
        first = self._first = self._first or entry
        if first is not entry:
            with notes.claim("run, roster, plan and parameters are those of the first session"):
                for name in ("run", "roster", "plan", "parameters"):
                    notes.require(getattr(entry, name) == getattr(first, name), f"the session has another {name}")
        if self._group is not None and before is not None and self._group.fingerprint != before.fingerprint:
            self._check_new_key(notes)
        if self._completed is None and (first is not entry or self._hole):
            notes.add("unchecked", "whether the session goes on from the rounds before it: an entry is damaged")
        elif self._completed is None:
            self._before_first = entry.completed
            if entry.completed:
                notes.add(
                    "unchecked", f"the transcript begins after round {entry.completed}; nothing shows those before"
                )
        elif entry.completed > self._completed:
            notes.fail(f"the session goes on after round {entry.completed}, whose entry is missing")
        elif entry.completed < self._completed:
            notes.add("unchecked", f"the session goes on from round {entry.completed}, as after a kill")
        if self._completed is None:
            self._completed = entry.completed
        return self._group

    def _check_new_key(self, notes: Findings) -> None:
        """Another group key than before: only where no site had stepped on a sum under the first."""
        if self._stepped:
            done = max(self._stepped)
            stepped = self._stepped[done]
            notes.fail(
                f"the group key was replaced, although {list(stepped.names)} had signed in "
                f"{entry_name(stepped.number)} that they stepped on the sum of server round {done}"
            )
        elif self._newest:
            notes.add("unchecked", "the group key was replaced: the sums before it are void")
        self._newest = {}

    def _add_round(
        self, entry: Entry, content: EncryptedRoundEntry, notes: Findings
    ) -> tuple[EncryptedFacts | None, bool]:
        facts, headers = self._check_inputs(entry, content, notes, completed=True)
        if facts is None or self._group is None:
            self._completed, self._hole = None, True
            return facts, False
        kept = any(self._read(entry.number, name, limit=1) is not None for name in headers)
        self._rounds = (*self._rounds, (entry.number, kept))
        announced, replayed = facts.announced, False
        with notes.claim("at least the announced minimum of sites uploaded"):
            if len(headers) < announced.minimum:
                notes.fail(f"{len(headers)} sites uploaded, at least {announced.minimum} were announced")
        if kept and announced.step == "round":
            try:
                replayed = replay_sum(
                    entry.number, content, announced, headers, group=self._group, read=self._read, notes=notes
                )
            except (PrivacyError, MemoryError) as error:
                notes.fail(f"its sum cannot be replayed: {error}")
        if announced.server_round in self._newest and announced.server_round not in self._stepped:
            notes.add("unchecked", RUN_AGAIN)
        found = SumFacts(
            number=entry.number,
            announced=announced,
            root=content.sum_root,
            inputs_digest=facts.inputs_digest,
            contributors=tuple(headers),
        )
        self._sums = {**self._sums, announced.context: found}
        self._newest = {**self._newest, announced.server_round: found}
        self._completed = max(announced.server_round, self._completed or 0)
        return facts, replayed

    def _add_abort(self, entry: Entry, content: EncryptedAbortEntry, notes: Findings) -> EncryptedFacts | None:
        return self._check_inputs(entry, content, notes, completed=False)[0]

    def _add_end(self, entry: Entry, content: EncryptedEndEntry, notes: Findings) -> EncryptedFacts | None:
        announced = self._announced(entry, content.server_round, content.announcement, notes, step="end")
        if announced is None or self._group is None:
            return None
        before = self._sum_before(announced, notes)
        endings = check_endings(content.endings, announced, self._group, notes, before=before)
        with notes.claim("at least the announced minimum of sites ended the run on one model"):
            if len(endings) < announced.minimum:
                notes.fail(f"{len(endings)} sites ended the run, at least {announced.minimum} were announced")
        facts = EncryptedFacts(announced=announced, before=before, signed=endings)
        self._note_signed(entry.number, facts, notes, completed=True)
        self._ended = True
        return facts

    def _check_inputs(
        self, entry: Entry, content: EncryptedRoundEntry | EncryptedAbortEntry, notes: Findings, *, completed: bool
    ) -> tuple[EncryptedFacts | None, dict[str, Admitted[EncryptedInput]]]:
        """What completed and aborted rounds have in common."""
        step: Step | None = "round" if completed else None
        announced = self._announced(entry, content.server_round, content.announcement, notes, step=step)
        if announced is None or self._group is None:
            return None, {}
        before = self._sum_before(announced, notes)
        headers: dict[str, Admitted[EncryptedInput]] = {}
        if completed or content.headers:
            headers = check_inputs(content.headers, announced, self._group, notes, before=before)
        facts = EncryptedFacts(announced=announced, before=before, signed=headers)
        self._note_signed(entry.number, facts, notes, completed=completed)
        return facts, headers

    def _announced(
        self, entry: Entry, server_round: int, data: bytes, notes: Findings, *, step: Step | None
    ) -> EncryptedAnnouncement | None:
        """E0, once it fits its session and the rounds before it."""
        if self._gap and self._group is not None and not _is_of(data, self._group):
            self._group = None
        if self._group is None:
            status: Status = "unchecked" if self._gap else "failed"
            notes.add(status, "the round's messages cannot be checked: its session's entry is missing or damaged")
            return None
        if self._completed is not None and not 0 <= server_round - self._completed <= 1:
            notes.fail(f"the entry is about server round {server_round}, round {self._completed + 1} is next")
        announced = check_announcement(
            data, self._group, notes, previous=entry.previous, server_round=server_round, step=step
        )
        if announced is not None:
            self._plan_hash = self._plan_hash or announced.plan_hash
            notes.require(announced.plan_hash == self._plan_hash, "the round was announced under another plan")
        if announced is not None and self._ended:
            notes.add("unchecked", "the run goes on after its end")
        return announced

    def _sum_before(self, announced: EncryptedAnnouncement, notes: Findings) -> SumFacts | None:
        """The published sum that E0 names; None in the first round, and where it is not at hand."""
        completed = announced.server_round - 1
        if completed == 0:
            return None
        found = self._sums.get(announced.previous_round)
        if found is None:
            if self._hole or completed == self._before_first:
                notes.add("unchecked", "the sum to step on: its entry is missing or damaged, or before the first one")
            else:
                notes.fail("the sum to step on is not in the transcript")
            return None
        with notes.claim(FOLLOWS):
            if found.announced.server_round != completed or found.announced.fingerprint != announced.fingerprint:
                notes.fail(f"the sum to step on is not of server round {completed} under this group key")
            if found.root != announced.sum_root or found.contributors != announced.contributors:
                notes.fail(
                    f"the sum to step on has another root, or other contributors, than {entry_name(found.number)}"
                )
        if self._newest.get(completed) is not found:
            notes.add("unchecked", f"the sum to step on was published before a second one of server round {completed}")
        return found

    def _note_signed(self, number: int, facts: EncryptedFacts, notes: Findings, *, completed: bool) -> None:
        """Hold what sites signed against what was signed before."""
        announced, names = facts.announced, tuple(facts.signed)
        self._book.note(number, facts, completed=completed)
        newer = announced.round_number > self._last_round
        if not newer:
            text = f"the announcement has the round number {announced.round_number}, which follows {self._last_round}"
            notes.add("failed" if names else "unchecked", text)
        self._last_round = max(self._last_round, announced.round_number)
        if not names:
            return
        again = self._stepped.get(announced.server_round) if announced.step == "round" else None
        if again is not None:
            notes.fail(
                f"server round {announced.server_round} was run again, although {list(again.names)} had signed in "
                f"{entry_name(again.number)} that they stepped on its sum"
            )
        if announced.server_round == 1:
            return
        step = _Stepped(total=announced.previous_round, number=number, names=names)
        first = self._stepped.get(announced.server_round - 1, step)
        if first.total != step.total:
            notes.fail(
                f"{list(names)} stepped on another sum of server round {announced.server_round - 1} than "
                f"{list(first.names)} in {entry_name(first.number)}"
            )
        self._stepped = {announced.server_round - 1: step, **self._stepped}


def _is_of(announcement: bytes, group: GroupFacts) -> bool:
    try:
        return EncryptedAnnouncement.from_bytes(announcement).session == group.session
    except HostileInputError:
        return False
