"""A random piecewise-linear map of intensity, in general not monotone, of every image's own.

Runs at sites, while training. No paper's method; it follows from what differs between CT and MRI: tissues keep their
borders, but their order of brightness is anything. `knots` values ~ N(0, 1) stand at even places from the image's
minimum to its maximum, intensities between them are interpolated linearly, and the result gets the mean and standard
deviation of the image.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from secfed.augmentation.batch import (
    choose_images,
    chosen_only,
    compute_dtype,
    in_unit_range,
    require_batch,
    with_moments_of,
)
from secfed.augmentation_config import PiecewiseConfig


@dataclass(frozen=True, kw_only=True)
class PiecewiseParameters:
    """`values` (B, knots), from the darkest to the brightest intensity; `chosen` (B,)."""

    values: Tensor
    chosen: Tensor


def piecewise(images: Tensor, *, config: PiecewiseConfig, generator: torch.Generator) -> Tensor:
    """Augmented images (B, C, *spatial), 2D or 3D, in the dtype given; images not chosen come back bit for bit.

    Raises:
        ValueError: shape or dtype is not accepted, or the generator lives on another device.
    """
    require_batch(images, generator)
    return apply_piecewise(images, draw_piecewise_parameters(images, config=config, generator=generator))


def draw_piecewise_parameters(
    images: Tensor, *, config: PiecewiseConfig, generator: torch.Generator
) -> PiecewiseParameters:
    """Draw the maps for a batch; of `images`, only shape, dtype and device matter."""
    shape = (images.shape[0], config.knots)
    return PiecewiseParameters(
        values=torch.randn(shape, generator=generator, device=images.device, dtype=compute_dtype(images)),
        chosen=choose_images(images, probability=config.probability, generator=generator),
    )


@torch.no_grad()
def apply_piecewise(images: Tensor, parameters: PiecewiseParameters) -> Tensor:
    """Map every image by its own values and restore its moments."""
    if images.shape[0] == 0:
        return images.clone()
    with torch.autocast(images.device.type, enabled=False):
        clean = images.to(compute_dtype(images))
        unit, _, _ = in_unit_range(clean)
        place = unit.flatten(1) * (parameters.values.shape[1] - 1)
        left = place.floor().clamp_max(parameters.values.shape[1] - 2)
        index = left.long()
        mapped = torch.lerp(
            parameters.values.gather(1, index), parameters.values.gather(1, index + 1), place - left
        ).reshape(images.shape)
        return chosen_only(with_moments_of(mapped, clean), images, parameters.chosen)
