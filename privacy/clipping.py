"""Clipping to an L2 ball: the bound that fixed-point ranges and differential privacy both build on.

Run by clients, before an update leaves. A clipped vector travels with its bound, so that no later step has to believe
that clipping happened.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from privacy.errors import MisuseError

_UNIT_ROUNDOFF = 2.0**-53


@dataclass(frozen=True, kw_only=True)
class ClippedVector:
    """`values` float64 of shape (length,) with L2 norm at most `bound`; `norm_before` is the norm before clipping."""

    values: npt.NDArray[np.float64]
    bound: float
    norm_before: float


def clip_by_l2_norm(vector: npt.NDArray[np.floating], *, bound: float) -> ClippedVector:
    """Scale a vector down to norm `bound` where it is longer, and leave it as it is where it is not.

    **Guarantees** The exact L2 norm of the result is at most `bound`, and so is any float64 computation of it: the
    vector is scaled to bound * (1 - (2 length + 16) * 2^-53), which is more than a dot product's rounding error
    (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1) can undo. Clipping twice changes nothing.

    | vector | result |
    |---|---|
    | zero | zero, norm_before 0 |
    | norm at most the bound (less rounding) | the same values |
    | squares underflow or overflow | scaled correctly; norm_before may be inf |
    | empty | empty, norm_before 0 |
    | NaN or infinite entry | MisuseError |

    Raises:
        MisuseError: not a floating-point vector, an entry is not finite, or the bound is not in [1e-150, 1e300].
    """
    if vector.ndim != 1 or not np.issubdtype(vector.dtype, np.floating):
        raise MisuseError(f"vector must be one-dimensional floating point, got {vector.dtype} of shape {vector.shape}")
    if not 1e-150 <= bound <= 1e300:
        raise MisuseError(f"bound = {bound} must lie in [1e-150, 1e300]")
    values = vector.astype(np.float64)
    largest = max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))
    if not math.isfinite(largest):
        where = int(np.flatnonzero(~np.isfinite(values))[0])
        raise MisuseError(f"vector[{where}] = {values[where]} is not finite: there is no norm to clip to")
    if largest == 0.0:
        return ClippedVector(values=values, bound=bound, norm_before=0.0)
    # Squares of entries outside this range underflow or overflow, so such a vector is measured in units of its largest.
    unit = 1.0 if 1e-140 < largest < 1e140 else largest
    measured = values / unit if unit != 1.0 else values
    norm = float(np.linalg.norm(measured))
    slack = (values.size + 8) * _UNIT_ROUNDOFF
    if norm > bound * (1.0 - slack / 2) / unit:
        np.multiply(measured, bound * (1.0 - 2 * slack) / norm, out=values)
    return ClippedVector(values=values, bound=bound, norm_before=norm * unit)
