"""The accountant of record: what noisy steps cost a patient in epsilon, and what noise a budget asks for.

Run by a site before it takes part and by anyone who checks afterwards. The unit is the patient, all of whose scans,
slices and views are one record; the relation is zero-out: the releases with a patient against those with that patient's
contribution replaced by zero, while the number of patients at a site is public. The numbers come from the composed
privacy loss of privacy.privacy_loss (Google's dp-accounting); privacy.accounting_checks holds the cross-checks.

It computes and trusts. It does not know whether patients were sampled at random, contributions clipped and noise drawn
as a segment says, whether a patient stands in two sites' data, or what else was released.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from privacy.accounting_checks import prv_epsilon, rdp_epsilon, slicewise_epsilon_per_patient
from privacy.attacker import AttackerCaps, attacker_caps
from privacy.distributed_noise import NoiseSplit, distributed_segment, effective_noise
from privacy.errors import MisuseError, RangeError
from privacy.privacy_loss import ACCOUNTANT, RELATION, UNIT, compose
from privacy.segment import (
    MAX_STEPS,
    SMALLEST_NOISE,
    Segment,
    require_delta,
    require_epsilon,
    require_probability,
    require_steps,
)

__all__ = [
    "ACCOUNTANT",
    "RELATION",
    "UNIT",
    "AttackerCaps",
    "NoiseSplit",
    "Segment",
    "Spend",
    "calibrate",
    "default_delta",
    "distributed_segment",
    "effective_noise",
    "prv_epsilon",
    "rdp_epsilon",
    "slicewise_epsilon_per_patient",
    "spend",
    "spend_curve",
    "steps_left",
]

CALIBRATION_TOLERANCE = 1e-3
_LARGEST_NOISE = 1e8


@dataclass(frozen=True, kw_only=True)
class Spend:
    """The price of `segments`: epsilon with everything without which it means nothing.

    `epsilon` is infinite where something was released without noise.
    """

    epsilon: float
    delta: float
    unit: str = UNIT
    relation: str = RELATION
    accountant: str = ACCOUNTANT
    segments: tuple[Segment, ...] = field(default=(), repr=False)

    def attacker(self, fpr: float = 0.01) -> AttackerCaps:
        """What this allows an attacker who accepts false positives at rate `fpr`.

        A Spend that was read from a file and has no segments is judged by epsilon and delta alone.

        Raises:
            RangeError: fpr is no probability.
        """
        loss = compose(self.segments) if self.segments or self.epsilon == 0.0 else None
        return attacker_caps(loss, epsilon=self.epsilon, delta=self.delta, fpr=fpr)

    def __str__(self) -> str:
        return (
            f"epsilon {self.epsilon:.4g} at delta {self.delta:g} per {self.unit} ({self.relation}), {self.accountant}"
        )


def spend(segments: Iterable[Segment], *, delta: float) -> Spend:
    """The smallest epsilon that the accountant can prove for all segments together.

    **Guarantees** Never below the true value: see privacy.privacy_loss.compose. The order of segments and their
    splitting change nothing, bit for bit. No segments cost 0.

    Raises:
        RangeError: delta is not in [1e-10, 1), or too small to be computed for so many steps.
    """
    require_delta("delta", delta)
    history = tuple(segments)
    return Spend(epsilon=_epsilon(history, delta), delta=delta, segments=history)


def spend_curve(segments: Sequence[Segment], *, delta: float, points: int = 50) -> list[tuple[int, float]]:
    """(steps so far, epsilon) after at most `points` numbers of steps, spread evenly, the last of them included.

    Raises:
        RangeError: delta as in spend, or points is not a whole number of at least 1.
    """
    require_steps("points", points)
    total = sum(segment.steps for segment in segments)
    marks = sorted({math.ceil(total * (index + 1) / points) for index in range(points)}) if total else []
    return [(mark, spend(_first(segments, mark), delta=delta).epsilon) for mark in marks]


def calibrate(
    *, epsilon: float, delta: float, sampling_prob: float, steps: int, before: Sequence[Segment] = ()
) -> float:
    """The noise multiplier with which `steps` steps after `before` cost at most `epsilon`.

    **Guarantees** spend(result) <= epsilon, always; and with less noise by a factor of 1 - CALIBRATION_TOLERANCE it
    would be more than epsilon.

    Raises:
        RangeError: a value lies outside what Segment and spend accept, or epsilon is not positive and finite.
        MisuseError: no noise is enough, because `before` has spent the budget.
    """
    require_epsilon("epsilon", epsilon)
    require_probability("sampling_prob", sampling_prob)
    if sampling_prob == 0.0:
        raise RangeError("sampling_prob = 0 samples nobody: there is nothing to add noise to")
    require_steps("steps", steps)
    spent = spend(before, delta=delta).epsilon
    if spent >= epsilon:
        raise MisuseError(
            f"epsilon = {epsilon:g} at delta {delta:g} is out of reach: what was spent before costs {spent:.4g} "
            f"already, and noise on later steps takes nothing back. A budget above {spent:.4g} would do"
        )

    def cost(noise: float) -> float:
        segment = Segment(sampling_prob=sampling_prob, noise_multiplier=noise, steps=steps)
        return spend([*before, segment], delta=delta).epsilon

    return _smallest_noise(cost, epsilon)


def steps_left(segments: Sequence[Segment], *, per_round: Segment, cap_epsilon: float, delta: float) -> int:
    """How many more rounds of `per_round` fit under the cap; 0 where the cap is spent.

    Rounds that cost nothing are unlimited: the answer ends at what the accountant counts to (MAX_STEPS steps).

    Raises:
        RangeError: delta as in spend, or cap_epsilon is not positive and finite.
    """
    require_epsilon("cap_epsilon", cap_epsilon)
    require_delta("delta", delta)
    limit = MAX_STEPS // per_round.steps

    def fits(rounds: int) -> bool:
        more = Segment(
            sampling_prob=per_round.sampling_prob,
            noise_multiplier=per_round.noise_multiplier,
            steps=per_round.steps * rounds,
        )
        try:
            return spend([*segments, more], delta=delta).epsilon <= cap_epsilon
        except RangeError:
            # So many steps cannot be accounted at this delta, so they may not be run either.
            return False

    if per_round.sampling_prob == 0.0:
        return limit if spend(segments, delta=delta).epsilon <= cap_epsilon else 0
    fitting, too_many = 0, 1
    while too_many <= limit and fits(too_many):
        fitting, too_many = too_many, 2 * too_many
    too_many = min(too_many, limit + 1)
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        if fits(middle):
            fitting = middle
        else:
            too_many = middle
    return fitting


def default_delta(patients: int) -> float:
    """min(1e-5, 1 / (10 N)): well below one patient in N, so that giving one away outright is no way to spend delta.

    Raises:
        RangeError: patients is not a whole number in [1, 10^9].
    """
    if isinstance(patients, bool) or not isinstance(patients, int) or not 1 <= patients <= 10**9:
        raise RangeError(f"patients = {patients} must be a whole number in [1, 1000000000]")
    return min(1e-5, 1.0 / (10 * patients))


def _smallest_noise(cost: Callable[[float], float], epsilon: float) -> float:
    """The smallest noise whose falling `cost` is at most epsilon, from above within CALIBRATION_TOLERANCE."""
    enough, found = 1.0, cost(1.0)
    low, low_cost = enough, found
    while found > epsilon:
        low, low_cost = enough, found
        enough *= 4.0
        if enough > _LARGEST_NOISE:
            raise MisuseError(
                f"epsilon = {epsilon:g} is out of reach: noise of {_LARGEST_NOISE:g} clip norms costs {found:.4g} "
                "still. A larger epsilon, a larger delta or fewer steps would do"
            )
        found = cost(enough)
    while low_cost <= epsilon:
        enough, found = low, low_cost
        low /= 4.0
        if low < SMALLEST_NOISE:
            return enough
        low_cost = cost(low)
    while enough * (1.0 - CALIBRATION_TOLERANCE) > low:
        # The logarithm of epsilon is nearly straight in that of the noise. The guess is tried a little above and then
        # a little below, so that the answer is soon shut in; halving in between bounds the number of tries.
        share = math.log(low_cost / epsilon) / math.log(low_cost / max(found, 1e-300))
        guess = low * (enough / low) ** share
        quarter = CALIBRATION_TOLERANCE / 4
        for tried in (guess * (1 + quarter), guess * (1 - quarter), math.sqrt(low * enough)):
            if not low < tried < enough:
                continue
            price = cost(tried)
            if price <= epsilon:
                enough, found = tried, price
            else:
                low, low_cost = tried, price
    return enough


@lru_cache(maxsize=4096)
def _epsilon(segments: tuple[Segment, ...], delta: float) -> float:
    return compose(segments).epsilon(delta)


def _first(segments: Sequence[Segment], steps: int) -> list[Segment]:
    """The part of a history that its first `steps` steps are."""
    part = []
    for segment in segments:
        taken = min(segment.steps, steps)
        if taken:
            part.append(
                Segment(sampling_prob=segment.sampling_prob, noise_multiplier=segment.noise_multiplier, steps=taken)
            )
        steps -= taken
    return part
