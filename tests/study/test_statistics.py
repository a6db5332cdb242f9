"""Intervals, signed ranks, Holm and ratios: against hand-computed and published numbers, and against scipy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from secfed.study.statistics import compare, estimate, holm, ratio, signed_rank, within

# Differences in height of cross- and self-fertilised corn, after Darwin 1876; scipy.stats.wilcoxon documents that the
# smaller rank sum is 24 and p = 0.041259765625.
CORN = np.array([6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75], float)
TABLES = arrays(float, (3, 7), elements=st.floats(0, 1, width=32))


def test_a_table_of_two_by_two_gives_the_interval_computed_by_hand() -> None:
    # Seed means 1.5 and 4.5, patient means 2 and 4; mean squares 9, 4 and 1 over seeds, patients and the rest: the
    # variance of the mean is 2.25 + 1 - 0.25 = 3, with 3.25**2 / (2.25**2 / 1 + 1**2 / 1) degrees of freedom.
    found = estimate([np.array([[1.0, 2.0], [3.0, 6.0]])])
    half = stats.t.ppf(0.975, 3.25**2 / (2.25**2 + 1)) * math.sqrt(3)
    assert found.mean == 3
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half))
    assert found.seeds_std == pytest.approx(math.sqrt(4.5))
    assert found.patients_std == pytest.approx(math.sqrt(2))


def test_one_seed_gives_the_interval_over_patients_of_scipy_and_says_n_is_one() -> None:
    values = np.array([[0.8, 0.7, 0.9, 0.85]])
    expected = stats.ttest_1samp(values[0], 0).confidence_interval(0.95)
    found = estimate([values])
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.seeds, found.seeds_std, found.patients) == (1, None, 4)


def test_one_patient_gives_the_interval_over_seeds() -> None:
    values = np.array([[0.8], [0.7], [0.9]])
    expected = stats.ttest_1samp(values[:, 0], 0).confidence_interval(0.95)
    found = estimate([values])
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_one_value_has_no_interval() -> None:
    found = estimate([np.array([[0.5]])])
    assert (found.mean, found.low, found.high) == (0.5, None, None)


def test_equal_values_have_an_interval_of_no_width() -> None:
    found = estimate([np.full((3, 5), 0.25)])
    assert (found.low, found.mean, found.high) == (0.25, 0.25, 0.25)


def test_strata_count_the_same_whatever_their_size() -> None:
    found = estimate([np.full((2, 3), 0.9), np.full((2, 12), 0.5)])
    assert found.mean == pytest.approx(0.7)
    assert found.patients == 15


def test_two_strata_at_one_seed_give_the_interval_of_welch() -> None:
    ct, mr = np.array([[0.9, 0.8, 0.95]]), np.array([[0.5, 0.7, 0.6, 0.4, 0.55]])
    found = estimate([ct, mr])
    # Welch's interval of a difference has the variance and the freedom of the sum, too.
    welch = stats.ttest_ind(ct[0], mr[0], equal_var=False).confidence_interval(0.95)
    assert found.high is not None
    assert found.low is not None
    assert found.high - found.low == pytest.approx((welch.high - welch.low) / 2)


@pytest.mark.parametrize("table", [np.ones((0, 3)), np.ones(3), np.array([[1.0, np.nan]]), np.array([[np.inf]])])
def test_a_table_with_a_hole_is_refused(table: np.ndarray) -> None:
    with pytest.raises(ValueError, match="filled and finite"):
        estimate([table])


def test_strata_of_other_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="same seeds"):
        estimate([np.ones((2, 3)), np.ones((3, 3))])


@given(TABLES, st.permutations(range(3)), st.permutations(range(7)))
def test_no_order_of_seeds_or_patients_matters(table: np.ndarray, seeds: list[int], patients: list[int]) -> None:
    other = table[::-1] ** 2
    moved, moved_other = (values[seeds][:, patients] for values in (table, other))
    before, after = estimate([table]), estimate([moved])
    assert (after.mean, after.low, after.high) == pytest.approx((before.mean, before.low, before.high), abs=1e-9)
    assert compare([moved], [moved_other]).test.p == pytest.approx(compare([table], [other]).test.p)


@given(TABLES, TABLES)
def test_a_comparison_the_other_way_round_is_its_mirror(ours: np.ndarray, theirs: np.ndarray) -> None:
    there, back = compare([ours], [theirs]), compare([theirs], [ours])
    assert there.test.p == pytest.approx(back.test.p)
    assert there.difference.mean == pytest.approx(-back.difference.mean)
    assert there.difference.low == pytest.approx(-(back.difference.high or 0.0), abs=1e-12)


def test_pairing_takes_the_spread_of_patients_out() -> None:
    noise = np.random.default_rng(0)
    hard = noise.normal(0.6, 0.2, (1, 12))
    ours, theirs = (level + hard + noise.normal(0, 0.01, (3, 12)) for level in (0.05, 0.0))
    difference = compare([ours], [theirs]).difference
    alone = estimate([ours])
    assert None not in (difference.high, difference.low, alone.high, alone.low)
    assert (difference.high - difference.low) < 0.2 * (alone.high - alone.low)  # type: ignore[operator]


def test_paired_tables_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="same shapes"):
        compare([np.ones((2, 3))], [np.ones((2, 4))])


def test_signed_ranks_of_darwins_corn() -> None:
    found = signed_rank(CORN)
    assert (found.statistic, found.zeros) == (96, 0)
    assert found.p == pytest.approx(0.041259765625)
    assert found.smallest == 2.0**-14


@pytest.mark.parametrize("size", [3, 8, 20, 50])
def test_without_ties_p_is_scipys_exact_p(size: int) -> None:
    values = np.random.default_rng(size).normal(0.3, 1, size)
    assert signed_rank(values).p == pytest.approx(stats.wilcoxon(values, method="exact").pvalue)


@pytest.mark.parametrize("seed", range(4))
def test_with_ties_and_zeros_p_is_that_of_all_signs(seed: int) -> None:
    values = np.random.default_rng(seed).integers(-3, 5, 11).astype(float)
    everyone = stats.PermutationMethod(n_resamples=np.inf)
    expected = stats.wilcoxon(values, zero_method="pratt", method=everyone).pvalue
    assert signed_rank(values).p == pytest.approx(expected)
    assert signed_rank(values).zeros == (values == 0).sum()


def test_the_same_values_twice_are_no_difference() -> None:
    found = signed_rank(np.zeros(9))
    assert (found.p, found.smallest, found.zeros) == (1.0, 1.0, 9)


def test_rounding_errors_are_ties() -> None:
    assert signed_rank(np.array([0.1 + 0.2, -0.3, 1e-17])).p == signed_rank(np.array([0.3, -0.3, 0.0])).p == 1.0


def test_a_wrong_sign_is_seen() -> None:
    """The exact test at its limit, and on differences that cancel."""
    assert signed_rank(np.arange(1.0, 13.0)).p == 2.0**-11
    assert signed_rank(np.array([1.0, -2, 3, -4, 5, -6, 7, -8, 9, -10, 11, -12])).p > 0.5


def test_holm_on_the_worked_example() -> None:
    """Wikipedia, "Holm-Bonferroni method", Example: p of 0.01, 0.04, 0.03 and 0.005."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_leaves_holes_out_of_the_family() -> None:
    assert holm([0.02, None, 0.04]) == [0.04, None, 0.04]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=9))
def test_holm_lies_between_the_plain_p_and_bonferroni(probs: list[float]) -> None:
    adjusted = holm(list(probs))
    for before, after in zip(probs, adjusted, strict=True):
        assert after is not None
        assert before <= after <= min(1.0, len(probs) * before) + 1e-12
    order = np.argsort(probs, kind="stable")
    assert list(np.array(adjusted)[order]) == sorted(value for value in adjusted if value is not None)


def test_a_ratio_of_proportional_values_is_exact() -> None:
    table = np.random.default_rng(1).uniform(0.5, 0.9, (3, 8))
    found = ratio([0.95 * table], [table])
    assert found is not None
    assert (found.low, found.mean, found.high) == pytest.approx((0.95, 0.95, 0.95))


def test_a_ratio_over_patients_agrees_with_the_bootstrap() -> None:
    noise = np.random.default_rng(2)
    below = noise.uniform(0.5, 0.9, (1, 60))
    above = 0.9 * below + noise.normal(0, 0.05, below.shape)
    drawn = noise.integers(60, size=(20_000, 60))
    low, high = np.quantile(above[0][drawn].mean(axis=1) / below[0][drawn].mean(axis=1), (0.025, 0.975))
    found = ratio([above], [below])
    assert found is not None
    assert found.mean == pytest.approx(above.mean() / below.mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.002)


def test_there_is_no_ratio_to_nothing() -> None:
    assert ratio([np.ones((2, 2))], [np.zeros((2, 2))]) is None


def test_an_interval_is_cut_at_what_values_cannot_pass() -> None:
    found = estimate([np.array([[0.0, 0.1]])])
    assert found.low is not None
    assert found.low < 0
    cut = within(found, 0.0, 1.0)
    assert (cut.low, cut.mean, cut.high) == (0.0, found.mean, min(found.high or 0.0, 1.0))
    assert within(estimate([np.array([[0.5]])]), 0.0, 1.0).low is None
