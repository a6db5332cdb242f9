"""From scores on a model's grid back to labels on the voxels of a scan. Whoever predicts runs this.

Preparing turned the scan to canonical axes and resampled it about its middle (secfed.data.preprocessing); both are
undone here. Probabilities are interpolated linearly and the class is chosen last. Choosing first and taking the nearest
label would leave steps as large as the model's voxels, where the probabilities of neighbours say at which part of the
way one structure ends. Where the grids coincide nothing is interpolated, and the labels are the model's to the voxel.
"""

from dataclasses import dataclass

import nibabel.orientations as axes
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secfed.data.preprocessing import same_spacing
from secfed.data.volumes import Spacing

# From (x, y, z), growing to the right, to anterior and upwards, as `read_volume` has them before it reverses the order.
_CANONICAL = np.array([[0, 1], [1, 1], [2, 1]])

# Interpolated probabilities in memory at a time: all classes of a large scan at once would take many gigabytes.
_SLAB_VALUES = 1 << 26


@dataclass(frozen=True, kw_only=True)
class _Places:
    """For every position along an axis of the scan its two neighbours on the model's grid, and the upper one's weight.

    All have shape (length of the scan,).
    """

    lower: Tensor
    upper: Tensor
    weight: Tensor

    def part(self, place: slice) -> "_Places":
        return _Places(lower=self.lower[place], upper=self.upper[place], weight=self.weight[place])


def labels_on_scan(
    logits: Tensor, *, spacing_mm: Spacing, scan_shape: tuple[int, ...], scan_spacing_mm: Spacing
) -> NDArray[np.uint8]:
    """Labels (z, y, x) on the voxels of a scan in canonical axes, from logits (classes, z, y, x) on the model's grid.

    Computed on the device of the logits. Between equal classes the lower one is taken.

    Raises:
        ValueError: the spacings agree, but the shapes do not.
    """
    if same_spacing(spacing_mm, scan_spacing_mm):
        if logits.shape[1:] != scan_shape:
            raise ValueError(f"logits of shape {tuple(logits.shape)} do not lie on a scan of shape {scan_shape}")
        return np.asarray(logits.argmax(dim=0).to(torch.uint8).cpu().numpy())
    down, along, across = (
        _places(*lengths, device=logits.device)
        for lengths in zip(scan_shape, logits.shape[1:], scan_spacing_mm, spacing_mm, strict=True)
    )
    labels = torch.empty(scan_shape, dtype=torch.uint8, device=logits.device)
    slices = max(1, _SLAB_VALUES // (logits.shape[0] * scan_shape[1] * scan_shape[2]))
    for first in range(0, scan_shape[0], slices):
        slab = down.part(slice(first, first + slices))
        below, above = int(slab.lower.min()), int(slab.upper.max())
        probabilities = logits[:, below : above + 1].float().softmax(dim=0)
        slab = _Places(lower=slab.lower - below, upper=slab.upper - below, weight=slab.weight)
        for axis, places in ((1, slab), (2, along), (3, across)):
            probabilities = _interpolate(probabilities, places, axis=axis)
        labels[first : first + slices] = probabilities.argmax(dim=0)
    return np.asarray(labels.cpu().numpy())


def stored_axes(labels: NDArray[np.uint8], affine: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Labels (z, y, x) in canonical axes, in the order and directions in which the scan with this affine is stored."""
    turn = axes.ornt_transform(_CANONICAL, axes.io_orientation(affine))
    return np.ascontiguousarray(axes.apply_orientation(labels.transpose(2, 1, 0), turn))


def _places(length: int, size: int, step_mm: float, size_mm: float, *, device: torch.device) -> _Places:
    """Where `length` voxels of `step_mm` lie among `size` voxels of `size_mm` that have the same middle."""
    # In double precision, so that voxels on the same places are found there.
    middle = (torch.arange(length, dtype=torch.float64) - (length - 1) / 2) * (step_mm / size_mm)
    places = (middle + (size - 1) / 2).clamp(0, size - 1)
    lower = places.floor().long()
    return _Places(
        lower=lower.to(device),
        upper=(lower + 1).clamp(max=size - 1).to(device),
        weight=(places - lower).float().to(device),
    )


def _interpolate(values: Tensor, places: _Places, *, axis: int) -> Tensor:
    weight = places.weight.reshape([-1 if own == axis else 1 for own in range(values.ndim)])
    return torch.lerp(values.index_select(axis, places.lower), values.index_select(axis, places.upper), weight)
