"""Statistics of a study: intervals that carry patients and seeds, paired tests, Holm's correction, ratios.

Values come as complete arrays (seeds, patients), one per stratum: test patients of one modality. Seeds and patients are
crossed, because every seed's model is tested on the same patients, so neither counts as a repetition of the other.

**Intervals.** A two-way random effects model, value = mean + seed + patient + rest, gives the variance of the grand
mean from the mean squares of the table (Searle, Casella and McCulloch, Variance Components, 1992, section 4.3), and
Student's t with Satterthwaite's degrees of freedom (Biometrics Bulletin 2, 1946) the interval. It is a closed form: no
random numbers, and no order of rows or columns matters. With three seeds it covers 0.92 to 0.98 in simulation, where a
two-way bootstrap, which knows three values of the seed only, covers as little as 0.71 where seeds matter.

**What this does not know.** With one seed the interval is over patients alone; one patient gives one over seeds alone;
`Estimate.seeds` and `.patients` say so. A signed-rank p is about patients, for the trained models at hand: it carries
no seeds. An interval is not cut where values cannot be: `within` does that.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from scipy.stats import t as student

Table = NDArray[np.float64]

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its interval at `LEVEL`, both None where nothing was repeated.

    `seeds_std` is the sample deviation of the seeds' means, None below two seeds; `patients_std` that of the patients'
    means over seeds, None below two patients and for a mean over strata.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: int
    patients: int
    seeds_std: float | None
    patients_std: float | None


@dataclass(frozen=True, kw_only=True)
class SignedRank:
    """Wilcoxon's signed-rank test: sum of the ranks of positive differences, two-sided exact p, and its lower limit.

    `smallest` is the least p that so many non-zero differences can give.
    """

    statistic: float
    p: float
    smallest: float
    zeros: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A difference over the same patients and seeds, and the test of the patients' differences."""

    difference: Estimate
    test: SignedRank


def estimate(strata: Sequence[Table]) -> Estimate:
    """Mean over strata (each counts the same) of the means of tables (seeds, patients), with its interval.

    All strata have the same seeds in the same order; their patients are different people.

    Raises:
        ValueError: there is no table, a table is empty or holds what is not finite, or the seeds differ in number.
    """
    tables = [_checked(table) for table in strata]
    if not tables or len({len(table) for table in tables}) > 1:
        raise ValueError(f"strata must be tables of the same seeds, got {[table.shape for table in tables]}")
    seeds, share = len(tables[0]), 1 / len(tables)
    seed_means = share * np.sum([table.mean(axis=1) for table in tables], axis=0)
    of_seeds = _variance_of_mean(seed_means)
    of_patients = [share**2 * _variance_of_mean(table.mean(axis=0)) for table in tables]
    of_rest = share**2 * sum(_rest(table) for table in tables)
    # What seeds and patients have in common stands in both parts; the estimate never falls below either of them.
    variance = max(of_seeds + sum(of_patients) - of_rest, of_seeds, sum(of_patients))
    parts = [(of_seeds, seeds - 1)] + [
        (part, table.shape[1] - 1) for part, table in zip(of_patients, tables, strict=True)
    ]
    mean = float(seed_means.mean())
    half = _half_width(variance, parts)
    single = tables[0].mean(axis=0) if len(tables) == 1 and tables[0].shape[1] > 1 else None
    return Estimate(
        mean=mean,
        low=None if half is None else mean - half,
        high=None if half is None else mean + half,
        seeds=seeds,
        patients=sum(table.shape[1] for table in tables),
        seeds_std=float(seed_means.std(ddof=1)) if seeds > 1 else None,
        patients_std=None if single is None else float(single.std(ddof=1)),
    )


def within(found: Estimate, least: float, most: float) -> Estimate:
    """The estimate with its interval cut at limits that the true value cannot pass, so that it covers as often."""
    if found.low is None or found.high is None:
        return found
    return replace(found, low=min(max(found.low, least), most), high=min(max(found.high, least), most))


def compare(ours: Sequence[Table], theirs: Sequence[Table]) -> Comparison:
    """Ours minus theirs, value by value; rows and columns of both are the same seeds and the same patients.

    Raises:
        ValueError: as for `estimate`, or the shapes differ.
    """
    differences = [_checked(above) - _checked(below) for above, below in _pairs(ours, theirs)]
    patients = np.concatenate([table.mean(axis=0) for table in differences])
    return Comparison(difference=estimate(differences), test=signed_rank(patients))


def ratio(ours: Sequence[Table], theirs: Sequence[Table]) -> Estimate | None:
    """Mean of ours divided by that of theirs, over the same patients and seeds; None where theirs is not above zero.

    The interval linearises the ratio (Cochran, Sampling Techniques, 1977, section 6.4): that of the mean of
    (ours - ratio * theirs) / mean(theirs), which has mean zero.

    Raises:
        ValueError: as for `compare`.
    """
    pairs = [(_checked(above), _checked(below)) for above, below in _pairs(ours, theirs)]
    above, below = (float(np.mean([pair[side].mean() for pair in pairs])) for side in (0, 1))
    if below <= 0:
        return None
    share = above / below
    rest = estimate([(mine - share * other) / below for mine, other in pairs])
    return Estimate(
        mean=share,
        low=None if rest.low is None else share + rest.low - rest.mean,
        high=None if rest.high is None else share + rest.high - rest.mean,
        seeds=rest.seeds,
        patients=rest.patients,
        seeds_std=rest.seeds_std,
        patients_std=rest.patients_std,
    )


def signed_rank(differences: Table) -> SignedRank:
    """Wilcoxon's test of differences (patients,) that are symmetric about zero, exact for every size, ties and zeros.

    Zeros are ranked with the others and their ranks then left out (Pratt, JASA 54, 1959); ties share their mean rank.
    p is exact given these ranks: the share of all 2^n choices of signs whose sum lies at least as far from its mean.
    """
    values = np.asarray(differences, np.float64)
    # Equal values that differ in the last bits, as sums in another order do, must tie.
    values = np.where(np.abs(values) < 1e-12, 0.0, np.round(values, 12))
    ranks = rankdata(np.abs(values))[values != 0]
    doubled = np.round(2 * ranks).astype(int)
    counts = np.ones(1)
    for rank in doubled:
        # Sums over all choices of signs so far, each half with and half without this rank.
        counts = (np.pad(counts, (0, rank)) + np.pad(counts, (rank, 0))) / 2
    centre = doubled.sum() / 2
    observed = int(np.round(2 * rankdata(np.abs(values))[values > 0]).sum())
    far = np.abs(np.arange(len(counts)) - centre)
    return SignedRank(
        statistic=observed / 2,
        p=min(1.0, float(counts[far >= abs(observed - centre)].sum())),
        smallest=min(1.0, 2.0 ** (1 - len(ranks))),
        zeros=int((values == 0).sum()),
    )


def holm(probs: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment (Scandinavian Journal of Statistics 6, 1979); None, a hole, is no comparison."""
    family = sorted((prob, index) for index, prob in enumerate(probs) if prob is not None)
    adjusted: list[float | None] = [None] * len(probs)
    running = 0.0
    for step, (prob, index) in enumerate(family):
        running = max(running, min(1.0, (len(family) - step) * prob))
        adjusted[index] = running
    return adjusted


def _checked(table: Table) -> Table:
    values = np.asarray(table, np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"a table must be (seeds, patients), filled and finite, got shape {values.shape}")
    return values


def _pairs(ours: Sequence[Table], theirs: Sequence[Table]) -> list[tuple[Table, Table]]:
    shapes = [[np.shape(table) for table in tables] for tables in (ours, theirs)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"paired tables must have the same shapes, got {shapes[0]} and {shapes[1]}")
    return list(zip(ours, theirs, strict=True))


def _sample_variance(values: Table) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else 0.0


def _variance_of_mean(values: Table) -> float:
    return _sample_variance(values) / len(values)


def _rest(table: Table) -> float:
    """Variance that the interaction of seeds and patients, and chance, give to the grand mean."""
    seeds, patients = table.shape
    if seeds < 2 or patients < 2:
        return 0.0
    left = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0, keepdims=True) + table.mean()
    mean_square = float((left**2).sum()) / ((seeds - 1) * (patients - 1))
    return float(mean_square / table.size)


def _half_width(variance: float, parts: Sequence[tuple[float, int]]) -> float | None:
    known = [(part, freedom) for part, freedom in parts if freedom > 0]
    if not known:
        return None
    total = sum(part for part, _ in known)
    if total <= 0:
        return 0.0
    # Shares of the total instead of variances, so that tiny ones do not vanish when squared.
    freedom = 1 / sum((part / total) ** 2 / freedom for part, freedom in known)
    return float(student.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(variance)
