"""Measures what one patient changes in a sum: the bound that all noise is scaled to, tried out and not only proven.

For sites and auditors, before a run or in tests; it computes gradients once per patient of the lot and once more. The
relation is zero-out: a patient who is left out contributes nothing, and the others stay as they are. Exchanging one
patient for another is leaving one out and taking one in, so it may change the sum by twice the bound.

It tries the lot that it is given. That other lots obey the bound follows from privacy.clipped_sum, not from here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from privacy.errors import PrivacyError
from privacy.patientwise import Patient, PatientGradients


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """The largest change of the sum over all patients of a lot, who caused it, and the clip norm it stayed below."""

    largest_change: float
    patient: int
    clip_norm: float


def check_sensitivity(backend: PatientGradients, lot: Sequence[Patient]) -> Sensitivity:
    """Leave every patient of a lot out in turn and measure the change of the sum in the L2 norm.

    A patient's views must be the same whenever they are asked for, and dropout must draw the same for them: give
    tensors, or callables that seed what they draw from.

    Raises:
        PrivacyError: a patient changed the sum by more than the clip norm, or the sum is not finite.
    """
    whole = backend.sum(lot)
    if not np.isfinite(whole.vector).all():
        raise PrivacyError("the sum over the whole lot is not finite: a patient was added without clipping")
    worst, who = 0.0, 0
    for index in range(len(lot)):
        rest = backend.sum([*lot[:index], *lot[index + 1 :]])
        change = float(np.linalg.norm(whole.vector - rest.vector))
        # A sum that stops being a number is a change, too.
        if not change <= whole.clip_norm:
            raise PrivacyError(
                f"patient {index} of the lot changed the sum by {change}, more than clip_norm = {whole.clip_norm}: "
                "noise that is scaled to the clip norm does not cover this"
            )
        if change > worst:
            worst, who = change, index
    return Sensitivity(largest_change=worst, patient=who, clip_norm=whole.clip_norm)
