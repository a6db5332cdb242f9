"""Ciphertexts look uniform whatever is inside; a statistic that rejects a short key and a repeated mask."""

import numpy as np
import pytest
from he_world import CONTEXT, EXACT, group_key, residues_of
from scipy import stats

BINS = 64
PRIME = EXACT.moduli[0]


def p_value(residues):
    counts = np.bincount((residues.astype(np.float64) * BINS / PRIME).astype(np.int64).ravel(), minlength=BINS)
    return stats.chisquare(counts).pvalue


@pytest.mark.parametrize("value", [0, 1, 2**31 - 1])
def test_residues_are_uniform_below_the_prime(value):
    words = np.full(8 * EXACT.values_per_chunk, value, dtype=np.uint32)
    residues = residues_of(group_key().encrypt(words, contributor="site-000", context=CONTEXT), parameters=EXACT)
    assert p_value(residues[:, 0]) > 1e-9
    assert p_value(residues[:, 1]) > 1e-9


def test_the_statistic_rejects_residues_that_are_not_uniform():
    generator = np.random.Generator(np.random.PCG64(1))
    assert p_value(generator.integers(0, PRIME - PRIME // 20, size=2**15, dtype=np.uint64)) < 1e-9


def test_difference_of_two_encryptions_of_one_vector_is_uniform():
    words = np.zeros(8 * EXACT.values_per_chunk, dtype=np.uint32)
    first, second = (
        residues_of(group_key().encrypt(words, contributor="site-000", context=CONTEXT), parameters=EXACT)
        for _ in range(2)
    )
    difference = (first + np.uint64(PRIME) - second) % np.uint64(PRIME)
    assert p_value(difference[:, 0]) > 1e-9
    assert p_value(difference[:, 1]) > 1e-9
