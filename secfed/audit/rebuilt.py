"""Slices rebuilt from an update, beside what the same search finds in an unrelated one.

Run by whoever audits, who has the truth to compare with. What the labels and the prior give away is in both scores, so
that only their difference is the update's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from secfed.audit.inversion import Images, Search, invert, psnr_db, ssim
from secfed.data.preprocessing import PreparedCase
from secfed.torch_threads import one_torch_thread

if TYPE_CHECKING:
    from torch import nn

SUCCESS_DB = 3.0
"""A gain over the control from which on the attack has worked: half the squared error."""


@dataclass(frozen=True, kw_only=True)
class Rebuilt:
    """How near a search came to one slice, and how near the same search on an unrelated update."""

    psnr_db: float
    ssim: float
    control_psnr_db: float
    control_ssim: float

    @property
    def gain_db(self) -> float:
        """What the update gave away beyond labels and prior."""
        return self.psnr_db - self.control_psnr_db


def rebuild(
    network: "nn.Module",
    gradient: npt.NDArray[np.floating],
    unrelated: npt.NDArray[np.floating],
    cases: Sequence[PreparedCase],
    *,
    seed: int,
    search: Search,
) -> tuple[Rebuilt, ...]:
    """One per case: cases of one slice each, whose mean loss is said to have the gradient (num_parameters,).

    The attacker knows their labels. Both searches start at the same image.
    """
    labels = np.stack([np.asarray(case.label)[0] for case in cases])
    with one_torch_thread():
        found, control = (invert(network, vector, labels, seed=seed, search=search) for vector in (gradient, unrelated))
    return tuple(
        _scored(own, other, np.asarray(case.image[0], np.float64))
        for own, other, case in zip(found, control, cases, strict=True)
    )


def _scored(found: Images, control: Images, truth: Images) -> Rebuilt:
    return Rebuilt(
        psnr_db=psnr_db(found, truth),
        ssim=ssim(found, truth),
        control_psnr_db=psnr_db(control, truth),
        control_ssim=ssim(control, truth),
    )
