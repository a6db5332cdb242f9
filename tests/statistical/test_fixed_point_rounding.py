"""Stochastic rounding is unbiased and has the right spread; the same test rejects biased and deterministic rules."""

import numpy as np
import pytest

from privacy.fixed_point import Segment, VectorFormat, encode
from privacy.streams import Keystream

COUNT = 2**17
FRACTIONS = (0.01, 0.25, 0.5, 0.9, 0.999)


def layout_of(length):
    return VectorFormat(segments=(Segment(name="delta", length=length, max_abs=1.0),), max_clients=100)


def rounding_z(integers, scaled):
    """How many standard errors the mean lies off, for values that all have one fraction."""
    fraction = scaled - np.floor(scaled)
    return float((integers.mean() - scaled) / np.sqrt(fraction * (1 - fraction) / integers.size))


def rounded(scaled, *, key):
    layout = layout_of(COUNT)
    values = np.full(COUNT, scaled * layout.quantum(layout.segments[0]))
    return encode(values, vector_format=layout, rounding=Keystream(key)).view(np.int32).astype(np.float64)


@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize("whole", [0, -1, 12345, -12346])
def test_rounding_is_unbiased(fraction, whole):
    integers = rounded(whole + fraction, key=bytes([abs(whole) % 251]) * 32)
    assert set(np.unique(integers)) == {whole, whole + 1}
    assert abs(rounding_z(integers, whole + fraction)) < 4.5


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_rounding_has_the_spread_of_a_coin_of_that_fraction(fraction):
    integers = rounded(fraction, key=b"v" * 32)
    expected = fraction * (1 - fraction)
    assert abs(integers.var() / expected - 1) < 0.15


@pytest.mark.parametrize("fraction", [0.25, 0.9])
@pytest.mark.parametrize(
    "rule",
    [
        lambda scaled, _: np.rint(scaled),
        lambda scaled, _: np.floor(scaled),
        lambda scaled, uniform: np.floor(scaled + uniform * 2 / 3),
        lambda scaled, uniform: np.floor(scaled + np.minimum(uniform * 1.5, 1 - 2**-53)),
    ],
    ids=["to nearest", "down", "two thirds of the noise", "three halves of the noise"],
)
def test_biased_rules_are_rejected(fraction, rule):
    uniform = Keystream(b"u" * 32).uniforms(COUNT)
    assert abs(rounding_z(rule(np.full(COUNT, fraction), uniform), fraction)) > 20


def test_rounding_errors_of_neighbours_are_uncorrelated():
    errors = rounded(0.5, key=b"c" * 32) - 0.5
    correlation = float(np.corrcoef(errors[:-1], errors[1:])[0, 1])
    assert abs(correlation) * np.sqrt(COUNT) < 4.5


def test_uniforms_fill_the_unit_interval_evenly():
    uniform = Keystream(b"f" * 32).uniforms(COUNT)
    assert uniform.min() >= 0.0
    assert uniform.max() < 1.0
    # Kolmogorov and Smirnov at about 1e-4.
    steps = np.arange(1, COUNT + 1) / COUNT
    assert np.abs(np.sort(uniform) - steps).max() * np.sqrt(COUNT) < 2.2
