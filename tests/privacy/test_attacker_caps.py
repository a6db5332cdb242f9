"""Caps on an attacker: closed forms, attackers that reach them, and the order between them."""

import math

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from privacy.accounting import Segment, Spend, spend
from privacy.errors import RangeError
from privacy.gaussian_trade_off import gaussian_auc, gaussian_delta, gaussian_epsilon, gaussian_mu, gaussian_tpr

# Dong, Roth and Su 2022 by Balle and Wang's theorem 8: mu and TPR at 1 % of the Gaussian mechanism with this epsilon
# at delta 1e-5.
GAUSSIAN = [(1.0, 0.268, 0.020), (3.0, 0.719, 0.054), (8.0, 1.666, 0.255)]


@pytest.mark.parametrize(("epsilon", "mu", "tpr"), GAUSSIAN)
def test_equivalent_gaussian_has_the_tabled_mu_and_true_positives(epsilon, mu, tpr):
    caps = Spend(epsilon=epsilon, delta=1e-5).attacker(0.01)
    assert caps.mu == pytest.approx(mu, abs=5e-4)
    assert caps.tpr_gaussian == pytest.approx(tpr, abs=5e-4)
    assert caps.auc_gaussian == pytest.approx(ndtr(mu / math.sqrt(2)), abs=5e-4)


@pytest.mark.parametrize("fpr", [1e-4, 0.01, 0.3, 0.9])
@pytest.mark.parametrize("mu", [0.3, 1.0, 3.0])
def test_caps_of_an_unsampled_gaussian_are_those_of_the_best_test(mu, fpr):
    """Neyman and Pearson: the likelihood ratio test reaches Phi(Phi^-1(fpr) + mu), so a cap below it would be false."""
    caps = spend([Segment(sampling_prob=1.0, noise_multiplier=3 / mu, steps=9)], delta=1e-5).attacker(fpr)
    best = ndtr(ndtri(fpr) + mu)
    assert best <= caps.tpr <= best * 1.001 + 1e-6
    assert ndtr(mu / math.sqrt(2)) <= caps.auc <= ndtr(mu / math.sqrt(2)) + 1e-4
    assert caps.basis == "trade-off curve"


def test_no_threshold_on_sampled_releases_beats_the_caps_and_the_best_comes_close():
    """The likelihood ratio of one sampled step grows with the release, so every best test is a threshold on it."""
    q, sigma = 0.4, 0.8
    found = spend([Segment(sampling_prob=q, noise_multiplier=sigma, steps=1)], delta=1e-5)
    x = np.linspace(-6, 7, 4001)
    false, true = ndtr(-x / sigma), (1 - q) * ndtr(-x / sigma) + q * ndtr((1 - x) / sigma)
    for fpr in (0.001, 0.01, 0.1):
        best = float(np.interp(fpr, false[::-1], true[::-1]))
        cap = found.attacker(fpr).tpr
        assert best * (1 - 1e-6) <= cap <= best * 1.01
    auc = float(-np.sum(np.diff(false) * (true[1:] + true[:-1]) / 2))
    # The cap holds whichever hypothesis is the alarm, so it exceeds the area of this one direction.
    assert auc <= found.attacker().auc <= auc + 0.03


@pytest.mark.parametrize(("q", "noise", "steps"), [(0.04, 1.5, 2250), (0.5, 3.0, 20), (0.01, 0.6, 50)])
def test_the_curve_caps_no_less_than_chance_and_no_more_than_the_pair(q, noise, steps):
    found = spend([Segment(sampling_prob=q, noise_multiplier=noise, steps=steps)], delta=1e-5)
    for fpr in (0.0, 1e-3, 0.01, 0.5, 1.0):
        caps = found.attacker(fpr)
        assert fpr <= caps.tpr <= caps.tpr_from_pair <= 1.0
        assert 0.5 <= caps.auc <= caps.auc_from_pair <= 1.0


def test_pair_alone_caps_by_its_two_lines():
    caps = Spend(epsilon=1.0, delta=1e-5).attacker(0.01)
    assert caps.tpr == caps.tpr_from_pair == pytest.approx(math.e * 0.01 + 1e-5)
    assert caps.basis == "(epsilon, delta)"
    # The area under the two lines of Kairouz, Oh and Viswanath 2015, which meet at (1 - delta) / (1 + e^epsilon).
    corner = (1 - 1e-5) / (1 + math.e)
    area = corner * (1e-5 + 1 - corner) / 2 + (1 - 1e-5 - corner) * (2 - corner) / 2 + 1e-5
    assert caps.auc == pytest.approx(area, abs=1e-9)
    high = Spend(epsilon=1.0, delta=1e-5).attacker(0.9)
    assert high.tpr == pytest.approx(1 - (1 - 1e-5 - 0.9) / math.e)


def test_without_noise_everybody_is_found_and_without_release_nobody():
    open_caps = spend([Segment(sampling_prob=0.1, noise_multiplier=0.0, steps=1)], delta=1e-5).attacker()
    assert (open_caps.tpr, open_caps.auc, open_caps.mu) == (1.0, 1.0, math.inf)
    closed = spend([], delta=1e-5).attacker()
    assert (closed.tpr, closed.auc) == (pytest.approx(0.01), pytest.approx(0.5))


def test_epsilon_beyond_float64_exponents_caps_nothing():
    caps = spend([Segment(sampling_prob=1.0, noise_multiplier=1e-4, steps=1)], delta=1e-5).attacker()
    assert caps.tpr == pytest.approx(1.0)
    assert caps.auc == pytest.approx(1.0)
    assert Spend(epsilon=5000.0, delta=1e-5).attacker().tpr == 1.0


def test_the_sentence_says_the_cap_of_record():
    caps = spend([Segment(sampling_prob=1.0, noise_multiplier=3 / 1.666, steps=9)], delta=1e-5).attacker()
    assert caps.sentence() == (
        "An attacker who accepts 1 % false alarms finds at most 25.5 % of the patients who took part."
    )


@pytest.mark.parametrize("fpr", [-0.1, 1.1, math.nan])
def test_impossible_rates_are_refused(fpr):
    with pytest.raises(RangeError, match="fpr = "):
        Spend(epsilon=1.0, delta=1e-5).attacker(fpr)


@pytest.mark.parametrize("mu", [1e-3, 0.5, 4.0, 300.0])
@pytest.mark.parametrize("delta", [1e-10, 1e-5, 0.05])
def test_gaussian_epsilon_and_mu_undo_each_other(mu, delta):
    epsilon = gaussian_epsilon(delta, mu=mu)
    assert gaussian_delta(epsilon, mu=mu) <= delta
    if epsilon > 0:
        assert gaussian_mu(epsilon, delta=delta) == pytest.approx(mu, rel=1e-6)


def test_gaussian_limits():
    assert gaussian_tpr(0.0, mu=2.0) == 0.0
    assert gaussian_tpr(1.0, mu=2.0) == 1.0
    assert gaussian_tpr(0.01, mu=0.0) == pytest.approx(0.01)
    assert gaussian_tpr(0.01, mu=math.inf) == gaussian_auc(mu=math.inf) == 1.0
    assert gaussian_delta(-1.0, mu=0.0) == pytest.approx(1 - math.exp(-1))
