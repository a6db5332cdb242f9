"""A stretch of equal steps, as the accountant sees it: how patients were sampled and how much noise their sum got.

Written down by whoever adds the noise, read by `privacy.accounting`. Nothing here checks that the noise was really
drawn: an account of steps that were not run this way is worth nothing.
"""

import math
from dataclasses import dataclass

from privacy.errors import RangeError

MAX_STEPS = 10_000_000
SMALLEST_DELTA = 1e-10
SMALLEST_NOISE = 1e-6
LARGEST_NOISE = 1e9


@dataclass(frozen=True, kw_only=True)
class Segment:
    """`steps` releases in a row, each of a sum over a fresh sample of patients, with Gaussian noise on it.

    `sampling_prob`: every patient takes part in a step with this probability, independently (Poisson sampling); in
    [0, 1]. `noise_multiplier`: standard deviation of the noise on the sum, in units of the clip norm of one patient;
    0 is no noise and therefore no guarantee.

    Raises:
        RangeError: a value is not a number, or lies outside what is written here.
    """

    sampling_prob: float
    noise_multiplier: float
    steps: int

    def __post_init__(self) -> None:
        require_probability("sampling_prob", self.sampling_prob)
        require_noise("noise_multiplier", self.noise_multiplier)
        require_steps("steps", self.steps)


def require_probability(name: str, value: float) -> None:
    """Raises RangeError unless `value` lies in [0, 1]."""
    if not _is_number(value) or not 0.0 <= value <= 1.0:
        raise RangeError(f"{name} = {value} must be a probability in [0, 1]")


def require_noise(name: str, value: float) -> None:
    """Raises RangeError unless `value` is 0 or a standard deviation in [1e-6, 1e9] clip norms."""
    if not _is_number(value) or not (value == 0.0 or SMALLEST_NOISE <= value <= LARGEST_NOISE):
        raise RangeError(
            f"{name} = {value} must be 0 (no noise) or lie in [{SMALLEST_NOISE:g}, {LARGEST_NOISE:g}] clip norms"
        )


def require_steps(name: str, value: int) -> None:
    """Raises RangeError unless `value` is a whole number in [1, MAX_STEPS]."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_STEPS:
        raise RangeError(f"{name} = {value} must be a whole number in [1, {MAX_STEPS}]")


def require_epsilon(name: str, value: float) -> None:
    """Raises RangeError unless `value` is a budget that can be spent: positive and finite."""
    if not _is_number(value) or not 0.0 < value < math.inf:
        raise RangeError(f"{name} = {value} must be a positive finite number")


def require_delta(name: str, value: float) -> None:
    """Raises RangeError unless `value` lies in [1e-10, 1): below, float64 convolutions say nothing reliable."""
    if not _is_number(value) or not SMALLEST_DELTA <= value < 1.0:
        raise RangeError(f"{name} = {value} must lie in [{SMALLEST_DELTA:g}, 1); 1e-5 is usual")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
