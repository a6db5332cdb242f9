"""The privacy loss of a list of segments, composed: delta for any epsilon, and epsilon for any delta.

Run by whoever keeps or checks a budget. The distribution of the privacy loss comes from Google's dp-accounting
(Doroshenko, Ghazi, Kamath, Kumar and Manurangsi 2022, "Connect the Dots"; Koskela, Jaelkoe and Honkela 2020 for the
composition by Fourier transforms), in its pessimistic form for the add-or-remove pair, which for Gaussian noise is that
of zeroing a patient out.

Three choices are ours. Segments are brought into one canonical form, so that their order and their splitting cannot
change a bit of the result. The grid of losses fits the segments, coarser where noise is so small that epsilon reaches
hundreds: a coarser grid only ever raises epsilon. And a bound on the rounding errors of the Fourier transforms is taken
off delta, since they could make it too small where many steps meet a tiny delta.
"""

import importlib.metadata
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from privacy.errors import RangeError
from privacy.gaussian_trade_off import gaussian_deltas, gaussian_epsilon
from privacy.segment import Segment

UNIT = "patient"
RELATION = "zero-out"
ACCOUNTANT = f"PLD (dp-accounting {importlib.metadata.version('dp-accounting')})"

# Losses lie on a grid of step 1e-4 times a power of two, so that a coarser grid is part of a finer one.
_INTERVAL = 1e-4
_LARGEST_STEP_SIZE = 1 << 16
_LARGEST_SIZE = 1 << 18
# A grid of this part of a step's standard deviation adds 1e-4 to its variance, and half of that to epsilon.
_GRID_STEPS_PER_DEVIATION = 50
# Where the grid would have to be coarser than this, sampling is left out of the account (see `compose`).
_COARSEST_INTERVAL = 1.0
_FINEST_INTERVAL = 1e-9


@dataclass(frozen=True)
class NoLoss:
    """Nothing was released."""

    def epsilon(self, delta: float) -> float:
        """Zero."""
        del delta
        return 0.0

    def deltas(self, epsilons: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Zeros."""
        return np.zeros_like(epsilons)


@dataclass(frozen=True)
class UnboundedLoss:
    """Something was released without noise: no epsilon holds."""

    def epsilon(self, delta: float) -> float:
        """Infinite."""
        del delta
        return math.inf

    def deltas(self, epsilons: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Ones."""
        return np.ones_like(epsilons)


@dataclass(frozen=True)
class GaussianLoss:
    """Steps whose noise is so small that they are accounted as if every patient took part in each (exact then)."""

    mu: float

    def epsilon(self, delta: float) -> float:
        """The closed form of privacy.gaussian_trade_off."""
        return gaussian_epsilon(delta, mu=self.mu)

    def deltas(self, epsilons: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The closed form of privacy.gaussian_trade_off."""
        return gaussian_deltas(epsilons, mu=self.mu)


@dataclass(frozen=True)
class ComposedLoss:
    """A composed distribution of dp-accounting; `rounding` bounds what float64 may have taken off any delta."""

    distribution: Any
    rounding: float

    def epsilon(self, delta: float) -> float:
        """The smallest epsilon on which dp-accounting and the bound on rounding agree.

        Raises:
            RangeError: delta is not well above the rounding.
        """
        if delta < 50 * self.rounding:
            raise RangeError(
                f"delta = {delta:g} is too small for so many steps in float64 arithmetic; "
                f"at least {50 * self.rounding:.1e} can be accounted"
            )
        return float(self.distribution.get_epsilon_for_delta(delta - self.rounding))

    def deltas(self, epsilons: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Delta at every epsilon of an ascending array, shape (length,)."""
        found = np.asarray(self.distribution.get_delta_for_epsilon(epsilons), dtype=np.float64)
        return np.clip(found + self.rounding, 0.0, 1.0)


PrivacyLoss = NoLoss | UnboundedLoss | GaussianLoss | ComposedLoss


def compose(segments: Iterable[Segment]) -> PrivacyLoss:
    """The loss of all segments together; parts of earlier histories come from a cache.

    **Guarantees** An upper bound on the privacy loss of a patient against an attacker who knows every other patient
    and sees every release. Models may depend on earlier releases, as training does; sampling probabilities and noise
    may not: a list that was chosen by looking at what came out is not covered.

    | segments | account |
    |---|---|
    | none, or sampling probability 0 throughout | no loss |
    | sampling probability above 1 - 1e-9 | as 1, which can only raise epsilon |
    | noise 0 and a positive sampling probability anywhere | unbounded |
    | noise of about 0.002 clip norms and less | sampling ignored, which can only raise epsilon; closed form |
    | the rest | dp-accounting |
    """
    return _compose(_canonical(segments))


_NEARLY_ALL = 1.0 - 1e-9


class _Steps(NamedTuple):
    """A segment in canonical form; its noise may be smaller than a single step's is allowed to be."""

    sampling_prob: float
    noise_multiplier: float
    steps: int


def _canonical(segments: Iterable[Segment]) -> tuple[_Steps, ...]:
    """One entry for each kind of step, sorted; all steps with every patient in them are one Gaussian step.

    So are those with nearly every one: without sampling a step loses no less, and dp-accounting cannot compute the
    little that such sampling would save.
    """
    counts: dict[tuple[float, float], int] = {}
    for segment in segments:
        if segment.sampling_prob > 0.0:
            sampling_prob = 1.0 if segment.sampling_prob > _NEARLY_ALL else float(segment.sampling_prob)
            key = (sampling_prob, float(segment.noise_multiplier))
            counts[key] = counts.get(key, 0) + segment.steps
    sampled = [_Steps(q, noise, steps) for (q, noise), steps in sorted(counts.items()) if q < 1.0 or noise == 0.0]
    # T steps of noise sigma are one of sigma / sqrt(T), exactly; fsum rounds once, whatever the order.
    precision = math.fsum(steps / noise**2 for (q, noise), steps in counts.items() if q == 1.0 and noise > 0.0)
    return (*sampled, _Steps(1.0, 1.0 / math.sqrt(precision), 1)) if precision else tuple(sampled)


def _compose(segments: tuple[_Steps, ...]) -> PrivacyLoss:
    if not segments:
        return NoLoss()
    if any(segment.noise_multiplier == 0.0 for segment in segments):
        return UnboundedLoss()
    interval = _interval(segments)
    if interval > _COARSEST_INTERVAL:
        return GaussianLoss(mu=math.sqrt(math.fsum(s.steps / s.noise_multiplier**2 for s in segments)))
    # Measured against the closed form, the errors of the transforms stay a hundred times below this.
    rounding = 1e-14 + sum(segment.steps for segment in segments) * 2.0**-52
    return ComposedLoss(distribution=_product(segments, interval), rounding=rounding)


# A distribution takes up to 4 MB, so these caches hold at most some 200 MB.
@lru_cache(maxsize=16)
def _product(segments: tuple[_Steps, ...], interval: float) -> Any:
    """Composed from the front, so that a history that ends differently is not composed again."""
    last = _power(segments[-1], interval)
    return last if len(segments) == 1 else _product(segments[:-1], interval).compose(last)


@lru_cache(maxsize=16)
def _power(segment: _Steps, interval: float) -> Any:
    step = _step(segment.sampling_prob, segment.noise_multiplier, interval)
    return step if segment.steps == 1 else step.self_compose(segment.steps)


@lru_cache(maxsize=32)
def _step(sampling_prob: float, noise_multiplier: float, interval: float) -> Any:
    # dp-accounting takes a second to load, which a process that asks for no account does not spend.
    from dp_accounting.pld import privacy_loss_distribution

    return privacy_loss_distribution.from_gaussian_mechanism(
        noise_multiplier, value_discretization_interval=interval, sampling_prob=sampling_prob
    )


def _interval(segments: Sequence[_Steps]) -> float:
    """The grid's step: fine beside a step's standard deviation, coarse enough for memory and time."""
    moments = [_loss_moments(segment.sampling_prob, segment.noise_multiplier) for segment in segments]
    variance = math.fsum(
        segment.steps * deviation**2 for segment, (deviation, _) in zip(segments, moments, strict=True)
    )
    steps = sum(segment.steps for segment in segments)
    largest_range = max(width for _, width in moments)
    # Beyond nine standard deviations there is less than the 1e-15 that dp-accounting cuts off anyway.
    whole_range = largest_range + 18 * math.sqrt(variance)
    coarse = max(largest_range / _LARGEST_STEP_SIZE, whole_range / _LARGEST_SIZE)
    fine = math.sqrt(variance / steps) / _GRID_STEPS_PER_DEVIATION
    power = min(0, math.floor(math.log2(max(fine, _FINEST_INTERVAL) / _INTERVAL)))
    return _INTERVAL * 2.0 ** max(power, math.ceil(math.log2(coarse / _INTERVAL)))


@lru_cache(maxsize=1024)
def _loss_moments(sampling_prob: float, noise_multiplier: float) -> tuple[float, float]:
    """Standard deviation and range of one step's loss, roughly: they choose a grid and prove nothing."""
    noise = np.linspace(-10.0, 10.0, 2001) * noise_multiplier
    weights = np.exp(-0.5 * (noise / noise_multiplier) ** 2)
    weights /= weights.sum()
    absent = -math.inf if sampling_prob == 1.0 else math.log1p(-sampling_prob)
    present = math.log(sampling_prob)
    losses = np.concatenate(
        [
            np.logaddexp(absent, present + (2.0 * (noise + shift) - 1.0) / (2.0 * noise_multiplier**2))
            for shift in (0.0, 1.0)
        ]
    )
    weights = np.concatenate([(1.0 - sampling_prob) * weights, sampling_prob * weights])
    mean = float(weights @ losses)
    deviation = math.sqrt(float(weights @ (losses - mean) ** 2))
    return deviation, float(losses.max() - losses.min())
