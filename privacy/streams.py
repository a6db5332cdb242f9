"""Keys and keystreams: where every mask and every random choice of this package comes from.

Run by clients and, for the mask streams that a round reveals, by the aggregator. Keys come from HKDF-SHA256 (RFC 5869)
with an info that names suite, purpose and context; streams are AES-256 in counter mode (NIST SP 800-38A) over zeros,
one key per stream, so the counter always starts at zero. Words are little-endian on every host. Long vectors are masked
by several threads, each at its own place in the streams, with the same result.

It does not protect a key that is used for two streams: derive another key instead.
"""

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privacy.cbor import to_cbor
from privacy.cores import thread_count
from privacy.errors import MisuseError

SUITE = "secfed-secagg/2 X25519+ML-KEM-768 HKDF-SHA256 AES-256-CTR AES-256-GCM Ed25519"
"""Stands in every derivation and every signature; a change of any algorithm or format changes it."""

KEY_BYTES = 32

Words: TypeAlias = npt.NDArray[np.uint32]
Sign: TypeAlias = Literal[1, -1]

# A block of accumulator, one of keystream and the zeros that make it stay in a second-level cache of 512 KiB together.
_BLOCK_WORDS = 2**15
_ZEROS = bytes(4 * _BLOCK_WORDS)

# A thread starts in about the time that one stream takes over this many words.
_RANGE_WORDS = 8 * _BLOCK_WORDS

# AES has blocks of 16 bytes, which the counter numbers.
_WORDS_PER_COUNT = 4


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
        self._key = key
        self._position = 0
        self._encryptor = _encryptor_at(key, 0)

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
        self._position += count
        return result.astype(np.uint32, copy=False)

    def uniforms(self, count: int) -> npt.NDArray[np.float64]:
        """The next `count` numbers in [0, 1), each a multiple of 2^-53, from two words each (low word first)."""
        words = self.words(2 * count).astype(np.uint64)
        return ((words[1::2] << np.uint64(21)) | (words[0::2] >> np.uint64(11))).astype(np.float64) * 2.0**-53


def add_streams(accumulator: Words, streams: Sequence[tuple[Keystream, Sign]]) -> None:
    """Add or subtract the next words of several different streams, in place, modulo 2^32.

    All streams pass over one block of the accumulator before the next block, so that memory is read and written once.
    """
    if accumulator.dtype != np.uint32 or accumulator.ndim != 1 or not accumulator.flags.c_contiguous:
        raise MisuseError(
            f"accumulator must be a contiguous uint32 vector, got {accumulator.dtype} of shape {accumulator.shape}"
        )
    threads = min(thread_count(), accumulator.size // _RANGE_WORDS)
    if threads < 2:
        _add_range(accumulator, [(stream._encryptor, sign) for stream, sign in streams])
        for stream, _ in streams:
            stream._position += accumulator.size
        return
    length = -(-accumulator.size // (threads * _BLOCK_WORDS)) * _BLOCK_WORDS
    with ThreadPoolExecutor(threads) as pool:
        ranges = [
            pool.submit(
                _add_range,
                accumulator[start : start + length],
                [(_encryptor_at(stream._key, stream._position + start), sign) for stream, sign in streams],
            )
            for start in range(0, accumulator.size, length)
        ]
    for done in ranges:
        done.result()
    for stream, _ in streams:
        stream._position += accumulator.size
        stream._encryptor = _encryptor_at(stream._key, stream._position)


def _add_range(accumulator: Words, streams: Sequence[tuple[CipherContext, Sign]]) -> None:
    scratch = bytearray(4 * min(_BLOCK_WORDS, accumulator.size))
    words = np.frombuffer(scratch, dtype="<u4")
    for start in range(0, accumulator.size, _BLOCK_WORDS):
        block = accumulator[start : start + _BLOCK_WORDS]
        zeros, target, addend = _zeros(4 * block.size), memoryview(scratch)[: 4 * block.size], words[: block.size]
        for encryptor, sign in streams:
            encryptor.update_into(zeros, target)
            operation = np.add if sign == 1 else np.subtract
            operation(block, addend, out=block)


def _encryptor_at(key: bytes, position: int) -> CipherContext:
    """The stream from a word on. Counting from zero is safe because a key serves one stream only."""
    counter, skipped = divmod(position, _WORDS_PER_COUNT)
    encryptor = Cipher(algorithms.AES(key), modes.CTR(counter.to_bytes(16, "big"))).encryptor()
    encryptor.update(bytes(4 * skipped))
    return encryptor


def little_endian_bytes(words: Words) -> memoryview:
    """The words as they travel and are hashed; no copy on little-endian hosts."""
    little = words if sys.byteorder == "little" else words.byteswap()
    return np.ascontiguousarray(little).view(np.uint8).data


def _zeros(count: int) -> memoryview:
    return memoryview(_ZEROS)[:count]
