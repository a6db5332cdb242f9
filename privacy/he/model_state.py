"""What only holders of the group key can say or read about the model: tags of its hash, and sealed snapshots.

Run by sites alone. A tag is an HMAC, under a key that comes from the group key, of the model's hash and the number of
completed rounds: sites compare their models by it, while an aggregator that guesses a model cannot test its guess. A
snapshot is AES-256-GCM under a key of its own, which comes from the group key and fresh 32 bytes; it binds run, place
and tag.

`group_key` is always `GroupKey.to_bytes()`, which holds 32 uniform bytes and more; and so its keys bind it.

It does not say that a snapshot's giver computed the model rightly: the tags of the next round do.
"""

import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privacy.cbor import to_cbor
from privacy.entropy import Entropy
from privacy.errors import HostileInputError, MisuseError
from privacy.he.messages import MAX_SNAPSHOT_BYTES, SnapshotHeader
from privacy.he.parameters import HE_SUITE
from privacy.secagg.sealing import matches
from privacy.streams import KEY_BYTES, derive_key

_NONCE = bytes(12)
_TAG_BYTES = 16


def model_tag(group_key: bytes, *, run: bytes, completed: int, model_hash: bytes) -> bytes:
    """The 32-byte tag of a model, of which `model_hash` is the SHA-256, after so many completed rounds."""
    facts: dict[str, bytes | int | str] = {"suite": HE_SUITE, "run": run}
    tag_key = derive_key(group_key, label="model tag", context=facts)
    return hmac.digest(tag_key, to_cbor([HE_SUITE, "model tag", completed, model_hash]), "sha256")


def seal_snapshot(
    payload: bytes, *, group_key: bytes, run: bytes, completed: int, tag: bytes, sum_root: bytes, entropy: Entropy
) -> tuple[SnapshotHeader, bytes]:
    """The header, to be signed, and the sealed payload.

    Raises:
        MisuseError: the payload is empty or longer than `MAX_SNAPSHOT_BYTES` allow.
    """
    largest = MAX_SNAPSHOT_BYTES - _TAG_BYTES
    if not 1 <= len(payload) <= largest:
        raise MisuseError(f"a snapshot of {len(payload)} bytes must have 1 to {largest}")
    salt = entropy.token_bytes(KEY_BYTES)
    sealing = _snapshot_key(group_key, run=run, salt=salt)
    associated = _associated(run, completed=completed, tag=tag, sum_root=sum_root)
    sealed = AESGCM(sealing).encrypt(_NONCE, payload, associated)
    header = SnapshotHeader(
        completed=completed,
        model_tag=tag,
        sum_root=sum_root,
        salt=salt,
        digest=hashlib.sha256(sealed).digest(),
        length=len(sealed),
    )
    return header, sealed


def open_snapshot(header: SnapshotHeader, sealed: bytes, *, group_key: bytes, run: bytes) -> bytes:
    """The payload.

    Raises:
        HostileInputError: not the bytes that the header signs, or sealed under another key, run, place or tag.
    """
    if len(sealed) != header.length or not matches(hashlib.sha256(sealed).digest(), header.digest):
        raise HostileInputError("the snapshot is not the one that its header signs")
    sealing = _snapshot_key(group_key, run=run, salt=header.salt)
    associated = _associated(run, completed=header.completed, tag=header.model_tag, sum_root=header.sum_root)
    try:
        return AESGCM(sealing).decrypt(_NONCE, sealed, associated)
    except InvalidTag as error:
        raise HostileInputError("the snapshot does not open") from error


def _snapshot_key(group_key: bytes, *, run: bytes, salt: bytes) -> bytes:
    facts: dict[str, bytes | int | str] = {"suite": HE_SUITE, "run": run, "salt": salt}
    return derive_key(group_key, label="snapshot", context=facts)


def _associated(run: bytes, *, completed: int, tag: bytes, sum_root: bytes) -> bytes:
    return to_cbor([HE_SUITE, "snapshot", run, completed, tag, sum_root])
