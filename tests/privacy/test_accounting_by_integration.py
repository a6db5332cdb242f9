"""The accountant against our own integration: no library of privacy losses, no Fourier transform, no grid of losses.

One step's hockey-stick divergence has a closed form. For two and three steps it is integrated over what the steps
before released: delta_T(epsilon) = integral of p(x) delta_{T-1}(epsilon - loss(x)) dx, by the trapezoidal rule over x.
"""

import numpy as np
import pytest
from sampled_gaussian import one_step

from privacy.accounting import Segment, spend
from privacy.privacy_loss import compose


def several_steps(epsilon, steps, q, sigma, *, patient_first):
    x = np.linspace(-11 * sigma, 1 + 11 * sigma, 1501)
    absent = np.exp(-0.5 * (x / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
    present = np.exp(-0.5 * ((x - 1) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
    mixed = (1 - q) * absent + q * present
    loss = np.log1p(q * np.expm1((2 * x - 1) / (2 * sigma**2)))
    density, gained = (mixed, loss) if patient_first else (absent, -loss)
    weights = density * (x[1] - x[0])
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)
    if steps == 1:
        return float(one_step(np.float64(epsilon), q, sigma, patient_first=patient_first))
    left = np.array([epsilon])
    joint = np.ones(1)
    for _ in range(steps - 1):
        left = (left[:, None] - gained[None, :]).ravel()
        joint = (joint[:, None] * weights[None, :]).ravel()
    return float(joint @ one_step(left, q, sigma, patient_first=patient_first))


CASES = [(0.1, 0.8, 1, 1e-5), (0.3, 1.0, 2, 1e-5), (0.05, 0.6, 3, 1e-4), (0.5, 2.0, 3, 1e-6)]


@pytest.mark.parametrize(("q", "sigma", "steps", "delta"), CASES)
def test_delta_at_the_accounted_epsilon_is_delta_by_our_own_integral(q, sigma, steps, delta):
    epsilon = spend([Segment(sampling_prob=q, noise_multiplier=sigma, steps=steps)], delta=delta).epsilon
    both = [several_steps(epsilon, steps, q, sigma, patient_first=first) for first in (True, False)]
    assert max(both) <= delta
    assert max(both) >= delta * 0.998
    # The same integral tells an epsilon that is half a percent off.
    assert several_steps(epsilon * 0.995, steps, q, sigma, patient_first=both[0] >= both[1]) > delta * 1.002


def test_mixed_segments_agree_with_the_integral_over_both_steps():
    sampled, sigma = 0.4, 1.2
    x = np.linspace(-13, 14, 6001)
    absent = np.exp(-0.5 * (x / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
    present = np.exp(-0.5 * ((x - 1) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
    loss = np.log1p(sampled * np.expm1((2 * x - 1) / (2 * sigma**2)))
    weights = ((1 - sampled) * absent + sampled * present) * (x[1] - x[0])
    plan = [
        Segment(sampling_prob=sampled, noise_multiplier=sigma, steps=1),
        Segment(sampling_prob=0.1, noise_multiplier=0.7, steps=1),
    ]
    epsilons = np.array([0.5, 1.0, 2.0, 4.0])
    own = [float(weights @ one_step(value - loss, 0.1, 0.7, patient_first=True)) for value in epsilons]
    accounted = compose(plan).deltas(epsilons)
    assert np.all(accounted >= np.array(own) * (1 - 1e-7))
    assert np.allclose(accounted, own, rtol=2e-4)
