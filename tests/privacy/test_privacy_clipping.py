"""The edge-case table of clip_by_l2_norm, row by row."""

import numpy as np
import pytest

from privacy.clipping import clip_by_l2_norm
from privacy.errors import MisuseError


def test_short_vectors_stay_as_they_are():
    clipped = clip_by_l2_norm(np.array([0.3, 0.4]), bound=1.0)
    assert clipped.values.tolist() == [0.3, 0.4]
    assert (clipped.bound, clipped.norm_before) == (1.0, 0.5)


def test_long_vectors_end_at_the_bound_from_below():
    clipped = clip_by_l2_norm(np.array([30.0, 40.0]), bound=5.0)
    assert np.allclose(clipped.values, [3.0, 4.0], rtol=1e-14)
    assert np.linalg.norm(clipped.values) <= 5.0
    assert clipped.norm_before == 50.0


@pytest.mark.parametrize("vector", [np.zeros(3), np.zeros(0)])
def test_zero_and_empty_vectors_have_norm_zero(vector):
    clipped = clip_by_l2_norm(vector, bound=1.0)
    assert np.array_equal(clipped.values, vector)
    assert clipped.norm_before == 0.0


@pytest.mark.parametrize(
    ("value", "bound"), [(5e-324, 1.0), (1e-200, 1e-150), (1e200, 1.0), (1.7e308, 1e300), (1e-145, 1e-150)]
)
def test_squares_that_underflow_or_overflow_are_measured_correctly(value, bound):
    clipped = clip_by_l2_norm(np.full(4, value), bound=bound)
    # The norm of four equal entries is twice the entry.
    assert clipped.norm_before == pytest.approx(2 * value) or np.isinf(2 * value)
    assert float(clipped.values[0]) == pytest.approx(min(value, bound / 2), rel=1e-12)
    assert 2 * float(clipped.values[0]) <= bound


def test_float32_vectors_are_measured_in_float64():
    vector = np.full(10_000, 0.1, dtype=np.float32)
    clipped = clip_by_l2_norm(vector, bound=1.0)
    assert clipped.values.dtype == np.float64
    assert np.linalg.norm(clipped.values) <= 1.0


def test_input_is_not_changed():
    vector = np.array([3.0, 4.0])
    clip_by_l2_norm(vector, bound=1.0)
    assert vector.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_entries_that_are_not_finite_are_refused_by_index(bad):
    with pytest.raises(MisuseError, match=r"vector\[2\]"):
        clip_by_l2_norm(np.array([0.0, 1.0, bad]), bound=1.0)


@pytest.mark.parametrize("bound", [0.0, -1.0, np.nan, np.inf, 1e-160])
def test_impossible_bounds_are_refused(bound):
    with pytest.raises(MisuseError, match="bound ="):
        clip_by_l2_norm(np.ones(2), bound=bound)


@pytest.mark.parametrize("vector", [np.ones((2, 2)), np.ones(2, dtype=np.int64)])
def test_other_shapes_and_types_are_refused(vector):
    with pytest.raises(MisuseError, match="one-dimensional floating point"):
        clip_by_l2_norm(vector, bound=1.0)
