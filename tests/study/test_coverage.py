"""The interval holds the true mean as often as it says, where seeds matter and where they do not; a wrong one does not.

The simulated world is that of a study: three seeds, twelve patients, and every model tested on every patient.
"""

import numpy as np
import pytest

from secfed.study.statistics import Estimate, estimate, ratio

REPEATS = 1500
SEEDS, PATIENTS = 3, 12
# Standard deviations between seeds, between patients, and of the rest.
WORLDS = {
    "patients differ": (0.0, 0.1, 0.03),
    "patients more than seeds": (0.02, 0.1, 0.03),
    "seeds as much as patients": (0.05, 0.05, 0.03),
    "seeds more than patients": (0.1, 0.05, 0.03),
    "seeds alone": (0.1, 0.0, 0.01),
    "chance alone": (0.0, 0.0, 0.03),
}


def tables(world: str, *, repeats: int = REPEATS) -> list[np.ndarray]:
    seeds, patients, rest = WORLDS[world]
    noise = np.random.default_rng(len(world))
    return [
        seeds * noise.normal(size=(SEEDS, 1))
        + patients * noise.normal(size=(1, PATIENTS))
        + rest * noise.normal(size=(SEEDS, PATIENTS))
        for _ in range(repeats)
    ]


def covers(found: Estimate, truth: float, *, width: float = 1.0) -> bool:
    assert found.low is not None
    assert found.high is not None
    half = width * (found.high - found.low) / 2
    return abs(found.mean - truth) <= half


@pytest.mark.parametrize("world", WORLDS)
def test_the_interval_covers_as_often_as_it_says_and_half_of_it_does_not(world: str) -> None:
    found = [estimate([table]) for table in tables(world)]
    coverage = np.mean([covers(one, 0.0) for one in found])
    halved = np.mean([covers(one, 0.0, width=0.5) for one in found])
    assert 0.90 <= coverage <= 0.99
    assert halved < 0.90


@pytest.mark.parametrize("world", ["seeds more than patients", "seeds alone"])
def test_an_interval_over_patients_alone_would_not_cover(world: str) -> None:
    """What many papers print: seeds averaged away, or taken for patients."""
    averaged = [estimate([table.mean(axis=0, keepdims=True)]) for table in tables(world)]
    pooled = [estimate([table.reshape(1, -1)]) for table in tables(world)]
    assert np.mean([covers(one, 0.0) for one in averaged]) < 0.6
    assert np.mean([covers(one, 0.0) for one in pooled]) < 0.6


@pytest.mark.parametrize("world", ["seeds as much as patients", "seeds alone"])
def test_a_bootstrap_of_seeds_and_patients_would_cover_less(world: str) -> None:
    noise = np.random.default_rng(5)
    hits = []
    for table in tables(world, repeats=300):
        rows, columns = (noise.integers(count, size=(400, count)) for count in table.shape)
        means = table[rows[:, :, None], columns[:, None, :]].mean(axis=(1, 2))
        low, high = np.quantile(means, (0.025, 0.975))
        hits.append(low <= 0 <= high)
    assert np.mean(hits) < 0.90


def test_the_interval_of_a_mean_over_modalities_covers() -> None:
    noise = np.random.default_rng(7)
    found = []
    for _ in range(REPEATS):
        shared = 0.03 * noise.normal(size=(SEEDS, 1))
        strata = [
            shared + spread * noise.normal(size=(1, count)) + 0.02 * noise.normal(size=(SEEDS, count))
            for spread, count in ((0.05, 12), (0.12, 8))
        ]
        found.append(estimate(strata))
    assert 0.90 <= np.mean([covers(one, 0.0) for one in found]) <= 0.99


def test_the_interval_of_a_ratio_covers_and_half_of_it_does_not() -> None:
    noise = np.random.default_rng(9)
    found = []
    for _ in range(REPEATS):
        patients = 0.8 + 0.08 * noise.normal(size=(1, PATIENTS))
        ours, theirs = (
            level * patients + 0.01 * noise.normal(size=(SEEDS, 1)) + 0.02 * noise.normal(size=(SEEDS, PATIENTS))
            for level in (0.95, 1.0)
        )
        one = ratio([ours], [theirs])
        assert one is not None
        found.append(one)
    assert 0.90 <= np.mean([covers(one, 0.95) for one in found]) <= 0.99
    assert np.mean([covers(one, 0.95, width=0.5) for one in found]) < 0.90
