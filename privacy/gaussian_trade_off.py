"""The Gaussian mechanism in closed form: what telling N(0, 1) from N(mu, 1) gives away.

Pure arithmetic. Sources: Balle and Wang 2018, theorem 8, for delta(epsilon); Dong, Roth and Su 2022 for mu, the
true-positive rate and the area under the curve. Exact for Gaussian noise without sampling; for anything else it is a
comparison, not a bound.
"""

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

_NORMAL = NormalDist()
LARGEST_MU = 1e9


def gaussian_delta(epsilon: float, *, mu: float) -> float:
    """The smallest delta at which the mechanism is (epsilon, delta)-private; epsilon may be negative."""
    return float(gaussian_deltas(np.array([epsilon]), mu=mu)[0])


def gaussian_deltas(epsilons: npt.NDArray[np.float64], *, mu: float) -> npt.NDArray[np.float64]:
    """gaussian_delta of every entry of `epsilons`, shape (length,)."""
    if mu == 0.0:
        return np.maximum(0.0, -np.expm1(epsilons))
    upper = special.ndtr(mu / 2 - epsilons / mu)
    # The second term is a product of a huge and a tiny number, so it is taken from its logarithm.
    lower = np.exp(np.minimum(epsilons + special.log_ndtr(-mu / 2 - epsilons / mu), 0.0))
    return np.asarray(np.maximum(0.0, upper - lower), dtype=np.float64)


def gaussian_epsilon(delta: float, *, mu: float) -> float:
    """The smallest epsilon >= 0 at which gaussian_delta is at most `delta`, from above within 1e-12 relative."""
    if gaussian_delta(0.0, mu=mu) <= delta:
        return 0.0
    # The privacy loss is N(mu^2 / 2, mu^2), and its upper tail beyond epsilon is more than delta(epsilon).
    highest = mu * mu / 2 + mu * _NORMAL.inv_cdf(1.0 - delta) + 1e-9 if delta > 1e-15 else mu * mu / 2 + 9 * mu
    root = optimize.brentq(lambda x: gaussian_delta(x, mu=mu) - delta, 0.0, highest, xtol=1e-13, rtol=1e-13)
    return float(root) * (1.0 + 1e-12)


def gaussian_mu(epsilon: float, *, delta: float) -> float:
    """The mu whose Gaussian mechanism is exactly (epsilon, delta)-private; infinite for an infinite epsilon."""
    if math.isinf(epsilon):
        return math.inf
    if gaussian_delta(epsilon, mu=1e-12) > delta:
        return 0.0
    return float(
        optimize.brentq(lambda mu: gaussian_delta(epsilon, mu=mu) - delta, 1e-12, LARGEST_MU, xtol=1e-13, rtol=1e-13)
    )


def gaussian_tpr(fpr: float, *, mu: float) -> float:
    """The most true positives at this rate of false positives: Phi(Phi^-1(fpr) + mu)."""
    if fpr in (0.0, 1.0) or math.isinf(mu):
        return fpr if mu == 0.0 or fpr == 1.0 or not math.isinf(mu) else 1.0
    return _NORMAL.cdf(_NORMAL.inv_cdf(fpr) + mu)


def gaussian_auc(*, mu: float) -> float:
    """The largest area under the curve of true against false positives: Phi(mu / sqrt 2)."""
    return 1.0 if math.isinf(mu) else _NORMAL.cdf(mu / math.sqrt(2))
