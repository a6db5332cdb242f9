"""GIN-IPA: two GIN copies of every image, blended by a smooth random mask and by its complement.

Runs at sites, while training. Source: Ouyang et al., IEEE TMI 2022, where the pair is to be segmented alike
(`clients.loss.consistency_loss`). The mask interpolates normal control points by a quadratic B-spline and is stretched
to [0, 1]; the pair is b g1 + (1 - b) g2 and (1 - b) g1 + b g2. An image that `gin.probability` leaves out is left as it
is in both.
"""

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor

from secfed.augmentation.batch import compute_dtype, in_unit_range, require_batch
from secfed.augmentation.gin import apply_gin, draw_gin_parameters
from secfed.augmentation_config import GinConfig, IpaConfig


def gin_ipa(
    images: Tensor,
    *,
    gin: GinConfig,
    ipa: IpaConfig,
    generator: torch.Generator,
    drawn_channels: Literal[1] | None = None,
) -> tuple[Tensor, Tensor]:
    """The pair of blended copies, each (B, C, *spatial), 2D or 3D, in the dtype given; one mask for all channels.

    `drawn_channels` is that of `secfed.augmentation.gin.gin`.

    Raises:
        ValueError: shape or dtype is not accepted, or the generator lives on another device.
    """
    require_batch(images, generator)
    if images.shape[0] == 0:
        return images.clone(), images.clone()
    one = draw_gin_parameters(images[:, :drawn_channels], config=gin, generator=generator)
    other = draw_gin_parameters(images[:, :drawn_channels], config=gin, generator=generator)
    other = dataclasses.replace(other, chosen=one.chosen)
    mask = draw_mask(images, config=ipa, generator=generator)
    copies = [apply_gin(images, drawn, negative_slope=gin.negative_slope) for drawn in (one, other)]
    return blend(copies[0], copies[1], mask), blend(copies[1], copies[0], mask)


def draw_mask(images: Tensor, *, config: IpaConfig, generator: torch.Generator) -> Tensor:
    """A smooth mask (B, 1, *spatial) from 0 to 1 for every image; of `images`, only shape, dtype and device matter."""
    batch, _, *spatial = images.shape
    dtype, device = compute_dtype(images), images.device
    points = math.ceil(1 / config.spacing) + 2
    control = torch.randn(batch, *(points,) * len(spatial), generator=generator, device=device, dtype=dtype)
    return mask_of(control, spatial=tuple(spatial), spacing=config.spacing)


@torch.no_grad()
def mask_of(control: Tensor, *, spatial: tuple[int, ...], spacing: float) -> Tensor:
    """The mask (B, 1, *spatial) of control points (B, P, ..., P), `spacing` of the image's length apart."""
    with torch.autocast(control.device.type, enabled=False):
        field = control
        for size in spatial:
            basis = _quadratic_basis(size, control.shape[1], spacing=spacing, like=control)
            # The axis in front is interpolated and becomes the last one; after all of them the order is as before.
            field = torch.tensordot(field, basis, dims=([1], [1]))
        return in_unit_range(field[:, None])[0]


@torch.no_grad()
def blend(one: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """`mask` of one and the rest of the other, in their dtype; where both are equal, exactly that."""
    with torch.autocast(one.device.type, enabled=False):
        dtype = compute_dtype(one)
        return torch.lerp(other.to(dtype), one.to(dtype), mask.to(dtype).expand_as(one)).to(one.dtype)


def _quadratic_basis(size: int, points: int, *, spacing: float, like: Tensor) -> Tensor:
    """Weights of the control points at every voxel, (size, points): rows are not negative and sum to 1."""
    voxel = torch.arange(size, device=like.device, dtype=like.dtype)
    place = (voxel + 0.5) / (size * spacing)
    # A quadratic B-spline is centred half a spacing past its control point's cell and reaches 1.5 spacings.
    distance = (place[:, None] - torch.arange(points, device=like.device, dtype=like.dtype) + 0.5).abs()
    return torch.where(distance <= 0.5, 0.75 - distance**2, 0.5 * (1.5 - distance).clamp_min(0) ** 2)
