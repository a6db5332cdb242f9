"""The discrete Gaussian follows its law at every scale; the same tests reject neighbouring laws."""

from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from privacy import discrete_gaussian as sampler
from privacy.discrete_gaussian import discrete_gaussian
from privacy.streams import Keystream

COUNT = 400_000


def drawn(sigma: float, *, count: int = COUNT) -> np.ndarray:
    return discrete_gaussian(count, sigma=sigma, stream=Keystream(b"g" * 32))


def exact_pmf(sigma: float, *, reach: int) -> np.ndarray:
    """P(x) for |x| <= reach; the sum beyond is below 1e-16 for a reach of 9 sigma."""
    x = np.arange(-reach, reach + 1, dtype=np.float64)
    rho = np.exp(-x * x / (2 * sigma * sigma))
    return rho / rho.sum()


def chi_square(samples: np.ndarray, sigma: float) -> float:
    """The p-value against the exact law, with integers pooled into cells of at least 20 expected samples."""
    reach = max(int(9 * sigma), 9)
    expected = exact_pmf(sigma, reach=reach) * samples.size
    observed = np.bincount(np.clip(samples, -reach, reach) + reach, minlength=2 * reach + 1)
    cells = np.minimum((np.cumsum(expected) / 20).astype(int), int((samples.size - 20) / 20))
    cells = np.unique(cells, return_inverse=True)[1]
    pooled, found = np.bincount(cells, weights=expected), np.bincount(cells, weights=observed)
    if pooled.size > 1 and pooled[-1] < 5:
        pooled, found = np.append(pooled[:-2], pooled[-2:].sum()), np.append(found[:-2], found[-2:].sum())
    return float(stats.chisquare(found, pooled * found.sum() / pooled.sum()).pvalue)


@pytest.mark.parametrize("sigma", [0.5, 0.8, 1.0, 2.7, 7.9, 8.0, 40.0, 300.0])
def test_every_integer_comes_as_often_as_the_law_says(sigma: float) -> None:
    assert chi_square(drawn(sigma), sigma) > 1e-4


@pytest.mark.parametrize("sigma", [0.5, 2.7, 40.0])
def test_a_rounded_gaussian_is_rejected_where_the_laws_differ_and_a_wrong_scale_everywhere(sigma: float) -> None:
    generator = np.random.default_rng(1)
    assert chi_square(drawn(sigma * 1.02), sigma) < 1e-9
    assert chi_square(drawn(sigma / 1.02), sigma) < 1e-9
    if sigma < 1:
        assert chi_square(np.rint(generator.normal(0, sigma, COUNT)).astype(np.int64), sigma) < 1e-9


@pytest.mark.parametrize("sigma", [0.5, 3.0, 1e3, 1e6, 2.0**24])
def test_moments_are_those_of_the_law(sigma: float) -> None:
    """For sigma of 1 and more the variance is sigma^2 to 1e-6, and the kurtosis 3."""
    samples = drawn(sigma).astype(np.float64)
    variance, fourth = sigma**2, 3 * sigma**4
    if sigma < 1:
        law = exact_pmf(sigma, reach=9)
        variance, fourth = (float((law * np.arange(-9, 10.0) ** power).sum()) for power in (2, 4))
    spread = np.sqrt(fourth - variance**2)
    assert abs(samples.mean()) * np.sqrt(COUNT / variance) < 4.5
    assert abs((samples**2).mean() - variance) * np.sqrt(COUNT) / spread < 4.5
    assert abs((samples**4).mean() / fourth - 1) < 0.03
    assert abs(((samples * 1.02) ** 2).mean() - variance) * np.sqrt(COUNT) / spread > 4.5


@pytest.mark.parametrize("sigma", [5e3, 1e6, 2.0**24, 2.0**28])
def test_large_scales_pass_kolmogorov_and_smirnov(sigma: float) -> None:
    samples = drawn(sigma)
    # Uniform within the integer's cell, so that a continuous law is met.
    spread = samples + Keystream(b"j" * 32).uniforms(COUNT) - 0.5
    assert stats.kstest(spread / sigma, "norm").pvalue > 1e-4
    assert stats.kstest(1.02 * spread / sigma, "norm").pvalue < 1e-6


def test_integers_within_a_block_are_not_uniform_but_follow_the_slope() -> None:
    """Within one block the density falls by a tenth and more: the coin works at the finest scale too."""
    sigma = 1000.0
    samples = drawn(sigma, count=2_000_000)
    left, right = (np.count_nonzero((samples >= at) & (samples < at + 32)) for at in (1024, 1024 + 32))
    law = exact_pmf(sigma, reach=9000)[9000 + 1024 : 9000 + 1088]
    share = law[:32].sum() / law.sum()
    total = left + right
    assert abs(left - total * share) < 4.5 * np.sqrt(total / 4)
    assert law[0] / law[-1] > 1.06


@pytest.mark.parametrize("sigma", [1.0, 50.0, 1e6])
def test_tails_are_below_the_bound_and_not_cut_off(sigma: float) -> None:
    samples = np.abs(drawn(sigma, count=2_000_000))
    for k in (2, 3, 4):
        observed = np.count_nonzero(samples >= k * sigma) / samples.size
        assert observed <= 2 * np.exp(-k * k / 2)
    assert np.count_nonzero(samples > 4.5 * sigma) > 0


def test_neighbouring_samples_are_uncorrelated() -> None:
    samples = drawn(100.0).astype(np.float64)
    for values in (samples, samples**2):
        for lag in (1, 2, 17):
            assert abs(np.corrcoef(values[:-lag], values[lag:])[0, 1]) * np.sqrt(COUNT) < 4.5


def test_the_law_does_not_depend_on_the_size_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stands at the edge of a batch is no more and no less likely."""
    for batch in (64, 1000):
        monkeypatch.setattr(sampler, "_BATCH", batch)
        assert chi_square(drawn(2.7, count=60_000), 2.7) > 1e-4


def test_the_tail_follows_the_law_beyond_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tail moved to where it can be seen, from 2.4 sigma on; its blocks still halve the density at least."""
    law, stream = sampler._Law(Fraction(10)), Keystream(b"t" * 32)
    law.reach, law.width, law.shift, law.scale = 24, 8, 3, 1
    monkeypatch.setattr(sampler, "_TAIL_BITS", 2)
    found = np.array([x for x in (law.tail_candidate(stream) for _ in range(20_000)) if x is not None])
    magnitudes = np.where(found >= 0, found, -1 - found) - 24
    assert magnitudes.min() == 0
    cells = 12
    for side, x in ((found >= 0, np.arange(24, 124)), (found < 0, -1 - np.arange(24, 124))):
        density = np.exp(-(x**2) / 200)
        expected = np.append(density[:cells], density[cells:].sum())
        observed = np.bincount(np.minimum(magnitudes[side], cells), minlength=cells + 1)
        assert stats.chisquare(observed, expected / expected.sum() * observed.sum()).pvalue > 1e-4
    positive = float(np.exp(-(np.arange(24, 124.0) ** 2) / 200).sum())
    negative = float(np.exp(-(np.arange(25, 125.0) ** 2) / 200).sum())
    share = positive / (positive + negative)
    assert abs(np.count_nonzero(found >= 0) - found.size * share) < 4.5 * np.sqrt(found.size / 4)
