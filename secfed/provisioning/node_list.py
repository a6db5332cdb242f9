"""Which SuperNodes the aggregator lets in, by key and site: the consortium signs the list together with the roster.

Made by the consortium, read by the aggregator. It keeps strangers off the aggregator's ports. It protects no site from
the aggregator: what a site says is signed with the identity that the roster names, whatever node it came through.
"""

from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from privacy.cbor import Encodable, from_cbor, to_cbor
from privacy.errors import HostileInputError, MisuseError
from privacy.secagg.roster import MAX_MEMBERS, require_name, require_public_key
from secfed.provisioning.join_request import load_node_key

_LABEL = "secfed-node-list/1"


@dataclass(frozen=True, kw_only=True)
class NodeList:
    """Names and node keys (DER) of the members of one roster version, sorted by name."""

    consortium: str
    version: int
    nodes: tuple[tuple[str, bytes], ...]


def sign_node_list(nodes: NodeList, consortium_private_key: Ed25519PrivateKey) -> bytes:
    """The list as it travels: deterministic CBOR of [payload, signature]."""
    rows: list[Encodable] = [[name, key] for name, key in nodes.nodes]
    payload = to_cbor([_LABEL, nodes.consortium, nodes.version, rows])
    return to_cbor([payload, consortium_private_key.sign(payload)])


def verify_node_list(data: bytes, *, anchor: bytes) -> NodeList:
    """A list from untrusted bytes; `anchor` is the consortium's public key.

    Raises:
        HostileInputError: forged or malformed.
    """
    match from_cbor(data):
        case [bytes(payload), bytes(signature)]:
            pass
        case _:
            raise HostileInputError("a signed node list is an array of payload and signature")
    try:
        require_public_key(anchor, owner="the anchor")
        Ed25519PublicKey.from_public_bytes(anchor).verify(signature, payload)
    except (InvalidSignature, MisuseError):
        raise HostileInputError("the node list is not signed by the consortium's key") from None
    match from_cbor(payload):
        case [str(label), str(consortium), int(version), list(rows)] if label == _LABEL and len(rows) <= MAX_MEMBERS:
            return NodeList(consortium=consortium, version=version, nodes=tuple(_row(row) for row in rows))
    raise HostileInputError(f"the node list is not in the format {_LABEL}")


def _row(row: Encodable) -> tuple[str, bytes]:
    match row:
        case [str(name), bytes(key)]:
            try:
                require_name(name)
            except MisuseError as error:
                raise HostileInputError(f"the node list breaks a rule: {error}") from error
            load_node_key(key)
            return name, key
    raise HostileInputError("a row of the node list is an array of name and key")
