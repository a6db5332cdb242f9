"""The entries of a budget ledger, and their lines: what a site writes down about the privacy of its patients.

Written by a site (`privacy.ledger`), read by its owner and by auditors. A line is

    SHA-256 of the rest in hexadecimal, one space, a JSON object

and the object holds the digest of the line before it, so that a reader needs no more than sha256sum and jq. Numbers
that the accountant computes with stand as text that gives back the same float64. An entry has one text only.

No I/O here. A ledger names patients by digests of their names and images; it stays at the site.
"""

import hashlib
import json
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeAlias

from privacy.errors import MisuseError, PrivacyError
from privacy.segment import Segment

LABEL = "secfed-ledger/1"
DIGEST_BYTES = 32
NO_ENTRY = "0" * 2 * DIGEST_BYTES
"""What the first entry names as the one before it."""

MAX_TEXT = 1000


class LedgerError(PrivacyError):
    """A ledger is damaged, in use, of other data, or was asked for something that its entries exclude."""


class BudgetSpentError(PrivacyError):
    """A round was refused because it would pass the cap; nothing was charged."""

    def __init__(
        self,
        *,
        cap_epsilon: float,
        delta: float,
        spent_epsilon: float,
        asked_epsilon: float,
        segment: Segment,
        rounds_left: int,
    ) -> None:
        super().__init__(
            f"the privacy budget of this data set does not allow this round: the cap is epsilon {cap_epsilon:g} at "
            f"delta {delta:g}, {spent_epsilon:.4g} of it is spent, and this round ({segment.steps} steps with sampling "
            f"probability {segment.sampling_prob:g} and noise multiplier {segment.noise_multiplier:g}) would bring it "
            f"to {asked_epsilon:.4g}; {rounds_left} more rounds of this kind fit"
        )
        self.cap_epsilon = cap_epsilon
        self.spent_epsilon = spent_epsilon
        self.asked_epsilon = asked_epsilon
        self.rounds_left = rounds_left


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The first entry. `patients` holds two digests per patient, of the name and of the images, sorted."""

    KIND: ClassVar[str] = "opened"
    fingerprint: str
    cap_epsilon: float
    delta: float
    unit: str
    relation: str
    patients: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Charge:
    """One round at one attempt, paid before its patients were sampled. `plan` is a digest, `purpose` is for people."""

    KIND: ClassVar[str] = "charge"
    run: str
    round: int
    attempt: int
    plan: str
    purpose: str
    sampling_prob: float
    noise_multiplier: float
    steps: int
    extra_delta: float

    @property
    def segment(self) -> Segment:
        """What the accountant counts."""
        return Segment(sampling_prob=self.sampling_prob, noise_multiplier=self.noise_multiplier, steps=self.steps)

    @property
    def release(self) -> tuple[str, int, int]:
        """What is let out at most once."""
        return self.run, self.round, self.attempt


@dataclass(frozen=True, kw_only=True)
class Carried:
    """A charge of another ledger about some of the same patients: it counts here too."""

    KIND: ClassVar[str] = "carried"
    fingerprint: str
    number: int
    digest: str
    sampling_prob: float
    noise_multiplier: float
    steps: int
    extra_delta: float

    @property
    def segment(self) -> Segment:
        """What the accountant counts."""
        return Segment(sampling_prob=self.sampling_prob, noise_multiplier=self.noise_multiplier, steps=self.steps)


@dataclass(frozen=True, kw_only=True)
class Sent:
    """Which bytes a charge paid for: no others may leave under it."""

    KIND: ClassVar[str] = "sent"
    run: str
    round: int
    attempt: int
    upload: str


@dataclass(frozen=True, kw_only=True)
class Note:
    """Something that became known later, such as how many sites survived; it lowers no charge."""

    KIND: ClassVar[str] = "note"
    run: str
    round: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Cap:
    """Another cap from here on. Raising it takes a name; lowering it takes none."""

    KIND: ClassVar[str] = "cap"
    cap_epsilon: float
    signed_off_by: str
    reason: str


Content: TypeAlias = Opened | Charge | Carried | Sent | Note | Cap
_KINDS: Mapping[str, type[Content]] = {kind.KIND: kind for kind in (Opened, Charge, Carried, Sent, Note, Cap)}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line; `digest` is what the next one names as `previous`."""

    number: int
    previous: str
    digest: str
    content: Content


def encode_entry(content: Content, *, number: int, previous: str) -> bytes:
    """The line of an entry, with its end.

    Raises:
        MisuseError: a text is longer than 1000 characters or not printable, or a number is not finite.
    """
    values = {item.name: _to_json(getattr(content, item.name), name=item.name) for item in fields(content)}
    text = json.dumps({"ledger": LABEL, "number": number, "previous": previous, "kind": content.KIND, **values})
    return f"{hashlib.sha256(text.encode()).hexdigest()} {text}\n".encode()


def decode_entry(line: bytes) -> Entry:
    """An entry from its line; where it stands in the chain is not checked.

    Raises:
        LedgerError: damaged, or not the one line of an entry of this version.
    """
    digest, _, text = line.rstrip(b"\n").partition(b" ")
    if hashlib.sha256(text).hexdigest().encode() != digest:
        raise LedgerError("a line is damaged: its digest does not fit its content")
    try:
        found = json.loads(text)
        kind = _KINDS[found["kind"]]
        hints = typing.get_type_hints(kind)
        values = {item.name: _from_json(found[item.name], hints[item.name]) for item in fields(kind)}
        entry = Entry(
            number=_from_json(found["number"], int),
            previous=_from_json(found["previous"], str),
            digest=digest.decode(),
            content=kind(**values),
        )
        again = encode_entry(entry.content, number=entry.number, previous=entry.previous)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise LedgerError(f"a line is no entry of {LABEL}: {error}") from error
    if again.rstrip(b"\n") != line.rstrip(b"\n"):
        raise LedgerError(f"a line is not as {LABEL} writes it")
    return entry


def _to_json(value: Any, *, name: str) -> Any:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise MisuseError(f"{name} = {value} must be finite")
        return repr(value)
    if isinstance(value, str) and not (len(value) <= MAX_TEXT and value.isprintable()):
        raise MisuseError(f"{name} must be printable text of at most {MAX_TEXT} characters")
    return value


def _from_json(found: Any, hint: Any) -> Any:
    """A value of the declared type, or a ValueError; that it is spelt right is checked by encoding it again."""
    if hint is float and isinstance(found, str):
        return float(found)
    if hint in (int, str) and type(found) is hint:
        return found
    if typing.get_origin(hint) is tuple and isinstance(found, list) and all(type(item) is str for item in found):
        return tuple(found)
    raise ValueError(f"{found!r:.40} is no {hint}")
