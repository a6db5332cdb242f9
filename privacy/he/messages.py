"""What sites of an encrypted run say: every signed message, one frozen dataclass each, parsed from untrusted bytes.

| step | message | from, to | context | previous |
|---|---|---|---|---|
| G0 | GroupKeyOffer | site, all | run and session | the sender's S2 |
| G1 | GroupKeyConfirmation | site, all | run and session | all G0 |
| E0 | EncryptedAnnouncement | aggregator, invited | (unsigned) | |
| E1 | EncryptedInput | site, all, one round later | announcement | the E1 whose sum it stepped on |
| E2 | FinalModel | site, all | announcement of the end | the E1 whose sum it stepped on |
| any | SnapshotHeader | site, whoever missed rounds | run and group key | the E1 whose sum it stepped on |

The unsigned ones are in `privacy.he.requests`; S0 to S2 are those of `privacy.secagg.messages`. Beside G0 travels the
sealed group key, beside E1 the ciphertext, beside a snapshot its sealed bytes: the signed messages hold their digests.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Self, TypeAlias

from privacy.cbor import Encodable, to_cbor
from privacy.errors import HostileInputError, MisuseError
from privacy.he.parameters import HE_SUITE
from privacy.secagg.envelope import DIGEST_BYTES
from privacy.secagg.parsing import bytes_by_name, exactly, sized, wrong_type
from privacy.secagg.requests import MAX_ROUND
from privacy.streams import KEY_BYTES

Claim: TypeAlias = Literal["holds", "candidate", "none"]

TAG_BYTES = 32
WRAP_BYTES = KEY_BYTES + 16
MAX_SNAPSHOT_BYTES = 2**31 - 1
"""AES-GCM of the cryptography package takes no more at once."""


def setup_context(run: bytes, *, session_context: bytes) -> bytes:
    """What G0 and G1 are signed under: the run, and the session as `secagg.messages.session_context` gives it."""
    return hashlib.sha256(to_cbor([HE_SUITE, "group setup", require_run(run), session_context])).digest()


def group_context(run: bytes, *, fingerprint: bytes) -> bytes:
    """What snapshots are signed under: the run and its group key, whatever the session."""
    return hashlib.sha256(to_cbor([HE_SUITE, "group", require_run(run), fingerprint])).digest()


def require_run(run: bytes) -> bytes:
    """The identifier of a run.

    Raises:
        MisuseError: it has not 32 bytes.
    """
    if len(run) != DIGEST_BYTES:
        raise MisuseError(f"run has {len(run)} bytes, {DIGEST_BYTES} are needed that no other run uses")
    return run


@dataclass(frozen=True, kw_only=True)
class GroupKeyOffer:
    """G0: which group key the sender holds for this run, and where it stands.

    A "candidate" is a key that was made for the case that nobody holds one. `sealed_key` is the SHA-256 of the sealed
    key that travels beside the message, `wraps` holds what opens it, one for each confirmed peer
    (privacy.he.distribution). With the claim "none" all of these are empty. `model_tag` is empty without a key.
    """

    KIND: ClassVar[str] = "G0 group key offer"
    claim: Claim
    fingerprint: bytes
    sealed_key: bytes
    wraps: Mapping[str, bytes]
    parameters: bytes
    completed: int
    model_tag: bytes

    def to_fields(self) -> Mapping[str, Encodable]:
        """The body as it is encoded."""
        return {
            "claim": self.claim,
            "fingerprint": self.fingerprint,
            "sealed_key": self.sealed_key,
            "wraps": self.wraps,
            "parameters": self.parameters,
            "completed": self.completed,
            "model_tag": self.model_tag,
        }

    @classmethod
    def from_fields(cls, fields: Encodable) -> Self:
        """Raises HostileInputError, also where the fields contradict each other."""
        names = ("claim", "fingerprint", "sealed_key", "wraps", "parameters", "completed", "model_tag")
        match exactly(fields, *names):
            case [
                ("holds" | "candidate" | "none") as claim,
                bytes(fingerprint),
                bytes(sealed_key),
                dict(wraps),
                bytes(parameters),
                int(completed),
                bytes(model_tag),
            ]:
                pass
            case _:
                raise wrong_type(cls.KIND)
        if completed > MAX_ROUND or (claim == "candidate" and completed):
            raise HostileInputError(f"{completed} completed rounds are out of range for the claim {claim!r}")
        size = 0 if claim == "none" else DIGEST_BYTES
        if claim == "none" and wraps:
            raise HostileInputError("wraps a key, but claims to hold none")
        return cls(
            claim=claim,
            fingerprint=sized(fingerprint, size),
            sealed_key=sized(sealed_key, size),
            wraps=bytes_by_name(wraps, WRAP_BYTES),
            parameters=sized(parameters, DIGEST_BYTES),
            completed=completed,
            model_tag=sized(model_tag, size),
        )


@dataclass(frozen=True, kw_only=True)
class GroupKeyConfirmation:
    """G1: the fingerprint of the group key that the sender now holds; `previous` binds the offers that it was shown."""

    KIND: ClassVar[str] = "G1 group key confirmation"
    fingerprint: bytes

    def to_fields(self) -> Mapping[str, Encodable]:
        """The body as it is encoded."""
        return {"fingerprint": self.fingerprint}

    @classmethod
    def from_fields(cls, fields: Encodable) -> Self:
        """Raises HostileInputError."""
        match exactly(fields, "fingerprint"):
            case [bytes(fingerprint)]:
                return cls(fingerprint=sized(fingerprint, DIGEST_BYTES))
        raise wrong_type(cls.KIND)


@dataclass(frozen=True, kw_only=True)
class EncryptedInput:
    """E1: the header of an upload; the ciphertext travels beside it.

    `root` and `length` are the hash-tree root and the bytes of the ciphertext (privacy.he.layout.message_root).
    `model_tag` says on which model the update was made, `sum_root` by which sum the sender came to that model.
    """

    KIND: ClassVar[str] = "E1 encrypted input"
    root: bytes
    length: int
    model_tag: bytes
    sum_root: bytes

    def to_fields(self) -> Mapping[str, Encodable]:
        """The body as it is encoded."""
        return {
            "root": self.root,
            "length": self.length,
            "model_tag": self.model_tag,
            "sum_root": self.sum_root,
        }

    @classmethod
    def from_fields(cls, fields: Encodable) -> Self:
        """Raises HostileInputError."""
        match exactly(fields, "root", "length", "model_tag", "sum_root"):
            case [bytes(root), int(length), bytes(model_tag), bytes(sum_root)]:
                return cls(
                    root=sized(root, DIGEST_BYTES),
                    length=length,
                    model_tag=sized(model_tag, TAG_BYTES),
                    sum_root=sized(sum_root, DIGEST_BYTES),
                )
        raise wrong_type(cls.KIND)


@dataclass(frozen=True, kw_only=True)
class FinalModel:
    """E2: with which model the sender ends the run, and the last sum that it stepped on."""

    KIND: ClassVar[str] = "E2 final model"
    model_tag: bytes
    sum_root: bytes

    def to_fields(self) -> Mapping[str, Encodable]:
        """The body as it is encoded."""
        return {"model_tag": self.model_tag, "sum_root": self.sum_root}

    @classmethod
    def from_fields(cls, fields: Encodable) -> Self:
        """Raises HostileInputError."""
        match exactly(fields, "model_tag", "sum_root"):
            case [bytes(model_tag), bytes(sum_root)]:
                return cls(model_tag=sized(model_tag, TAG_BYTES), sum_root=sized(sum_root, DIGEST_BYTES))
        raise wrong_type(cls.KIND)


@dataclass(frozen=True, kw_only=True)
class SnapshotHeader:
    """Where a site stands, for a site that missed it; the sealed snapshot travels beside it.

    `digest` and `length` are the SHA-256 and the bytes of the sealed snapshot, `salt` is fresh for every snapshot.
    """

    KIND: ClassVar[str] = "snapshot"
    completed: int
    model_tag: bytes
    sum_root: bytes
    salt: bytes
    digest: bytes
    length: int

    def to_fields(self) -> Mapping[str, Encodable]:
        """The body as it is encoded."""
        return {
            "completed": self.completed,
            "model_tag": self.model_tag,
            "sum_root": self.sum_root,
            "salt": self.salt,
            "digest": self.digest,
            "length": self.length,
        }

    @classmethod
    def from_fields(cls, fields: Encodable) -> Self:
        """Raises HostileInputError."""
        match exactly(fields, "completed", "model_tag", "sum_root", "salt", "digest", "length"):
            case [
                int(completed),
                bytes(model_tag),
                bytes(sum_root),
                bytes(salt),
                bytes(digest),
                int(length),
            ] if completed <= MAX_ROUND and length <= MAX_SNAPSHOT_BYTES:
                return cls(
                    completed=completed,
                    model_tag=sized(model_tag, TAG_BYTES),
                    sum_root=sized(sum_root, DIGEST_BYTES),
                    salt=sized(salt, KEY_BYTES),
                    digest=sized(digest, DIGEST_BYTES),
                    length=length,
                )
        raise wrong_type(cls.KIND)
