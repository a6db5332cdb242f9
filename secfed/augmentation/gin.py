"""Global intensity non-linear augmentation (GIN), on the images' own device.

Runs at sites, while training. Source: Ouyang et al., "Causality-inspired single-source domain generalization for
medical image segmentation", IEEE TMI 2022. Each image x passes a small random network g of its own, is blended with
itself, m = alpha g(x) + (1 - alpha) x with alpha ~ U(0, 1), and rescaled to its former norm, m ||x|| / (||m|| + 1e-5).
g has `layers` convolutions, channels -> width -> ... -> width -> channels, weights and shifts ~ N(0, 1) without fan-in
scaling, and a leaky ReLU after every layer but the last. One kernel size per layer is drawn for the whole batch.

With the paper's settings the receptive field is at most 9, and g is pointwise in 1 of 16 calls. The norm is kept, the
mean is not. Shifts have unit scale, so images are expected in about unit scale (z-score or [0, 1]).
Where the channels are slices of one image, g is a network of one channel, which every slice passes alone; blend and
norm are those of all slices together, so that a tissue looks alike in all of them.
It changes appearance only; it protects nobody's privacy.
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from secfed.augmentation.batch import chosen_only, compute_dtype, per_image, require_batch
from secfed.augmentation.gin_networks import grouped_convolutions, shifted_products
from secfed.augmentation_config import GinConfig

_NORM_EPSILON = 1e-5


@dataclass(frozen=True, kw_only=True)
class GinParameters:
    """All random choices of one call, drawn before they are applied, so that a test can apply them in another way.

    `weights[i]` has shape (B, out, in, k, ..., k) and `shifts[i]` (B, out); `alpha` (B,) is the share of the random
    network in the blend, `chosen` (B,) says which images are augmented at all.
    """

    weights: tuple[Tensor, ...]
    shifts: tuple[Tensor, ...]
    alpha: Tensor
    chosen: Tensor

    def rows(self, rows: Tensor) -> "GinParameters":
        """The networks of some images only."""
        return GinParameters(
            weights=tuple(weight.index_select(0, rows) for weight in self.weights),
            shifts=tuple(shift.index_select(0, rows) for shift in self.shifts),
            alpha=self.alpha.index_select(0, rows),
            chosen=self.chosen.index_select(0, rows),
        )


def gin(
    images: Tensor, *, config: GinConfig, generator: torch.Generator, drawn_channels: Literal[1] | None = None
) -> Tensor:
    """Augmented images (B, C, *spatial), 2D or 3D, in the dtype given; the input is left as it was.

    Networks are drawn for the images' channels, or with `drawn_channels = 1` for one, where channels are slices.
    Computed in float32 (float64 for float64 images), inside autocast too. Images that are not chosen
    (`config.probability`) come back bit for bit.

    Raises:
        ValueError: shape or dtype is not accepted, or the generator lives on another device.
    """
    require_batch(images, generator)
    if config.probability == 0 or images.shape[0] == 0:
        return images.clone()
    parameters = draw_gin_parameters(images[:, :drawn_channels], config=config, generator=generator)
    return apply_gin(images, parameters, negative_slope=config.negative_slope)


def draw_gin_parameters(images: Tensor, *, config: GinConfig, generator: torch.Generator) -> GinParameters:
    """Draw the random networks for a batch; of `images`, only shape, dtype and device matter."""
    batch, channels = images.shape[:2]
    device, dtype = images.device, compute_dtype(images)
    largest = max(config.kernel_sizes)
    drawn = torch.randint(len(config.kernel_sizes), (config.layers,), generator=generator, device=device)
    sizes: Iterable[Tensor | int]
    if device.type == "cpu":
        sizes = [config.kernel_sizes[index] for index in drawn.tolist()]
    else:
        sizes = torch.tensor(config.kernel_sizes, device=device)[drawn]
    widths = [channels, *[config.width] * (config.layers - 1), channels]
    weights, shifts = [], []
    for size, (fan_in, fan_out) in zip(sizes, itertools.pairwise(widths), strict=True):
        shape = (batch, fan_out, fan_in, *(largest,) * (images.ndim - 2))
        weight = torch.randn(shape, generator=generator, device=device, dtype=dtype)
        weights.append(restrict_kernel(weight, size))
        shifts.append(torch.randn(batch, fan_out, generator=generator, device=device, dtype=dtype))
    alpha = torch.rand(batch, generator=generator, device=device, dtype=dtype)
    # torch.rand stays below 1, so probability 1 chooses every image.
    chosen = torch.rand(batch, generator=generator, device=device) < config.probability
    return GinParameters(weights=tuple(weights), shifts=tuple(shifts), alpha=alpha, chosen=chosen)


def restrict_kernel(weight: Tensor, size: Tensor | int) -> Tensor:
    """The central `size` taps per axis of kernels (B, out, in, K, ..., K).

    On a CPU the kernels are cropped, which is cheaper to apply. Elsewhere the outer taps are set to zero, which is the
    same convolution, because a crop would have to wait for the device to say how large it is.
    """
    if weight.device.type == "cpu":
        wanted = int(size)
        margin = (weight.shape[-1] - wanted) // 2
        for axis in range(3, weight.ndim) if margin else ():
            weight = weight.narrow(axis, margin, wanted)
        return weight
    return mask_kernel(weight, size)


def mask_kernel(weight: Tensor, size: Tensor | int) -> Tensor:
    """Kernels of unchanged shape in which all but the central `size` taps per axis are zero."""
    radius = weight.shape[-1] // 2
    inside = torch.arange(-radius, radius + 1, device=weight.device).abs() <= size // 2
    for axis in range(3, weight.ndim):
        shape = [1] * weight.ndim
        shape[axis] = -1
        weight = weight * inside.reshape(shape)
    return weight


@torch.no_grad()
def apply_gin(images: Tensor, parameters: GinParameters, *, negative_slope: float) -> Tensor:
    """Pass every chosen image of (B, C, *spatial) through its own network; the others come back bit for bit.

    A network of one channel is passed by each of the C channels alone.
    """
    if images.device.type != "cpu":
        # Choosing images by index would make the host wait for the device, so all of them are computed there.
        augmented = _through_networks(grouped_convolutions, images, parameters, negative_slope)
        return chosen_only(augmented, images, parameters.chosen)
    if all(parameters.chosen.tolist()):
        return _through_networks(shifted_products, images, parameters, negative_slope).to(images.dtype)
    rows = parameters.chosen.nonzero().squeeze(1)
    augmented = images.detach().clone()
    if len(rows):
        some = _through_networks(shifted_products, images[rows], parameters.rows(rows), negative_slope)
        augmented.index_copy_(0, rows, some.to(images.dtype))
    return augmented


def _through_networks(
    apply: Callable[..., Tensor], images: Tensor, parameters: GinParameters, negative_slope: float
) -> Tensor:
    """All the images through their networks, blended and rescaled, in the type that is computed in."""
    clean = images.to(compute_dtype(images))
    passes = images.shape[1] // parameters.weights[0].shape[2]
    weights, shifts = parameters.weights, parameters.shifts
    if passes > 1:
        weights = tuple(weight.repeat_interleave(passes, dim=0) for weight in weights)
        shifts = tuple(shift.repeat_interleave(passes, dim=0) for shift in shifts)
    passing = clean.reshape(-1, weights[0].shape[2], *images.shape[2:])
    hidden = apply(passing, weights, shifts, negative_slope=negative_slope).reshape(clean.shape)
    blend = torch.lerp(clean, hidden, per_image(parameters.alpha, images))
    return blend.mul_(per_image(_norms(clean) / (_norms(blend) + _NORM_EPSILON), images))


def _norms(images: Tensor) -> Tensor:
    """Frobenius norm over all channels and pixels of each image, (B,)."""
    norms: Tensor = torch.linalg.vector_norm(images.flatten(1), dim=1)
    return norms
