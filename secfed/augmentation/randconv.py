"""Random convolutions: every image passes one random layer of its own.

Runs at sites, while training. Source: Xu et al., "Robust and generalizable visual representation learning via random
convolutions", ICLR 2021. One kernel size k per call for the whole batch, weights ~ N(0, 1 / (k^d channels)), which is
the rule of Kaiming for a layer without activation, no shift, zero padding; with `mixing` the result is blended with the
image, alpha ~ U(0, 1). The paper draws one layer and one alpha for a batch, this one for every image. No rescaling.
Where the channels are slices of one image, the layer is of one channel, and every slice passes it alone.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch import Tensor

from secfed.augmentation.batch import choose_images, chosen_only, compute_dtype, per_image, require_batch
from secfed.augmentation.gin import restrict_kernel
from secfed.augmentation_config import RandConvConfig


@dataclass(frozen=True, kw_only=True)
class RandConvParameters:
    """`weight` (B, C, C, k, ..., k), `alpha` (B,) the layer's share in the blend, `chosen` (B,)."""

    weight: Tensor
    alpha: Tensor
    chosen: Tensor


def randconv(
    images: Tensor, *, config: RandConvConfig, generator: torch.Generator, drawn_channels: Literal[1] | None = None
) -> Tensor:
    """Augmented images (B, C, *spatial), 2D or 3D, in the dtype given; images not chosen come back bit for bit.

    `drawn_channels` is that of `secfed.augmentation.gin.gin`.

    Raises:
        ValueError: shape or dtype is not accepted, or the generator lives on another device.
    """
    require_batch(images, generator)
    drawn = draw_randconv_parameters(images[:, :drawn_channels], config=config, generator=generator)
    return apply_randconv(images, drawn)


def draw_randconv_parameters(
    images: Tensor, *, config: RandConvConfig, generator: torch.Generator
) -> RandConvParameters:
    """Draw the layers for a batch; of `images`, only shape, dtype and device matter."""
    (batch, channels, *spatial), device, dtype = images.shape, images.device, compute_dtype(images)
    drawn = torch.randint(len(config.kernel_sizes), (1,), generator=generator, device=device)
    size = torch.tensor(config.kernel_sizes, device=device)[drawn]
    largest = max(config.kernel_sizes)
    shape = (batch, channels, channels, *(largest,) * len(spatial))
    weight = torch.randn(shape, generator=generator, device=device, dtype=dtype)
    deviation = (channels * size.to(dtype) ** len(spatial)).rsqrt()
    alpha = torch.rand(batch, generator=generator, device=device, dtype=dtype)
    return RandConvParameters(
        weight=restrict_kernel(weight * deviation, size),
        alpha=alpha if config.mixing else torch.ones_like(alpha),
        chosen=choose_images(images, probability=config.probability, generator=generator),
    )


@torch.no_grad()
def apply_randconv(images: Tensor, parameters: RandConvParameters) -> Tensor:
    """Pass every image through its own layer: one grouped convolution for the batch.

    A layer of one channel is passed by each channel of the image alone.
    """
    batch, channels, *spatial = images.shape
    passes = channels // parameters.weight.shape[2]
    convolve = {2: F.conv2d, 3: F.conv3d}[len(spatial)]
    with torch.autocast(images.device.type, enabled=False):
        clean = images.to(compute_dtype(images))
        if batch:
            weight = parameters.weight.repeat_interleave(passes, dim=0).flatten(0, 1)
            filtered = convolve(
                clean.reshape(1, batch * channels, *spatial),
                weight,
                padding=weight.shape[-1] // 2,
                groups=batch * passes,
            )
            clean = torch.lerp(clean, filtered.reshape(clean.shape), per_image(parameters.alpha, images))
        return chosen_only(clean, images, parameters.chosen)
