"""An interval for a mean without a law for the values: the percentile bootstrap, widened for few of them.

Run by whoever audits. Source: Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician
2015, section 4.1: the plain percentile interval of few values is too narrow, by the factor between the normal and the
t distribution and by dividing by n for n - 1; its levels are moved out until both are made up for.
"""

from collections.abc import Sequence
from math import sqrt

import numpy as np
from scipy.stats import norm, t

DRAWS = 10_000


def mean_interval(values: Sequence[float], *, seed: int, confidence: float = 0.95) -> tuple[float, float]:
    """Bounds of the mean of independent values; repetitions within one value are to be averaged before.

    Raises:
        ValueError: a single value says nothing about its spread.
    """
    count = len(values)
    if count < 2:
        raise ValueError(f"values: {count} of them have no spread; give at least 2")
    given = np.asarray(values, np.float64)
    drawn = np.random.default_rng(seed).integers(count, size=(DRAWS, count))
    means = given[drawn].mean(axis=1)
    quantile = float(t.ppf(0.5 + confidence / 2, count - 1)) * sqrt(count / (count - 1))
    low, high = np.quantile(means, [norm.cdf(-quantile), norm.cdf(quantile)])
    # Of equal values the mean differs from the quantiles by rounding alone.
    return min(float(low), float(given.mean())), max(float(high), float(given.mean()))
