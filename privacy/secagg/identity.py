"""The long-term signing key of one site (Ed25519, RFC 8032).

Held by the site alone, made on site; the consortium vouches for its public half in the roster. It does not protect a
site whose key file was copied: such a key must leave the roster.
"""

from typing import NoReturn, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.errors import MisuseError
from privacy.secagg.roster import require_name


class Identity:
    """A site's name and its Ed25519 private key."""

    def __init__(self, name: str, private_key: Ed25519PrivateKey) -> None:
        self.name = require_name(name)
        self._private_key = private_key

    @classmethod
    def generate(cls, name: str) -> Self:
        """A new key from the operating system's entropy."""
        return cls(name, Ed25519PrivateKey.generate())

    @classmethod
    def from_bytes(cls, data: bytes, *, name: str) -> Self:
        """The key from its 32 raw private bytes.

        Raises:
            MisuseError: not 32 bytes, or a name that no roster accepts.
        """
        if len(data) != 32:
            raise MisuseError(f"an Ed25519 private key has 32 raw bytes, got {len(data)}")
        return cls(name, Ed25519PrivateKey.from_private_bytes(data))

    def to_bytes(self) -> bytes:
        """The 32 raw private bytes, for a file that only the site can read."""
        return self._private_key.private_bytes_raw()

    @property
    def public_key(self) -> bytes:
        """The 32 raw public bytes."""
        return self._private_key.public_key().public_bytes_raw()

    def sign(self, data: bytes) -> bytes:
        """A 64-byte signature; callers put a label in front of the data (see `privacy.secagg.envelope`)."""
        return self._private_key.sign(data)

    def __repr__(self) -> str:
        return f"Identity(name={self.name!r}, public_key={self.public_key.hex()}, <secret>)"

    def __reduce__(self) -> NoReturn:
        raise MisuseError("an Identity cannot be pickled: it holds a secret; use to_bytes and a private file")
