"""How well scores tell members from others, with intervals, and whether that is more than an account allows.

Run by whoever audits, on scores of canaries or of patients: for every one that took part and every one that did not, a
number that is larger the more it looks like taking part. Sources: Dong, Roth and Su 2022 for mu; Clopper and Pearson
1934 for shares; Newcombe 2006 for the area under the curve (secfed.audit.attacks.membership).

A measurement finds what leaks through these scores. It never shows that nothing else does.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, nct, norm

from privacy.accounting import Spend
from secfed.audit.attacks.membership import auc, auc_interval

Scores = npt.NDArray[np.float64]

FALSE_POSITIVE_RATES = (0.01, 0.05)
FALSE_ALARM = 1e-4
"""The probability with which each comparison calls an honest run one that gives more, or less, away."""


@dataclass(frozen=True, kw_only=True)
class Distance:
    """Difference of the means of members' and others' scores in standard deviations, and its 95 % interval.

    `claimed` is what the account says. `p_more` and `p_less` are the probabilities of a value at least as large, and
    at most as large, where the account is right. A true distance of `caught_from` raises an alarm nine times in ten.
    """

    value: float
    low: float
    high: float
    claimed: float
    p_more: float
    p_less: float
    caught_from: float


def gaussian_distance(members: Scores, others: Scores, *, claimed: float) -> Distance:
    """Measured mu of Gaussian scores: over the pooled deviation, exact by the noncentral t distribution."""
    degrees = len(members) + len(others) - 2
    pooled = math.sqrt((members.var() * len(members) + others.var() * len(others)) / degrees)
    scale = math.sqrt(1 / len(members) + 1 / len(others))
    return _distance(members, others, deviation=pooled, scale=scale, degrees=degrees, claimed=claimed)


def sampled_distance(members: Scores, others: Scores, *, claimed: float) -> Distance:
    """The same where members take part in some rounds only: over the deviation of the others, which is the noise's."""
    deviation = float(others.std(ddof=1))
    ratio = float(members.var(ddof=1)) / max(deviation, 1e-300) ** 2
    scale = math.sqrt(ratio / len(members) + 1 / len(others))
    return _distance(members, others, deviation=deviation, scale=scale, degrees=len(others) - 1, claimed=claimed)


def _distance(
    members: Scores, others: Scores, *, deviation: float, scale: float, degrees: int, claimed: float
) -> Distance:
    value = float(members.mean() - others.mean()) / max(deviation, 1e-300)
    statistic, centre = value / scale, claimed / scale

    def error(at: float) -> float:
        return math.sqrt(scale**2 + at**2 / (2 * degrees))

    alarm = claimed + float(norm.isf(FALSE_ALARM)) * error(claimed)
    return Distance(
        value=value,
        low=value - float(norm.ppf(0.975)) * error(value),
        high=value + float(norm.ppf(0.975)) * error(value),
        claimed=claimed,
        p_more=_above(statistic, degrees=degrees, centre=centre),
        p_less=_above(-statistic, degrees=degrees, centre=-centre),
        caught_from=alarm + float(norm.ppf(0.9)) * error(alarm),
    )


def _above(statistic: float, *, degrees: int, centre: float) -> float:
    """P[T >= statistic] for the noncentral t; where that series gives out, the normal law of the same quantity."""
    found = float(nct.sf(statistic, degrees, centre))
    if math.isfinite(found) and abs(statistic - centre) < 30:
        return found
    return float(norm.sf((statistic - centre) / math.sqrt(1 + centre**2 / (2 * degrees))))


@dataclass(frozen=True, kw_only=True)
class Rate:
    """The share of members above the threshold that lets at most `fpr` of the others pass, with its 95 % interval.

    `cap` is the most that the account allows at the upper end of the measured rate of false positives; `exceeded`
    where even the lower end of the share, at the stricter level of a verdict, lies above it.
    """

    fpr: float
    tpr: float
    low: float
    high: float
    cap: float
    exceeded: bool


@dataclass(frozen=True, kw_only=True)
class Attacker:
    """What a threshold on the scores finds, beside the most that the account allows any attacker."""

    members: int
    others: int
    auc: float
    auc_low: float
    auc_high: float
    auc_cap: float
    rates: tuple[Rate, ...]
    exceeded: bool

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


def measured_attacker(
    members: Scores, others: Scores, *, spent: Spend | None, fprs: Sequence[float] = FALSE_POSITIVE_RATES
) -> Attacker:
    """AUC and true positives at these rates; without an account everything is allowed."""
    found = auc(members, others)
    low, high = auc_interval(found, len(members), len(others))
    surely, _ = auc_interval(found, len(members), len(others), confidence=1 - 2 * FALSE_ALARM)
    cap = 1.0 if spent is None else spent.attacker().auc
    rates = tuple(_rate(members, others, fpr=fpr, spent=spent) for fpr in fprs)
    return Attacker(
        members=len(members),
        others=len(others),
        auc=found,
        auc_low=low,
        auc_high=high,
        auc_cap=cap,
        rates=rates,
        exceeded=surely > cap or any(rate.exceeded for rate in rates),
    )


def _rate(members: Scores, others: Scores, *, fpr: float, spent: Spend | None) -> Rate:
    allowed = int(fpr * len(others))
    threshold = np.sort(others)[::-1][allowed]
    caught = int((members > threshold).sum())
    low, high = clopper_pearson(caught, len(members))
    surely, _ = clopper_pearson(caught, len(members), confidence=1 - 2 * FALSE_ALARM)
    _, most_false = clopper_pearson(allowed, len(others), confidence=1 - 2 * FALSE_ALARM)
    return Rate(
        fpr=allowed / len(others),
        tpr=caught / len(members),
        low=low,
        high=high,
        cap=1.0 if spent is None else spent.attacker(allowed / len(others)).tpr,
        exceeded=spent is not None and surely > spent.attacker(most_false).tpr,
    )


def clopper_pearson(successes: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """An interval for a share that covers the truth at least as often as it says, whatever the truth is."""
    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else float(beta.ppf(tail, successes, trials - successes + 1))
    high = 1.0 if successes == trials else float(beta.isf(tail, successes + 1, trials - successes))
    return low, high
