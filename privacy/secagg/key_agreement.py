"""Pair keys: X25519 (RFC 7748) and ML-KEM-768 (FIPS 203) combined, confirmed, and ratcheted from round to round.

Run by clients only. Of two clients the one that comes first in the order of names encapsulates. The pair key needs both
secrets, so it stays secret while either of the two problems is hard; it binds both names, all four public keys, the
ciphertext and the session, so that two clients which were shown different keys derive different keys and their
confirmation tags fail. The ratchet is one-way: who learns a key learns no earlier round.

It does not protect a round whose pair key leaks, nor later rounds of that session.
"""

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import NoReturn, Self

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from privacy.cbor import to_cbor
from privacy.entropy import SYSTEM_ENTROPY, Entropy
from privacy.errors import HostileInputError, MisuseError
from privacy.secagg.messages import KeyAdvertisement
from privacy.streams import SUITE, derive_key

MAX_RATCHET_STEPS = 4096
"""Rounds that a client may skip at once; each costs one derivation per peer."""


@dataclass(frozen=True, kw_only=True)
class SessionKeys:
    """The private halves of one client's fresh keys: 32 bytes for X25519, the 64-byte seed of ML-KEM-768."""

    exchange: bytes = field(repr=False)
    encapsulation: bytes = field(repr=False)

    @classmethod
    def generate(cls, entropy: Entropy = SYSTEM_ENTROPY) -> Self:
        """New keys; both are uniform bytes (RFC 7748, section 5; FIPS 203, section 7.1: the seed d || z)."""
        return cls(exchange=entropy.token_bytes(32), encapsulation=entropy.token_bytes(64))

    def advertisement(self) -> KeyAdvertisement:
        """The public halves."""
        exchange = X25519PrivateKey.from_private_bytes(self.exchange)
        encapsulation = MLKEM768PrivateKey.from_seed_bytes(self.encapsulation)
        return KeyAdvertisement(
            exchange_key=exchange.public_key().public_bytes_raw(),
            encapsulation_key=encapsulation.public_key().public_bytes_raw(),
        )

    def __reduce__(self) -> NoReturn:
        raise MisuseError("SessionKeys cannot be pickled: they are secret")


@dataclass(frozen=True, kw_only=True)
class PairContext:
    """What a pair key binds beside its two secrets; `first` comes before `second` in the order of names."""

    session: bytes
    first: str
    second: str
    first_keys: KeyAdvertisement
    second_keys: KeyAdvertisement

    def derive(self, *, exchange_secret: bytes, encapsulated_secret: bytes, ciphertext: bytes) -> bytes:
        """The 32-byte pair key."""
        context: dict[str, bytes | int | str] = {
            "session": self.session,
            "first": self.first,
            "second": self.second,
            "first_keys": _key_digest(self.first_keys),
            "second_keys": _key_digest(self.second_keys),
            "ciphertext": hashlib.sha256(ciphertext).digest(),
        }
        return derive_key(exchange_secret + encapsulated_secret, label="pair key", context=context)


def encapsulate_to(peer: KeyAdvertisement, *, own: SessionKeys, context: PairContext) -> tuple[bytes, bytes]:
    """The first client's half: the pair key and the ciphertext for the second.

    Raises:
        HostileInputError: the peer's keys are not valid public keys.
    """
    try:
        shared, ciphertext = MLKEM768PublicKey.from_public_bytes(peer.encapsulation_key).encapsulate()
    except ValueError as error:
        raise HostileInputError("the ML-KEM-768 public key is not valid") from error
    exchanged = _exchange(own, peer)
    key = context.derive(exchange_secret=exchanged, encapsulated_secret=shared, ciphertext=ciphertext)
    return key, ciphertext


def decapsulate_from(peer: KeyAdvertisement, ciphertext: bytes, *, own: SessionKeys, context: PairContext) -> bytes:
    """The second client's half: the pair key.

    A ciphertext that was changed gives another key (implicit rejection, FIPS 203 section 6.3), not an error; the
    confirmation tags then differ.

    Raises:
        HostileInputError: the peer's X25519 key has low order, or the ciphertext has the wrong length.
    """
    try:
        shared = MLKEM768PrivateKey.from_seed_bytes(own.encapsulation).decapsulate(ciphertext)
    except ValueError as error:
        raise HostileInputError("the ML-KEM-768 ciphertext is not valid") from error
    exchanged = _exchange(own, peer)
    return context.derive(exchange_secret=exchanged, encapsulated_secret=shared, ciphertext=ciphertext)


def confirmation_tag(pair_key: bytes, *, sender: str, recipient: str, session: bytes) -> bytes:
    """The 32-byte tag by which `sender` shows `recipient` that it holds the pair key; each direction has its own."""
    key = derive_key(pair_key, label="confirmation", context={"session": session})
    return hmac.digest(key, to_cbor([SUITE, "confirmation", sender, recipient, session]), "sha256")


def first_chain_key(pair_key: bytes, *, session: bytes) -> bytes:
    """The chain key of round 0, from which every round's secrets come."""
    return derive_key(pair_key, label="chain", context={"session": session})


def ratchet(chain_key: bytes, *, from_round: int, to_round: int) -> bytes:
    """The chain key of a later round; the caller erases the earlier one.

    Raises:
        HostileInputError: the round is earlier, or more than MAX_RATCHET_STEPS later.
    """
    if not 0 <= to_round - from_round <= MAX_RATCHET_STEPS:
        raise HostileInputError(
            f"round {to_round} cannot follow {from_round}: at most {MAX_RATCHET_STEPS} rounds may be skipped, "
            "none redone"
        )
    for step in range(from_round, to_round):
        chain_key = derive_key(chain_key, label="ratchet", context={"from_round": step})
    return chain_key


def pair_secret(chain_key: bytes, *, session: bytes, round_number: int) -> bytes:
    """What two clients' masks of one round come from; wrapped under the wrap key, so it may become public."""
    return derive_key(chain_key, label="pair secret", context={"session": session, "round": round_number})


def seal_secret(chain_key: bytes, *, session: bytes, round_number: int) -> bytes:
    """What seals the shares between two clients in one round.

    It comes from the chain key and not from the pair secret: the pair secret of a dropped client becomes known to the
    aggregator, and must not open the shares of its self seed.
    """
    return derive_key(chain_key, label="seal secret", context={"session": session, "round": round_number})


def _exchange(own: SessionKeys, peer: KeyAdvertisement) -> bytes:
    try:
        peer_key = X25519PublicKey.from_public_bytes(peer.exchange_key)
        return X25519PrivateKey.from_private_bytes(own.exchange).exchange(peer_key)
    except ValueError as error:
        raise HostileInputError("the X25519 public key has low order") from error


def _key_digest(keys: KeyAdvertisement) -> bytes:
    return hashlib.sha256(keys.exchange_key + keys.encapsulation_key).digest()
