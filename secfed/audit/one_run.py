"""A lower bound on epsilon from one run: many canaries, each in by a coin, and how many coins an attacker guesses.

Run by whoever audits. Source: Steinke, Nasr and Jagielski, "Privacy Auditing with One (1) Training Run", NeurIPS 2023,
theorem 5.2. Of m canaries the attacker guesses r and abstains on the others. Were the run (epsilon, delta)-private, the
number of right guesses would be no larger than a binomial one with probability e^epsilon / (1 + e^epsilon), up to what
delta adds. The bound holds for any attacker; that it is low says nothing, and r guesses cannot show more than
log(p / (1 - p)) with p = 0.05^(1/r).
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from privacy.errors import RangeError

CONFIDENCE = 0.95
_TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class OneRun:
    """`correct` of `guesses` about `canaries` coins, and the epsilon that is exceeded with 95 % confidence."""

    canaries: int
    guesses: int
    correct: int
    epsilon_at_least: float
    ceiling: float


def guess_coins(
    scores: npt.NDArray[np.float64], member: npt.NDArray[np.bool_], *, guesses: int, delta: float
) -> OneRun:
    """Call the highest half of `guesses` scores members and the lowest half others.

    How many are guessed must be settled before looking: the best of several numbers would be no bound.
    """
    half = guesses // 2
    order = np.argsort(scores, kind="stable")
    correct = int(member[order[len(order) - half :]].sum() + (~member[order[:half]]).sum())
    return OneRun(
        canaries=len(scores),
        guesses=2 * half,
        correct=correct,
        epsilon_at_least=epsilon_at_least(correct, guesses=2 * half, canaries=len(scores), delta=delta),
        ceiling=epsilon_at_least(2 * half, guesses=2 * half, canaries=len(scores), delta=delta),
    )


def epsilon_at_least(
    correct: int, *, guesses: int, canaries: int, delta: float, confidence: float = CONFIDENCE
) -> float:
    """The largest epsilon that so many right guesses contradict; 0 where they contradict none.

    Raises:
        RangeError: not 0 <= correct <= guesses <= canaries, or delta is no probability.
    """
    if not (0 <= correct <= guesses <= canaries and guesses > 0 and 0.0 <= delta <= 1.0):
        raise RangeError(
            f"correct = {correct}, guesses = {guesses}, canaries = {canaries}, delta = {delta}: needed are "
            "0 <= correct <= guesses <= canaries with at least one guess, and a probability"
        )

    def excluded(epsilon: float) -> bool:
        return _p_value(epsilon, correct, guesses=guesses, canaries=canaries, delta=delta) < 1.0 - confidence

    if not excluded(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while excluded(high):
        low, high = high, 2 * high
    while high - low > _TOLERANCE:
        middle = (low + high) / 2
        low, high = (middle, high) if excluded(middle) else (low, middle)
    return low


def _p_value(epsilon: float, correct: int, *, guesses: int, canaries: int, delta: float) -> float:
    """The most likely that so many right guesses are under (epsilon, delta)."""
    p = 1.0 / (1.0 + math.exp(-epsilon))
    tail = float(binom.sf(correct - 1, guesses, p))
    if delta == 0.0 or correct == 0:
        return tail
    steps = np.arange(1, correct + 1)
    below = float(binom.cdf(correct - 1, guesses, p))
    shares = (below - binom.cdf(correct - steps - 1, guesses, p)) / steps
    return min(1.0, tail + 2 * canaries * delta * float(shares.max()))
