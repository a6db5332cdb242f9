"""Keys and keystreams: where every mask and every random choice of this package comes from.

Run by clients and, for the mask streams that a round reveals, by the aggregator. Keys come from HKDF-SHA256 (RFC 5869)
with an info that names suite, purpose and context; streams are AES-256 in counter mode (NIST SP 800-38A) over zeros,
one key per stream, so the counter always starts at zero. Words are little-endian on every host.

It does not protect a key that is used for two streams: derive another key instead.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Literal, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privacy.cbor import to_cbor
from privacy.errors import MisuseError

SUITE = "secfed-secagg/1 X25519+ML-KEM-768 HKDF-SHA256 AES-256-CTR AES-256-GCM Ed25519"
"""Stands in every derivation and every signature; a change of any algorithm or format changes it."""

KEY_BYTES = 32

Words: TypeAlias = npt.NDArray[np.uint32]
Sign: TypeAlias = Literal[1, -1]

# A block of accumulator, one of keystream and the zeros that make it stay in a 1 MiB second-level cache together.
_BLOCK_WORDS = 2**16
_ZEROS = bytes(4 * _BLOCK_WORDS)


def derive_key(secret: bytes, *, label: str, context: Mapping[str, bytes | int | str]) -> bytes:
    """32 bytes from HKDF-SHA256; the info is the deterministic CBOR of (suite, label, context).

    Raises:
        MisuseError: the secret is shorter than 16 bytes, or the label or the context is empty.
    """
    if len(secret) < 16:
        raise MisuseError(f"secret has {len(secret)} bytes, at least 16 are needed")
    if not label or not context:
        raise MisuseError(f"label = {label!r} and context = {sorted(context)} must not be empty")
    info = to_cbor([SUITE, label, dict(context)])
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)


class Keystream:
    """The words of one AES-256-CTR stream, in order; each call continues where the last one stopped."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise MisuseError(f"key has {len(key)} bytes, {KEY_BYTES} are needed")
        # The zero counter block is safe because a key serves one stream only.
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def __repr__(self) -> str:
        return "Keystream(<secret>)"

    def __reduce__(self) -> NoReturn:
        raise MisuseError("a Keystream cannot be pickled: it holds a secret")

    def add_to(self, accumulator: Words, *, sign: Sign) -> None:
        """Add (sign = 1) or subtract (sign = -1) the next words, modulo 2^32 and in place; shape (length,)."""
        add_streams(accumulator, [(self, sign)])

    def words(self, count: int) -> Words:
        """The next `count` words, uniform in [0, 2^32)."""
        result = np.empty(count, dtype="<u4")
        view = memoryview(result.view(np.uint8).data)
        for start in range(0, 4 * count, len(_ZEROS)):
            part = view[start : start + len(_ZEROS)]
            self._encryptor.update_into(_zeros(len(part)), part)
        return result.astype(np.uint32, copy=False)

    def uniforms(self, count: int) -> npt.NDArray[np.float64]:
        """The next `count` numbers in [0, 1), each a multiple of 2^-53, from two words each (low word first)."""
        words = self.words(2 * count).astype(np.uint64)
        return ((words[1::2] << np.uint64(21)) | (words[0::2] >> np.uint64(11))).astype(np.float64) * 2.0**-53


def add_streams(accumulator: Words, streams: Sequence[tuple[Keystream, Sign]]) -> None:
    """Add or subtract the next words of several streams, in place, modulo 2^32.

    All streams pass over one block of the accumulator before the next block, so that memory is read and written once.
    """
    if accumulator.dtype != np.uint32 or accumulator.ndim != 1 or not accumulator.flags.c_contiguous:
        raise MisuseError(
            f"accumulator must be a contiguous uint32 vector, got {accumulator.dtype} of shape {accumulator.shape}"
        )
    scratch = bytearray(4 * min(_BLOCK_WORDS, accumulator.size))
    words = np.frombuffer(scratch, dtype="<u4")
    for start in range(0, accumulator.size, _BLOCK_WORDS):
        block = accumulator[start : start + _BLOCK_WORDS]
        zeros, target = _zeros(4 * block.size), memoryview(scratch)[: 4 * block.size]
        for stream, sign in streams:
            stream._encryptor.update_into(zeros, target)
            operation = np.add if sign == 1 else np.subtract
            operation(block, words[: block.size], out=block)


def little_endian_bytes(words: Words) -> memoryview:
    """The words as they travel and are hashed; no copy on little-endian hosts."""
    little = words if sys.byteorder == "little" else words.byteswap()
    return np.ascontiguousarray(little).view(np.uint8).data


def _zeros(count: int) -> memoryview:
    return memoryview(_ZEROS)[:count]
