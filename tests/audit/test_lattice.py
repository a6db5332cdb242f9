"""The attacker's own arithmetic: it computes what papers define and what SEAL does, or its failures prove nothing."""

import numpy as np
import pytest

from privacy.he.key_holder import GroupKey
from privacy.he.library import SealKey
from privacy.he.parameters import HeParameters
from secfed.audit.ciphertexts import (
    low_words,
    moved,
    read_difference,
    read_words,
    secret_of,
    subtracted,
    sum_of,
    with_vector_added,
)
from secfed.audit.lattice import (
    Ring,
    bfv_plaintext,
    bfv_slots,
    ckks_real_slots,
    ckks_symmetric_part,
    ring,
)

EXACT = HeParameters.exact(max_clients=4)
LENGTH = 5000


@pytest.fixture(scope="module")
def key():
    return GroupKey.generate(EXACT)


def words(seed):
    return np.random.default_rng(seed).integers(-(2**28), 2**28, size=LENGTH).astype(np.int32).view(np.uint32)


def encrypted(key, seed):
    return key.encrypt(words(seed), contributor="a", context=b"round")


def read(key, message):
    return read_words(message, length=LENGTH, parameters=EXACT, secret=secret_of(key))


def test_products_are_those_modulo_x_to_the_degree_plus_one():
    small = Ring(prime=97, degree=8)
    one, other = np.random.default_rng(0).integers(97, size=(2, 8)).astype(object)
    expected = np.zeros(8, dtype=object)
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            expected[(i + j) % 8] += a * b if i + j < 8 else -a * b
    assert (small.product(one, other) == small.centred(expected)).all()
    assert (small.coefficients(small.values(one)) == small.centred(one)).all()


def test_quotients_undo_products_and_leave_out_what_has_none():
    small = Ring(prime=97, degree=8)
    numbers, divisors = np.arange(8).astype(object), np.array([0, 1, 2, 3, 50, 96, 97, 5], dtype=object)
    found = small.quotients(numbers * divisors, divisors)
    assert found.tolist() == [0, 1, 2, 3, 4, 5, 0, 7]


def test_the_secret_that_a_holder_stores_is_ternary_and_opens_its_ciphertexts(key):
    assert set(secret_of(key).tolist()) == {-1, 0, 1}
    np.testing.assert_array_equal(read(key, encrypted(key, 1)), words(1))


def test_without_the_secret_nothing_is_read(key):
    found = read_words(encrypted(key, 1), length=LENGTH, parameters=EXACT)
    assert np.mean(found == words(1)) < 0.01
    difference = read_difference(encrypted(key, 1), encrypted(key, 2), length=100, parameters=EXACT)
    assert np.mean(difference == (words(1) - words(2))[:100]) < 0.01


def test_slots_survive_their_packing():
    slots = np.random.default_rng(2).integers(-(2**31), 2**31, size=EXACT.slots).astype(object)
    assert (bfv_slots(bfv_plaintext(slots, parameters=EXACT), parameters=EXACT) == slots).all()


def test_sums_and_differences_and_added_vectors_hold_what_they_say(key):
    first, second = encrypted(key, 1), encrypted(key, 2)
    total = sum_of([first, second, second], count=2, length=LENGTH, key=key.fingerprint, parameters=EXACT)
    np.testing.assert_array_equal(read(key, total), words(1) + 2 * words(2))
    np.testing.assert_array_equal(read(key, subtracted(first, second, parameters=EXACT)), words(1) - words(2))
    added = words(3)[: EXACT.values_per_chunk]
    expected = words(1)
    expected[: added.size] += added
    np.testing.assert_array_equal(read(key, with_vector_added(first, added, parameters=EXACT)), expected)


def test_a_coefficient_may_move_by_less_than_half_a_step_and_not_by_more(key):
    message = encrypted(key, 1)
    edge = EXACT.moduli[0] // (2 * EXACT.plain_modulus)
    np.testing.assert_array_equal(read(key, moved(message, edge - 30, place=7, parameters=EXACT)), words(1))
    assert (read(key, moved(message, edge + 30, place=7, parameters=EXACT)) != words(1)).any()


def test_low_words_are_all_residues_of_a_message(key):
    message = encrypted(key, 1)
    chunks = EXACT.chunks(LENGTH)
    assert low_words(message, parameters=EXACT).size == 2 * chunks * EXACT.ring_degree


def test_ckks_slots_are_those_of_seal_and_their_symmetric_part_is_exact():
    parameters = HeParameters.common_ckks(max_clients=2)
    key = SealKey.generate(parameters)
    slots = np.random.default_rng(5).integers(-100, 100, size=parameters.slots)
    residues = [part[0].astype(object) for part in key.encrypt(slots)]
    field = ring(parameters.moduli[0], parameters.ring_degree)
    plain = field.coefficients((residues[0] + residues[2] * key.residues()[0].astype(object)) % field.prime)
    found = ckks_real_slots(plain, scale=2.0**40)
    assert np.abs(found - slots).max() < 1e-6
    mirrored = np.concatenate([[-plain[0]], plain[:0:-1]])
    assert (ckks_symmetric_part(found, scale=2.0**40) == plain - mirrored).all()
