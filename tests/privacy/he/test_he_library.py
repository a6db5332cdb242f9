"""The bridge to TenSEAL: its objects as arrays, and back."""

import struct

import numpy as np
import pytest
import tenseal
from he_world import APPROXIMATE, COMMON, CONTEXT, EXACT, encrypted_sum, group_key, names, random_words, residues_of

from privacy.errors import MisuseError
from privacy.he import library
from privacy.he.library import _Frame
from privacy.he.moduli import coefficient_primes


def loaded(residues, key):
    """A chunk as TenSEAL's own vector."""
    seal_key, slots = key._seal_key, key.parameters.slots
    message = library._delimited(1, library._varint(slots)) + library._delimited(
        2, library._frames(seal_key._parameters).ciphertext.filled(residues)
    )
    if key.parameters.scheme == "BFV":
        return tenseal.bfv_vector_from(seal_key._context, message)
    message += bytes([3 << 3 | 1]) + struct.pack("<d", 2.0**key.parameters.scale_bits)
    return tenseal.ckks_vector_from(seal_key._context, message)


@pytest.mark.parametrize("parameters", [EXACT, APPROXIMATE, COMMON], ids=["BFV", "CKKS", "common CKKS"])
def test_additions_without_a_library_are_those_of_seal(parameters):
    key = group_key(parameters)
    words = [random_words(10, max_abs=10**6, seed=seed) for seed in range(3)]
    messages = [
        key.encrypt(vector, contributor=name, context=CONTEXT) for vector, name in zip(words, names(3), strict=True)
    ]
    from privacy.he.evaluator import CiphertextSum

    total = CiphertextSum.create(parameters=parameters, fingerprint=key.fingerprint, length=10)
    theirs = None
    for message, name in zip(messages, names(3), strict=True):
        total.add(message, contributor=name)
        chunk = loaded(residues_of(message, parameters=parameters)[0], key)
        theirs = chunk if theirs is None else theirs + chunk
    body = library._body(library._first(library._fields(theirs.serialize()), 2))
    ours = residues_of(total.total(), parameters=parameters)[0]
    assert np.array_equal(np.frombuffer(body[-8 * ours.size :], dtype="<u8").reshape(ours.shape), ours)


@pytest.mark.parametrize("parameters", [EXACT, APPROXIMATE, COMMON], ids=["BFV", "CKKS", "common CKKS"])
def test_the_context_holds_the_primes_that_parties_without_seal_compute(parameters):
    context = library._fields(library._serialised(library._new_context(parameters)))
    body = library._body(library._first(context, 1))
    for prime in coefficient_primes(parameters.ring_degree, parameters.modulus_bits):
        assert struct.pack("<Q", prime) in body


def test_a_decryption_through_arrays_is_that_of_tenseal():
    key = group_key()
    residues = residues_of(encrypted_sum([random_words(9, max_abs=5)] * 2, key=key), parameters=EXACT)[0]
    assert loaded(residues, key).decrypt() == key._seal_key.decrypt(residues).tolist()


def blob(*, magic=0xA15E, compression=0, body=b"body"):
    return library._SEAL_HEADER.pack(magic, 16, 4, 1, compression, 0, 16 + len(body)) + body


def test_an_uncompressed_object_is_read_as_it_is():
    assert library._body(blob()) == b"body"


@pytest.mark.parametrize("changes", [{"magic": 1}, {"compression": 1}, {"compression": 3}], ids=str)
def test_objects_of_an_unknown_form_are_refused(changes):
    with pytest.raises(MisuseError, match="expected 0xa15e with 0 or 2"):
        library._body(blob(**changes))


@pytest.mark.parametrize("body", [b"", bytes(15), struct.pack("<Q", 3) + bytes(16), bytes(24)], ids=len)
def test_an_object_that_does_not_end_in_its_array_is_refused(body):
    with pytest.raises(MisuseError, match="serialises otherwise"):
        _Frame.around(blob(body=body), coefficients=2)


def test_a_frame_takes_as_many_residues_as_it_had():
    frame = _Frame.around(blob(body=b"prefix" + struct.pack("<QQQ", 2, 5, 6)), coefficients=2)
    filled = frame.filled(np.array([7, 8], dtype=np.uint64))
    assert library._body(filled) == b"prefix" + struct.pack("<QQQ", 2, 7, 8)
    with pytest.raises(MisuseError, match="3 residues do not fill"):
        frame.filled(np.zeros(3, dtype=np.uint64))


def test_numbers_of_protocol_buffers_survive():
    for number in (0, 1, 127, 128, 300, 2**32):
        assert library._read_varint(library._varint(number) + b"\xff", 0)[0] == number
    message = b"\x20\x07" + bytes([1 << 3 | 1]) + bytes(8) + library._delimited(2, b"x" * 200)
    assert library._fields(message) == {2: b"x" * 200}
    with pytest.raises(MisuseError, match="no field 5"):
        library._first(library._fields(message), 5)
