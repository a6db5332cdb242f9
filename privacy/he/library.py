"""The encryption library (TenSEAL 0.3, which builds on Microsoft SEAL 4) behind numpy arrays of residues.

Run by key holders alone: it holds the secret key. SEAL generates keys, encrypts, decrypts and packs slots; this module
turns its serialised objects into arrays and back. It parses only what SEAL wrote in this process; residues from outside
are checked first (`privacy.he.layout`) and then put, uncompressed, into the frame of an object that SEAL wrote itself.
So no hostile byte chooses what its parser or its decompression does.

Serialised objects: a TenSEAL message is Protocol Buffers (tenseal/proto in the wheel); a SEAL object is a header of 16
bytes, whose fifth byte tells the compression, and a body that ends in the coefficients, 8 bytes each, little-endian
(SEAL, native/src/seal/serialization.h).

It does not protect the key in this process's memory: neither Python nor TenSEAL can be asked to erase it.
"""

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import tenseal
import zstandard

from privacy.errors import MisuseError
from privacy.he.layout import Residues
from privacy.he.parameters import HeParameters

Slots: TypeAlias = npt.NDArray[np.int64]

_SEAL_HEADER = struct.Struct("<HBBBBHQ")
_SEAL_MAGIC = 0xA15E
_UNCOMPRESSED, _ZSTANDARD = 0, 2
_VARINT, _FIXED64, _DELIMITED = 0, 1, 2

# Decrypted CKKS slots of a wrong key can exceed what int64 holds.
_LARGEST = 2.0**62


class SealKey:
    """One secret key inside its TenSEAL context."""

    def __init__(self, context: Any, parameters: HeParameters) -> None:
        self._context, self._parameters = context, parameters

    @classmethod
    def generate(cls, parameters: HeParameters) -> Self:
        """A new ternary key from SEAL's generator, which the operating system seeds."""
        return cls(_new_context(parameters), parameters)

    @classmethod
    def from_residues(cls, residues: Residues, parameters: HeParameters) -> Self:
        """The key that `residues` gave; shape (primes, ring degree), the special prime last, each below its prime."""
        frames = _frames(parameters)
        private = _delimited(1, frames.key.filled(residues))
        message = _delimited(1, frames.settings) + _delimited(2, frames.public) + _delimited(3, private)
        # Field 4, the type of encryption: 1 is symmetric.
        return cls(tenseal.context_from(message + bytes([4 << 3 | _VARINT, 1]), n_threads=1), parameters)

    def residues(self) -> Residues:
        """The secret key in SEAL's transformed order, shape (primes, ring degree)."""
        body = _body(_first(_fields(_first(_fields(_serialised(self._context)), 3)), 1))
        shape = (len(self._parameters.modulus_bits), self._parameters.ring_degree)
        return np.frombuffer(body[-8 * shape[0] * shape[1] :], dtype="<u8").astype(np.uint64).reshape(shape)

    def encrypt(self, slots: Slots) -> list[Residues]:
        """One fresh ciphertext: c0 and then c1, by prime, each of shape (1, ring degree); slots of shape (slots,)."""
        degree, primes = self._parameters.ring_degree, len(self._parameters.moduli)
        body = _body(_encrypted(self._context, slots, self._parameters))
        flat = np.frombuffer(body[-16 * degree * primes :], dtype="<u8").astype(np.uint64, copy=False)
        return list(flat.reshape(2 * primes, 1, degree))

    def decrypt(self, residues: Residues) -> Slots:
        """The slots of one ciphertext, shape (slots,); residues of shape (2 * primes, ring degree), below their primes.

        BFV gives each slot's representative of smallest magnitude, CKKS the nearest integer.
        """
        slots = self._parameters.slots
        size = _varint(slots)
        message = _delimited(1, size) + _delimited(2, _frames(self._parameters).ciphertext.filled(residues))
        if self._parameters.scheme == "BFV":
            return np.array(tenseal.bfv_vector_from(self._context, message).decrypt(), dtype=np.int64)
        message += bytes([3 << 3 | _FIXED64]) + struct.pack("<d", 2.0**self._parameters.scale_bits)
        decrypted = np.array(tenseal.ckks_vector_from(self._context, message).decrypt(), dtype=np.float64)
        return np.clip(np.rint(decrypted), -_LARGEST, _LARGEST).astype(np.int64)

    def __repr__(self) -> str:
        return "SealKey(<secret>)"

    def __reduce__(self) -> NoReturn:
        raise MisuseError("a SealKey cannot be pickled: it is secret")


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """A SEAL object that this process wrote, without its coefficients."""

    version: tuple[int, int]
    prefix: bytes
    coefficients: int

    @classmethod
    def around(cls, blob: bytes, *, coefficients: int) -> Self:
        """The frame of an object whose body ends in an array: the count of coefficients in 8 bytes, then these."""
        _, _, major, minor, _, _, _ = _SEAL_HEADER.unpack_from(blob)
        body = _body(blob)
        start = len(body) - 8 * coefficients
        if start < 8 or struct.unpack_from("<Q", body, start - 8) != (coefficients,):
            raise MisuseError(f"SEAL {major}.{minor} serialises otherwise than 4.3; install TenSEAL 0.3.16 to 0.3.18")
        return cls(version=(major, minor), prefix=body[:start], coefficients=coefficients)

    def filled(self, residues: Residues) -> bytes:
        """The object with other coefficients, uncompressed."""
        if residues.size != self.coefficients:
            raise MisuseError(f"{residues.size} residues do not fill a frame for {self.coefficients}")
        body = self.prefix + np.ascontiguousarray(residues, dtype="<u8").tobytes()
        size = _SEAL_HEADER.size + len(body)
        return _SEAL_HEADER.pack(_SEAL_MAGIC, _SEAL_HEADER.size, *self.version, _UNCOMPRESSED, 0, size) + body


@dataclass(frozen=True, kw_only=True)
class _Frames:
    """What is the same in all objects under some parameters: settings and public part of a context, and two frames."""

    settings: bytes
    public: bytes
    key: _Frame
    ciphertext: _Frame


@lru_cache(maxsize=8)
def _frames(parameters: HeParameters) -> _Frames:
    """Taken from a context of its own, whose key nobody uses; making one takes as long as opening a key."""
    context = _new_context(parameters)
    fields = _fields(_serialised(context))
    written = _encrypted(context, np.zeros(parameters.slots, dtype=np.int64), parameters)
    return _Frames(
        settings=_first(fields, 1),
        public=_first(fields, 2),
        key=_Frame.around(
            _first(_fields(_first(fields, 3)), 1), coefficients=len(parameters.modulus_bits) * parameters.ring_degree
        ),
        ciphertext=_Frame.around(written, coefficients=2 * len(parameters.moduli) * parameters.ring_degree),
    )


def _encrypted(context: Any, slots: Slots, parameters: HeParameters) -> bytes:
    """A fresh ciphertext as SEAL writes it."""
    # The classes behind tenseal.bfv_vector and tenseal.ckks_vector, which copy every list twice more.
    if parameters.scheme == "BFV":
        vector = tenseal._ts_cpp.BFVVector(context.data, slots.tolist())
    else:
        vector = tenseal._ts_cpp.CKKSVector(context.data, slots.astype(np.float64).tolist(), 2.0**parameters.scale_bits)
    return _first(_fields(vector.serialize()), 2)


def _new_context(parameters: HeParameters) -> Any:
    bfv = parameters.scheme == "BFV"
    return tenseal.context(
        tenseal.SCHEME_TYPE.BFV if bfv else tenseal.SCHEME_TYPE.CKKS,
        parameters.ring_degree,
        parameters.plain_modulus if bfv else -1,
        list(parameters.modulus_bits),
        encryption_type=tenseal.ENCRYPTION_TYPE.SYMMETRIC,
        n_threads=1,
    )


def _serialised(context: Any) -> bytes:
    data: bytes = context.serialize(
        save_public_key=False, save_secret_key=True, save_galois_keys=False, save_relin_keys=False
    )
    return data


def _body(blob: bytes) -> bytes:
    """What a SEAL object of this process holds after its header."""
    magic, header, _, _, compression, _, _ = _SEAL_HEADER.unpack_from(blob)
    if magic != _SEAL_MAGIC or compression not in (_UNCOMPRESSED, _ZSTANDARD):
        raise MisuseError(f"SEAL wrote magic {magic:#x} with compression {compression}; expected 0xa15e with 0 or 2")
    body = blob[header:]
    return zstandard.ZstdDecompressor().decompressobj().decompress(body) if compression == _ZSTANDARD else body


def _fields(message: bytes) -> dict[int, bytes]:
    """The last value of every length-delimited field of a Protocol Buffers message."""
    found, position = {}, 0
    while position < len(message):
        key, position = _read_varint(message, position)
        if key & 7 == _VARINT:
            _, position = _read_varint(message, position)
        elif key & 7 == _FIXED64:
            position += 8
        else:
            size, position = _read_varint(message, position)
            found[key >> 3] = message[position : position + size]
            position += size
    return found


def _first(fields: dict[int, bytes], number: int) -> bytes:
    if number not in fields:
        raise MisuseError(f"TenSEAL wrote no field {number}; install TenSEAL 0.3.16 to 0.3.18")
    return fields[number]


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _delimited(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | _DELIMITED]) + _varint(len(value)) + value
