"""The record of a masked run: what its entries say, session, round or abort, in the chain of `privacy.chain`.

    vectors/000007/SITE.u32     what SITE uploaded in the round of entry 7, little-endian words
    vectors/000007/_sum.u32     the published sum; no site's name starts with an underscore

The digest of the latest payload is announced in the next round (`RoundAnnouncement.previous`): whoever signs that round
signs the record of everything before it. Vectors are covered by Merkle leaves of 1 MiB, which name the coordinates of a
difference.

Written by the aggregator, read by anyone; no I/O here. A transcript holds no key and nothing that the aggregator did
not see. It does not protect its own end: the last entry is signed by nobody until the next round is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Self, TypeAlias

from privacy import chain
from privacy.cbor import Encodable
from privacy.chain import (
    ENTRIES,
    HEAD,
    NO_ENTRY,
    VECTORS,
    ChainFormat,
    Retention,
    byte_list,
    entry_name,
    parse_retention,
)
from privacy.merkle import DIGEST_BYTES
from privacy.secagg.parsing import exactly, parse_name, sized, wrong_type

__all__ = ["ENTRIES", "HEAD", "NO_ENTRY", "VECTORS", "Retention", "entry_name"]

LABEL = "secfed-transcript/1"
SUM = "_sum"


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
        lists = {name: byte_list(step) for name, step in zip(names[2:], steps, strict=True)}
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
        return cls(
            suite=suite,
            session=session,
            roster=roster,
            plan=plan,
            code_digest=code_digest,
            advertisements=byte_list(advertisements),
            encapsulations=byte_list(encapsulations),
            confirmations=byte_list(confirmations),
            retention=parse_retention(retention),
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
Entry: TypeAlias = chain.Entry[Content]

FORMAT: ChainFormat[Content] = ChainFormat(LABEL, contents=(SessionEntry, RoundEntry, AbortEntry), ending=".u32")

encode_entry, decode_entry = FORMAT.encode_entry, FORMAT.decode_entry
encode_head, decode_head = FORMAT.encode_head, FORMAT.decode_head
vector_name = FORMAT.vector_name


def _leaves(found: Encodable) -> tuple[bytes, ...]:
    if not isinstance(found, bytes) or not found or len(found) % DIGEST_BYTES:
        raise wrong_type("Merkle leaves")
    return tuple(found[start : start + DIGEST_BYTES] for start in range(0, len(found), DIGEST_BYTES))
