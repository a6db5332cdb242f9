"""The group key on its way to a peer: sealed under a key that only the two sites have.

Run by sites alone, on top of the pair keys of secure aggregation (X25519 and ML-KEM-768, authenticated by the roster).
AES-256-GCM with a zero nonce: the sealing key is derived for one session, direction, setting and group key, so it
encrypts one message only, and sealing the same group key for a peer that restarted gives the same bytes again.

It does not protect a group key from its holders; and whoever learns a pair key opens what was sealed under it.
"""

import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privacy.cbor import to_cbor
from privacy.errors import HostileInputError
from privacy.he.key_holder import GroupKey
from privacy.he.parameters import HE_SUITE, HeParameters
from privacy.streams import derive_key

_NONCE = bytes(12)
_TAG_BYTES = 16
_MAX_SEALED_BYTES = 4 * 2**20


def seal_group_key(key: GroupKey, *, pair_key: bytes, session: bytes, dealer: str, holder: str) -> bytes:
    """The group key that only `holder` can open; 16 bytes longer than the key's own bytes.

    `pair_key` is the 32-byte key that dealer and holder share in this session.
    """
    sealing, associated = _sealing_key(
        pair_key,
        session=session,
        dealer=dealer,
        holder=holder,
        parameters=key.parameters,
        fingerprint=key.fingerprint,
    )
    return AESGCM(sealing).encrypt(_NONCE, key.to_bytes(), associated)


def open_group_key(
    sealed: bytes,
    *,
    pair_key: bytes,
    session: bytes,
    dealer: str,
    holder: str,
    parameters: HeParameters,
    fingerprint: bytes,
) -> GroupKey:
    """The group key, proven to be the one whose fingerprint all sites compare.

    Raises:
        HostileInputError: sealed with another pair key, or for another session, dealer, holder or setting; or the key
            inside has another fingerprint. `party` names the dealer.
    """
    sealing, associated = _sealing_key(
        pair_key, session=session, dealer=dealer, holder=holder, parameters=parameters, fingerprint=fingerprint
    )
    if not _TAG_BYTES < len(sealed) <= _MAX_SEALED_BYTES:
        raise HostileInputError(f"a sealed group key has no {len(sealed)} bytes", party=dealer)
    try:
        found = GroupKey.from_bytes(AESGCM(sealing).decrypt(_NONCE, sealed, associated), parameters=parameters)
    except InvalidTag as error:
        raise HostileInputError("the sealed group key does not open", party=dealer) from error
    except HostileInputError as error:
        raise HostileInputError(error.reason, party=dealer) from error
    if not hmac.compare_digest(found.fingerprint, fingerprint):
        raise HostileInputError("sealed another group key than the agreed one", party=dealer)
    return found


def _sealing_key(
    pair_key: bytes, *, session: bytes, dealer: str, holder: str, parameters: HeParameters, fingerprint: bytes
) -> tuple[bytes, bytes]:
    facts: dict[str, bytes | int | str] = {
        "suite": HE_SUITE,
        "session": session,
        "dealer": dealer,
        "holder": holder,
        "parameters": parameters.digest,
        "fingerprint": fingerprint,
    }
    return derive_key(pair_key, label="group key seal", context=facts), to_cbor([HE_SUITE, "group key seal", facts])
