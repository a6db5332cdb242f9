"""The appearance that a plan's images get: one method, or one of several per image, and pairs that must agree.

Runs at sites, while training. Everything that `[augmentation]` says about appearance happens here; the pose is
`secfed.augmentation.spatial`.

Channels are neighbouring slices of one image (`model.context_slices`), and one scanner made all of them: what is drawn
is drawn once for all, so that a tissue looks alike in every slice. GIN and RandConv pass each slice alone through the
image's one-channel network; curves ("bezier", "piecewise") and dark air are over the range of all slices; "nnunet"
shares all choices but noise; "fda" and "apr" take each slice's amplitudes from the slice in its place of one other
image; the mask of "gin_ipa" is the same in all slices. "slaug" would need labels of every slice, and plans with context
refuse it.
"""

import torch
from torch import Tensor

from secfed.augmentation.batch import (
    chosen_only,
    compute_dtype,
    in_unit_range,
    per_image,
    require_batch,
    with_moments_of,
)
from secfed.augmentation.bezier import bezier, slaug
from secfed.augmentation.fourier import apr, fda
from secfed.augmentation.gin import gin
from secfed.augmentation.ipa import gin_ipa
from secfed.augmentation.nnunet import nnunet
from secfed.augmentation.piecewise import piecewise
from secfed.augmentation.randconv import randconv
from secfed.augmentation_config import AugmentationConfig, SimpleMethod

_AIR_SHARE = 0.06
"""The lowest 6 % of an image's range count as air: below -136 HU in CT cut at -160 and 240 HU, and fat is brighter."""


def appearance(images: Tensor, labels: Tensor, *, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """Images (B, C, *spatial), 2D or 3D, in another appearance and the dtype given; labels (B, *spatial) stay true.

    Labels are those of the slice in the middle, where there are several.

    Raises:
        ValueError: shapes or dtypes are not accepted, or the generator lives on another device.
    """
    match config.method:
        case "none":
            return images
        case "gin_ipa":
            augmented, _ = gin_ipa(images, gin=config.gin, ipa=config.ipa, generator=generator, drawn_channels=1)
        case "mixed":
            augmented = _one_of_several(images, labels, config=config, generator=generator)
        case method:
            augmented = _one_method(method, images, labels, config=config, generator=generator)
    return keep_air(augmented, images) if config.keep_air else augmented


def views(
    images: Tensor, labels: Tensor, *, config: AugmentationConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """What is to be segmented, and its partner, which must be segmented alike; None where nothing asks for one.

    Raises:
        ValueError: shapes or dtypes are not accepted, or the generator lives on another device.
    """
    if not config.consistency_weight:
        return appearance(images, labels, config=config, generator=generator), None
    if config.method == "gin_ipa":
        one, other = gin_ipa(images, gin=config.gin, ipa=config.ipa, generator=generator, drawn_channels=1)
        return (keep_air(one, images), keep_air(other, images)) if config.keep_air else (one, other)
    first = appearance(images, labels, config=config, generator=generator)
    if config.consistency.other == "clean":
        return first, images
    return first, appearance(images, labels, config=config, generator=generator)


@torch.no_grad()
def keep_air(augmented: Tensor, images: Tensor) -> Tensor:
    """`augmented` with the air of `images` as dark as the darkest of what is not air there, and their moments.

    Air is what lies within 6 % of the range above the minimum of `images`. An image that was not augmented stays as it
    is, bit for bit.
    """
    if images.shape[0] == 0:
        return augmented
    with torch.autocast(images.device.type, enabled=False):
        clean, changed = images.to(compute_dtype(images)), augmented.to(compute_dtype(images))
        unit, _, span = in_unit_range(clean)
        air = (unit < _AIR_SHARE) & per_image(span > 0, images)
        darkest = torch.where(air, torch.inf, changed).flatten(1).amin(dim=1)
        dark = with_moments_of(torch.where(air, per_image(darkest, images), changed), clean)
        return chosen_only(dark, augmented, (augmented != images).flatten(1).any(dim=1))


def _one_of_several(
    images: Tensor, labels: Tensor, *, config: AugmentationConfig, generator: torch.Generator
) -> Tensor:
    require_batch(images, generator)
    drawn = torch.randint(len(config.mix), (images.shape[0],), generator=generator, device=images.device)
    # Every method sees the whole batch: choosing images by index would make the host wait for the device.
    augmented = images
    for index, method in enumerate(config.mix):
        changed = _one_method(method, images, labels, config=config, generator=generator)
        augmented = torch.where(per_image(drawn == index, images), changed, augmented)
    return augmented


def _one_method(  # noqa: PLR0911 - one line per method
    method: SimpleMethod, images: Tensor, labels: Tensor, *, config: AugmentationConfig, generator: torch.Generator
) -> Tensor:
    match method:
        case "nnunet":
            return nnunet(images, config=config.nnunet, generator=generator, drawn_channels=1)
        case "randconv":
            return randconv(images, config=config.randconv, generator=generator, drawn_channels=1)
        case "fda":
            return fda(images, config=config.fda, generator=generator)
        case "apr":
            return apr(images, config=config.apr, generator=generator)
        case "bezier":
            return bezier(images, config=config.bezier, generator=generator)
        case "slaug":
            return slaug(images, labels, config=config.slaug, generator=generator)
        case "gin":
            return gin(images, config=config.gin, generator=generator, drawn_channels=1)
        case "piecewise":
            return piecewise(images, config=config.piecewise, generator=generator)
