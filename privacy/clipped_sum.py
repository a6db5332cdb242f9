"""The sum of clipped patient gradients: what one patient can change in it, and by how much.

Run by sites, on whatever device the gradients are. Each gradient is scaled into a ball of radius C ("clip norm") over
all its tensors together (Abadi et al., "Deep Learning with Differential Privacy", 2016, here per patient) and added to
a float64 total. Nothing waits for the device until the result is read.

It does not protect the sum: whoever releases it adds noise first. And the diagnostics are for the site's own eyes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import numpy.typing as npt

from privacy.errors import MisuseError

if TYPE_CHECKING:
    import torch

FloatVector = npt.NDArray[np.float64]

MAX_PATIENTS = 2**15
"""The largest lot: the rounding of a float64 sum grows with its square, and clipping leaves room for this much."""

_SLACK = 2.0**-20
_SMALLEST_CLIP_NORM, _LARGEST_CLIP_NORM = 1e-30, 1e30


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class NotForRelease:
    """Figures about patients without noise: they stay in the site's own books, or are paid for like any release.

    `norms` (patients,) are those of the gradients before clipping, infinite or NaN where a patient had no finite one.
    """

    norms: FloatVector
    fraction_clipped: float
    not_finite: int

    def __repr__(self) -> str:
        return "NotForRelease(<private>)"

    def __reduce__(self) -> NoReturn:
        raise MisuseError("NotForRelease cannot be pickled: it tells about patients and was given no noise")


@dataclass(frozen=True, kw_only=True, eq=False)
class ClippedSum:
    """`vector` (num_params,) is the sum over `patients` patients, each bounded by `clip_norm` in the L2 norm.

    The number of patients is as private as the vector where patients are sampled: neither leaves without noise.
    """

    vector: FloatVector = field(repr=False)
    clip_norm: float
    patients: int
    diagnostics: NotForRelease


class ClippedAccumulator:
    """Adds up gradients, one patient at a time; `shapes` are those of the declared parameters, in their order.

    **Guarantees** Whatever the gradients are, as floating-point numbers and not only in theory:

    - A patient's contribution has an exact L2 norm of at most C. It is clipped to C (1 - 2^-20), far more than the
      roundings of a norm and a product in float64 can undo for fewer than 2^31 parameters.
    - Leaving any one patient out, or one patient in, moves the computed total by at most C: adding up to 2^15 patients
      rounds by at most n^2 2^-53 C in each of the two totals (Higham, Accuracy and Stability of Numerical Algorithms,
      section 4.2), which is below 2^-22 C for both.
    - A gradient with a NaN, an infinite entry, or a norm beyond float64 contributes zero, and no NaN gets into the
      total.
    """

    def __init__(self, shapes: Sequence["torch.Size"], *, clip_norm: float, device: "torch.device") -> None:
        import torch

        if not _SMALLEST_CLIP_NORM <= clip_norm <= _LARGEST_CLIP_NORM:
            raise MisuseError(f"clip_norm = {clip_norm} must lie in [1e-30, 1e30]")
        self.clip_norm = clip_norm
        self._shapes = tuple(shapes)
        # Apple's GPUs have no float64; their memory is the processor's too, so the copy to it is short.
        self._device = torch.device("cpu") if device.type == "mps" else device
        size = sum(shape.numel() for shape in shapes)
        self._total = torch.zeros(size, dtype=torch.float64, device=self._device)
        self._norms: list[torch.Tensor] = []

    def add(self, gradient: Sequence["torch.Tensor"], *, scale: float = 1.0) -> None:
        """Clip one patient's gradient, which is `scale` times too large, and add it; it is read and not changed.

        Raises:
            MisuseError: the gradient has other shapes than the total, or 2^15 patients are in it already.
        """
        import torch

        if len(self._norms) == MAX_PATIENTS:
            raise MisuseError(f"a lot holds at most {MAX_PATIENTS} patients: lower the sampling probability")
        if tuple(tensor.shape for tensor in gradient) != self._shapes:
            raise MisuseError("a patient's gradient must have the shapes of the declared parameters, in their order")
        with torch.no_grad():
            flat = torch.cat([tensor.to(self._device).flatten() for tensor in gradient])
            norm = torch.linalg.vector_norm(flat, dtype=torch.float64) / scale
            factor = (self.clip_norm * (1 - _SLACK) / norm).clamp(max=1.0) / scale
            # Zero times infinity would be NaN, so what is not finite goes before the factor comes.
            finite = flat.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
            self._total.addcmul_(finite, factor.where(norm.isfinite(), 0.0))
            self._norms.append(norm)

    def result(self) -> ClippedSum:
        """The sum so far; the one place that waits for the device."""
        import torch

        patients = len(self._norms)
        together = torch.cat([self._total, *(norm.reshape(1) for norm in self._norms)]).cpu().numpy()
        vector, norms = np.split(together, [self._total.numel()])
        finite = np.isfinite(norms)
        clipped = np.count_nonzero(norms[finite] > self.clip_norm * (1 - _SLACK))
        return ClippedSum(
            vector=vector.copy(),
            clip_norm=self.clip_norm,
            patients=patients,
            diagnostics=NotForRelease(
                norms=norms.copy(),
                fraction_clipped=clipped / patients if patients else 0.0,
                not_finite=int(np.count_nonzero(~finite)),
            ),
        )
