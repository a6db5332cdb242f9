"""Random Bezier curves of intensity: one per image, or location-scale augmentation with one per class.

Runs at sites, while training. Sources: Zhou et al., "Models Genesis", Medical Image Analysis 2021 (`bezier`); Su et
al., "Rethinking data augmentation for single-source domain generalization in medical image segmentation" (SLAug), AAAI
2023 (`slaug`). A curve is a cubic with its ends at (0, 0) and (1, 1) and two control points ~ U(0, 1)^2, which make it
rise throughout; a falling curve is the same upside down. It maps a range of intensities to itself.

In SLAug half of the images get one rising curve, and the others one curve per class over the range of that class: a
falling one for the background, a falling one half of the time for each other class. A random scale and location follow,
within the image's own range. In the others, what is darker than a hundredth of the range is left as it is.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from secfed.augmentation.batch import (
    choose_images,
    chosen_only,
    compute_dtype,
    in_unit_range,
    per_image,
    require_batch,
    require_labels,
)
from secfed.augmentation_config import BezierConfig, SlaugConfig

# The curve is followed by 2^_HALVINGS straight pieces: the sources take pieces too.
_HALVINGS = 8
_PIECE = 0.5**_HALVINGS
# Labels are stored in one byte. Drawing for all of them needs no count of the classes from the device.
_MOST_CLASSES = 256
# Constants of the authors' code: github.com/Kaiseem/SLAug, dataloaders/location_scale_augmentation.py.
SLAUG_SCALE_DEVIATION = 0.1
SLAUG_SCALE_LIMIT = 0.1
SLAUG_LOCATION_DEVIATION = 0.5
SLAUG_QUANTILE = 0.2
SLAUG_DARK = 0.01
SLAUG_PER_CLASS_PROB = 0.5
SLAUG_FALLING_PROB = 0.5


@dataclass(frozen=True, kw_only=True)
class BezierParameters:
    """`controls` (B, 4) are x1, y1, x2, y2 in [0, 1]; `falling` and `chosen` are (B,)."""

    controls: Tensor
    falling: Tensor
    chosen: Tensor


@dataclass(frozen=True, kw_only=True)
class SlaugParameters:
    """One curve, scale and location per image and class; `per_class` and `chosen` are (B,).

    `controls` is (B, 256, 4), the others (B, 256), in units of the image's range. An image that is not `per_class` uses
    the entries of class 0 throughout, rising.
    """

    controls: Tensor
    falling: Tensor
    scale: Tensor
    location: Tensor
    per_class: Tensor
    chosen: Tensor


def bezier(images: Tensor, *, config: BezierConfig, generator: torch.Generator) -> Tensor:
    """Augmented images (B, C, *spatial), 2D or 3D, in the dtype given; images not chosen come back bit for bit.

    Raises:
        ValueError: shape or dtype is not accepted, or the generator lives on another device.
    """
    require_batch(images, generator)
    return apply_bezier(images, draw_bezier_parameters(images, config=config, generator=generator))


def slaug(images: Tensor, labels: Tensor, *, config: SlaugConfig, generator: torch.Generator) -> Tensor:
    """Augmented images (B, C, *spatial), 2D or 3D, with labels (B, *spatial) below 256; others come back bit for bit.

    Raises:
        ValueError: shapes or dtypes are not accepted, or the generator lives on another device.
    """
    require_batch(images, generator)
    require_labels(images, labels)
    return apply_slaug(images, labels, draw_slaug_parameters(images, config=config, generator=generator))


def draw_bezier_parameters(images: Tensor, *, config: BezierConfig, generator: torch.Generator) -> BezierParameters:
    """Draw the curves for a batch; of `images`, only shape, dtype and device matter."""
    batch, device = images.shape[0], images.device
    return BezierParameters(
        controls=torch.rand(batch, 4, generator=generator, device=device, dtype=compute_dtype(images)),
        falling=torch.rand(batch, generator=generator, device=device) < config.inverted_probability,
        chosen=choose_images(images, probability=config.probability, generator=generator),
    )


def draw_slaug_parameters(images: Tensor, *, config: SlaugConfig, generator: torch.Generator) -> SlaugParameters:
    """Draw curves, scales and locations for a batch; of `images`, only shape, dtype and device matter."""
    shape, device, dtype = (images.shape[0], _MOST_CLASSES), images.device, compute_dtype(images)
    per_class = torch.rand(images.shape[0], generator=generator, device=device) < SLAUG_PER_CLASS_PROB
    falling = torch.rand(shape, generator=generator, device=device) < SLAUG_FALLING_PROB
    falling[:, 0] = True
    scale = 1 + SLAUG_SCALE_DEVIATION * torch.randn(shape, generator=generator, device=device, dtype=dtype)
    return SlaugParameters(
        controls=torch.rand(*shape, 4, generator=generator, device=device, dtype=dtype),
        falling=falling & per_class[:, None],
        scale=scale.clamp(1 - SLAUG_SCALE_LIMIT, 1 + SLAUG_SCALE_LIMIT),
        location=SLAUG_LOCATION_DEVIATION * torch.randn(shape, generator=generator, device=device, dtype=dtype),
        per_class=per_class,
        chosen=choose_images(images, probability=config.probability, generator=generator),
    )


@torch.no_grad()
def apply_bezier(images: Tensor, parameters: BezierParameters) -> Tensor:
    """Map every image by its own curve, from its range to its range."""
    if images.shape[0] == 0:
        return images.clone()
    with torch.autocast(images.device.type, enabled=False):
        unit, low, span = in_unit_range(images.to(compute_dtype(images)))
        coefficients = curve_coefficients(parameters.controls)
        mapped = curve_at(unit, coefficients.reshape(len(coefficients), -1, *[1] * (images.ndim - 1)))
        mapped = torch.where(per_image(parameters.falling, images), 1 - mapped, mapped)
        return chosen_only(mapped * per_image(span, images) + per_image(low, images), images, parameters.chosen)


@torch.no_grad()
def apply_slaug(images: Tensor, labels: Tensor, parameters: SlaugParameters) -> Tensor:
    """Map every class, or the whole image, by its curve, then scale and move it within the image's range."""
    if images.shape[0] == 0:
        return images.clone()
    with torch.autocast(images.device.type, enabled=False):
        whole, low, span = in_unit_range(images.to(compute_dtype(images)))
        unit = whole.flatten(1)
        part = torch.where(per_image(parameters.per_class, labels), labels.long().clamp(min=0), 0)
        part = part.flatten(1).repeat(1, images.shape[1])
        dark, bright = _part_range(unit, part)
        dark, reach = dark.gather(1, part), (bright - dark).gather(1, part)
        inner = ((unit - dark) / torch.where(reach > 0, reach, 1)).clamp(0, 1)
        curve = curve_at(inner, curve_coefficients(parameters.controls).gather(2, part.expand(6, *part.shape)))
        curve = torch.where(parameters.falling.gather(1, part), 1 - curve, curve) * reach + dark
        # A location that would push more than a fifth of the part out of the range at one end is cut there.
        lower, upper = _part_quantiles(curve, part)
        location = parameters.location.clamp(-lower, 1 - upper)
        moved = (curve * parameters.scale.gather(1, part) + location.gather(1, part)).clamp(0, 1)
        moved = torch.where(parameters.per_class[:, None] & (unit <= SLAUG_DARK), unit, moved).reshape(images.shape)
        return chosen_only(moved * per_image(span, images) + per_image(low, images), images, parameters.chosen)


def curve_at(unit: Tensor, coefficients: Tensor) -> Tensor:
    """Height over `unit` in [0, 1] of the rising curves of `curve_coefficients`, (6, ...) broadcasting against it.

    With controls in [0, 1] the abscissa rises with the parameter t (its derivative is a quadratic without two roots),
    so halving finds the piece of the curve over `unit`, and a straight line goes on within it.
    """
    x, y = coefficients[:3].unbind(), coefficients[3:].unbind()
    start = torch.zeros_like(unit)
    for halving in range(1, _HALVINGS + 1):
        step = 0.5**halving
        start = torch.add(start, _cubic(start + step, *x) <= unit, alpha=step)
    left, right = _cubic(start, *x), _cubic(start + _PIECE, *x)
    width = right - left
    share = ((unit - left) / torch.where(width > 0, width, 1)).clamp(0, 1)
    return torch.lerp(_cubic(start, *y), _cubic(start + _PIECE, *y), share)


def curve_coefficients(controls: Tensor) -> Tensor:
    """Of t, t^2 and t^3 in the abscissa, then in the height, (6, ...), from controls (..., 4): x1, y1, x2, y2.

    A coordinate is the Bezier cubic 3 (1-t)^2 t first + 3 (1-t) t^2 second + t^3.
    """
    x1, y1, x2, y2 = controls.unbind(-1)
    return torch.stack(
        [
            term
            for first, second in ((x1, x2), (y1, y2))
            for term in (3 * first, 3 * (second - 2 * first), 3 * (first - second) + 1)
        ]
    )


def _cubic(t: Tensor, linear: Tensor, square: Tensor, cube: Tensor) -> Tensor:
    return t * torch.addcmul(linear, t, torch.addcmul(square, t, cube))


def _part_range(values: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of every part, both (B, 256); zero where a part is empty."""
    empty = torch.zeros(len(values), _MOST_CLASSES, device=values.device, dtype=values.dtype)
    low = empty.scatter_reduce(1, part, values, "amin", include_self=False)
    return low, empty.scatter_reduce(1, part, values, "amax", include_self=False)


def _part_quantiles(values: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
    """The quantiles SLAUG_QUANTILE and 1 - SLAUG_QUANTILE of every part, both (B, 256); zero where it is empty.

    One sort serves all parts: values lie in [0, 1], so two per part keep the parts apart.
    """
    ordered = (values.clamp(0, 1) + 2 * part).sort(dim=1).values
    count = torch.zeros(len(values), _MOST_CLASSES, device=values.device, dtype=values.dtype)
    count = count.scatter_add(1, part, torch.ones_like(values))
    first = count.cumsum(1) - count
    offset = 2 * torch.arange(_MOST_CLASSES, device=values.device)
    last = (count - 1).clamp_min(0)

    def quantile(share: float) -> Tensor:
        place = share * last
        left = place.floor()
        right = torch.minimum(left + 1, last)
        ends = [ordered.gather(1, (first + at).long().clamp_max(values.shape[1] - 1)) for at in (left, right)]
        return torch.where(count > 0, torch.lerp(ends[0], ends[1], place - left) - offset, 0)

    return quantile(SLAUG_QUANTILE), quantile(1 - SLAUG_QUANTILE)
