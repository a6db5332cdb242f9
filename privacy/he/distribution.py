"""The group key on its way to all peers at once: sealed one time, and what opens it wrapped for each of them.

Run by sites alone. The key's own bytes are long (64 KiB), so they are sealed once (`privacy.he.seal`) under 32 fresh
bytes, and only these are wrapped for each peer, under a channel key of the session (`privacy.secagg.channels`):
AES-256-GCM with a zero nonce, under a key that binds dealer, holder and the digest of the sealed bytes, so that it
encrypts one message even at a site that restored an old state and deals again.

It does not protect a group key from its holders, nor from a dealer who gives it to others.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privacy.cbor import to_cbor
from privacy.entropy import Entropy
from privacy.errors import HostileInputError
from privacy.he.key_holder import GroupKey
from privacy.he.parameters import HE_SUITE, HeParameters
from privacy.he.seal import open_group_key, seal_group_key
from privacy.secagg.channels import SessionChannels
from privacy.streams import KEY_BYTES, derive_key

CHANNEL_PURPOSE = "group key of an encrypted run"
_NONCE = bytes(12)


@dataclass(frozen=True, kw_only=True)
class SealedKey:
    """The sealed group key, and by peer the 48 bytes that open it."""

    sealed: bytes = field(repr=False)
    wraps: Mapping[str, bytes] = field(repr=False)


def seal_for_peers(key: GroupKey, *, channels: SessionChannels, entropy: Entropy) -> SealedKey:
    """The group key for every confirmed peer of a session."""
    content_key = entropy.token_bytes(KEY_BYTES)
    sealed = seal_group_key(
        key, pair_key=content_key, session=channels.session, dealer=channels.name, holder=channels.name
    )
    wraps = {}
    for peer, channel in channels.peers.items():
        wrapping, associated = _wrapping_key(channel.sending, sealed=sealed, dealer=channels.name, holder=peer)
        wraps[peer] = AESGCM(wrapping).encrypt(_NONCE, content_key, associated)
    return SealedKey(sealed=sealed, wraps=wraps)


def open_from_peer(
    sealed: bytes,
    wrap: bytes,
    *,
    dealer: str,
    channels: SessionChannels,
    parameters: HeParameters,
    fingerprint: bytes,
) -> GroupKey:
    """The group key that a confirmed peer dealt, proven to have the fingerprint.

    Raises:
        HostileInputError: wrapped or sealed for another site, session or setting, or another key inside; `party` names
            the dealer.
    """
    wrapping, associated = _wrapping_key(
        channels.peers[dealer].receiving, sealed=sealed, dealer=dealer, holder=channels.name
    )
    try:
        content_key = AESGCM(wrapping).decrypt(_NONCE, wrap, associated)
    except InvalidTag as error:
        raise HostileInputError("the wrapped group key does not open", party=dealer) from error
    return open_group_key(
        sealed,
        pair_key=content_key,
        session=channels.session,
        dealer=dealer,
        holder=dealer,
        parameters=parameters,
        fingerprint=fingerprint,
    )


def _wrapping_key(channel_key: bytes, *, sealed: bytes, dealer: str, holder: str) -> tuple[bytes, bytes]:
    facts: dict[str, bytes | int | str] = {
        "suite": HE_SUITE,
        "dealer": dealer,
        "holder": holder,
        "sealed": hashlib.sha256(sealed).digest(),
    }
    return derive_key(channel_key, label="group key wrap", context=facts), to_cbor([HE_SUITE, "group key wrap", facts])
