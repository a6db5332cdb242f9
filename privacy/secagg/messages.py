"""What clients say: every signed message, one frozen dataclass each, and how it is parsed from untrusted bytes.

| step | message | from, to | context | previous |
|---|---|---|---|---|
| S0 | KeyAdvertisement | client, all | session | none |
| S1 | KeyEncapsulation | client, all | session | the sender's S0 |
| S2 | KeyConfirmation | client, all | session | the sender's S1 |
| R0 | RoundInvitation | aggregator, invited | (unsigned) | |
| R1 | ShareMessage | client, U1 | invitation | the sender's S2 |
| R0 | RoundAnnouncement | aggregator, U1 | (unsigned) | |
| R2 | Complaint | client, aggregator | announcement | the R1 messages of U1 |
| R2 | MaskedInput | client, U2 | announcement | the R1 messages of U1 |
| R3 | AgreementRequest | aggregator, U2 | (unsigned) | |
| R3 | SurvivorAgreement | client, U2 | announcement | the R2 headers of U2 |
| R4 | UnmaskRequest | aggregator, U3 | (unsigned) | |
| R4 | UnmaskReply | client, aggregator | announcement | the R2 headers of U2 |

The unsigned ones are in `privacy.secagg.requests`. U1 shared secrets, U2 uploaded, U3 agreed on U2.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Self

from privacy.cbor import Encodable, to_cbor
from privacy.errors import HostileInputError, MisuseError
from privacy.secagg.envelope import DIGEST_BYTES
from privacy.secagg.parsing import bytes_by_name, exactly, parse_name, sized, wrong_type
from privacy.secagg.roster import Roster
from privacy.secagg.shamir import SHARE_BYTES
from privacy.streams import KEY_BYTES, SUITE

EXCHANGE_KEY_BYTES = 32
ENCAPSULATION_KEY_BYTES = 1184
CIPHERTEXT_BYTES = 1088
TAG_BYTES = 32
SEALED_SHARE_BYTES = SHARE_BYTES + 16


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
        match exactly(fields, "exchange_key", "encapsulation_key"):
            case [bytes(exchange), bytes(encapsulation)]:
                return cls(
                    exchange_key=sized(exchange, EXCHANGE_KEY_BYTES),
                    encapsulation_key=sized(encapsulation, ENCAPSULATION_KEY_BYTES),
                )
        raise wrong_type(cls.KIND)


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
        [ciphertexts] = exactly(fields, "ciphertexts")
        return cls(ciphertexts=bytes_by_name(ciphertexts, CIPHERTEXT_BYTES))


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
        [tags] = exactly(fields, "tags")
        return cls(tags=bytes_by_name(tags, TAG_BYTES))


@dataclass(frozen=True, kw_only=True)
class PeerShares:
    """What one client deals to one peer: two sealed shares, commitments to both, and to what the two have in common.

    Both clients commit to the same pair secret and the same seal secret, so a difference shows before the masks do.
    """

    pair_commitment: bytes
    seal_commitment: bytes
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
                    shares.seal_commitment,
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
        match exactly(fields, *names):
            case [bytes(wrapped), bytes(seed), bytes(wrap), bytes(own), dict(peers)]:
                return cls(
                    wrapped_pair_secrets=wrapped,
                    seed_commitment=sized(seed, DIGEST_BYTES),
                    wrap_commitment=sized(wrap, DIGEST_BYTES),
                    own_share_commitment=sized(own, DIGEST_BYTES),
                    peers={parse_name(name): _peer_shares(row) for name, row in peers.items()},
                )
        raise wrong_type(cls.KIND)


@dataclass(frozen=True, kw_only=True)
class Complaint:
    """R2: instead of an upload, what proves that a dealer dealt this client shares that contradict its commitments.

    `seal_secret` opens what the two sealed to each other in this round, and nothing else, so that anyone can judge
    (privacy.secagg.blame).
    """

    KIND: ClassVar[str] = "R2 complaint"
    dealer: str
    seal_secret: bytes = field(repr=False)

    def to_fields(self) -> Mapping[str, Encodable]:
        """The body as it is encoded."""
        return {"dealer": self.dealer, "seal_secret": self.seal_secret}

    @classmethod
    def from_fields(cls, fields: Encodable) -> Self:
        """Raises HostileInputError."""
        match exactly(fields, "dealer", "seal_secret"):
            case [str(dealer), bytes(secret)]:
                return cls(dealer=parse_name(dealer), seal_secret=sized(secret, KEY_BYTES))
        raise wrong_type(cls.KIND)


@dataclass(frozen=True, kw_only=True)
class MaskedInput:
    """R2: the header of an upload; the vector travels beside it as little-endian 32-bit words.

    `root` is the Merkle root of these bytes (privacy.merkle).
    """

    KIND: ClassVar[str] = "R2 masked input"
    root: bytes
    length: int

    def to_fields(self) -> Mapping[str, Encodable]:
        """The body as it is encoded."""
        return {"root": self.root, "length": self.length}

    @classmethod
    def from_fields(cls, fields: Encodable) -> Self:
        """Raises HostileInputError."""
        match exactly(fields, "root", "length"):
            case [bytes(root), int(length)]:
                return cls(root=sized(root, DIGEST_BYTES), length=length)
        raise wrong_type(cls.KIND)


@dataclass(frozen=True, kw_only=True)
class SurvivorAgreement:
    """R3: one client's signature on the survivor set; the set itself is bound by `previous`, names are for readers."""

    KIND: ClassVar[str] = "R3 survivor agreement"
    survivors: tuple[str, ...]

    def to_fields(self) -> Mapping[str, Encodable]:
        """The body as it is encoded."""
        return {"survivors": self.survivors}

    @classmethod
    def from_fields(cls, fields: Encodable) -> Self:
        """Raises HostileInputError."""
        match exactly(fields, "survivors"):
            case [list(survivors)]:
                return cls(survivors=tuple(parse_name(item) for item in survivors))
        raise wrong_type(cls.KIND)


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
        seed, wrap = exactly(fields, "seed_shares", "wrap_shares")
        reply = cls(seed_shares=bytes_by_name(seed, SHARE_BYTES), wrap_shares=bytes_by_name(wrap, SHARE_BYTES))
        if set(reply.seed_shares) & set(reply.wrap_shares):
            raise HostileInputError("a reply gives both kinds of share for one client")
        return reply


def _peer_shares(row: Encodable) -> PeerShares:
    match row:
        case [bytes(pair), bytes(seal), bytes(sealed_seed), bytes(sealed_wrap), bytes(seed), bytes(wrap)]:
            return PeerShares(
                pair_commitment=sized(pair, DIGEST_BYTES),
                seal_commitment=sized(seal, DIGEST_BYTES),
                sealed_seed_share=sized(sealed_seed, SEALED_SHARE_BYTES),
                sealed_wrap_share=sized(sealed_wrap, SEALED_SHARE_BYTES),
                seed_share_commitment=sized(seed, DIGEST_BYTES),
                wrap_share_commitment=sized(wrap, DIGEST_BYTES),
            )
    raise wrong_type("a row of shares")
