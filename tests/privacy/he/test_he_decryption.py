"""Decryption against one that is written from the papers alone, and the noise against its worst-case bound."""

import numpy as np
import pytest
from he_world import (
    CONTEXT,
    EXACT,
    decrypted,
    encrypted_sum,
    group_key,
    plain_and_noise,
    random_words,
    residues_of,
    secret_polynomial,
    slot,
)

from privacy.he.layout import pack, unpack
from privacy.he.parameters import MAX_SUM

PRIME = np.uint64(EXACT.moduli[0])


def test_the_secret_is_ternary_and_balanced():
    values, counts = np.unique(secret_polynomial(group_key()), return_counts=True)
    assert values.tolist() == [-1, 0, 1]
    # Each value is binomial with mean 1365 and standard deviation 30; six of these are 181.
    assert abs(counts - 4096 / 3).max() < 181


def test_a_decryption_written_from_the_papers_finds_the_slots():
    """Fan and Vercauteren 2012, section 3, without SEAL: phase, rounding, then the plaintext at roots of unity."""
    key, words = group_key(), random_words(EXACT.values_per_chunk, max_abs=MAX_SUM)
    residues = residues_of(key.encrypt(words, contributor="site-000", context=CONTEXT), parameters=EXACT)[0]
    coefficients, _ = plain_and_noise(residues, key=key)
    for index in (0, 1, 2, 1000, 2047):
        assert slot(coefficients, index, parameters=EXACT) == words.view(np.int32)[index]


def test_fresh_noise_is_the_stated_distribution():
    key = group_key()
    messages = [
        key.encrypt(random_words(4092, max_abs=MAX_SUM, seed=seed), contributor="site-000", context=CONTEXT)
        for seed in range(8)
    ]
    noise = np.concatenate(
        [plain_and_noise(residues_of(message, parameters=EXACT)[0], key=key)[1] for message in messages]
    )
    assert np.abs(noise).max() <= 21.5
    # Centred binomial of 42 bits and rounding: variance 10.5 + 1/12, or 3.2 squared with the Gaussian sampler. The
    # estimate from 32768 values has a relative error below 4 per cent at six standard deviations.
    assert 3.2 * 0.96 < noise.std() < 3.253 * 1.04
    assert abs(noise.mean()) < 6 * 3.253 / np.sqrt(noise.size)


def test_noise_of_a_sum_stays_below_the_bound_for_its_clients():
    key = group_key()
    vectors = [random_words(5, max_abs=MAX_SUM // 100, seed=seed) for seed in range(100)]
    noise = plain_and_noise(residues_of(encrypted_sum(vectors, key=key), parameters=EXACT)[0], key=key)[1]
    assert np.abs(noise).max() <= 100 * 21.5
    assert 0.9 * 32.5 < noise.std() < 1.1 * 32.5


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("clients", [2, 3, 100])
def test_sums_at_the_ends_of_the_range_are_exact(clients, sign):
    largest = MAX_SUM // clients
    words = np.full(4093, sign * largest, dtype=np.int32).view(np.uint32)
    found = decrypted(
        encrypted_sum([words] * clients, key=group_key()), key=group_key(), length=4093, contributors=clients
    )
    assert (found.view(np.int32) == sign * largest * clients).all()


def repeated(message, times):
    """The first chunk added to itself: noise of one draw, `times` over, which is the worst that so many can do."""
    residues = residues_of(message, parameters=EXACT)[0].astype(object)
    return (residues * times % int(PRIME)).astype(np.uint64)


def test_as_many_equal_noises_as_the_parameters_allow_decrypt_exactly():
    key, words = group_key(), random_words(4092, max_abs=MAX_SUM // 1489)
    message = key.encrypt(words, contributor="site-000", context=CONTEXT)
    found = key._seal_key.decrypt(repeated(message, 1489))
    assert (found[:4092] == words.view(np.int32).astype(np.int64) * 1489).all()


def test_far_more_additions_than_allowed_are_wrong_which_is_why_they_are_refused():
    key = group_key()
    message = key.encrypt(np.ones(4092, dtype=np.uint32), contributor="site-000", context=CONTEXT)
    found = key._seal_key.decrypt(repeated(message, 20_000))
    assert (found[:4092] != 20_000).any()


def test_packing_is_the_reverse_of_unpacking():
    from he_world import COMMON

    for parameters in (EXACT, COMMON):
        generator = np.random.Generator(np.random.PCG64(3))
        data = generator.bytes(3 * parameters.chunk_bytes)
        residues = unpack(memoryview(data), parameters=parameters)
        into = bytearray(len(data))
        pack(residues, memoryview(into), parameters=parameters)
        assert bytes(into) == data
        width = parameters.residue_bytes[0]
        assert int(residues[0][1, 2]) == int.from_bytes(data[parameters.chunk_bytes + 2 * width :][:width], "little")
