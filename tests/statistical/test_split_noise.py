"""Noise on sums over sites has the planned size, and beats noise that every site needs for itself by sqrt(n)."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from privacy.distributed_noise import NoiseSplit
from privacy.noise import noise_share
from privacy.streams import Keystream

SITES = 8
CENTRAL = NoiseSplit(
    noise_multiplier=1.3,
    clip_norm=0.5,
    quantum=1e-4,
    dimension=200_000,
    invited=SITES,
    max_dropouts=0,
    max_colluders=0,
)
ALONE = replace(CENTRAL, invited=1)


def sum_of_shares(split: NoiseSplit, *, sites: int) -> np.ndarray:
    """In clip norms."""
    shares = [noise_share(split, stream=Keystream(bytes([i + 1]) * 32)) for i in range(sites)]
    return np.sum(shares, axis=0) * (split.quantum / split.clip_norm)


def fits(noise: np.ndarray, *, multiplier: float) -> bool:
    """Whether the sum of squares lies within what a chi-square variable does but for 1e-5."""
    low, high = stats.chi2.ppf([5e-6, 1 - 5e-6], noise.size)
    return bool(low <= float((noise**2).sum()) / multiplier**2 <= high)


def test_shares_of_all_sites_make_up_the_planned_noise() -> None:
    noise = sum_of_shares(CENTRAL, sites=SITES)
    assert fits(noise, multiplier=1.3)
    assert not fits(noise, multiplier=1.3 * 1.02)
    assert not fits(noise, multiplier=1.3 / 1.02)
    assert stats.kstest(noise / 1.3, "norm").pvalue > 1e-4


@pytest.mark.parametrize(("dropouts", "colluders"), [(2, 0), (0, 3), (2, 3)])
def test_certain_honest_shares_alone_make_up_the_planned_noise(dropouts: int, colluders: int) -> None:
    split = replace(CENTRAL, max_dropouts=dropouts, max_colluders=colluders)
    assert fits(sum_of_shares(split, sites=SITES - dropouts - colluders), multiplier=1.3)
    assert not fits(sum_of_shares(split, sites=SITES - dropouts - colluders - 1), multiplier=1.3)


def test_noise_on_the_mean_is_smaller_by_the_root_of_the_sites_than_with_local_noise() -> None:
    shared = sum_of_shares(CENTRAL, sites=SITES) / SITES
    local = sum_of_shares(ALONE, sites=SITES) / SITES
    ratio = local.std() / shared.std()
    assert ratio == pytest.approx(np.sqrt(SITES), rel=0.01)


def test_shares_of_different_sites_are_uncorrelated() -> None:
    first, second = (noise_share(CENTRAL, stream=Keystream(bytes([i]) * 32)).astype(float) for i in (1, 2))
    assert abs(np.corrcoef(first, second)[0, 1]) * np.sqrt(first.size) < 4.5
