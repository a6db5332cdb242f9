"""Shared integer noise: the formula of the split, and exact distributions of small sums against what is accounted."""

import math

import numpy as np
import pytest
from sampled_gaussian import one_step

from privacy.accounting import NoiseSplit, distributed_segment, effective_noise, spend
from privacy.errors import MisuseError, RangeError

PLAN = {
    "noise_multiplier": 1.5,
    "clip_norm": 1.0,
    "quantum": 2.0**-24,
    "dimension": 1_400_000,
    "invited": 10,
    "max_dropouts": 2,
    "max_colluders": 1,
}


def split(**changes):
    return NoiseSplit(**{**PLAN, **changes})


def discrete_gaussian(parameter):
    reach = math.ceil(14 * parameter)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / parameter) ** 2)
    return weights / weights.sum()


def exact_deltas(honest, site_quanta, shift, q, epsilons):
    """Exact hockey-stick divergences of a sampled step whose noise is the sum of `honest` discrete Gaussians."""
    noise = discrete_gaussian(site_quanta)
    total = noise
    for _ in range(honest - 1):
        total = np.convolve(total, noise)
    absent = np.concatenate([total, np.zeros(shift)])
    present = (1 - q) * absent + q * np.concatenate([np.zeros(shift), total])
    return [
        max(np.maximum(present - grown * absent, 0).sum(), np.maximum(absent - grown * present, 0).sum())
        for grown in np.exp(epsilons)
    ]


@pytest.mark.parametrize(
    ("honest", "site_quanta", "shift", "q"), [(1, 3.5, 4, 0.3), (3, 3.0, 5, 0.1), (8, 4.0, 9, 1.0)]
)
def test_exact_sum_of_integer_noise_tells_no_more_than_the_accounted_segment(honest, site_quanta, shift, q):
    """One entry and quantum 1, so that a patient moves the rounded sum by at most clip_norm + 1 = shift."""
    clip = shift - 1.0
    planned = split(
        noise_multiplier=site_quanta * math.sqrt(honest) / clip,
        clip_norm=clip,
        quantum=1.0,
        dimension=1,
        invited=honest + 2,
        max_dropouts=1,
        max_colluders=1,
    )
    assert planned.site_noise == pytest.approx(site_quanta)
    segment = distributed_segment(planned, sampling_prob=q)
    epsilons = np.array([0.05, 0.3, 0.8, 1.5])
    exact = exact_deltas(honest, site_quanta, shift, q, epsilons)

    def accounted(noise):
        return [max(one_step(e, q, noise, patient_first=first) for first in (True, False)) for e in epsilons]

    assert all(a <= b for a, b in zip(exact, accounted(segment.noise_multiplier), strict=True))
    # The account is not just generous: a seventh more noise would be too little to charge for.
    assert any(a > b for a, b in zip(exact, accounted(segment.noise_multiplier * 8 / 7), strict=True))


def test_fine_quanta_leave_the_continuous_formula():
    planned = split()
    honest = 10 - 2 - 1
    assert planned.site_noise == pytest.approx(1.5 / math.sqrt(honest))
    for survivors in (8, 9, 10):
        expected = 1.5 * math.sqrt((survivors - 1) / honest) / (1 + 2.0**-24 * math.sqrt(1_400_000))
        assert effective_noise(planned, survivors=survivors) == pytest.approx(expected, rel=1e-12)
    assert effective_noise(planned) == effective_noise(planned, survivors=8)


def test_nobody_missing_and_nobody_colluding_is_central_noise():
    planned = split(max_dropouts=0, max_colluders=0, quantum=2.0**-40)
    assert effective_noise(planned) == pytest.approx(1.5, rel=1e-8)
    assert effective_noise(planned) < 1.5


def test_coarser_quanta_and_more_entries_only_take_noise_away():
    noises = [effective_noise(split(quantum=2.0**-power)) for power in (26, 20, 14, 12)]
    assert noises == sorted(noises, reverse=True)
    assert effective_noise(split(dimension=2**24)) < effective_noise(split())


def test_the_segment_costs_no_more_than_the_distributed_discrete_gaussian_bound():
    """Kairouz, Liu and Steinke 2021, theorem 1: Renyi divergence of order a is at most a sensitivity^2 / (2 n s^2)."""
    planned = split(max_dropouts=0, max_colluders=0)
    steps, delta = 50, 1e-5
    orders = np.linspace(1.05, 60, 4000)
    zcdp = steps * planned.sensitivity**2 / (2 * 10 * planned.site_noise**2)
    conversion = np.log1p(-1 / orders) - (np.log(delta) + np.log(orders)) / (orders - 1)
    bound = float(np.min(zcdp * orders + conversion))
    found = spend([distributed_segment(planned, sampling_prob=1.0, steps=steps)], delta=delta).epsilon
    assert 0.8 * bound < found < bound


def test_no_noise_stays_no_noise():
    assert distributed_segment(split(noise_multiplier=0.0), sampling_prob=0.1).noise_multiplier == 0.0


@pytest.mark.parametrize("survivors", [7, 11, -1, 8.0, True])
def test_sums_that_may_not_be_opened_have_no_account(survivors):
    with pytest.raises(RangeError, match=r"survivors = .* must be a whole number in \[8, 10\]"):
        effective_noise(split(), survivors=survivors)


def test_a_split_without_a_certain_honest_site_is_refused():
    with pytest.raises(RangeError, match="leave no honest site"):
        split(max_dropouts=5, max_colluders=5)


def test_noise_of_too_few_quanta_is_refused_and_the_quantum_that_is_named_does():
    with pytest.raises(MisuseError, match=r"quanta, too few .* a quantum of at most") as refused:
        split(quantum=0.4)
    named = float(str(refused.value).rsplit("at most ", 1)[1].split(" ")[0])
    split(quantum=0.99 * named)
    with pytest.raises(MisuseError, match="too few"):
        split(quantum=1.5 * named)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("noise_multiplier", math.nan),
        ("clip_norm", 0.0),
        ("clip_norm", math.inf),
        ("quantum", math.nan),
        ("quantum", -1.0),
        ("dimension", 0),
        ("invited", 0),
        ("max_dropouts", -1),
        ("max_colluders", 1.5),
    ],
    ids=str,
)
def test_impossible_splits_are_refused_by_name(field, value):
    with pytest.raises(RangeError, match=f"{field} = "):
        split(**{field: value})
