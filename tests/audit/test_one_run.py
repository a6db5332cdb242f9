"""The bound from one run equals its table, never contradicts a mechanism that holds, and does one that does not."""

import math

import numpy as np
import pytest

from privacy.errors import RangeError
from privacy.gaussian_trade_off import gaussian_epsilon
from secfed.audit.one_run import epsilon_at_least, guess_coins


@pytest.mark.parametrize(("guesses", "epsilon"), [(100, 3.49), (1000, 5.81)])
def test_all_guesses_right_give_the_tabulated_ceiling(guesses, epsilon):
    found = epsilon_at_least(guesses, guesses=guesses, canaries=guesses, delta=0.0)
    assert found == pytest.approx(epsilon, abs=0.005)
    p = 0.05 ** (1 / guesses)
    assert found == pytest.approx(math.log(p / (1 - p)), abs=1e-5)


def test_delta_and_wrong_guesses_lower_the_bound():
    bounds = [epsilon_at_least(right, guesses=200, canaries=1000, delta=1e-5) for right in (200, 198, 180, 120, 100)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] == 0.0
    assert epsilon_at_least(200, guesses=200, canaries=1000, delta=0.0) > bounds[0]
    assert epsilon_at_least(200, guesses=200, canaries=1000, delta=0.1) == 0.0


def test_randomised_response_is_contradicted_no_more_often_than_stated():
    # Randomised response with epsilon 1 is what the bound is tight for.
    rng = np.random.default_rng(8)
    p = 1 / (1 + math.exp(-1.0))
    wrong = sum(
        epsilon_at_least(int(rng.binomial(300, p)), guesses=300, canaries=300, delta=0.0) > 1.0 for _ in range(400)
    )
    assert wrong <= 0.05 * 400 + 3 * math.sqrt(0.05 * 0.95 * 400)


def test_a_gaussian_mechanism_is_below_its_epsilon_and_a_broken_one_above():
    rng = np.random.default_rng(9)
    member = rng.random(1000) < 0.5
    epsilon = gaussian_epsilon(1e-5, mu=0.5)
    honest = guess_coins(rng.normal(0.5 * member, 1), member, guesses=200, delta=1e-5)
    assert 0.0 < honest.epsilon_at_least < epsilon
    broken = guess_coins(rng.normal(5.0 * member, 1), member, guesses=200, delta=1e-5)
    assert epsilon < broken.epsilon_at_least <= broken.ceiling


def test_guesses_that_know_nothing_show_nothing():
    rng = np.random.default_rng(10)
    assert guess_coins(rng.normal(size=1000), rng.random(1000) < 0.5, guesses=200, delta=1e-5).epsilon_at_least < 0.3


@pytest.mark.parametrize(("correct", "guesses", "canaries"), [(5, 4, 10), (-1, 4, 10), (4, 12, 10), (0, 0, 10)])
def test_impossible_counts_are_refused(correct, guesses, canaries):
    with pytest.raises(RangeError, match="guesses"):
        epsilon_at_least(correct, guesses=guesses, canaries=canaries, delta=1e-5)
