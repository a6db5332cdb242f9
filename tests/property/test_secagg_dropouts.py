"""The masked sum is the plain sum under every dropout pattern, or nothing comes out at all."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import MisuseError, TooFewSurvivorsError
from privacy.fixed_point import Segment, VectorFormat, decode_sum, encode
from privacy.secagg.protocol import STEPS, run_secure_aggregation
from privacy.secagg.threshold import default_threshold
from privacy.streams import Keystream

NAMES = ("east", "lake", "north", "south", "vale", "west")


def vectors(count, length=5, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, 2**32, length, dtype=np.uint32) for name in NAMES[:count]}


def plain_sum(chosen):
    return sum((vector.astype(np.uint64) for vector in chosen), np.uint64(0)) % 2**32


def speaking_at(names, silent_from, step):
    return [name for name in names if name not in silent_from or STEPS.index(silent_from[name]) > STEPS.index(step)]


def check(given_vectors, silent_from, threshold=None):
    """The protocol's outcome follows from who speaks at which step, and from nothing else."""
    names = tuple(given_vectors)
    ready = speaking_at(names, silent_from, "confirm")
    needed = 2 if len(ready) < 2 else (threshold or default_threshold(len(ready)))
    answering = len(speaking_at(names, silent_from, "unmask"))
    if len(ready) < 2 or answering < needed:
        with pytest.raises(TooFewSurvivorsError):
            run_secure_aggregation(given_vectors, silent_from=silent_from, threshold=threshold)
        return False
    result = run_secure_aggregation(given_vectors, silent_from=silent_from, threshold=threshold)
    survivors = speaking_at(names, silent_from, "upload")
    assert result.survivors == tuple(survivors)
    assert result.dropped == tuple(name for name in ready if name not in survivors)
    assert result.excluded == {}
    assert np.array_equal(result.total, plain_sum(given_vectors[name] for name in survivors))
    return True


@settings(max_examples=60)
@given(
    count=st.integers(2, 6),
    seed=st.integers(0, 2**16),
    silent_from=st.dictionaries(st.sampled_from(NAMES), st.sampled_from(STEPS), max_size=4),
)
def test_masked_sum_equals_plain_sum_or_nothing(count, seed, silent_from):
    silent = {name: step for name, step in silent_from.items() if name in NAMES[:count]}
    check(vectors(count, seed=seed), silent)


def test_every_single_dropout_of_four_leaves_the_sum_of_the_survivors():
    for name, step in itertools.product(NAMES[:4], STEPS):
        assert check(vectors(4), {name: step})


def test_every_double_dropout_of_four_after_the_keys_leaves_nothing():
    for pair in itertools.combinations(NAMES[:4], 2):
        for steps in itertools.product(("share", "upload", "agree", "unmask"), repeat=2):
            assert not check(vectors(4), dict(zip(pair, steps, strict=True)))


def test_lower_count_of_answers_than_threshold_unmasks_nothing():
    """Three clients of five suffice for nothing when the threshold is the default of four."""
    for step in ("agree", "unmask"):
        assert not check(vectors(5), {"east": step, "lake": step})
        assert check(vectors(5), {"east": step})


@pytest.mark.parametrize("count", [2, 3])
def test_small_cohorts_run_and_tolerate_no_dropout(count):
    assert check(vectors(count), {})
    assert not check(vectors(count), {"east": "upload"})


def test_sums_wrap_modulo_2_to_the_32():
    given_vectors = {name: np.full(3, 2**32 - 1, dtype=np.uint32) for name in NAMES[:4]}
    assert run_secure_aggregation(given_vectors).total.tolist() == [2**32 - 4] * 3


def test_vectors_larger_than_a_block_of_the_stream_are_masked_throughout():
    assert check(vectors(3, length=2**16 + 3), {})


def test_vectors_of_different_lengths_are_the_callers_mistake():
    with pytest.raises(MisuseError, match="one length"):
        run_secure_aggregation({"a": np.zeros(2, np.uint32), "b": np.zeros(3, np.uint32)})


def test_extreme_values_sum_exactly_at_full_range():
    """All clients at ±max_abs: the largest integers that the analysis allows, and the sum is still exact."""
    layout = VectorFormat(segments=(Segment(name="delta", length=4, max_abs=1.5),), max_clients=4)
    values = np.array([1.5, -1.5, 1.5, -1.5])
    encoded = {
        name: encode(values, vector_format=layout, rounding=Keystream(bytes([i]) * 32))
        for i, name in enumerate(NAMES[:4])
    }
    total = decode_sum(run_secure_aggregation(encoded).total, vector_format=layout)
    assert np.allclose(total, 4 * values, rtol=1e-15)
