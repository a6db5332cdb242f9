"""What a site sends to the consortium to become a member: its name and the public halves of its two keys.

Made at the site, read by the consortium. Both keys sign, so that nobody asks in the name of a key that it does not
hold. A request says nothing about who sent it: the consortium compares its fingerprint with the site by another way
before it signs a roster.
"""

from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from privacy.cbor import from_cbor, to_cbor
from privacy.errors import HostileInputError, MisuseError
from privacy.secagg.identity import Identity
from privacy.secagg.roster import require_name, require_public_key

_LABEL = "secfed-join-request/1"
_MAX_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class JoinRequest:
    """A request whose two signatures are verified.

    `identity_key` is Ed25519, 32 bytes; `node_key` on P-384, SubjectPublicKeyInfo in DER; `created` in Unix seconds.
    """

    consortium: str
    name: str
    identity_key: bytes
    node_key: bytes
    created: int


def make_join_request(
    *, consortium: str, created: int, identity: Identity, node_key: ec.EllipticCurvePrivateKey
) -> bytes:
    """The request as it travels: deterministic CBOR of [payload, signature of the identity, signature of the node]."""
    payload = to_cbor([_LABEL, require_name(consortium), identity.name, created, identity.public_key, _der(node_key)])
    return to_cbor([payload, identity.sign(payload), node_key.sign(payload, ec.ECDSA(hashes.SHA384()))])


def read_join_request(data: bytes) -> JoinRequest:
    """A request from untrusted bytes.

    Raises:
        HostileInputError: malformed, or not signed by both of the keys that it names.
    """
    match from_cbor(data, max_bytes=_MAX_BYTES):
        case [bytes(payload), bytes(identity_signature), bytes(node_signature)]:
            pass
        case _:
            raise HostileInputError("a join request is an array of payload and two signatures")
    match from_cbor(payload, max_bytes=_MAX_BYTES):
        case [str(label), str(consortium), str(name), int(created), bytes(identity_key), bytes(node_key)] if (
            label == _LABEL
        ):
            pass
        case _:
            raise HostileInputError(f"the join request is not in the format {_LABEL}")
    try:
        require_name(consortium)
        require_name(name)
        require_public_key(identity_key, owner=name)
        Ed25519PublicKey.from_public_bytes(identity_key).verify(identity_signature, payload)
        load_node_key(node_key).verify(node_signature, payload, ec.ECDSA(hashes.SHA384()))
    except MisuseError as error:
        raise HostileInputError(f"the join request breaks a rule: {error}") from error
    except InvalidSignature:
        raise HostileInputError("the join request is not signed by both keys that it names") from None
    return JoinRequest(consortium=consortium, name=name, identity_key=identity_key, node_key=node_key, created=created)


def load_node_key(der: bytes) -> ec.EllipticCurvePublicKey:
    """A SuperNode's public key from DER.

    Raises:
        HostileInputError: no EC key on P-384.
    """
    try:
        key = load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise HostileInputError(f"a node key that cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise HostileInputError("a node key must be an EC key on the curve P-384")
    return key


def _der(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
