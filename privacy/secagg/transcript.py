"""The record of a run: an append-only chain of entries, one file each, and the files of the vectors beside them.

    entries/000000.cbor         session, round or abort; names the entry before it by digest
    vectors/000007/SITE.u32     what SITE uploaded in the round of entry 7, little-endian words
    vectors/000007/_sum.u32     the published sum; no site's name starts with an underscore
    head.cbor                   how many entries there are, and the digest of the last

A file is the deterministic CBOR of [payload, SHA-256 of the payload], so that any changed byte shows in its own file.
The digest of the latest payload is announced in the next round (`RoundAnnouncement.previous`): whoever signs that round
signs the record of everything before it. Vectors are covered by Merkle leaves of 1 MiB, which name the coordinates of a
difference.

Written by the aggregator, read by anyone; no I/O here. A transcript holds no key and nothing that the aggregator did
not see. It does not protect its own end: the last entry is signed by nobody until the next round is.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Self, TypeAlias

from privacy.cbor import Encodable, from_cbor, to_cbor
from privacy.errors import HostileInputError, MisuseError
from privacy.merkle import DIGEST_BYTES
from privacy.secagg.parsing import byte_strings, exactly, parse_name, sized, wrong_type

LABEL = "secfed-transcript/1"
ENTRIES = "entries"
VECTORS = "vectors"
HEAD = "head.cbor"
SUM = "_sum"
NO_ENTRY = bytes(DIGEST_BYTES)
"""What the first entry names as the one before it."""

MAX_ENTRY_BYTES = 2**27
"""The round of 256 sites needs about 25 MB."""

_LAST = re.compile(r"last ([1-9][0-9]{0,8})")


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
class RoundMessages:
    """Every signed message that a round has accepted so far, by step and in the order of names.

    `announcement` is empty before the round was announced. `evidence` was shown to the clients in R3.
    """

    invitation: bytes
    announcement: bytes
    shares: tuple[bytes, ...]
    complaints: tuple[bytes, ...]
    headers: tuple[bytes, ...]
    evidence: tuple[bytes, ...]
    agreements: tuple[bytes, ...]
    replies: tuple[bytes, ...]

    def to_fields(self) -> Mapping[str, Encodable]:
        """The messages as they are encoded."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @classmethod
    def from_fields(cls, found: Encodable) -> Self:
        """Raises HostileInputError."""
        names = [item.name for item in fields(cls)]
        invitation, announcement, *steps = exactly(found, *names)
        if not isinstance(invitation, bytes) or not isinstance(announcement, bytes):
            raise wrong_type("the messages of a round")
        lists = {name: _byte_list(step) for name, step in zip(names[2:], steps, strict=True)}
        return cls(invitation=invitation, announcement=announcement, **lists)


@dataclass(frozen=True, kw_only=True)
class SessionEntry:
    """A session that is ready: who takes part, under which plan and code, from which model on.

    `completed` counts the server rounds before it; `model_hash` is the model's after them.
    """

    KIND: ClassVar[str] = "session"
    suite: str
    session: bytes
    roster: bytes
    plan: bytes
    code_digest: str
    advertisements: tuple[bytes, ...]
    encapsulations: tuple[bytes, ...]
    confirmations: tuple[bytes, ...]
    retention: Retention
    completed: int
    model_hash: bytes

    def to_fields(self) -> Mapping[str, Encodable]:
        """The entry's own part as it is encoded."""
        return {item.name: getattr(self, item.name) for item in fields(self)} | {"retention": self.retention.text}

    @classmethod
    def from_fields(cls, found: Encodable) -> Self:
        """Raises HostileInputError."""
        match exactly(found, *(item.name for item in fields(cls))):
            case [
                str(suite),
                bytes(session),
                bytes(roster),
                bytes(plan),
                str(code_digest),
                list(advertisements),
                list(encapsulations),
                list(confirmations),
                str(retention),
                int(completed),
                bytes(model_hash),
            ]:
                pass
            case _:
                raise wrong_type("a session entry")
        try:
            kept = Retention.parse(retention)
        except MisuseError as error:
            raise HostileInputError(str(error)) from error
        return cls(
            suite=suite,
            session=session,
            roster=roster,
            plan=plan,
            code_digest=code_digest,
            advertisements=_byte_list(advertisements),
            encapsulations=_byte_list(encapsulations),
            confirmations=_byte_list(confirmations),
            retention=kept,
            completed=completed,
            model_hash=sized(model_hash, DIGEST_BYTES),
        )


@dataclass(frozen=True, kw_only=True)
class RoundEntry:
    """A completed round. `sum_leaves` and `upload_leaves` (by site, empty where no vector was kept) are Merkle leaves.

    `model_after` is the hash of the model after the server's step on this sum.
    """

    KIND: ClassVar[str] = "round"
    messages: RoundMessages
    server_round: int
    sum_root: bytes
    sum_leaves: tuple[bytes, ...]
    upload_leaves: Mapping[str, tuple[bytes, ...]]
    model_after: bytes

    def to_fields(self) -> Mapping[str, Encodable]:
        """The entry's own part as it is encoded."""
        return {
            "messages": self.messages.to_fields(),
            "server_round": self.server_round,
            "sum_root": self.sum_root,
            "sum_leaves": b"".join(self.sum_leaves),
            "upload_leaves": {name: b"".join(leaves) for name, leaves in self.upload_leaves.items()},
            "model_after": self.model_after,
        }

    @classmethod
    def from_fields(cls, found: Encodable) -> Self:
        """Raises HostileInputError."""
        match exactly(found, *(item.name for item in fields(cls))):
            case [dict(messages), int(server_round), bytes(root), bytes(leaves), dict(uploads), bytes(model_after)]:
                return cls(
                    messages=RoundMessages.from_fields(messages),
                    server_round=server_round,
                    sum_root=sized(root, DIGEST_BYTES),
                    sum_leaves=_leaves(leaves),
                    upload_leaves={parse_name(name): _leaves(value) for name, value in uploads.items()},
                    model_after=sized(model_after, DIGEST_BYTES),
                )
        raise wrong_type("a round entry")


@dataclass(frozen=True, kw_only=True)
class AbortEntry:
    """A round that ended without a step, as far as it came; `evidence` (may be empty) proves who made it fail."""

    KIND: ClassVar[str] = "abort"
    messages: RoundMessages
    server_round: int
    reason: str
    evidence: bytes

    def to_fields(self) -> Mapping[str, Encodable]:
        """The entry's own part as it is encoded."""
        return {
            "messages": self.messages.to_fields(),
            "server_round": self.server_round,
            "reason": self.reason,
            "evidence": self.evidence,
        }

    @classmethod
    def from_fields(cls, found: Encodable) -> Self:
        """Raises HostileInputError."""
        match exactly(found, *(item.name for item in fields(cls))):
            case [dict(messages), int(server_round), str(reason), bytes(evidence)]:
                return cls(
                    messages=RoundMessages.from_fields(messages),
                    server_round=server_round,
                    reason=reason,
                    evidence=evidence,
                )
        raise wrong_type("an abort entry")


Content: TypeAlias = SessionEntry | RoundEntry | AbortEntry
_CONTENTS: Mapping[str, type[SessionEntry] | type[RoundEntry] | type[AbortEntry]] = {
    kind.KIND: kind for kind in (SessionEntry, RoundEntry, AbortEntry)
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One link of the chain; `previous` is the digest of the one before it, `digest` its own."""

    number: int
    previous: bytes
    digest: bytes
    content: Content


def encode_entry(content: Content, *, number: int, previous: bytes) -> tuple[bytes, bytes]:
    """The entry's file, and its digest."""
    return _checked([LABEL, number, previous, content.KIND, content.to_fields()])


def decode_entry(data: bytes) -> Entry:
    """An entry from untrusted bytes: undamaged and well-formed; what it says is not checked.

    Raises:
        HostileInputError: damaged, or not an entry of this format.
    """
    payload, digest = _opened(data)
    match payload:
        case [str(label), int(number), bytes(previous), str(kind), dict(found)] if label == LABEL and kind in _CONTENTS:
            content = _CONTENTS[kind].from_fields(found)
            return Entry(number=number, previous=sized(previous, DIGEST_BYTES), digest=digest, content=content)
    raise HostileInputError(f"not an entry of {LABEL}")


def encode_head(*, count: int, last: bytes) -> bytes:
    """The file that names how many entries there are and the digest of the last."""
    return _checked([LABEL, "head", count, last])[0]


def decode_head(data: bytes) -> tuple[int, bytes]:
    """Count and digest of the last entry.

    Raises:
        HostileInputError: damaged, or not a head of this format.
    """
    match _opened(data)[0]:
        case [str(label), "head", int(count), bytes(last)] if label == LABEL:
            return count, sized(last, DIGEST_BYTES)
    raise HostileInputError(f"not a head of {LABEL}")


def entry_name(number: int) -> str:
    """The path of an entry within the transcript."""
    return f"{ENTRIES}/{number:06d}.cbor"


def vector_name(number: int, owner: str) -> str:
    """The path of a vector within the transcript; `owner` is a site's name or `SUM`."""
    return f"{VECTORS}/{number:06d}/{owner}.u32"


def _checked(payload: Encodable) -> tuple[bytes, bytes]:
    encoded = to_cbor(payload)
    digest = hashlib.sha256(encoded).digest()
    return to_cbor([encoded, digest]), digest


def _opened(data: bytes) -> tuple[Encodable, bytes]:
    match from_cbor(data, max_bytes=MAX_ENTRY_BYTES):
        case [bytes(encoded), bytes(digest)] if hashlib.sha256(encoded).digest() == digest:
            return from_cbor(encoded, max_bytes=MAX_ENTRY_BYTES), digest
    raise HostileInputError("the file is damaged: its digest does not fit its content")


def _byte_list(found: Encodable) -> tuple[bytes, ...]:
    if not isinstance(found, list):
        raise wrong_type("a list of messages")
    return byte_strings(found, what="a list of messages")


def _leaves(found: Encodable) -> tuple[bytes, ...]:
    if not isinstance(found, bytes) or not found or len(found) % DIGEST_BYTES:
        raise wrong_type("Merkle leaves")
    return tuple(found[start : start + DIGEST_BYTES] for start in range(0, len(found), DIGEST_BYTES))
