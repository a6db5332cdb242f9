"""Who may take part: the sites' public keys, signed by the consortium, never by the aggregator.

Read by every party. The consortium's public key is the trust anchor, and every party receives it outside this protocol.
It does not protect against a consortium that vouches for sites which do not exist.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from privacy.cbor import Encodable, from_cbor, to_cbor
from privacy.errors import HostileInputError, MisuseError

MAX_MEMBERS = 256
"""Every message stays below privacy.cbor.MAX_MESSAGE_BYTES up to here, evidence being the longest one (3.5 MiB)."""

_LABEL = "secfed-roster/1"
_FIELD = 2**255 - 19
_EIGHTH = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
# The y coordinates of the eight points whose order divides 8 (RFC 8032, section 5.1: the cofactor is 8), and the two of
# them that fit into 255 bits unreduced as well. The sign bit is left out: x and -x have the same order.
_SMALL_ORDER = frozenset(
    y.to_bytes(32, "little") for y in (0, 1, _FIELD - 1, _FIELD, _FIELD + 1, _EIGHTH, _FIELD - _EIGHTH)
)
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")


@dataclass(frozen=True)
class Member:
    """A site's name and its 32-byte Ed25519 public key."""

    name: str
    public_key: bytes


@dataclass(frozen=True, kw_only=True)
class Roster:
    """One version of a consortium's member list; `expires` in Unix seconds, members sorted by name.

    Raises:
        MisuseError: unsorted or repeated names, a repeated key, a malformed name or key, too many members.
    """

    consortium: str
    version: int
    expires: int
    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        names = [require_name(member.name) for member in self.members]
        require_name(self.consortium)
        if names != sorted(set(names)):
            raise MisuseError(f"members must be sorted by name, each name once, got {names}")
        if not 2 <= len(names) <= MAX_MEMBERS:
            raise MisuseError(f"a roster has 2 to {MAX_MEMBERS} members, got {len(names)}")
        for member in self.members:
            require_public_key(member.public_key, owner=member.name)
        if len({member.public_key for member in self.members}) != len(names):
            raise MisuseError("two members have the same public key: one site must not count twice")

    def _payload(self) -> bytes:
        members: list[Encodable] = [[member.name, member.public_key] for member in self.members]
        return to_cbor([_LABEL, self.consortium, self.version, self.expires, members])

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of what the consortium signed."""
        return hashlib.sha256(self._payload()).digest()

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All members, in order."""
        return tuple(member.name for member in self.members)

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {name: position for position, name in enumerate(self.names, start=1)}

    def __contains__(self, name: object) -> bool:
        return name in self._positions

    def index(self, name: str) -> int:
        """The member's position, counted from 1: its x coordinate in every secret sharing.

        Raises:
            HostileInputError: the name is not in the roster.
        """
        if name not in self._positions:
            raise HostileInputError(f"{name!r} is not in version {self.version} of the roster of {self.consortium}")
        return self._positions[name]

    def public_key(self, name: str) -> bytes:
        """The member's 32-byte Ed25519 public key.

        Raises:
            HostileInputError: the name is not in the roster.
        """
        return self.members[self.index(name) - 1].public_key


def require_public_key(key: bytes, *, owner: str) -> None:
    """An Ed25519 public key under which not everybody can sign.

    Raises:
        MisuseError: not 32 bytes, or a point of small order, for which signatures exist that need no private key.
    """
    if len(key) != 32:
        raise MisuseError(f"the public key of {owner} has {len(key)} bytes; an Ed25519 key has 32 bytes")
    if key[:31] + bytes([key[31] & 0x7F]) in _SMALL_ORDER:
        raise MisuseError(f"the public key of {owner} is a point of small order: anybody could sign for it")


def generate_consortium_key() -> Ed25519PrivateKey:
    """A consortium's signing key; its `public_key().public_bytes_raw()` is the anchor that all sites receive."""
    return Ed25519PrivateKey.generate()


def sign_roster(roster: Roster, consortium_private_key: Ed25519PrivateKey) -> bytes:
    """The roster as it travels: deterministic CBOR of [payload, signature]."""
    payload = roster._payload()
    return to_cbor([payload, consortium_private_key.sign(payload)])


def verify_roster(data: bytes, *, anchor: bytes, now: int) -> Roster:
    """A roster from untrusted bytes; `anchor` is the consortium's public key, `now` is in Unix seconds.

    Raises:
        HostileInputError: forged, malformed or expired.
    """
    payload, signature = _parts(data)
    try:
        require_public_key(anchor, owner="the anchor")
        Ed25519PublicKey.from_public_bytes(anchor).verify(signature, payload)
    except (InvalidSignature, ValueError) as error:
        because = f": {error}" if isinstance(error, MisuseError) else ""
        raise HostileInputError(f"the roster is not signed by the consortium's key{because}") from error
    roster = _parse(payload)
    if now >= roster.expires:
        raise HostileInputError(
            f"the roster expired at {roster.expires}, now is {now}: ask the consortium for a newer one"
        )
    return roster


def parse_unverified_roster(data: bytes) -> Roster:
    """What a roster claims, its signature NOT checked and its expiry not looked at: for an auditor without an anchor.

    Raises:
        HostileInputError: malformed.
    """
    payload, _ = _parts(data)
    return _parse(payload)


def _parts(data: bytes) -> tuple[bytes, bytes]:
    match from_cbor(data):
        case [bytes(payload), bytes(signature)]:
            return payload, signature
    raise HostileInputError("a signed roster is an array of payload and signature")


def _parse(payload: bytes) -> Roster:
    match from_cbor(payload):
        case [str(label), str(consortium), int(version), int(expires), list(rows)] if label == _LABEL:
            pass
        case _:
            raise HostileInputError(f"the roster is not in the format {_LABEL}")
    members = []
    for row in rows:
        match row:
            case [str(name), bytes(public_key)]:
                members.append(Member(name, public_key))
            case _:
                raise HostileInputError("a roster row is an array of name and public key")
    try:
        return Roster(consortium=consortium, version=version, expires=expires, members=tuple(members))
    except MisuseError as error:
        raise HostileInputError(f"the roster breaks a rule: {error}") from error


def require_name(name: str) -> str:
    """A name that any roster accepts.

    Raises:
        MisuseError: not 1 to 31 lower-case letters, digits and hyphens, starting with a letter or digit.
    """
    if not _NAME.fullmatch(name):
        raise MisuseError(f"name {name!r} must be 1 to 31 of a-z, 0-9 and '-', not starting with '-'")
    return name
