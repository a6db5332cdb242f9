"""The reviewer's key: who approves the code that a site runs (secfed.provisioning.approvals).

Made at the site, for a person who does not operate the node; the private half goes with that person.
"""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secfed.errors import ConfigError
from secfed.provisioning.files import make_private_folder, write_private
from secfed.site_config import SITE_FILE, load_site_file

REVIEWER_KEY_FILE = "reviewer.key"
KEY_BYTES = 32


def make_reviewer_key(path: Path) -> bytes:
    """A new key from OS entropy, 32 raw bytes in a private file; returns the public half, 32 bytes.

    Raises:
        ConfigError: the file exists.
    """
    if path.exists():
        raise ConfigError(f"{path}: exists; a reviewer's key is never replaced by accident")
    key = Ed25519PrivateKey.generate()
    write_private(path, key.private_bytes_raw())
    return key.public_key().public_bytes_raw()


def load_reviewer_key(path: Path) -> Ed25519PrivateKey:
    """The private key from its file; raises ConfigError that names it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) != KEY_BYTES:
        raise ConfigError(f"{path}: {len(data)} bytes, but a reviewer's key has {KEY_BYTES}")
    return Ed25519PrivateKey.from_private_bytes(data)


def public_half_or_new(folder: Path, told: str | None) -> tuple[bytes, Path | None]:
    """The reviewer of a new site: the public key that was told, the one of an existing site.toml, or a new one's.

    The second value is the file of a new private key.
    """
    if told is not None:
        return _from_hex(told), None
    if (folder / SITE_FILE).exists():
        known = load_site_file(folder).reviewer
        if known is not None:
            return bytes.fromhex(known), None
    path = folder / REVIEWER_KEY_FILE
    if path.exists():
        return load_reviewer_key(path).public_key().public_bytes_raw(), None
    make_private_folder(folder)
    return make_reviewer_key(path), path


def _from_hex(text: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(f"--reviewer {text!r}: a public key has {2 * KEY_BYTES} hexadecimal digits")
    return key
