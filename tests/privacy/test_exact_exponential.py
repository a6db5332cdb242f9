"""Bounds on exp(-x) and the exact coin."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import MisuseError
from privacy.exact_exponential import exponential_bounds, falls_below
from privacy.streams import Keystream

KEY = bytes(range(32))


def rational_bounds(exponent: Fraction, *, terms: int) -> tuple[Fraction, Fraction]:
    """exp(-x) between two rationals: the reciprocal of a Taylor series, with a geometric bound on what is left out."""
    assert terms > 2 * exponent
    total, term = Fraction(0), Fraction(1)
    for k in range(terms):
        total += term
        term *= exponent / (k + 1)
    return 1 / (total + 2 * term), 1 / total


class CountingStream(Keystream):
    """Tells how many words were asked for."""

    taken = 0

    def words(self, count: int) -> np.ndarray:
        self.taken += count
        return super().words(count)


@pytest.mark.parametrize("precision", [1, 8, 64, 300])
@pytest.mark.parametrize(
    "exponent", [Fraction(1, 10**9), Fraction(1, 3), Fraction(1), Fraction(2), Fraction(355, 113), Fraction(97)]
)
def test_bounds_enclose_the_exponential_of_exact_fractions(exponent: Fraction, precision: int) -> None:
    low, high = exponential_bounds(exponent, precision=precision)
    true_low, true_high = rational_bounds(exponent, terms=600)
    assert Fraction(low, 2**precision) <= true_high
    assert true_low <= Fraction(high, 2**precision)
    assert high - low <= 2


@given(
    numerator=st.integers(0, 10**12),
    denominator=st.integers(10**10, 10**13),
    precision=st.integers(1, 200),
)
def test_bounds_enclose_the_exponential_of_any_fraction(numerator: int, denominator: int, precision: int) -> None:
    exponent = Fraction(numerator, denominator)
    low, high = exponential_bounds(exponent, precision=precision)
    true_low, true_high = rational_bounds(exponent, terms=2 * int(exponent) + 160)
    assert Fraction(low, 2**precision) <= true_high
    assert true_low <= Fraction(high, 2**precision)
    assert 0 <= high - low <= 2


def test_the_exponential_of_zero_is_one() -> None:
    assert exponential_bounds(Fraction(0), precision=40) == (2**40, 2**40)


@pytest.mark.parametrize("exponent", [Fraction(64), Fraction(10**30)])
def test_an_exponential_below_the_precision_lies_between_zero_and_one_unit(exponent: Fraction) -> None:
    assert exponential_bounds(exponent, precision=64) == (0, 1)


@pytest.mark.parametrize(("exponent", "precision"), [(Fraction(-1, 2), 8), (Fraction(1), 0)])
def test_other_arguments_are_refused(exponent: Fraction, precision: int) -> None:
    with pytest.raises(MisuseError, match="must be at least"):
        exponential_bounds(exponent, precision=precision)


@pytest.mark.parametrize("scale", [Fraction(1), Fraction(5, 7)])
@pytest.mark.parametrize("exponent", [Fraction(1, 5), Fraction(1), Fraction(13, 4)])
def test_the_coin_falls_as_often_as_its_probability_says(scale: Fraction, exponent: Fraction) -> None:
    """All first eleven bits once: all but one value are certain, so the count is known to one."""
    stream = CountingStream(KEY)
    heads = sum(falls_below(scale, exponent, known=known, bits=11, stream=stream) for known in range(2**11))
    low, high = rational_bounds(exponent, terms=100)
    assert 2**11 * scale * low - 1 < heads < 2**11 * scale * high + 1
    assert stream.taken == 1, "only the value that holds the probability needs another word"


@pytest.mark.parametrize("words", [1, 2, 5])
def test_an_undecided_coin_reads_on_and_agrees_with_the_uniform_it_read(words: int) -> None:
    """`known` is made to agree with the probability in all its bits, so that the order is decided by what follows."""
    scale, exponent = Fraction(2, 3), Fraction(7, 5)
    bits = 32 * words
    low, high = rational_bounds(exponent, terms=200)
    known = int(scale * low * 2**bits)
    stream = CountingStream(KEY)
    fell = falls_below(scale, exponent, known=known, bits=bits, stream=stream)
    assert stream.taken >= 1
    uniform = Fraction(known * 2**32 + int(Keystream(KEY).words(1)[0]), 2 ** (bits + 32))
    assert not scale * low <= uniform <= scale * high
    assert fell == (uniform < scale * low)


def test_a_certain_coin_always_falls_and_an_impossible_one_never() -> None:
    stream = Keystream(KEY)
    assert all(falls_below(Fraction(1), Fraction(0), known=known, bits=3, stream=stream) for known in range(8))
    assert not any(falls_below(Fraction(1), Fraction(10**4), known=known, bits=3, stream=stream) for known in range(8))
