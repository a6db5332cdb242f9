"""A batch of images as every augmentation takes it, and the moments and ranges of its images.

Runs at sites, while training. Everything here is per image and stays on the images' device.
"""

import torch
from torch import Tensor

# Below this, an image counts as constant: its moments are then not divided by.
_SMALLEST_DEVIATION = 1e-6


def require_batch(images: Tensor, generator: torch.Generator) -> None:
    """Refuse what no augmentation takes.

    Raises:
        ValueError: images are not floating (B, C, *spatial) in 2D or 3D, or the generator lives on another device.
    """
    if images.ndim not in (4, 5) or not images.is_floating_point():
        raise ValueError(f"images must be floating (B, C, *spatial) in 2D or 3D, got {images.dtype} {images.shape}")
    if generator.device.type != images.device.type:
        raise ValueError(
            f"the generator lives on {generator.device}, but the images on {images.device}: "
            "make it with torch.Generator(images.device)"
        )


def require_labels(images: Tensor, labels: Tensor) -> None:
    """Refuse labels of another shape than (B, *spatial).

    Raises:
        ValueError: the shapes do not belong together.
    """
    if labels.shape != (images.shape[0], *images.shape[2:]):
        raise ValueError(f"labels must have shape (B, *spatial) of images {images.shape}, got {labels.shape}")


def compute_dtype(images: Tensor) -> torch.dtype:
    """What augmentations are computed in: float64 for float64 images, else float32."""
    return torch.float64 if images.dtype == torch.float64 else torch.float32


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """Values (B,) in a shape that broadcasts over images (B, C, *spatial)."""
    return values.reshape(-1, *[1] * (images.ndim - 1))


def choose_images(images: Tensor, *, probability: float, generator: torch.Generator) -> Tensor:
    """Which images are augmented at all, (B,); of `images`, only shape and device matter."""
    # torch.rand stays below 1, so probability 1 chooses every image and 0 none.
    return torch.rand(images.shape[0], generator=generator, device=images.device) < probability


def chosen_only(augmented: Tensor, images: Tensor, chosen: Tensor) -> Tensor:
    """The augmented images where `chosen` (B,) says so, the others bit for bit, all in the dtype of `images`."""
    return torch.where(per_image(chosen, images), augmented.to(images.dtype), images)


def in_unit_range(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Images moved to [0, 1] by their own minimum and range, both (B,); a constant image becomes zero, with range 0."""
    flat = images.flatten(1)
    low, high = flat.aminmax(dim=1)
    span = high - low
    safe = torch.where(span > 0, span, torch.ones_like(span))
    unit = ((flat - low[:, None]) / safe[:, None]).clamp(0, 1)
    return unit.reshape(images.shape), low, span


def with_moments_of(augmented: Tensor, images: Tensor) -> Tensor:
    """`augmented`, image by image, with mean and standard deviation of `images` over all channels and pixels."""
    deviation, mean = torch.std_mean(augmented.flatten(1), dim=1, correction=0)
    wanted_deviation, wanted_mean = torch.std_mean(images.flatten(1), dim=1, correction=0)
    scale = wanted_deviation / deviation.clamp_min(_SMALLEST_DEVIATION)
    return (augmented - per_image(mean, images)) * per_image(scale, images) + per_image(wanted_mean, images)
