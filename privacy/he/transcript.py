"""The record of an encrypted run: what its entries say, session, round, abort or end, in the chain of `privacy.chain`.

    vectors/000007/SITE.ct      the ciphertext that SITE uploaded in the round of entry 7, as it travelled

The digest of the latest entry is announced in the next round (`EncryptedAnnouncement.previous`): whoever signs that
round signs the record of everything before it. Each upload's root is signed by its site; the root of the published sum
is announced with the next round, and signed there by every site that stepped on it. The sum itself is not kept, because
the uploads give it.

Written by the aggregator, read by anyone; no I/O here. A transcript holds no key, and neither a model nor an update
that anybody without the key could read. Whoever holds the key, or gets it later, reads every upload that was kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Self, TypeAlias

from privacy import chain
from privacy.cbor import Encodable
from privacy.chain import ChainFormat, Retention, byte_list, parse_retention
from privacy.merkle import DIGEST_BYTES
from privacy.secagg.parsing import exactly, sized, wrong_type

LABEL = "secfed-encrypted-transcript/1"


@dataclass(frozen=True, kw_only=True)
class EncryptedSessionEntry:
    """A session whose sites hold one group key: S0 to S2 for the channels, G0 (`offers`) and G1 (`key_confirmations`).

    `parameters` are the bytes of `HeParameters`. `completed` counts the server rounds before the session. The sealed
    keys that travelled beside G0 are left out: they are signed by their digests and of no use to anybody else.
    """

    KIND: ClassVar[str] = "encrypted session"
    suite: str
    session: bytes
    run: bytes
    roster: bytes
    plan: bytes
    parameters: bytes
    code_digest: str
    advertisements: tuple[bytes, ...]
    encapsulations: tuple[bytes, ...]
    confirmations: tuple[bytes, ...]
    offers: tuple[bytes, ...]
    key_confirmations: tuple[bytes, ...]
    retention: Retention
    completed: int

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
                bytes(run),
                bytes(roster),
                bytes(plan),
                bytes(parameters),
                str(code_digest),
                list(advertisements),
                list(encapsulations),
                list(confirmations),
                list(offers),
                list(key_confirmations),
                str(retention),
                int(completed),
            ]:
                return cls(
                    suite=suite,
                    session=session,
                    run=sized(run, DIGEST_BYTES),
                    roster=roster,
                    plan=plan,
                    parameters=parameters,
                    code_digest=code_digest,
                    advertisements=byte_list(advertisements),
                    encapsulations=byte_list(encapsulations),
                    confirmations=byte_list(confirmations),
                    offers=byte_list(offers),
                    key_confirmations=byte_list(key_confirmations),
                    retention=parse_retention(retention),
                    completed=completed,
                )
        raise wrong_type("a session entry")


@dataclass(frozen=True, kw_only=True)
class EncryptedRoundEntry:
    """A round whose sum was published: E0, the signed E1 headers of its contributors, and the root of the sum."""

    KIND: ClassVar[str] = "encrypted round"
    announcement: bytes
    headers: tuple[bytes, ...]
    server_round: int
    sum_root: bytes

    def to_fields(self) -> Mapping[str, Encodable]:
        """The entry's own part as it is encoded."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @classmethod
    def from_fields(cls, found: Encodable) -> Self:
        """Raises HostileInputError."""
        match exactly(found, *(item.name for item in fields(cls))):
            case [bytes(announcement), list(headers), int(server_round), bytes(root)]:
                return cls(
                    announcement=announcement,
                    headers=byte_list(headers),
                    server_round=server_round,
                    sum_root=sized(root, DIGEST_BYTES),
                )
        raise wrong_type("a round entry")


@dataclass(frozen=True, kw_only=True)
class EncryptedAbortEntry:
    """A round, or an end, that was announced and came to nothing; `headers` are the E1 accepted until then."""

    KIND: ClassVar[str] = "encrypted abort"
    announcement: bytes
    headers: tuple[bytes, ...]
    server_round: int
    reason: str

    def to_fields(self) -> Mapping[str, Encodable]:
        """The entry's own part as it is encoded."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @classmethod
    def from_fields(cls, found: Encodable) -> Self:
        """Raises HostileInputError."""
        match exactly(found, *(item.name for item in fields(cls))):
            case [bytes(announcement), list(headers), int(server_round), str(reason)]:
                return cls(
                    announcement=announcement, headers=byte_list(headers), server_round=server_round, reason=reason
                )
        raise wrong_type("an abort entry")


@dataclass(frozen=True, kw_only=True)
class EncryptedEndEntry:
    """The end of the run: E0, and the E2 with which sites say that they stepped on the last sum.

    `server_round` is the one after the last.
    """

    KIND: ClassVar[str] = "encrypted end"
    announcement: bytes
    endings: tuple[bytes, ...]
    server_round: int

    def to_fields(self) -> Mapping[str, Encodable]:
        """The entry's own part as it is encoded."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @classmethod
    def from_fields(cls, found: Encodable) -> Self:
        """Raises HostileInputError."""
        match exactly(found, *(item.name for item in fields(cls))):
            case [bytes(announcement), list(endings), int(server_round)]:
                return cls(announcement=announcement, endings=byte_list(endings), server_round=server_round)
        raise wrong_type("an end entry")


Content: TypeAlias = EncryptedSessionEntry | EncryptedRoundEntry | EncryptedAbortEntry | EncryptedEndEntry
Entry: TypeAlias = chain.Entry[Content]

FORMAT: ChainFormat[Content] = ChainFormat(
    LABEL,
    contents=(EncryptedSessionEntry, EncryptedRoundEntry, EncryptedAbortEntry, EncryptedEndEntry),
    ending=".ct",
)
