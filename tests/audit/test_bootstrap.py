"""The bootstrap's interval covers the mean as often as it says, for few values too."""

import numpy as np
import pytest
from scipy import stats

from secfed.audit import bootstrap
from secfed.audit.bootstrap import mean_interval


@pytest.mark.parametrize("count", [8, 16])
def test_interval_covers_the_mean_as_often_as_it_says(count, monkeypatch):
    monkeypatch.setattr(bootstrap, "DRAWS", 1000)
    rng = np.random.default_rng(count)
    covered, plain = 0, 0
    for seed in range(400):
        values = rng.normal(3.0, 2.0, count)
        low, high = mean_interval(list(values), seed=seed)
        covered += low <= 3.0 <= high
        # Half as wide an interval is caught.
        middle, quarter = (low + high) / 2, (high - low) / 4
        plain += middle - quarter <= 3.0 <= middle + quarter
    assert 0.92 * 400 <= covered <= 0.985 * 400
    assert plain < 0.85 * 400


def test_interval_of_normal_values_is_that_of_student():
    values = np.random.default_rng(0).normal(size=12)
    low, high = mean_interval(list(values), seed=0)
    expected = stats.t.interval(0.95, 11, values.mean(), stats.sem(values))
    assert (low, high) == pytest.approx(expected, abs=0.1)


def test_interval_follows_from_the_seed_and_holds_the_mean():
    values = [0.1, 0.7, 5.0]
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1)
    low, high = mean_interval(values, seed=2)
    assert low < np.mean(values) < high
    same = mean_interval([0.1] * 3, seed=0)
    assert same[0] <= np.mean([0.1] * 3) <= same[1]
    assert same == pytest.approx((0.1, 0.1))


def test_one_value_has_no_interval():
    with pytest.raises(ValueError, match="at least 2"):
        mean_interval([1.0], seed=0)
