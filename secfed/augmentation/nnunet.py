"""The intensity transforms of nnU-Net v2, each image with its own choices.

Runs at sites, while training. Sources: Isensee et al., "nnU-Net", Nature Methods 2021; ranges, probabilities and order
are those of `nnUNetTrainer.get_training_transforms` (github.com/MIC-DKFZ/nnUNet, nnunetv2/training/nnUNetTrainer) and
the formulas those of github.com/MIC-DKFZ/batchgeneratorsv2. In this order: Gaussian noise, blur, brightness, contrast,
low resolution, gamma of the inverted image, gamma. Images are expected z-scored, as nnU-Net's are.

Where the channels are slices of one image, they count as one channel: they share all choices, and means and ranges are
those of all slices together. Noise is every slice's own, as a scanner's is; blur and low resolution are in the plane.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch import Tensor

from secfed.augmentation.batch import choose_images, chosen_only, compute_dtype, require_batch
from secfed.augmentation_config import NnunetConfig

NOISE_PROB, NOISE_DEVIATION = 0.1, (0.0, 0.1)
"""nnU-Net calls the range a variance but draws noise with it as the standard deviation; so is it here."""
BLUR_PROB, BLUR_CHANNEL_PROB, BLUR_SIGMA = 0.2, 0.5, (0.5, 1.0)
BRIGHTNESS_PROB, BRIGHTNESS_FACTOR = 0.15, (0.75, 1.25)
CONTRAST_PROB, CONTRAST_FACTOR = 0.15, (0.75, 1.25)
LOW_RESOLUTION_PROB, LOW_RESOLUTION_CHANNEL_PROB, LOW_RESOLUTION_SCALE = 0.25, 0.5, (0.5, 1.0)
INVERTED_GAMMA_PROB, GAMMA_PROB, GAMMA_EXPONENT = 0.1, 0.3, (0.7, 1.5)
# Kernels of the largest sigma have seven taps; narrower ones fewer (batchgeneratorsv2, `_compute_kernel_size`).
_BLUR_RADIUS = 3
_SMALLEST = 1e-7


@dataclass(frozen=True, kw_only=True)
class NnunetParameters:
    """The random choices of one call; where a transform is not applied, its number is the one that changes nothing.

    `noise` (B, 1, *spatial) is added to all channels; where they are slices it is (B, slices, *spatial), and C is 1.
    `blur_sigma` (B, C, dimensions) is in voxels, 0 for none. `brightness`, `contrast`, `resolution`, `inverted_gamma`
    and `gamma` (B, C) are 1 for none. `chosen` is (B,).
    """

    noise: Tensor
    blur_sigma: Tensor
    brightness: Tensor
    contrast: Tensor
    resolution: Tensor
    inverted_gamma: Tensor
    gamma: Tensor
    chosen: Tensor


def nnunet(
    images: Tensor, *, config: NnunetConfig, generator: torch.Generator, drawn_channels: Literal[1] | None = None
) -> Tensor:
    """Augmented images (B, C, *spatial), 2D or 3D, in the dtype given; images not chosen come back bit for bit.

    Choices are drawn for every channel, or with `drawn_channels = 1` for one, where channels are slices.

    Raises:
        ValueError: shape or dtype is not accepted, or the generator lives on another device.
    """
    require_batch(images, generator)
    drawn = draw_nnunet_parameters(images, config=config, generator=generator, drawn_channels=drawn_channels)
    return apply_nnunet(images, drawn)


def draw_nnunet_parameters(
    images: Tensor, *, config: NnunetConfig, generator: torch.Generator, drawn_channels: Literal[1] | None = None
) -> NnunetParameters:
    """Draw all choices for a batch; of `images`, only shape, dtype and device matter."""
    (batch, channels, *spatial), dtype = images.shape, compute_dtype(images)
    channels, slices = (1, channels) if drawn_channels else (channels, 1)

    def rand(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=images.device, dtype=dtype)

    def uniform(bounds: tuple[float, float], *shape: int) -> Tensor:
        return bounds[0] + (bounds[1] - bounds[0]) * rand(*shape)

    def applied(probability: float, channel_probability: float = 1.0) -> Tensor:
        return (rand(batch, 1) < probability) & (rand(batch, channels) < channel_probability)

    def factor(bounds: tuple[float, float], probability: float) -> Tensor:
        # Below and above 1 half of the time each, however far the bounds lie from it.
        below, above = uniform((bounds[0], 1.0), batch, channels), uniform((1.0, bounds[1]), batch, channels)
        drawn = torch.where(rand(batch, channels) < 0.5, below, above)
        return torch.where(applied(probability), drawn, 1)

    deviation = torch.where(rand(batch) < NOISE_PROB, uniform(NOISE_DEVIATION, batch), 0)
    noise = torch.randn((batch, slices, *spatial), generator=generator, device=images.device, dtype=dtype)
    sigma = uniform(BLUR_SIGMA, batch, channels, len(spatial))
    scale = uniform(LOW_RESOLUTION_SCALE, batch, channels)
    return NnunetParameters(
        noise=noise * deviation.reshape(-1, *[1] * (images.ndim - 1)),
        blur_sigma=torch.where(applied(BLUR_PROB, BLUR_CHANNEL_PROB)[:, :, None], sigma, 0),
        brightness=factor(BRIGHTNESS_FACTOR, BRIGHTNESS_PROB),
        contrast=factor(CONTRAST_FACTOR, CONTRAST_PROB),
        resolution=torch.where(applied(LOW_RESOLUTION_PROB, LOW_RESOLUTION_CHANNEL_PROB), scale, 1),
        inverted_gamma=factor(GAMMA_EXPONENT, INVERTED_GAMMA_PROB),
        gamma=factor(GAMMA_EXPONENT, GAMMA_PROB),
        chosen=choose_images(images, probability=config.probability, generator=generator),
    )


@torch.no_grad()
def apply_nnunet(images: Tensor, parameters: NnunetParameters) -> Tensor:
    """All transforms in nnU-Net's order."""
    if images.shape[0] == 0:
        return images.clone()
    with torch.autocast(images.device.type, enabled=False):
        changed = images.to(compute_dtype(images)) + parameters.noise
        # Channels with their slices, (N, slices, *spatial): one slice, unless all of them share one set of numbers.
        changed = changed.reshape(parameters.gamma.numel(), -1, *images.shape[2:])
        changed = _where_drawn(_in_plane(blur), changed, parameters.blur_sigma.flatten(0, 1), none=0.0)
        changed = changed * _per_channel(parameters.brightness.flatten(), changed)
        changed = _where_drawn(contrast, changed, parameters.contrast.flatten(), none=1.0)
        changed = _where_drawn(_in_plane(low_resolution), changed, parameters.resolution.flatten(), none=1.0)
        changed = -_where_drawn(gamma, -changed, parameters.inverted_gamma.flatten(), none=1.0)
        changed = _where_drawn(gamma, changed, parameters.gamma.flatten(), none=1.0)
        return chosen_only(changed.reshape(images.shape), images, parameters.chosen)


def blur(channels: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of channels (N, *spatial), each axis with its own sigma (N, dimensions), reflected at borders."""
    (count, *spatial), radius = channels.shape, _BLUR_RADIUS
    convolve = {2: F.conv2d, 3: F.conv3d}[len(spatial)]
    place = torch.arange(-radius, radius + 1, device=channels.device, dtype=channels.dtype)
    blurred = channels[None]
    for axis, size in enumerate(spatial):
        width = sigma[:, axis, None]
        kernel = (-0.5 * (place / width.clamp_min(_SMALLEST)) ** 2).exp() * (place.abs() <= 3 * width + 0.25)
        kernel = _along(kernel / kernel.sum(dim=1, keepdim=True), axis, channels)[:, None]
        reflected = _reflected(size, radius, channels.device)
        blurred = convolve(blurred.index_select(axis + 2, reflected), kernel, groups=count)
    return blurred[0]


def contrast(channels: Tensor, factor: Tensor) -> Tensor:
    """Distances from each channel's mean times `factor` (N,), cut to the range that the channel (N, *spatial) had."""
    flat = channels.flatten(1)
    mean = flat.mean(dim=1, keepdim=True)
    low, high = flat.aminmax(dim=1, keepdim=True)
    return ((flat - mean) * factor[:, None] + mean).clamp(low, high).reshape(channels.shape)


def low_resolution(channels: Tensor, scale: Tensor) -> Tensor:
    """Channels (N, *spatial) at the nearest voxels of a grid `scale` (N,) as fine, then interpolated linearly."""
    coarse = channels
    for axis, size in enumerate(channels.shape[1:]):
        fewer = (size * scale).round().clamp_min(1)[:, None]
        voxel = torch.arange(size, device=channels.device, dtype=channels.dtype)
        place = ((voxel + 0.5) * (fewer / size) - 0.5).clamp_min(0)
        left = torch.minimum(place.floor(), fewer - 1)
        right = torch.minimum(left + 1, fewer - 1)
        ends = []
        for sample in (left, right):
            # Written so that a sample on the border between two voxels is exactly there, and not just before it.
            source = ((2 * sample + 1) * size / (2 * fewer)).floor().long()
            ends.append(coarse.gather(axis + 1, _along(source, axis, coarse).expand_as(coarse)))
        coarse = torch.lerp(ends[0], ends[1], _along(place - left, axis, coarse).expand_as(coarse))
    return coarse


def gamma(channels: Tensor, exponent: Tensor) -> Tensor:
    """Each channel's range to the power `exponent` (N,), with mean and deviation of the channel (N, *spatial) kept."""
    flat = channels.flatten(1)
    low, high = flat.aminmax(dim=1, keepdim=True)
    span = high - low
    curved = ((flat - low) / span.clamp_min(_SMALLEST)).clamp(0, 1) ** exponent[:, None] * span + low
    deviation, mean = torch.std_mean(flat, dim=1, correction=0, keepdim=True)
    found, centre = torch.std_mean(curved, dim=1, correction=0, keepdim=True)
    kept = (curved - centre) * (deviation / found.clamp_min(_SMALLEST)) + mean
    return kept.reshape(channels.shape)


def _in_plane(transform: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """A transform of channels (N, *spatial) for channels with slices, (N, slices, *spatial), each slice alone."""

    def of_every_slice(channels: Tensor, numbers: Tensor) -> Tensor:
        slices = channels.shape[1]
        return transform(channels.flatten(0, 1), numbers.repeat_interleave(slices, dim=0)).reshape(channels.shape)

    return of_every_slice


def _where_drawn(
    transform: Callable[[Tensor, Tensor], Tensor], channels: Tensor, numbers: Tensor, *, none: float
) -> Tensor:
    """`transform` of the channels whose numbers (N,) or (N, dimensions) differ from `none`."""
    drawn = (numbers != none).reshape(len(numbers), -1).any(dim=1)
    if channels.device.type != "cpu":
        # Choosing channels by index would make the host wait for the device, so all of them are computed there.
        return torch.where(_per_channel(drawn, channels), transform(channels, numbers), channels)
    rows = drawn.nonzero().squeeze(1)
    return channels.index_copy(0, rows, transform(channels[rows], numbers[rows])) if len(rows) else channels


def _along(values: Tensor, axis: int, channels: Tensor) -> Tensor:
    """Values (N, size) along one spatial axis of channels (N, *spatial), of length 1 along the others."""
    shape = [len(values), *[1] * (channels.ndim - 1)]
    shape[axis + 1] = values.shape[1]
    return values.reshape(shape)


def _reflected(size: int, radius: int, device: torch.device) -> Tensor:
    """Indices -radius to size + radius, reflected about the first and last voxel; any radius, even for small images."""
    period = max(2 * (size - 1), 1)
    index = torch.arange(-radius, size + radius, device=device) % period
    return torch.minimum(index, period - index) % size


def _per_channel(values: Tensor, channels: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (channels.ndim - 1))
