"""Cross-checks of the accountant of record: other libraries' numbers, and what a common mistake would really cost.

Run by tests, benchmarks and doubting readers; nothing is ever charged by them. Renyi accounting (Mironov, Talwar and
Zhang 2019; dp-accounting) is looser, so it lies above. Opacus's PRV accountant (Gopi, Lee and Wutschitz 2021) composes
the same losses on its own grid and gives an interval. Opacus's "gdp" accountant is not among them: its central limit
theorem is an approximation that can lie below the true epsilon.
"""

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from privacy.errors import RangeError
from privacy.privacy_loss import compose
from privacy.segment import Segment, require_delta, require_noise, require_probability, require_steps

_MIXTURE_INTERVAL = 1e-3


@dataclass(frozen=True, kw_only=True)
class PrvInterval:
    """What PRV accounting says: epsilon lies in [low, high], and is about `estimate`."""

    low: float
    estimate: float
    high: float


def rdp_epsilon(segments: Iterable[Segment], *, delta: float) -> float:
    """Epsilon by Renyi divergences; infinite where a segment has no noise.

    Raises:
        RangeError: delta is not in [1e-10, 1).
    """
    require_delta("delta", delta)
    from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent, rdp

    # Orders in tenths where the best usually lies; those below 1.5 converge badly and serve epsilons in the hundreds.
    orders = [*(tenths / 10 for tenths in range(15, 110)), *range(11, 64), 80, 96, 128, 192, 256, 512, 1024]
    accountant = rdp.RdpAccountant(orders, NeighboringRelation.REPLACE_SPECIAL)
    for segment in segments:
        if segment.sampling_prob > 0.0:
            event = PoissonSampledDpEvent(segment.sampling_prob, GaussianDpEvent(segment.noise_multiplier))
            accountant.compose(event, segment.steps)
    return float(accountant.get_epsilon(delta))


def prv_epsilon(segments: Iterable[Segment], *, delta: float, error: float = 0.01) -> PrvInterval:
    """Epsilon by Opacus's PRV accountant, within `error` on both sides.

    Raises:
        RangeError: delta is not in [1e-10, 1); a segment has no noise, or a sampling probability of 0 or 1, which
            that accountant cannot express.
    """
    require_delta("delta", delta)
    # Opacus loads torch, which nothing else here needs.
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    for segment in segments:
        if not 0.0 < segment.sampling_prob < 1.0 or segment.noise_multiplier == 0.0:
            raise RangeError(f"{segment}: PRV accounting needs noise and a sampling probability strictly inside (0, 1)")
        accountant.history.append((segment.noise_multiplier, segment.sampling_prob, segment.steps))
    delta_error = delta / 1000
    with warnings.catch_warnings():
        # It sizes its grid by Renyi orders and warns where a better order would have made the grid smaller.
        warnings.filterwarnings("ignore", message="Optimal order is the")
        composed = accountant._get_dprv(eps_error=error, delta_error=delta_error)
    low, estimate, high = composed.compute_epsilon(delta, delta_error, error)
    return PrvInterval(low=float(low), estimate=float(estimate), high=float(high))


@lru_cache(maxsize=64)
def slicewise_epsilon_per_patient(
    *, sampling_prob: float, noise_multiplier: float, steps: int, delta: float, slices: int
) -> float:
    """What training that samples and clips single slices costs a patient who has `slices` of them.

    Each slice joins a step with `sampling_prob` on its own, so a step holds a binomial number of them, and noise that
    hides one slice hides one of many. With `slices` = 1 it is what spend says, which is what such training would claim.

    Raises:
        RangeError: a value lies outside what Segment and spend accept, or slices is no whole number of at least 1.
    """
    require_probability("sampling_prob", sampling_prob)
    require_noise("noise_multiplier", noise_multiplier)
    require_steps("steps", steps)
    require_delta("delta", delta)
    require_steps("slices", slices)
    if sampling_prob == 0.0 or noise_multiplier == 0.0:
        return 0.0 if sampling_prob == 0.0 else math.inf
    if slices == 1:
        step = Segment(sampling_prob=sampling_prob, noise_multiplier=noise_multiplier, steps=steps)
        return compose([step]).epsilon(delta)
    from dp_accounting.pld import privacy_loss_distribution

    chances = [
        math.comb(slices, taken) * sampling_prob**taken * (1.0 - sampling_prob) ** (slices - taken)
        for taken in range(slices + 1)
    ]
    # The mixture's losses are found one by one, slowly: a coarse grid, which only raises epsilon, and by little.
    distribution = privacy_loss_distribution.from_mixture_gaussian_mechanism(
        noise_multiplier, list(range(slices + 1)), chances, value_discretization_interval=_MIXTURE_INTERVAL
    )
    return float(distribution.self_compose(steps).get_epsilon_for_delta(delta))
