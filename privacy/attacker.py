"""What a privacy loss allows an attacker: true positives at a rate of false ones, and the area under that curve.

The attacker decides whether one patient took part, knows everything else, and sees every release. For such a test
TPR <= delta(epsilon) + e^epsilon FPR holds at every epsilon, and so does its dual for the errors (Wasserman and Zhou
2010; Kairouz, Oh and Viswanath 2015). The caps of record take the best epsilon of the composed curve, with
the larger delta of both directions, so that they hold whichever of the two hypotheses counts as the alarm. Beside them
stand the cap from the one pair (epsilon, delta), which holds for any mechanism with that pair and is much weaker, and
that of the Gaussian mechanism with that pair, which is familiar and no bound for any other mechanism.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from privacy.errors import RangeError
from privacy.gaussian_trade_off import gaussian_auc, gaussian_mu, gaussian_tpr
from privacy.privacy_loss import NoLoss, PrivacyLoss, UnboundedLoss

_CURVE_POINTS = 1001
# From here on a lower delta raises no true-positive rate that anybody measures.
_SMALLEST_CURVE_DELTA = 1e-9
_STEEPEST = 700.0


@dataclass(frozen=True, kw_only=True)
class AttackerCaps:
    """Caps on true positives at `fpr` and on the area under the curve (AUC), all in [0, 1].

    `tpr` and `auc`: of record, from the whole curve where `basis` is "trade-off curve". `tpr_from_pair` and
    `auc_from_pair`: from (epsilon, delta) alone, always valid. `mu`, `tpr_gaussian` and `auc_gaussian`: of the
    Gaussian mechanism with that pair, for comparison; not bounds.
    """

    fpr: float
    tpr: float
    auc: float
    basis: str
    tpr_from_pair: float
    auc_from_pair: float
    mu: float
    tpr_gaussian: float
    auc_gaussian: float

    def sentence(self) -> str:
        """The cap in words, for a report or a board."""
        return (
            f"An attacker who accepts {100 * self.fpr:g} % false alarms finds at most {100 * self.tpr:.1f} % of the "
            "patients who took part."
        )


def attacker_caps(loss: PrivacyLoss | None, *, epsilon: float, delta: float, fpr: float) -> AttackerCaps:
    """Caps for this loss; without one (`None`), only what the pair (epsilon, delta) says.

    Raises:
        RangeError: fpr is no probability in [0, 1].
    """
    if not 0.0 <= fpr <= 1.0:
        raise RangeError(f"fpr = {fpr} must be a probability in [0, 1]")
    pair = _Lines.through(np.array([epsilon]), np.array([delta]))
    lines = pair if loss is None else _curve(loss)
    mu = gaussian_mu(epsilon, delta=delta)
    return AttackerCaps(
        fpr=fpr,
        # The pair is a point of the curve, up to the curve's own grid, so the smaller of both is a bound, too.
        tpr=min(lines.tpr(fpr), pair.tpr(fpr)),
        auc=min(lines.auc(), pair.auc()),
        basis="(epsilon, delta)" if loss is None else "trade-off curve",
        tpr_from_pair=pair.tpr(fpr),
        auc_from_pair=pair.auc(),
        mu=mu,
        tpr_gaussian=gaussian_tpr(fpr, mu=mu),
        auc_gaussian=gaussian_auc(mu=mu),
    )


@dataclass(frozen=True)
class _Lines:
    """Straight lines that no attacker's curve exceeds: TPR <= intercepts + slopes FPR, ordered by falling slope."""

    slopes: npt.NDArray[np.float64]
    intercepts: npt.NDArray[np.float64]

    @classmethod
    def through(cls, epsilons: npt.NDArray[np.float64], deltas: npt.NDArray[np.float64]) -> "_Lines":
        """The lines of ascending epsilons >= 0 and their duals, which exchange the two kinds of error."""
        # Beyond, e^epsilon is no float64, and the lines exclude nothing that could be measured.
        epsilons, deltas = epsilons[epsilons <= _STEEPEST], deltas[epsilons <= _STEEPEST]
        slopes = np.exp(epsilons)
        # TPR <= 1 - (1 - delta - FPR) / e^epsilon is the same statement about the complement of the decision.
        dual = 1.0 - (1.0 - deltas) / slopes
        return cls(
            slopes=np.concatenate([slopes[::-1], 1.0 / slopes, [0.0]]),
            intercepts=np.concatenate([deltas[::-1], dual, [1.0]]),
        )

    @classmethod
    def trivial(cls) -> "_Lines":
        """Nothing is excluded."""
        return cls(slopes=np.zeros(1), intercepts=np.ones(1))

    def tpr(self, fpr: float) -> float:
        return float(np.min(self.intercepts + self.slopes * fpr))

    def auc(self) -> float:
        """The area under the lowest line, exact: the curve is a polygon whose corners are all found."""
        with np.errstate(divide="ignore", invalid="ignore"):
            corners = np.diff(self.intercepts) / -np.diff(self.slopes)
        inside = corners[(corners > 0.0) & (corners < 1.0)]
        at = np.concatenate([[0.0], np.sort(inside), [1.0]])
        heights = np.array([self.tpr(float(fpr)) for fpr in at])
        return float(np.sum(np.diff(at) * (heights[1:] + heights[:-1]) / 2))


def _curve(loss: PrivacyLoss) -> _Lines:
    if isinstance(loss, UnboundedLoss):
        return _Lines.trivial()
    if isinstance(loss, NoLoss):
        return _Lines.through(np.zeros(1), np.zeros(1))
    try:
        highest = loss.epsilon(_SMALLEST_CURVE_DELTA)
    except RangeError:
        highest = loss.epsilon(1e-5)
    epsilons = np.linspace(0.0, min(max(highest, 1e-9), _STEEPEST), _CURVE_POINTS)
    return _Lines.through(epsilons, loss.deltas(epsilons))
