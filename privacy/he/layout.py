"""Ciphertexts as they travel, are hashed and are added: a header of 88 bytes, then chunks of one fixed size.

Read and written by every party; needs no key and no encryption library. The header holds a mark, the digest of the
parameters, the fingerprint of the group key, the vector's length and the number of vectors inside; integers are
little-endian. A chunk is one ciphertext (c0, c1): each polynomial's coefficients modulo each prime in turn, every
residue in the whole bytes that the prime needs. Nothing is compressed, so every message of a run has one known size,
and a reader allocates nothing that the sender chose. All of it is checked before any arithmetic.

It does not protect the integrity of what it carries: sign the root, which covers header and chunks.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from privacy.errors import HostileInputError, MisuseError
from privacy.he.parameters import HeParameters
from privacy.merkle import vector_root

Residues: TypeAlias = npt.NDArray[np.uint64]

DIGEST_BYTES = 32
_MARK = b"secfedHE"
_HEADER = struct.Struct("<8s32s32sQQ")
HEADER_BYTES = _HEADER.size

# Chunks handled at a time: the temporaries stay in the cache.
_BLOCK_CHUNKS = 4


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """What both ends must agree on before they look at ciphertexts; `fingerprint` names the group key."""

    parameters: HeParameters
    fingerprint: bytes
    length: int

    def __post_init__(self) -> None:
        if len(self.fingerprint) != DIGEST_BYTES:
            raise MisuseError(f"a fingerprint has {DIGEST_BYTES} bytes, got {len(self.fingerprint)}")
        self.parameters.chunks(self.length)

    @property
    def message_bytes(self) -> int:
        """The size of every message of this shape, single update or sum."""
        return HEADER_BYTES + self.parameters.chunks(self.length) * self.parameters.chunk_bytes

    def header(self, *, contributors: int) -> bytes:
        """The first `HEADER_BYTES` of a message that holds this many vectors."""
        return _HEADER.pack(_MARK, self.parameters.digest, self.fingerprint, self.length, contributors)

    def open(self, data: bytes, *, contributors: int) -> memoryview:
        """The chunks of a message from another party, all residues proven to be below their primes.

        Raises:
            HostileInputError: another size, other parameters, another key, another length or number of vectors, or a
                residue that no encryption gives.
        """
        if not isinstance(data, bytes):
            raise HostileInputError(f"expected bytes, got {type(data).__name__}")
        if len(data) != self.message_bytes:
            raise HostileInputError(
                f"a message has {len(data)} bytes; {self.length} values under these parameters have "
                f"{self.message_bytes}"
            )
        mark, digest, fingerprint, length, count = _HEADER.unpack_from(data)
        if mark != _MARK:
            raise HostileInputError("the message does not start as encrypted vectors do")
        if digest != self.parameters.digest:
            raise HostileInputError("the message was made under other parameters")
        if fingerprint != self.fingerprint:
            raise HostileInputError("the message names another group key")
        if length != self.length:
            raise HostileInputError(f"the message says length {length}, expected {self.length}")
        if count != contributors:
            raise HostileInputError(f"the message says that it holds {count} vectors, expected {contributors}")
        body = memoryview(data)[HEADER_BYTES:]
        for block in blocks(body, parameters=self.parameters):
            _require_reduced(block, parameters=self.parameters)
        return body


def message_root(data: bytes) -> bytes:
    """The hash-tree root of a message, header included: what a site signs and an auditor recomputes.

    Raises:
        HostileInputError: the size is not that of any message.
    """
    if len(data) <= HEADER_BYTES or len(data) % 4:
        raise HostileInputError(f"{len(data)} bytes are no encrypted vector")
    return vector_root(np.frombuffer(data, dtype="<u4").astype(np.uint32, copy=False))


def blocks(body: memoryview, *, parameters: HeParameters) -> Iterator[memoryview]:
    """A few whole chunks at a time, in order; writable where the body is."""
    step = _BLOCK_CHUNKS * parameters.chunk_bytes
    for start in range(0, len(body), step):
        yield body[start : start + step]


def unpack(block: memoryview, *, parameters: HeParameters) -> list[Residues]:
    """The residues of whole chunks: one array of shape (chunks, ring degree) per polynomial and prime, in order."""
    found = []
    for offset, width in _segments(parameters):
        values = np.zeros((len(block) // parameters.chunk_bytes, parameters.ring_degree), dtype=np.uint64)
        for shift, part in _parts(block, offset=offset, width=width, parameters=parameters):
            values |= part.astype(np.uint64) << np.uint64(shift)
        found.append(values)
    return found


def pack(residues: list[Residues], into: memoryview, *, parameters: HeParameters) -> None:
    """The reverse of `unpack`, into a writable block of the right size."""
    for values, (offset, width) in zip(residues, _segments(parameters), strict=True):
        for shift, part in _parts(into, offset=offset, width=width, parameters=parameters):
            part[...] = (values >> np.uint64(shift)).astype(part.dtype)


def _segments(parameters: HeParameters) -> Iterator[tuple[int, int]]:
    """Where each polynomial modulo each prime begins in a chunk, and the bytes of its residues."""
    offset = 0
    for width in 2 * parameters.residue_bytes:
        yield offset, width
        offset += width * parameters.ring_degree


def _parts(
    block: memoryview, *, offset: int, width: int, parameters: HeParameters
) -> Iterator[tuple[int, npt.NDArray[np.unsignedinteger[Any]]]]:
    """Strided views of a segment's residues, cut into words of 8, 4, 2 and 1 bytes, each with its place in bits."""
    shape, strides = (len(block) // parameters.chunk_bytes, parameters.ring_degree), (parameters.chunk_bytes, width)
    done = 0
    for size in (8, 4, 2, 1):
        if width & size:
            yield 8 * done, np.ndarray(shape, dtype=f"<u{size}", buffer=block, offset=offset + done, strides=strides)
            done += size


def _require_reduced(block: memoryview, *, parameters: HeParameters) -> None:
    for values, prime in zip(unpack(block, parameters=parameters), 2 * parameters.moduli, strict=True):
        if int(values.max()) >= prime:
            raise HostileInputError("a ciphertext holds a residue that is not below its prime")
