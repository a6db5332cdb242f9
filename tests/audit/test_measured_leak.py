"""Intervals cover the truth as often as they say, honest scores raise an alarm as rarely as they say, caps are held."""

import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from privacy.accounting import Segment, spend
from secfed.audit.measured_leak import (
    FALSE_ALARM,
    clopper_pearson,
    gaussian_distance,
    measured_attacker,
    sampled_distance,
)


@pytest.mark.parametrize("mu", [0.0, 1.0, 4.0])
def test_measured_mu_covers_the_truth_and_alarms_as_rarely_as_it_says(mu):
    rng = np.random.default_rng(int(10 * mu) + 3)
    found = [gaussian_distance(rng.normal(mu, 1, 200), rng.normal(0, 1, 220), claimed=mu) for _ in range(2000)]
    covered = sum(each.low <= mu <= each.high for each in found)
    assert 0.935 * 2000 <= covered <= 0.965 * 2000
    for tail in ("p_more", "p_less"):
        values = np.array([getattr(each, tail) for each in found])
        assert (values < FALSE_ALARM).sum() <= binom.ppf(0.9999, 2000, FALSE_ALARM)
        assert 0.03 * 2000 <= (values < 0.05).sum() <= 0.07 * 2000


def test_a_sampled_member_s_distance_covers_the_truth():
    # In each of 4 rounds a member counts with probability 1/2, under noise of 1: means differ by 2, deviation is 2.
    rng = np.random.default_rng(11)
    covered = alarms = 0
    for _ in range(1000):
        members = rng.binomial(4, 0.5, 300) + rng.normal(0, 2, 300)
        found = sampled_distance(members, rng.normal(0, 2, 300), claimed=1.0)
        covered += found.low <= 1.0 <= found.high
        alarms += found.p_more < 0.01
    assert 0.93 * 1000 <= covered <= 0.97 * 1000
    assert alarms <= binom.ppf(0.9999, 1000, 0.01)


@pytest.mark.parametrize("factor", [2 / 3, 3 / 2])
def test_a_wrong_scale_of_the_noise_is_found_on_its_side(factor):
    rng = np.random.default_rng(4)
    found = gaussian_distance(rng.normal(2, factor, 500), rng.normal(0, factor, 500), claimed=2.0)
    assert (found.p_more < FALSE_ALARM) == (factor < 1)
    assert (found.p_less < FALSE_ALARM) == (factor > 1)


def test_a_distance_at_the_stated_reach_is_caught_nine_times_in_ten():
    rng = np.random.default_rng(5)
    reach = gaussian_distance(rng.normal(2, 1, 1000), rng.normal(0, 1, 1000), claimed=2.0).caught_from
    caught = sum(
        gaussian_distance(rng.normal(reach, 1, 1000), rng.normal(0, 1, 1000), claimed=2.0).p_more < FALSE_ALARM
        for _ in range(500)
    )
    assert 0.85 * 500 <= caught <= 0.95 * 500


def test_the_best_attacker_on_gaussian_noise_meets_the_cap_and_a_stronger_one_exceeds_it():
    rng = np.random.default_rng(6)
    spent = spend([Segment(sampling_prob=1.0, noise_multiplier=1.0, steps=1)], delta=1e-5)
    honest = measured_attacker(rng.normal(1, 1, 2000), rng.normal(0, 1, 2000), spent=spent)
    assert not honest.exceeded
    assert honest.auc_low < norm.cdf(1 / math.sqrt(2)) < honest.auc_high
    assert honest.auc_cap == pytest.approx(norm.cdf(1 / math.sqrt(2)), abs=2e-3)
    for rate in honest.rates:
        assert rate.low < norm.cdf(norm.ppf(rate.fpr) + 1) < rate.high
        assert rate.cap == pytest.approx(norm.cdf(norm.ppf(rate.fpr) + 1), abs=2e-3)
    stronger = measured_attacker(rng.normal(1.5, 1, 2000), rng.normal(0, 1, 2000), spent=spent)
    assert stronger.exceeded


def test_without_an_account_nothing_is_exceeded():
    found = measured_attacker(np.arange(50.0) + 100, np.arange(50.0), spent=None)
    assert found.auc == 1.0
    assert not found.exceeded


@pytest.mark.parametrize(("successes", "low", "high"), [(0, 0.0, 0.3085), (1, 0.0025, 0.4450), (5, 0.1871, 0.8129)])
def test_clopper_pearson_equals_tabulated_limits_of_ten_trials(successes, low, high):
    assert clopper_pearson(successes, 10) == pytest.approx((low, high), abs=1e-4)
