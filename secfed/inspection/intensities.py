"""The grey values of a scan in five numbers, and what speaks against their being Hounsfield units or an MRI signal.

The limits are wide: a doubt is for somebody to look at, and keeps no scan out of a run.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secfed.data.cases import Modality

PERCENTILES = (0.5, 50.0, 99.5)

# Between fat (-100) and bone (beyond 200) lies every field of view; values of a scaled or normalised scan do not.
_LEAST_SPAN_HU = 100.0

# Half of the voxels of a wide field of view are air (-1000), those of a close one soft tissue.
_MEDIANS_HU = (-1100.0, 400.0)


@dataclass(frozen=True, kw_only=True)
class Intensities:
    """Of all voxels of a scan: the extremes, and the percentiles in `PERCENTILES`."""

    lowest: float
    low: float
    median: float
    high: float
    highest: float


def intensities_of(voxels: NDArray[np.float32]) -> Intensities:
    """The five numbers of a volume, whose voxels are finite."""
    low, median, high = (float(value) for value in np.percentile(voxels, PERCENTILES))
    return Intensities(lowest=float(voxels.min()), low=low, median=median, high=high, highest=float(voxels.max()))


def implausible(found: Intensities, modality: Modality) -> str | None:
    """Why these are most likely no values of that modality, in words; None where nothing speaks against it."""
    if modality is Modality.MR:
        if found.low < 0:
            return f"more than 0.5 % of its voxels are negative (down to {found.lowest:g}), as in no magnitude image"
        return None
    if found.lowest >= 0:
        return f"no voxel is negative ({found.lowest:g} to {found.highest:g}), but air and fat are in Hounsfield units"
    if found.high - found.low < _LEAST_SPAN_HU:
        return f"its voxels lie between {found.low:g} and {found.high:g}, closer together than fat and bone"
    if not _MEDIANS_HU[0] <= found.median <= _MEDIANS_HU[1]:
        return f"half of its voxels lie beyond {found.median:g}, where neither air nor soft tissue is"
    return None


def what_to_do(modality: Modality) -> str:
    """What whoever keeps an implausible scan can do."""
    if modality is Modality.MR:
        return "is it MRI, and as the scanner wrote it? A CT, a phase image or a normalised copy is none"
    return "is it CT, and with the rescale slope and intercept applied? Convert it again from its DICOM files"
