"""Fourier amplitudes of another image: low ones (FDA), or a share of all (amplitude mix and swap).

Runs at sites, while training. Sources: Yang and Soatto, "FDA: Fourier domain adaptation for semantic segmentation",
CVPR 2020; Chen et al., "Amplitude-phase recombination", ICCV 2021; Xu et al., "A Fourier-based framework for domain
generalization", CVPR 2021. The phase is always the image's own. The other image is one of the same batch, drawn
uniformly among the others: nothing leaves the site for it, as a shared bank of amplitudes would. An image that is alone
in its batch is its own partner and stays what it is.

Images are coupled: one patient's amplitudes enter another's image. Modes that promise something per patient refuse it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from secfed.augmentation.batch import choose_images, chosen_only, compute_dtype, per_image, require_batch
from secfed.augmentation_config import AprConfig, FdaConfig


@dataclass(frozen=True, kw_only=True)
class FourierParameters:
    """`partner` (B,) indexes the batch; `chosen` (B,).

    `share` (B,) is the part of the partner's amplitude, in [0, 1], at frequencies up to `reach` (B,) whole periods per
    image along every axis; None where all frequencies take it.
    """

    partner: Tensor
    share: Tensor
    reach: Tensor | None
    chosen: Tensor


def fda(images: Tensor, *, config: FdaConfig, generator: torch.Generator) -> Tensor:
    """Images (B, C, *spatial), 2D or 3D, with low amplitudes of another one; those not chosen come back bit for bit.

    Raises:
        ValueError: shape or dtype is not accepted, or the generator lives on another device.
    """
    require_batch(images, generator)
    return apply_fourier(images, draw_fda_parameters(images, config=config, generator=generator))


def apr(images: Tensor, *, config: AprConfig, generator: torch.Generator) -> Tensor:
    """Images (B, C, *spatial), 2D or 3D, with a share of another one's amplitudes; others come back bit for bit.

    Raises:
        ValueError: shape or dtype is not accepted, or the generator lives on another device.
    """
    require_batch(images, generator)
    return apply_fourier(images, draw_apr_parameters(images, config=config, generator=generator))


def draw_fda_parameters(images: Tensor, *, config: FdaConfig, generator: torch.Generator) -> FourierParameters:
    """A square of half width floor(shortest side times L) for every image, L ~ U(smallest, largest)."""
    partner = _draw_partners(images, generator)
    drawn = torch.rand(images.shape[0], generator=generator, device=images.device, dtype=torch.float64)
    length = config.smallest + (config.largest - config.smallest) * drawn
    return FourierParameters(
        partner=partner,
        share=torch.ones(images.shape[0], device=images.device, dtype=compute_dtype(images)),
        reach=(min(images.shape[2:]) * length).floor(),
        chosen=choose_images(images, probability=config.probability, generator=generator),
    )


def draw_apr_parameters(images: Tensor, *, config: AprConfig, generator: torch.Generator) -> FourierParameters:
    """A share U(0, strength) for every image, or all of it with `swap`."""
    partner = _draw_partners(images, generator)
    drawn = torch.rand(images.shape[0], generator=generator, device=images.device, dtype=compute_dtype(images))
    return FourierParameters(
        partner=partner,
        share=torch.ones_like(drawn) if config.swap else config.strength * drawn,
        reach=None,
        chosen=choose_images(images, probability=config.probability, generator=generator),
    )


@torch.no_grad()
def apply_fourier(images: Tensor, parameters: FourierParameters) -> Tensor:
    """Blend amplitudes with the partner's and keep the phase."""
    if images.shape[0] == 0:
        return images.clone()
    axes, spatial = tuple(range(2, images.ndim)), images.shape[2:]
    with torch.autocast(images.device.type, enabled=False):
        spectrum = torch.fft.rfftn(images.to(compute_dtype(images)), dim=axes)
        amplitude = spectrum.abs()
        share = per_image(parameters.share, images)
        if parameters.reach is not None:
            share = share * _within(per_image(parameters.reach, images), spatial)
        mixed = torch.lerp(amplitude, amplitude[parameters.partner], share.expand_as(amplitude))
        augmented = torch.fft.irfftn(torch.polar(mixed, spectrum.angle()), s=spatial, dim=axes)
        other = parameters.partner != torch.arange(len(images), device=images.device)
        return chosen_only(augmented, images, parameters.chosen & other)


def _within(reach: Tensor, spatial: torch.Size) -> Tensor:
    """Whether a frequency of torch.fft.rfftn lies within `reach` of the centre along every axis, (B, 1, *spectrum)."""
    inside = torch.ones((), dtype=torch.bool, device=reach.device)
    for axis, size in enumerate(spatial):
        shape = [1] * len(spatial)
        shape[axis] = -1
        frequency = torch.arange(size, device=reach.device)
        frequency = torch.minimum(frequency, size - frequency)
        if axis == len(spatial) - 1:
            frequency = frequency[: size // 2 + 1]
        inside = inside & (frequency.reshape(1, 1, *shape) <= reach)
    return inside


def _draw_partners(images: Tensor, generator: torch.Generator) -> Tensor:
    """For each image another one of the batch, (B,), all equally likely; itself in a batch of one."""
    batch = images.shape[0]
    steps = torch.randint(1, max(batch, 2), (batch,), generator=generator, device=images.device)
    return (torch.arange(batch, device=images.device) + steps) % max(batch, 1)
