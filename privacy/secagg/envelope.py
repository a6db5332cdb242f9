"""The signed envelope of every message that a client sends.

Run by every party. A message is the deterministic CBOR of [signed part, signature]; the signed part is [suite, kind,
context, sender, previous, body]. `kind` names step and type; `context` is the digest of the session or of the round;
`previous` is the digest of what the sender acted on: its own last setup message, the shares it accepted, or the uploads
it was shown. A changed, replayed or reordered message therefore fails here, before any secret is touched.

A signature shows who sent a message, not that the sender is honest.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, Self, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from privacy.cbor import Encodable, from_cbor, to_cbor
from privacy.errors import HostileInputError
from privacy.secagg.roster import Roster
from privacy.streams import SUITE

DIGEST_BYTES = 32
NO_PREVIOUS = bytes(DIGEST_BYTES)


class Body(Protocol):
    """What stands inside an envelope."""

    KIND: ClassVar[str]

    def to_fields(self) -> Mapping[str, Encodable]:
        """The body as it is encoded."""
        ...

    @classmethod
    def from_fields(cls, fields: Encodable) -> Self:
        """The body from decoded but unverified fields; raises HostileInputError."""
        ...


BodyT = TypeVar("BodyT", bound=Body)


@dataclass(frozen=True, kw_only=True)
class Admitted(Generic[BodyT]):
    """A message whose signature, kind and context are verified; `digest` is the SHA-256 of its signed part."""

    sender: str
    previous: bytes
    digest: bytes
    body: BodyT


def seal_envelope(
    body: Body, *, context: bytes, sender: str, previous: bytes, sign: Callable[[bytes], bytes]
) -> tuple[bytes, bytes]:
    """The message as it travels, and its digest."""
    signed_part = to_cbor([SUITE, body.KIND, context, sender, previous, body.to_fields()])
    return to_cbor([signed_part, sign(signed_part)]), hashlib.sha256(signed_part).digest()


def open_envelope(data: bytes, body_type: type[BodyT], *, context: bytes, roster: Roster) -> Admitted[BodyT]:
    """Verify untrusted bytes as one kind of message in one context.

    Raises:
        HostileInputError: anything else; `party` is the claimed sender once that is a member of the roster.
    """
    match from_cbor(data):
        case [bytes(signed_part), bytes(signature)]:
            pass
        case _:
            raise HostileInputError("a message is an array of signed part and signature")
    match from_cbor(signed_part):
        case [str(suite), str(kind), bytes(found_context), str(sender), bytes(previous), dict(fields)]:
            pass
        case _:
            raise HostileInputError("a signed part is [suite, kind, context, sender, previous, body]")
    public_key = Ed25519PublicKey.from_public_bytes(roster.public_key(sender))
    try:
        public_key.verify(signature, signed_part)
    except (InvalidSignature, ValueError) as error:
        raise HostileInputError("the signature is not by the key in the roster", party=sender) from error
    if suite != SUITE or kind != body_type.KIND:
        raise HostileInputError(
            f"the message is {kind!r} of {suite!r}, expected {body_type.KIND!r} of {SUITE!r}", party=sender
        )
    if found_context != context:
        raise HostileInputError("the message belongs to another session, round or announcement", party=sender)
    if len(previous) != DIGEST_BYTES:
        raise HostileInputError(f"'previous' has {len(previous)} bytes, a digest has {DIGEST_BYTES}", party=sender)
    try:
        body = body_type.from_fields(fields)
    except HostileInputError as error:
        raise HostileInputError(str(error), party=sender) from error
    return Admitted(sender=sender, previous=previous, digest=hashlib.sha256(signed_part).digest(), body=body)


def digest_of_set(label: str, *, context: bytes, digests: Mapping[str, bytes]) -> bytes:
    """One digest over messages by sender: what R2 says about the shares and R4 about the uploads."""
    return hashlib.sha256(to_cbor([SUITE, label, context, dict(digests)])).digest()
