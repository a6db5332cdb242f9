"""What an attacker reads from ciphertexts, and the sums it makes of them: with a colluding site's key, or without any.

Run by the attacker on the bytes that an aggregator receives. Everything is written from the public formats
(`secfed.audit.lattice`), so it neither needs nor trusts the software under attack. Only exact (BFV) ciphertexts.
"""

from collections.abc import Sequence

import numpy as np

from privacy.cbor import from_cbor
from privacy.he.key_holder import GroupKey
from privacy.he.layout import HEADER_BYTES, Envelope, Residues, pack, unpack
from privacy.he.parameters import HeParameters
from privacy.streams import Words
from secfed.audit.lattice import Polynomial, bfv_plaintext, bfv_read, bfv_scaled, chunk, ring


def secret_of(key: GroupKey) -> Polynomial:
    """The ternary secret, by coefficient, from the bytes that a holder stores."""
    fields = from_cbor(key.to_bytes())
    if not isinstance(fields, dict) or not isinstance(fields["secret"], bytes):
        raise TypeError("these bytes are no group key")
    parameters = key.parameters
    values = np.frombuffer(fields["secret"], dtype="<u8")[: parameters.ring_degree]
    return ring(parameters.moduli[0], parameters.ring_degree).coefficients(values.astype(object))


def read_words(message: bytes, *, length: int, parameters: HeParameters, secret: Polynomial | None = None) -> Words:
    """The vector inside, (length,): exact with the secret, and without it what the ciphertext says by itself."""
    parts = []
    for number in range(parameters.chunks(length)):
        c0, c1 = chunk(message, parameters=parameters, number=number)
        slots = bfv_read(c0, c1, secret, parameters=parameters)[: parameters.values_per_chunk]
        parts.append((slots % 2**32).astype(np.uint32))
    return np.concatenate(parts)[:length]


def read_difference(one: bytes, other: bytes, *, length: int, parameters: HeParameters) -> Words:
    """The difference of two vectors, as far as the ciphertexts say it without a key; (length,), one chunk at most."""
    prime = parameters.moduli[0]
    pairs = zip(chunk(one, parameters=parameters), chunk(other, parameters=parameters), strict=True)
    c0, c1 = ((mine - theirs) % prime for mine, theirs in pairs)
    slots = bfv_read(c0, c1, None, parameters=parameters)[:length]
    return (slots % 2**32).astype(np.uint32)


def low_words(message: bytes, *, parameters: HeParameters) -> Words:
    """The low 32 bits of every residue: of a uniform residue of 48 bits they are uniform to within 2^-16."""
    residues = unpack(memoryview(message)[HEADER_BYTES:], parameters=parameters)
    return np.concatenate([values.ravel() for values in residues]).astype(np.uint32)


def subtracted(one: bytes, other: bytes, *, parameters: HeParameters) -> bytes:
    """One message minus another, modulo the prime."""
    body = _residues(one, parameters)
    prime = np.uint64(parameters.moduli[0])
    for mine, theirs in zip(body, _residues(other, parameters), strict=True):
        mine[...] = (mine + (prime - theirs)) % prime
    return _packed(one, body, parameters=parameters)


def moved(message: bytes, step: int, *, place: int, parameters: HeParameters) -> bytes:
    """The message with `step` added to one coefficient of its first c0."""
    body = _residues(message, parameters)
    body[0][0, place] = (int(body[0][0, place]) + step) % parameters.moduli[0]
    return _packed(message, body, parameters=parameters)


def with_vector_added(message: bytes, words: Words, *, parameters: HeParameters) -> bytes:
    """The message with a vector of the attacker's choice added inside: encryption is linear, so it takes no key."""
    slots = np.zeros(parameters.slots, dtype=object)
    slots[: words.size] = words.view(np.int32).astype(object)
    scaled = bfv_scaled(bfv_plaintext(slots, parameters=parameters), parameters=parameters)
    body = _residues(message, parameters)
    body[0][0] = ((body[0][0].astype(object) + scaled) % parameters.moduli[0]).astype(np.uint64)
    return _packed(message, body, parameters=parameters)


def sum_of(messages: Sequence[bytes], *, count: int, length: int, key: bytes, parameters: HeParameters) -> bytes:
    """Any messages added, as often as they are named, behind a header that counts `count` of them."""
    prime = np.uint64(parameters.moduli[0])
    total = _residues(messages[0], parameters)
    for message in messages[1:]:
        total = [(mine + more) % prime for mine, more in zip(total, _residues(message, parameters), strict=True)]
    found = _packed(messages[0], total, parameters=parameters)
    return with_count(found, count, length=length, key=key, parameters=parameters)


def with_count(message: bytes, count: int, *, length: int, key: bytes, parameters: HeParameters) -> bytes:
    """The message behind a header that counts `count` vectors inside."""
    envelope = Envelope(parameters=parameters, fingerprint=key, length=length)
    return envelope.header(contributors=count) + message[HEADER_BYTES:]


def _residues(message: bytes, parameters: HeParameters) -> list[Residues]:
    return list(unpack(memoryview(message)[HEADER_BYTES:], parameters=parameters))


def _packed(
    message: bytes,
    residues: list[Residues],
    *,
    parameters: HeParameters,
) -> bytes:
    found = bytearray(message)
    pack(residues, memoryview(found)[HEADER_BYTES:], parameters=parameters)
    return bytes(found)
