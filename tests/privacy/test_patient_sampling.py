"""Poisson lots: exact coins, one per patient, from a keyed stream."""

from fractions import Fraction

import numpy as np
import pytest

from privacy.errors import MisuseError
from privacy.patient_sampling import poisson_lot
from privacy.streams import Keystream


class InsecureWords:
    """A stream that says what it is told to."""

    def __init__(self, *words):
        self.left = list(words)

    def words(self, count):
        taken, self.left = self.left[:count], self.left[count:]
        assert len(taken) == count
        return np.array(taken, dtype=np.uint32)


def test_one_key_gives_one_lot_and_another_key_another():
    lots = [poisson_lot(200, 0.5, Keystream(bytes([key]) * 32)) for key in (1, 1, 2)]
    assert lots[0] == lots[1] != lots[2]
    assert lots[0] == tuple(sorted(set(lots[0])))


def test_steps_of_one_stream_are_independent_draws():
    stream = Keystream(b"k" * 32)
    assert poisson_lot(100, 0.5, stream) != poisson_lot(100, 0.5, stream)


def test_probability_one_takes_every_patient():
    assert poisson_lot(4, 1, Keystream(bytes(32))) == (0, 1, 2, 3)


@pytest.mark.parametrize("patients", [0, 3])
def test_empty_lots_are_lots(patients):
    assert poisson_lot(patients, 1e-30, Keystream(bytes(32))) == ()


def test_coin_compares_all_bits_of_the_probability():
    """A third has bits without end: 0.0101...; the coin is true exactly where the uniform number lies below it."""
    third = 0x55555555
    assert poisson_lot(1, Fraction(1, 3), InsecureWords(third, third - 1)) == (0,)
    assert poisson_lot(1, Fraction(1, 3), InsecureWords(third, third + 1)) == ()
    assert poisson_lot(1, Fraction(1, 3), InsecureWords(third, third, third, third - 1)) == (0,)
    assert poisson_lot(1, Fraction(1, 3), InsecureWords(third, third, third, third + 1)) == ()


def test_float_probability_is_the_rational_that_it_stands_for():
    half = 2**31
    assert poisson_lot(2, 0.5, InsecureWords(half, 0, half - 1, 2**32 - 1)) == (1,)
    # One unit in the last place of 2^-60 lies far below 64 bits and still counts.
    tiny = Fraction(2.0**-60 * (1 + 2.0**-52))
    assert poisson_lot(1, float(tiny), InsecureWords(0, 16, 0, 0)) == (0,)
    assert poisson_lot(1, 2.0**-60, InsecureWords(0, 16)) == ()


@pytest.mark.parametrize("sampling_prob", [0, -0.1, 1.0001, float("nan"), float("inf")])
def test_what_is_no_probability_is_refused(sampling_prob):
    with pytest.raises(MisuseError, match="sampling_prob"):
        poisson_lot(3, sampling_prob, Keystream(bytes(32)))


def test_negative_number_of_patients_is_refused():
    with pytest.raises(MisuseError, match="patients = -1"):
        poisson_lot(-1, 0.5, Keystream(bytes(32)))


@pytest.mark.parametrize("sampling_prob", [0.04, 0.5, Fraction(2, 3)])
def test_rate_and_spread_of_lots_are_binomial(sampling_prob):
    """Also rejects a rate that is off by a tenth, and patients who come together."""
    patients, steps = 500, 400
    stream = Keystream(b"rate" * 8)
    sizes = np.array([len(poisson_lot(patients, sampling_prob, stream)) for _ in range(steps)])
    q = float(sampling_prob)
    error = np.sqrt(q * (1 - q) / (patients * steps))
    rate = sizes.mean() / patients
    assert abs(rate - q) < 5 * error
    assert abs(rate - 1.1 * q) > 5 * error
    spread = sizes.var() / (patients * q * (1 - q))
    assert 0.65 < spread < 1.45
