"""What a client deals in R1: commitments, shares sealed to one peer, and pair secrets wrapped under one key.

Clients deal and open; whoever finishes or replays a round checks commitments and opens the wraps of the dropped.
Commitments are
plain SHA-256, which hides because every committed value is uniform and has 256 bits. Encryption is AES-256-GCM with a
zero nonce: every key encrypts exactly one message.

It does not detect shares of two different polynomials when they are dealt; the reconstructed secret then fails its
commitment, and the dealer is named.
"""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Literal, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privacy.cbor import from_cbor, to_cbor
from privacy.errors import HostileInputError
from privacy.streams import KEY_BYTES, SUITE, derive_key

ShareKind: TypeAlias = Literal["seed share", "wrap share"]

_NONCE = bytes(12)


def commit_secret(secret: bytes, *, kind: Literal["self seed", "wrap key"], owner: str, context: bytes) -> bytes:
    """The commitment to a client's own secret of one round."""
    return hashlib.sha256(to_cbor([SUITE, "commitment", kind, context, owner, secret])).digest()


def commit_pair_secret(secret: bytes, *, one: str, other: str, context: bytes) -> bytes:
    """The commitment to a pair secret: both clients compute the same, so a difference shows at once."""
    return hashlib.sha256(to_cbor([SUITE, "commitment", "pair", context, sorted((one, other)), secret])).digest()


def commit_seal_secret(secret: bytes, *, one: str, other: str, context: bytes) -> bytes:
    """The commitment to what seals shares between two clients: equal on both sides like that to the pair secret."""
    return hashlib.sha256(to_cbor([SUITE, "commitment", "seal", context, sorted((one, other)), secret])).digest()


def commit_share(share: bytes, *, kind: ShareKind, dealer: str, holder: str, context: bytes) -> bytes:
    """The dealer's commitment to one share: it tells a bad dealer from a bad holder."""
    return hashlib.sha256(to_cbor([SUITE, "commitment", kind, context, dealer, holder, share])).digest()


def matches(commitment: bytes, expected: bytes) -> bool:
    """Constant-time comparison."""
    return hmac.compare_digest(commitment, expected)


def seal_share(share: bytes, *, kind: ShareKind, seal_secret: bytes, dealer: str, holder: str, context: bytes) -> bytes:
    """A share that only its holder can open; 16 bytes longer than the share."""
    key, associated = _seal_key(kind, seal_secret=seal_secret, dealer=dealer, holder=holder, context=context)
    return AESGCM(key).encrypt(_NONCE, share, associated)


def open_share(
    sealed: bytes, *, kind: ShareKind, seal_secret: bytes, dealer: str, holder: str, context: bytes
) -> bytes:
    """The share.

    Raises:
        HostileInputError: sealed with another key, or for another dealer, holder, kind or round.
    """
    key, associated = _seal_key(kind, seal_secret=seal_secret, dealer=dealer, holder=holder, context=context)
    try:
        return AESGCM(key).decrypt(_NONCE, sealed, associated)
    except InvalidTag as error:
        raise HostileInputError(f"the sealed {kind} does not open", party=dealer) from error


def wrap_pair_secrets(pair_secrets: Mapping[str, bytes], *, wrap_key: bytes, owner: str, context: bytes) -> bytes:
    """All pair secrets of one client and one round, by peer, under its wrap key."""
    key, associated = _wrap_key(wrap_key, owner=owner, context=context)
    return AESGCM(key).encrypt(_NONCE, to_cbor(dict(pair_secrets)), associated)


def open_wrap(wrapped: bytes, *, wrap_key: bytes, owner: str, context: bytes) -> dict[str, bytes]:
    """The pair secrets of a client that dropped, by peer.

    Raises:
        HostileInputError: the owner wrapped something else.
    """
    key, associated = _wrap_key(wrap_key, owner=owner, context=context)
    try:
        fields = from_cbor(AESGCM(key).decrypt(_NONCE, wrapped, associated))
    except InvalidTag as error:
        raise HostileInputError("the wrapped pair secrets do not open", party=owner) from error
    except HostileInputError as error:
        raise HostileInputError(str(error), party=owner) from error
    result = {}
    for peer, secret in fields.items() if isinstance(fields, dict) else ():
        if isinstance(secret, bytes) and len(secret) == KEY_BYTES:
            result[peer] = secret
    return result


def _seal_key(kind: ShareKind, *, seal_secret: bytes, dealer: str, holder: str, context: bytes) -> tuple[bytes, bytes]:
    facts: dict[str, bytes | int | str] = {"kind": kind, "dealer": dealer, "holder": holder, "shares": context}
    return derive_key(seal_secret, label="share seal", context=facts), to_cbor([SUITE, "share seal", facts])


def _wrap_key(wrap_key: bytes, *, owner: str, context: bytes) -> tuple[bytes, bytes]:
    facts: dict[str, bytes | int | str] = {"owner": owner, "shares": context}
    return derive_key(wrap_key, label="wrap", context=facts), to_cbor([SUITE, "wrap", facts])
