"""Every message of the protocol, one frozen dataclass each, and how each is parsed from untrusted bytes.

| step | message | from, to | context | previous |
|---|---|---|---|---|
| S0 | KeyAdvertisement | client, all | session | none |
| S1 | KeyEncapsulation | client, all | session | the sender's S0 |
| S2 | KeyConfirmation | client, all | session | the sender's S1 |
| R0 | RoundAnnouncement | aggregator, invited | (unsigned) | |
| R1 | ShareMessage | client, U1 | shares of the round | the sender's S2 |
| R2 | MaskedInput | client, U2 | round | the R1 messages of U1 |
| R4 | UnmaskRequest | aggregator, U2 | (unsigned) | |
| R4 | UnmaskReply | client, aggregator | round | the R2 headers of U2 |

What the aggregator says is not signed: it holds no key, and nothing it says is believed. Every client message binds the
announcement by its digest, and the request repeats what clients signed. Step R3 (survivors sign the survivor set) is
not part of this version.

The context of R1 leaves out the model and plan digests, so that shares can be made before the model of their round
exists; the context of R2 and R4, and every mask, binds the whole announcement.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Self

from privacy.cbor import Encodable, from_cbor, to_cbor
from privacy.errors import HostileInputError, MisuseError
from privacy.secagg.envelope import DIGEST_BYTES
from privacy.secagg.roster import Roster, require_name
from privacy.secagg.shamir import SHARE_BYTES
from privacy.streams import SUITE

EXCHANGE_KEY_BYTES = 32
ENCAPSULATION_KEY_BYTES = 1184
CIPHERTEXT_BYTES = 1088
TAG_BYTES = 32
SEALED_SHARE_BYTES = SHARE_BYTES + 16
MAX_ROUND = 2**32
MAX_VECTOR_LENGTH = 2**31


def session_context(session: bytes, roster: Roster) -> bytes:
    """What setup messages are signed under: suite, session and roster.

    Raises:
        MisuseError: the session identifier has not 16 to 32 bytes.
    """
    if not 16 <= len(session) <= 32:
        raise MisuseError(f"session has {len(session)} bytes, 16 to 32 random bytes are needed")
    return hashlib.sha256(to_cbor([SUITE, "session", session, roster.digest])).digest()


@dataclass(frozen=True, kw_only=True)
class KeyAdvertisement:
    """S0: the fresh X25519 and ML-KEM-768 public keys of one client for one session."""

    KIND: ClassVar[str] = "S0 key advertisement"
    exchange_key: bytes
    encapsulation_key: bytes

    def to_fields(self) -> Mapping[str, Encodable]:
        """The body as it is encoded."""
        return {"exchange_key": self.exchange_key, "encapsulation_key": self.encapsulation_key}

    @classmethod
    def from_fields(cls, fields: Encodable) -> Self:
        """Raises HostileInputError."""
        match _exactly(fields, "exchange_key", "encapsulation_key"):
            case [bytes(exchange), bytes(encapsulation)]:
                return cls(
                    exchange_key=_sized(exchange, EXCHANGE_KEY_BYTES),
                    encapsulation_key=_sized(encapsulation, ENCAPSULATION_KEY_BYTES),
                )
        raise _wrong_type(cls.KIND)


@dataclass(frozen=True, kw_only=True)
class KeyEncapsulation:
    """S1: one ML-KEM-768 ciphertext for every accepted peer that comes later in the roster."""

    KIND: ClassVar[str] = "S1 key encapsulation"
    ciphertexts: Mapping[str, bytes]

    def to_fields(self) -> Mapping[str, Encodable]:
        """The body as it is encoded."""
        return {"ciphertexts": self.ciphertexts}

    @classmethod
    def from_fields(cls, fields: Encodable) -> Self:
        """Raises HostileInputError."""
        [ciphertexts] = _exactly(fields, "ciphertexts")
        return cls(ciphertexts=_bytes_by_name(ciphertexts, CIPHERTEXT_BYTES))


@dataclass(frozen=True, kw_only=True)
class KeyConfirmation:
    """S2: one tag per peer, which shows that both derived the same pair key."""

    KIND: ClassVar[str] = "S2 key confirmation"
    tags: Mapping[str, bytes]

    def to_fields(self) -> Mapping[str, Encodable]:
        """The body as it is encoded."""
        return {"tags": self.tags}

    @classmethod
    def from_fields(cls, fields: Encodable) -> Self:
        """Raises HostileInputError."""
        [tags] = _exactly(fields, "tags")
        return cls(tags=_bytes_by_name(tags, TAG_BYTES))


@dataclass(frozen=True, kw_only=True)
class RoundAnnouncement:
    """R0: what a round is about. `invited` is sorted; hashes are SHA-256; `vector_length` counts 32-bit words.

    `policy_hash` is all zeros where the run has no policy document.
    """

    session: bytes
    round_number: int
    roster_hash: bytes
    model_hash: bytes
    plan_hash: bytes
    policy_hash: bytes
    invited: tuple[str, ...]
    threshold: int
    vector_length: int

    def to_bytes(self) -> bytes:
        """The announcement as it travels."""
        return to_cbor(
            {
                "suite": SUITE,
                "session": self.session,
                "round": self.round_number,
                "roster": self.roster_hash,
                "model": self.model_hash,
                "plan": self.plan_hash,
                "policy": self.policy_hash,
                "invited": self.invited,
                "threshold": self.threshold,
                "vector_length": self.vector_length,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse untrusted bytes; whether to take part is the client's decision, not the parser's.

        Raises:
            HostileInputError: not an announcement of this suite.
        """
        names = ("suite", "session", "round", "roster", "model", "plan", "policy", "invited", "threshold")
        match _exactly(from_cbor(data), *names, "vector_length"):
            case [
                str(suite),
                bytes(session),
                int(round_number),
                bytes(roster),
                bytes(model),
                bytes(plan),
                bytes(policy),
                list(invited),
                int(threshold),
                int(vector_length),
            ]:
                pass
            case _:
                raise _wrong_type("R0 round announcement")
        if suite != SUITE or not 16 <= len(session) <= 32:
            raise HostileInputError(f"the announcement is of suite {suite!r}, expected {SUITE!r}, or has no session")
        if not (1 <= round_number <= MAX_ROUND and 1 <= vector_length <= MAX_VECTOR_LENGTH):
            raise HostileInputError(f"round {round_number} or vector length {vector_length} is out of range")
        members = tuple(_name(item) for item in invited)
        if list(members) != sorted(set(members)):
            raise HostileInputError("the invited are not sorted, or one is named twice")
        return cls(
            session=session,
            round_number=round_number,
            roster_hash=_sized(roster, DIGEST_BYTES),
            model_hash=_sized(model, DIGEST_BYTES),
            plan_hash=_sized(plan, DIGEST_BYTES),
            policy_hash=_sized(policy, DIGEST_BYTES),
            invited=members,
            threshold=threshold,
            vector_length=vector_length,
        )

    @cached_property
    def context(self) -> bytes:
        """The digest of everything announced: signed in R2 and R4 and part of every mask's key."""
        return hashlib.sha256(to_cbor([SUITE, "round", self.to_bytes()])).digest()

    @cached_property
    def share_context(self) -> bytes:
        """The digest of what shares depend on: signed in R1 and part of every commitment and seal."""
        invited = list(self.invited)
        facts: list[Encodable] = [
            SUITE,
            "shares",
            self.session,
            self.round_number,
            self.roster_hash,
            invited,
            self.threshold,
        ]
        return hashlib.sha256(to_cbor(facts)).digest()


@dataclass(frozen=True, kw_only=True)
class PeerShares:
    """What one client deals to one peer: two sealed shares, commitments to both, and one to the pair secret."""

    pair_commitment: bytes
    sealed_seed_share: bytes
    sealed_wrap_share: bytes
    seed_share_commitment: bytes
    wrap_share_commitment: bytes


@dataclass(frozen=True, kw_only=True)
class ShareMessage:
    """R1: shares of the self seed and of the wrap key, and the pair secrets encrypted under the wrap key.

    `peers` names everybody with whom the sender is willing to sum; `own_share_commitment` is for the share of the self
    seed that the sender keeps.
    """

    KIND: ClassVar[str] = "R1 shares"
    wrapped_pair_secrets: bytes
    seed_commitment: bytes
    wrap_commitment: bytes
    own_share_commitment: bytes
    peers: Mapping[str, PeerShares]

    def to_fields(self) -> Mapping[str, Encodable]:
        """The body as it is encoded."""
        return {
            "wrapped": self.wrapped_pair_secrets,
            "seed_commitment": self.seed_commitment,
            "wrap_commitment": self.wrap_commitment,
            "own_share_commitment": self.own_share_commitment,
            "peers": {
                name: [
                    shares.pair_commitment,
                    shares.sealed_seed_share,
                    shares.sealed_wrap_share,
                    shares.seed_share_commitment,
                    shares.wrap_share_commitment,
                ]
                for name, shares in self.peers.items()
            },
        }

    @classmethod
    def from_fields(cls, fields: Encodable) -> Self:
        """Raises HostileInputError."""
        names = ("wrapped", "seed_commitment", "wrap_commitment", "own_share_commitment", "peers")
        match _exactly(fields, *names):
            case [bytes(wrapped), bytes(seed), bytes(wrap), bytes(own), dict(peers)]:
                return cls(
                    wrapped_pair_secrets=wrapped,
                    seed_commitment=_sized(seed, DIGEST_BYTES),
                    wrap_commitment=_sized(wrap, DIGEST_BYTES),
                    own_share_commitment=_sized(own, DIGEST_BYTES),
                    peers={_name(name): _peer_shares(row) for name, row in peers.items()},
                )
        raise _wrong_type(cls.KIND)


@dataclass(frozen=True, kw_only=True)
class MaskedInput:
    """R2: the header of an upload; the vector travels beside it as little-endian 32-bit words.

    `vector_digest` is the SHA-256 of these bytes.
    """

    KIND: ClassVar[str] = "R2 masked input"
    vector_digest: bytes
    length: int

    def to_fields(self) -> Mapping[str, Encodable]:
        """The body as it is encoded."""
        return {"vector_digest": self.vector_digest, "length": self.length}

    @classmethod
    def from_fields(cls, fields: Encodable) -> Self:
        """Raises HostileInputError."""
        match _exactly(fields, "vector_digest", "length"):
            case [bytes(digest), int(length)]:
                return cls(vector_digest=_sized(digest, DIGEST_BYTES), length=length)
        raise _wrong_type(cls.KIND)


@dataclass(frozen=True, kw_only=True)
class UnmaskRequest:
    """R4: the aggregator's claim about who survived, as the survivors' own signed headers (unparsed)."""

    context: bytes
    headers: tuple[bytes, ...]

    def to_bytes(self) -> bytes:
        """The request as it travels."""
        return to_cbor({"suite": SUITE, "context": self.context, "headers": self.headers})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse untrusted bytes.

        Raises:
            HostileInputError: not a request of this suite.
        """
        match _exactly(from_cbor(data), "suite", "context", "headers"):
            case [str(suite), bytes(context), list(headers)] if suite == SUITE:
                pass
            case _:
                raise _wrong_type("R4 unmask request")
        parsed = tuple(header for header in headers if isinstance(header, bytes))
        if len(parsed) != len(headers):
            raise _wrong_type("R4 unmask request")
        return cls(context=_sized(context, DIGEST_BYTES), headers=parsed)


@dataclass(frozen=True, kw_only=True)
class UnmaskReply:
    """R4: for each survivor the share of its self seed, for each dropped client the share of its wrap key."""

    KIND: ClassVar[str] = "R4 unmask reply"
    seed_shares: Mapping[str, bytes] = field(repr=False)
    wrap_shares: Mapping[str, bytes] = field(repr=False)

    def to_fields(self) -> Mapping[str, Encodable]:
        """The body as it is encoded."""
        return {"seed_shares": self.seed_shares, "wrap_shares": self.wrap_shares}

    @classmethod
    def from_fields(cls, fields: Encodable) -> Self:
        """Raises HostileInputError, also where one peer stands in both maps."""
        seed, wrap = _exactly(fields, "seed_shares", "wrap_shares")
        reply = cls(seed_shares=_bytes_by_name(seed, SHARE_BYTES), wrap_shares=_bytes_by_name(wrap, SHARE_BYTES))
        if set(reply.seed_shares) & set(reply.wrap_shares):
            raise HostileInputError("a reply gives both kinds of share for one client")
        return reply


def _exactly(fields: Encodable, *names: str) -> list[Encodable]:
    if not isinstance(fields, dict) or set(fields) != set(names):
        raise HostileInputError(f"expected exactly the fields {sorted(names)}")
    return [fields[name] for name in names]


def _sized(value: bytes, size: int) -> bytes:
    if len(value) != size:
        raise HostileInputError(f"a field has {len(value)} bytes, expected {size}")
    return value


def _name(value: Encodable) -> str:
    if not isinstance(value, str):
        raise HostileInputError("a name is no text")
    try:
        return require_name(value)
    except MisuseError as error:
        raise HostileInputError(str(error)) from error


def _bytes_by_name(value: Encodable, size: int) -> dict[str, bytes]:
    if not isinstance(value, dict):
        raise _wrong_type("a map by name")
    result = {}
    for name, item in value.items():
        if not isinstance(item, bytes):
            raise _wrong_type("a map by name")
        result[_name(name)] = _sized(item, size)
    return result


def _peer_shares(row: Encodable) -> PeerShares:
    match row:
        case [bytes(pair), bytes(sealed_seed), bytes(sealed_wrap), bytes(seed), bytes(wrap)]:
            return PeerShares(
                pair_commitment=_sized(pair, DIGEST_BYTES),
                sealed_seed_share=_sized(sealed_seed, SEALED_SHARE_BYTES),
                sealed_wrap_share=_sized(sealed_wrap, SEALED_SHARE_BYTES),
                seed_share_commitment=_sized(seed, DIGEST_BYTES),
                wrap_share_commitment=_sized(wrap, DIGEST_BYTES),
            )
    raise _wrong_type("a row of shares")


def _wrong_type(what: str) -> HostileInputError:
    return HostileInputError(f"{what}: a field has the wrong type or version")
