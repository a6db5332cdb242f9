"""The budget ledger: what the patients of one data set have paid for all runs together, and a refusal when it is spent.

Run by a site, which owns it; no plan and no aggregator can change it. The order of a round is

    charge()    on the disk before any patient is sampled; BudgetSpentError and nothing written if the cap would pass
    sample, clip, add noise
    sent()      on the disk before the bytes leave: from now on they are the only ones that this charge covers

so a kill at any point can lose a round that was paid for, and never a payment. A charge is never taken back, whatever
becomes known of survivors later: that is a note. One ledger stands for one data set, known by its fingerprint, across
all runs; where two data sets in one folder share patients, each ledger carries the other's charges over when it is
opened. What is charged is priced by `privacy.accounting`.

It does not notice by itself that its files were deleted or replaced by older copies: `head` (a count and a digest) is
to be written down elsewhere, in receipts or the site's books, and given to `privacy.ledger_check.verify`. It believes
what it is told was charged, and knows nothing of the same patients at other sites.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from privacy.accounting import RELATION, UNIT, Spend
from privacy.dataset_fingerprint import patient_marks
from privacy.errors import MisuseError
from privacy.ledger_account import Account, to_carry
from privacy.ledger_entries import (
    DIGEST_BYTES,
    BudgetSpentError,
    Cap,
    Charge,
    Content,
    Entry,
    LedgerError,
    Note,
    Opened,
    Sent,
    decode_entry,
    encode_entry,
)
from privacy.ledger_file import LAST, FolderLock, append_line, complete_line, read_lines
from privacy.segment import Segment

__all__ = ["BudgetSpentError", "Charge", "Head", "Ledger", "LedgerError"]


@dataclass(frozen=True, kw_only=True)
class Head:
    """How many entries there are, and the digest of the last: pins everything before."""

    count: int
    digest: str


class Ledger:
    """An open ledger; use `Ledger.open`. It holds its folder's lock until it is closed."""

    def __init__(self, path: Path, account: Account, lock: FolderLock, *, durable: bool) -> None:
        self.path = path
        self._account = account
        self._lock = lock
        self._durable = durable
        self._usable = True

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        fingerprint: bytes,
        cap_epsilon: float,
        delta: float,
        patients: Mapping[str, bytes] | None = None,
        durable: bool = True,
        wait_seconds: float = 0.0,
    ) -> Self:
        """Open the ledger of a data set, or begin it; `patients` maps their stable names to their content digests.

        A lower cap than before is written down and holds from now on. Without `patients` no charges are carried over
        from other ledgers. `durable` off is for simulations: a power cut may then lose charges, a kill may not.

        Raises:
            LedgerError: damaged, of another data set, with another delta, with a cap above the one that is written down
                (`raise_cap` is the way), in use, or beside a damaged ledger.
            MisuseError: the fingerprint is not 32 bytes long, or a patient has no name or no digest.
        """
        if len(fingerprint) != DIGEST_BYTES:
            raise MisuseError(f"fingerprint has {len(fingerprint)} bytes, {DIGEST_BYTES} are needed")
        asked = Opened(
            fingerprint=fingerprint.hex(),
            cap_epsilon=float(cap_epsilon),
            delta=float(delta),
            unit=UNIT,
            relation=RELATION,
            patients=patient_marks(patients or {}),
        )
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = FolderLock(path.parent, wait_seconds=wait_seconds)
        try:
            entries, missing = read_entries(path)
            account = _replayed(path, entries)
            ledger = cls(path, account, lock, durable=durable)
            if account.opened is None:
                account.require(asked)
            else:
                _require_same(path, account, asked)
            others = _others(path, fingerprint=asked.fingerprint)
            # Nothing is written before everything has been found in order.
            if missing:
                complete_line(path, missing, durable=durable)
            if account.opened is None:
                ledger._append(asked)
            elif asked.cap_epsilon < account.cap_epsilon:
                ledger._append(Cap(cap_epsilon=asked.cap_epsilon, signed_off_by="", reason="lowered"))
            for other, found in others:
                for carried in to_carry(other, into=account, entries=found):
                    ledger._append(carried)
        except BaseException:
            lock.close()
            raise
        return ledger

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the folder's lock back."""
        self._usable = False
        self._lock.close()

    @property
    def head(self) -> Head:
        """What pins this ledger as it is now."""
        return Head(count=self._account.count, digest=self._account.last)

    @property
    def cap_epsilon(self) -> float:
        """The cap in force."""
        return self._account.cap_epsilon

    @property
    def delta(self) -> float:
        """The delta at which epsilon is capped."""
        return self._account.delta

    def charges(self) -> tuple[Charge, ...]:
        """This ledger's own charges, in order."""
        return tuple(self._account.charges)

    def newest_charge(self, run: str, server_round: int) -> Charge | None:
        """This ledger's newest charge for a round of a run."""
        found = [charge for charge in self._account.charges if (charge.run, charge.round) == (run, server_round)]
        return found[-1] if found else None

    def is_sent(self, charge: Charge) -> bool:
        """Whether bytes were named for a charge."""
        return charge.release in self._account.uploads

    def segments(self) -> tuple[Segment, ...]:
        """Everything that counts against the cap, in order."""
        return self._account.segments

    def spend(self) -> Spend:
        """What the patients have paid so far.

        Raises:
            LedgerError: conditions on sensitivities have used up all of delta.
        """
        found = self._account.spend()
        if found is None:
            raise LedgerError(f"{self.path}: nothing is left of delta = {self.delta:g}, so no epsilon can be given")
        return found

    def rounds_left(self, segment: Segment, *, extra_delta: float = 0.0) -> int:
        """How many more rounds like this one fit under the cap."""
        return self._account.rounds_left(segment, extra_delta=extra_delta)

    def next_attempt(self, run: str, server_round: int) -> int:
        """The attempt to charge by whoever is about to sample for this round, for the first time or again."""
        return self._account.next_attempt(run, server_round)

    def charge(
        self,
        *,
        run: str,
        server_round: int,
        plan: bytes,
        segment: Segment,
        purpose: str,
        attempt: int = 0,
        extra_delta: float = 0.0,
    ) -> Charge:
        """Pay for one round before its patients are sampled; when this returns, the charge is on the disk.

        A round is let out once per attempt. Sending the same bytes again is free and calls nothing; sampling or drawing
        noise again, after a crash that lost the bytes or for any other reason, is attempt 1, 2 and so on and is paid
        for like the first, since two noisy answers tell more than one. An attempt that is charged already is refused
        and not passed over in silence: whoever asks is about to release something that nobody paid for.

        `extra_delta` is a probability with which a conditional sensitivity fails (`privacy.noise`), taken off delta.

        Raises:
            BudgetSpentError: the cap would be passed; nothing was written.
            LedgerError: the attempt is not the next one, or extra_delta is no probability.
            MisuseError: a text is too long or not printable, or so many steps cannot be accounted for.
        """
        content = Charge(
            run=run,
            round=server_round,
            attempt=attempt,
            plan=plan.hex(),
            purpose=purpose,
            sampling_prob=float(segment.sampling_prob),
            noise_multiplier=float(segment.noise_multiplier),
            steps=segment.steps,
            extra_delta=float(extra_delta),
        )
        if content.noise_multiplier > 0.0:
            self._account.require(content)
        after = self._account.spend(more=segment, extra_delta=content.extra_delta)
        if after is None or not after.epsilon <= self.cap_epsilon:
            before = self._account.spend()
            raise BudgetSpentError(
                cap_epsilon=self.cap_epsilon,
                delta=self.delta,
                spent_epsilon=before.epsilon if before else math.inf,
                asked_epsilon=after.epsilon if after else math.inf,
                segment=segment,
                rounds_left=self.rounds_left(segment, extra_delta=content.extra_delta),
            )
        self._append(content)
        return content

    def sent(self, charge: Charge, *, upload: bytes) -> None:
        """Bind a charge to the digest (32 bytes) of what is about to leave; the same digest again changes nothing.

        Raises:
            LedgerError: the charge is not in this ledger, or is bound to other bytes.
            MisuseError: the digest is not 32 bytes long.
        """
        if len(upload) != DIGEST_BYTES:
            raise MisuseError(f"upload is a digest of {DIGEST_BYTES} bytes, got {len(upload)}")
        content = Sent(run=charge.run, round=charge.round, attempt=charge.attempt, upload=upload.hex())
        self._account.require(content)
        if not self.is_sent(charge):
            self._append(content)

    def note(self, *, run: str, server_round: int, text: str) -> None:
        """Write down what became known of a round later; it changes no charge.

        Raises:
            MisuseError: the text is longer than 1000 characters, or not printable.
        """
        self._append(Note(run=run, round=server_round, text=text))

    def raise_cap(self, cap_epsilon: float, *, signed_off_by: str, reason: str) -> None:
        """Let the patients pay more than they were promised: an act of the site's owner, kept with name and reason.

        Raises:
            MisuseError: a name or a reason is missing.
            LedgerError: the cap is not above the present one, or no finite number.
        """
        if not signed_off_by.strip() or not reason.strip():
            raise MisuseError("raising the cap needs the name of who signs it off, and a reason")
        if not cap_epsilon > self.cap_epsilon:
            raise LedgerError(f"cap_epsilon = {cap_epsilon:g} is not above the present {self.cap_epsilon:g}")
        self._append(Cap(cap_epsilon=float(cap_epsilon), signed_off_by=signed_off_by, reason=reason))

    def _append(self, content: Content) -> None:
        if not self._usable:
            raise LedgerError(f"{self.path}: the ledger is closed, or writing to it failed: open it again")
        self._account.require(content)
        line = encode_entry(content, number=self._account.count, previous=self._account.last)
        # Where writing fails, what is on the disk is known only after reading it again.
        self._usable = False
        append_line(self.path, line, durable=self._durable)
        self._account.add(decode_entry(line))
        self._usable = True


def read_entries(path: Path) -> tuple[list[Entry], bytes]:
    """The entries of a ledger's file, and the bytes by which it was cut short; their order is not checked.

    Raises:
        LedgerError: damaged.
    """
    lines, missing = read_lines(path)
    try:
        return [decode_entry(line) for line in lines], missing
    except LedgerError as error:
        raise LedgerError(f"{path}: {error}") from error


def _replayed(path: Path, entries: list[Entry]) -> Account:
    try:
        return Account(entries)
    except LedgerError as error:
        raise LedgerError(f"{path}: {error}") from error


def _require_same(path: Path, account: Account, asked: Opened) -> None:
    """Raise LedgerError unless this ledger is of the data set, and keeps at least what is asked for."""
    found = account.opened
    if found is None or found.fingerprint != asked.fingerprint:
        raise LedgerError(f"{path}: the ledger is of another data set than {asked.fingerprint[:16]}")
    if (found.unit, found.relation) != (asked.unit, asked.relation):
        raise LedgerError(f"{path}: the ledger counts per {found.unit} ({found.relation}), not as this version does")
    if found.delta != asked.delta:
        raise LedgerError(f"{path}: the ledger was opened with delta = {found.delta!r}, not {asked.delta!r}")
    if asked.cap_epsilon > account.cap_epsilon:
        raise LedgerError(
            f"{path}: the ledger has the cap epsilon {account.cap_epsilon:g}, and {asked.cap_epsilon:g} was asked for: "
            "ask for at most what is written down, or let the site's owner sign a higher cap (raise_cap)"
        )


def _others(path: Path, *, fingerprint: str) -> list[tuple[Account, list[Entry]]]:
    """The other ledgers of the folder."""
    found = []
    for newest in sorted(path.parent.glob(f"*{LAST}")):
        other = newest.with_name(newest.name.removesuffix(LAST))
        if other.name == path.name or newest.name.startswith("."):
            continue
        entries, _ = read_entries(other)
        account = _replayed(other, entries)
        if account.opened is not None and account.opened.fingerprint == fingerprint:
            raise LedgerError(f"{path}: {other.name} is a ledger of the same data set; only one can be right")
        found.append((account, entries))
    return found
