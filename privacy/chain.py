"""The common format of all transcripts: an append-only chain of entries, one file each, with vectors beside them.

    entries/000000.cbor         names the entry before it by digest
    vectors/000007/SITE.u32     what SITE uploaded in the round of entry 7; the ending says how it is encoded
    head.cbor                   how many entries there are, and the digest of the last

A file is the deterministic CBOR of [payload, SHA-256 of the payload], so that any changed byte shows in its own file.
Payloads begin with the label of their kind of transcript, so that none passes for another's. What an entry says is in
`privacy.secagg.transcript` and `privacy.he.transcript`.

Written by the aggregator, read by anyone; no I/O here. It does not protect its own end: the last entry is signed by
nobody until the next round is.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

from privacy.cbor import Encodable, from_cbor, to_cbor
from privacy.errors import HostileInputError, MisuseError
from privacy.merkle import DIGEST_BYTES
from privacy.secagg.envelope import Body
from privacy.secagg.parsing import byte_strings, sized, wrong_type

ENTRIES = "entries"
VECTORS = "vectors"
HEAD = "head.cbor"
NO_ENTRY = bytes(DIGEST_BYTES)
"""What the first entry names as the one before it."""

MAX_ENTRY_BYTES = 2**27
"""The masked round of 256 sites needs about 25 MB."""

_LAST = re.compile(r"last ([1-9][0-9]{0,8})")

ContentT = TypeVar("ContentT", bound=Body)


@dataclass(frozen=True)
class Retention:
    """Which rounds keep their vectors: None all of them, 0 none, K the last K completed ones.

    Raises:
        MisuseError: a negative number.
    """

    rounds: int | None = None

    def __post_init__(self) -> None:
        if self.rounds is not None and self.rounds < 0:
            raise MisuseError(f"retention of {self.rounds} rounds: give 0 or more, or None for all")

    def keeps(self, age: int) -> bool:
        """Whether the vectors of a completed round stay when `age` more have been completed since."""
        return self.rounds is None or age < self.rounds

    @property
    def text(self) -> str:
        """The setting as it is written: "all", "none" or "last K"."""
        return "all" if self.rounds is None else f"last {self.rounds}" if self.rounds else "none"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The reverse of `text`.

        Raises:
            MisuseError: another text.
        """
        if text in ("all", "none"):
            return cls(None if text == "all" else 0)
        if found := _LAST.fullmatch(text):
            return cls(int(found[1]))
        raise MisuseError(f"retention {text!r}: accepted are 'all', 'none' and 'last K' with K of 1 or more")


@dataclass(frozen=True, kw_only=True)
class Entry(Generic[ContentT]):
    """One link of the chain; `previous` is the digest of the one before it, `digest` its own."""

    number: int
    previous: bytes
    digest: bytes
    content: ContentT


class ChainFormat(Generic[ContentT]):
    """One kind of transcript: its label, the kinds of its entries, and the ending of its vectors' files."""

    def __init__(self, label: str, *, contents: Sequence[type[ContentT]], ending: str) -> None:
        self.label = label
        self.ending = ending
        self._contents = {content.KIND: content for content in contents}

    def encode_entry(self, content: ContentT, *, number: int, previous: bytes) -> tuple[bytes, bytes]:
        """The entry's file, and its digest."""
        return _checked([self.label, number, previous, content.KIND, content.to_fields()])

    def decode_entry(self, data: bytes) -> Entry[ContentT]:
        """An entry from untrusted bytes: undamaged and well-formed; what it says is not checked.

        Raises:
            HostileInputError: damaged, or not an entry of this format.
        """
        payload, digest = _opened(data)
        match payload:
            case [str(label), int(number), bytes(previous), str(kind), dict(found)] if (
                label == self.label and kind in self._contents
            ):
                content = self._contents[kind].from_fields(found)
                return Entry(number=number, previous=sized(previous, DIGEST_BYTES), digest=digest, content=content)
        raise HostileInputError(f"not an entry of {self.label}")

    def encode_head(self, *, count: int, last: bytes) -> bytes:
        """The file that names how many entries there are and the digest of the last."""
        return _checked([self.label, "head", count, last])[0]

    def decode_head(self, data: bytes) -> tuple[int, bytes]:
        """Count and digest of the last entry.

        Raises:
            HostileInputError: damaged, or not a head of this format.
        """
        match _opened(data)[0]:
            case [str(label), "head", int(count), bytes(last)] if label == self.label:
                return count, sized(last, DIGEST_BYTES)
        raise HostileInputError(f"not a head of {self.label}")

    def vector_name(self, number: int, owner: str) -> str:
        """The path of a vector within the transcript; `owner` is a site's name, or begins with an underscore."""
        return f"{VECTORS}/{number:06d}/{owner}{self.ending}"


def entry_name(number: int) -> str:
    """The path of an entry within the transcript."""
    return f"{ENTRIES}/{number:06d}.cbor"


def label_of(data: bytes) -> str:
    """Which kind of transcript an undamaged entry or head belongs to; empty where that cannot be read."""
    try:
        match _opened(data)[0]:
            case [str(label), *_]:
                return label
    except HostileInputError:
        pass
    return ""


def byte_list(found: Encodable) -> tuple[bytes, ...]:
    """A list of messages from decoded fields; raises HostileInputError."""
    if not isinstance(found, list):
        raise wrong_type("a list of messages")
    return byte_strings(found, what="a list of messages")


def parse_retention(text: str) -> Retention:
    """A setting from a transcript; raises HostileInputError."""
    try:
        return Retention.parse(text)
    except MisuseError as error:
        raise HostileInputError(str(error)) from error


def _checked(payload: Encodable) -> tuple[bytes, bytes]:
    encoded = to_cbor(payload)
    digest = hashlib.sha256(encoded).digest()
    return to_cbor([encoded, digest]), digest


def _opened(data: bytes) -> tuple[Encodable, bytes]:
    match from_cbor(data, max_bytes=MAX_ENTRY_BYTES):
        case [bytes(encoded), bytes(digest)] if hashlib.sha256(encoded).digest() == digest:
            return from_cbor(encoded, max_bytes=MAX_ENTRY_BYTES), digest
    raise HostileInputError("the file is damaged: its digest does not fit its content")
