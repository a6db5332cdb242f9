"""What the entries of a ledger say together: the cap, the charges, and which bytes left; entries out of place fail.

Run by a site and by auditors; no I/O. The legal order is

    opened  (charge | carried | sent | note | cap)*

where a round's attempts count from 0 without a gap, bytes are named for a charge that is there and never others for the
same, and a charge of another ledger is carried over once.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction

from privacy.accounting import Spend, spend, steps_left
from privacy.errors import RangeError
from privacy.ledger_entries import NO_ENTRY, Cap, Carried, Charge, Content, Entry, LedgerError, Opened, Sent
from privacy.segment import SMALLEST_DELTA, Segment, require_delta, require_epsilon, require_probability


class Account:
    """The state after some entries.

    Raises:
        LedgerError: an entry is out of place.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.count = 0
        self.last = NO_ENTRY
        self.opened: Opened | None = None
        self.cap_epsilon = 0.0
        self.charges: list[Charge] = []
        self.counted: list[Charge | Carried] = []
        self._attempts: Counter[tuple[str, int]] = Counter()
        self.uploads: dict[tuple[str, int, int], str] = {}
        self.carried: set[tuple[str, int]] = set()
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        """Go on by one entry."""
        if (entry.number, entry.previous) != (self.count, self.last):
            raise LedgerError(f"entry {entry.number} does not follow entry {self.count - 1}: the chain is broken")
        self.require(entry.content)
        self._take(entry.content)
        self.count, self.last = entry.number + 1, entry.digest

    def require(self, content: Content) -> None:
        """Raise LedgerError unless this may be the next entry."""
        if isinstance(content, Opened) != (self.opened is None):
            raise LedgerError("the first entry, and only that, must open the ledger")
        try:
            _require_numbers(content)
        except RangeError as error:
            raise LedgerError(f"an entry of kind '{content.KIND}' is not accepted: {error}") from error
        if isinstance(content, Charge) and content.attempt != self.next_attempt(content.run, content.round):
            raise LedgerError(
                f"run {content.run}, round {content.round}: attempt {content.attempt} cannot be charged, the next one "
                f"is {self.next_attempt(content.run, content.round)}. Under a charged attempt only the very bytes that "
                "it paid for may leave; sampling or drawing noise again is another attempt and costs again"
            )
        if isinstance(content, Sent):
            release = (content.run, content.round, content.attempt)
            if not 0 <= content.attempt < self.next_attempt(content.run, content.round):
                raise LedgerError(f"run {content.run}, round {content.round}: attempt {content.attempt} is not charged")
            if self.uploads.get(release, content.upload) != content.upload:
                raise LedgerError(
                    f"run {content.run}, round {content.round}: other bytes were sent for attempt {content.attempt}; "
                    "a fresh sum or fresh noise must be charged as another attempt"
                )
        if isinstance(content, Carried) and (content.fingerprint, content.number) in self.carried:
            raise LedgerError(f"entry {content.number} of ledger {content.fingerprint[:16]} is carried over twice")
        if isinstance(content, Cap) and content.cap_epsilon > self.cap_epsilon and not content.signed_off_by:
            raise LedgerError("the cap was raised, and nobody signed for it")

    def next_attempt(self, run: str, server_round: int) -> int:
        """How often the round is charged so far."""
        return self._attempts[run, server_round]

    @property
    def delta(self) -> float:
        """What all rounds together may have."""
        return self.opened.delta if self.opened else 0.0

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Everything that counts, in order, charges of other ledgers included."""
        return tuple(item.segment for item in self.counted)

    def spend(self, *, more: Segment | None = None, extra_delta: float = 0.0) -> Spend | None:
        """The price of all charges and `more`; None where what was added to delta leaves nothing of it."""
        left = self.delta_left(extra_delta=extra_delta)
        segments = self.segments if more is None else (*self.segments, more)
        return None if left < SMALLEST_DELTA else spend(segments, delta=left)

    def rounds_left(self, per_round: Segment, *, extra_delta: float = 0.0) -> int:
        """How many more rounds of this kind fit; with an `extra_delta` each, so many that all of them do."""
        if extra_delta == 0.0:
            left = self.delta_left()
            return 0 if left < SMALLEST_DELTA else self._steps_left(per_round, left)
        fitting, too_many = 0, 1
        while self._fits(too_many, per_round, extra_delta):
            fitting, too_many = too_many, 2 * too_many
        while too_many - fitting > 1:
            middle = (fitting + too_many) // 2
            if self._fits(middle, per_round, extra_delta):
                fitting = middle
            else:
                too_many = middle
        return fitting

    def delta_left(self, *, extra_delta: float = 0.0) -> float:
        """The delta that the accountant may use: the ledger's, less what sensitivities were conditioned on."""
        taken = [extra_delta, *(item.extra_delta for item in self.counted)]
        if not any(taken):
            return self.delta
        left = Fraction(self.delta) - sum(map(Fraction, taken))
        return max(0.0, float(left) * (1.0 - 2.0**-50))

    def _fits(self, rounds: int, per_round: Segment, extra_delta: float) -> bool:
        left = self.delta_left(extra_delta=extra_delta * rounds)
        return left >= SMALLEST_DELTA and self._steps_left(per_round, left) >= rounds

    def _steps_left(self, per_round: Segment, delta: float) -> int:
        return steps_left(self.segments, per_round=per_round, cap_epsilon=self.cap_epsilon, delta=delta)

    def _take(self, content: Content) -> None:
        if isinstance(content, Opened):
            self.opened, self.cap_epsilon = content, content.cap_epsilon
        elif isinstance(content, Cap):
            self.cap_epsilon = content.cap_epsilon
        elif isinstance(content, Charge):
            self.charges.append(content)
            self._attempts[content.run, content.round] += 1
            self.counted.append(content)
        elif isinstance(content, Carried):
            self.carried.add((content.fingerprint, content.number))
            self.counted.append(content)
        elif isinstance(content, Sent):
            self.uploads[content.run, content.round, content.attempt] = content.upload


def _require_numbers(content: Content) -> None:
    """Raises RangeError."""
    if isinstance(content, Opened):
        require_epsilon("cap_epsilon", content.cap_epsilon)
        require_delta("delta", content.delta)
    if isinstance(content, Cap):
        require_epsilon("cap_epsilon", content.cap_epsilon)
    if isinstance(content, Charge | Carried):
        require_probability("extra_delta", content.extra_delta)
        if content.segment.noise_multiplier == 0.0 < content.segment.sampling_prob:
            raise RangeError("noise_multiplier = 0 has no finite price, so no cap allows it")


def about_the_same_patients(one: Opened, other: Opened) -> bool:
    """Whether two ledgers name a patient in common, by name or by images."""
    return not set(one.patients).isdisjoint(other.patients)


def to_carry(account: Account, *, into: Account, entries: Sequence[Entry]) -> list[Carried]:
    """The charges of one ledger, given with its entries, that another about some of the same patients lacks."""
    if account.opened is None or into.opened is None or not about_the_same_patients(account.opened, into.opened):
        return []
    return [
        Carried(
            fingerprint=account.opened.fingerprint,
            number=entry.number,
            digest=entry.digest,
            sampling_prob=entry.content.sampling_prob,
            noise_multiplier=entry.content.noise_multiplier,
            steps=entry.content.steps,
            extra_delta=entry.content.extra_delta,
        )
        for entry in entries
        if isinstance(entry.content, Charge) and (account.opened.fingerprint, entry.number) not in into.carried
    ]
