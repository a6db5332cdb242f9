"""A hostile aggregator's sums: key holders accept nothing but the sum of the named sites' vectors, once each."""

import numpy as np
import pytest
from he_world import (
    APPROXIMATE,
    CONTEXT,
    EXACT,
    decrypted,
    encrypted_sum,
    group_key,
    names,
    random_words,
    residues_of,
    with_header_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tenseal import sealapi

from privacy.errors import HostileInputError
from privacy.he.evaluator import CiphertextSum
from privacy.he.layout import HEADER_BYTES, pack

LENGTH = 2 * EXACT.values_per_chunk + 5
WORDS = [random_words(LENGTH, max_abs=1000, seed=seed) for seed in range(3)]
PRIME, PLAIN = EXACT.moduli[0], EXACT.plain_modulus


def upload(which, *, key=None, words=None, context=CONTEXT):
    chosen = WORDS[which] if words is None else words
    return (key or group_key()).encrypt(chosen, contributor=names(3)[which], context=context)


def added(*messages, parameters=EXACT):
    """Sums without any check: what an aggregator can always compute."""
    total = sum(residues_of(message, parameters=parameters) for message in messages)
    primes = np.array(2 * parameters.moduli, dtype=np.uint64)[:, None]
    into = bytearray(messages[0])
    pack(list((total % primes).transpose(1, 0, 2)), memoryview(into)[HEADER_BYTES:], parameters=parameters)
    return bytes(into)


def forged(message, *, key=None, contributors=2):
    return with_header_of(message, key=key or group_key(), length=LENGTH, contributors=contributors)


def chunks_of(message):
    return [message[at : at + EXACT.chunk_bytes] for at in range(HEADER_BYTES, len(message), EXACT.chunk_bytes)]


def reordered(message, order):
    return message[:HEADER_BYTES] + b"".join(chunks_of(message)[index] for index in order)


def test_the_honest_sum_of_this_aggregator_is_accepted():
    found = decrypted(forged(added(upload(0), upload(1))), key=group_key(), length=LENGTH, contributors=2)
    assert (found == WORDS[0] + WORDS[1]).all()


FORGERIES = {
    "one update twice": lambda: added(upload(0), upload(0)),
    "the same message twice": lambda: added(*[upload(0)] * 2),
    "one update alone": lambda: upload(0),
    "another site's update": lambda: added(upload(0), upload(2)),
    "three updates": lambda: added(upload(0), upload(1), upload(2)),
    "an update of another round": lambda: added(upload(0), upload(1, context=b"session 1, round 0")),
    "a sum of another round": lambda: added(*(upload(i, context=b"session 1, round 0") for i in range(2))),
    "another key's ciphertexts": lambda: added(*(upload(i, key=group_key(EXACT, 1)) for i in range(2))),
    "swapped chunks": lambda: reordered(added(upload(0), upload(1)), [1, 0, 2]),
    "a repeated chunk": lambda: reordered(added(upload(0), upload(1)), [0, 0, 2]),
    "zeros": lambda: bytes(len(upload(0))),
}


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES.keys())
def test_forged_sums_are_refused_by_the_key_holders(forgery):
    with pytest.raises(HostileInputError, match="not the sum of these"):
        decrypted(forged(forgery()), key=group_key(), length=LENGTH, contributors=2)


@pytest.mark.parametrize("forgery", ["one update twice", "another site's update", "a sum of another round"])
def test_under_ckks_pads_detect_wrong_contributors_and_rounds(forgery):
    key = group_key(APPROXIMATE)
    messages = {
        "one update twice": [upload(0, key=key)] * 2,
        "another site's update": [upload(0, key=key), upload(2, key=key)],
        "a sum of another round": [upload(i, key=key, context=b"session 1, round 0") for i in range(2)],
    }[forgery]
    with pytest.raises(HostileInputError, match="not the sum of these"):
        decrypted(forged(added(*messages, parameters=APPROXIMATE), key=key), key=key, length=LENGTH, contributors=2)


@pytest.mark.parametrize("parameters", [EXACT, APPROXIMATE], ids=["BFV", "CKKS"])
def test_a_wrong_key_is_recognised(parameters):
    """The holder of another key, who is told that the ciphertexts are for it."""
    key, other = group_key(parameters), group_key(parameters, 1)
    message = encrypted_sum(WORDS[:2], key=key)
    with pytest.raises(HostileInputError, match="names another group key"):
        decrypted(message, key=other, length=LENGTH, contributors=2)
    with pytest.raises(HostileInputError, match="not the sum of these"):
        decrypted(forged(message, key=other), key=other, length=LENGTH, contributors=2)


def encoded(slots):
    """The public packing of slots into a polynomial's coefficients."""
    parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.BFV)
    parameters.set_poly_modulus_degree(EXACT.ring_degree)
    parameters.set_coeff_modulus(sealapi.CoeffModulus.Create(EXACT.ring_degree, list(EXACT.modulus_bits)))
    parameters.set_plain_modulus(PLAIN)
    plaintext = sealapi.Plaintext(EXACT.ring_degree)
    context = sealapi.SEALContext(parameters, True, sealapi.SEC_LEVEL_TYPE.TC128)
    sealapi.BatchEncoder(context).encode(slots, plaintext)
    return [plaintext.data(index) for index in range(EXACT.ring_degree)]


def test_adding_to_one_value_without_the_key_works_in_bfv_and_is_refused_here():
    """The scheme is malleable: a chosen value moves by exactly 7, all else stays, and only the tags tell."""
    slots = [0] * EXACT.slots
    slots[3] = 7
    message = added(upload(0), upload(1))
    shift = np.array([(PRIME * coefficient + PLAIN // 2) // PLAIN for coefficient in encoded(slots)], dtype=np.uint64)
    residues = residues_of(message, parameters=EXACT)
    before = group_key()._seal_key.decrypt(residues[0])
    residues[0, 0] = (residues[0, 0] + shift) % np.uint64(PRIME)
    after = group_key()._seal_key.decrypt(residues[0])
    assert np.flatnonzero(after != before).tolist() == [3]
    assert after[3] - before[3] == 7
    into = bytearray(forged(message))
    pack(list(residues.transpose(1, 0, 2)), memoryview(into)[HEADER_BYTES:], parameters=EXACT)
    with pytest.raises(HostileInputError, match="not the sum of these"):
        decrypted(bytes(into), key=group_key(), length=LENGTH, contributors=2)


def test_values_that_so_many_sites_cannot_reach_are_refused():
    words = np.full(LENGTH, 600, dtype=np.uint32)
    message = encrypted_sum([words, words], key=group_key())
    assert (decrypted(message, key=group_key(), length=LENGTH, contributors=2, max_abs=1200) == 1200).all()
    with pytest.raises(HostileInputError, match="not the sum of these"):
        decrypted(message, key=group_key(), length=LENGTH, contributors=2, max_abs=1199)
    opposite = np.full(LENGTH, 2**32 - 600, dtype=np.uint32)
    with pytest.raises(HostileInputError, match="not the sum of these"):
        decrypted(
            encrypted_sum([opposite] * 2, key=group_key()), key=group_key(), length=LENGTH, contributors=2, max_abs=1199
        )


def test_values_that_sites_hide_behind_the_end_are_refused():
    """Ten more entries than agreed fit into the last chunk; who holds the key can authenticate them."""
    message = encrypted_sum([np.ones(LENGTH + 10, dtype=np.uint32)] * 2, key=group_key())
    with pytest.raises(HostileInputError, match="beyond its length"):
        decrypted(forged(message), key=group_key(), length=LENGTH, contributors=2)


def test_sites_that_exceed_their_range_wrap_the_sum_modulo_t():
    """A stated limit: whoever holds the key can spoil a sum, here as under masks."""
    words = np.full(3, 2**31 - 1, dtype=np.uint32)
    found = decrypted(encrypted_sum([words] * 2, key=group_key()), key=group_key(), length=3, contributors=2)
    assert (found.view(np.int32) == 2 * (2**31 - 1) - PLAIN).all()


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), kind=st.sampled_from(["noise", "transparent", "constant", "largest"]))
def test_no_residues_crash_the_library_or_pass(seed, kind):
    generator = np.random.Generator(np.random.PCG64(seed))
    residues = generator.integers(0, PRIME, size=(2, EXACT.ring_degree), dtype=np.uint64)
    if kind == "transparent":
        residues[1] = 0
    elif kind == "constant":
        residues[:] = residues[0, 0]
    elif kind == "largest":
        residues[:] = PRIME - 1
    header = CiphertextSum.create(parameters=EXACT, fingerprint=group_key().fingerprint, length=1)._envelope.header(
        contributors=2
    )
    into = bytearray(header + bytes(EXACT.chunk_bytes))
    pack(list(residues[:, None]), memoryview(into)[HEADER_BYTES:], parameters=EXACT)
    with pytest.raises(HostileInputError, match="not the sum of these"):
        decrypted(bytes(into), key=group_key(), length=1, contributors=2)
