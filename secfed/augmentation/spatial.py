"""Random rotation, scale and shift of images and labels together, on their own device.

Runs at sites, while training. Rotation is in the plane: for volumes about the first axis (z), because voxels are
usually as long as wide but of another height, and only that rotation keeps the anatomy in shape without knowing the
spacing. Scale and shift act on every axis. Images are interpolated linearly, labels by nearest neighbour, and both are
continued past the border by their border values, so that image and label still agree there. All channels of an image,
which are neighbouring slices of it, move alike.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch import Tensor

from secfed.augmentation.batch import require_batch, require_labels
from secfed.augmentation_config import AffineConfig


@dataclass(frozen=True, kw_only=True)
class AffineParameters:
    """The random choices of one call, each (B,) but `shift` (B, dimensions), in shares of the image's length."""

    rotation_rad: Tensor
    scale: Tensor
    shift: Tensor
    chosen: Tensor


def random_affine(
    images: Tensor, labels: Tensor, *, config: AffineConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Moved images (B, C, *spatial) and labels (B, *spatial), 2D or 3D, in the dtypes given.

    Angles are uniform in [-rotation_rad, rotation_rad], scales in [1 - scale, 1 + scale] and shifts in [-shift, shift]
    of each length. Images that are not chosen (`config.probability`) come back bit for bit.

    Raises:
        ValueError: the shapes do not belong together, or the generator lives on another device.
    """
    require_batch(images, generator)
    require_labels(images, labels)
    if config.probability == 0 or images.shape[0] == 0:
        return images.clone(), labels.clone()
    return apply_affine(images, labels, draw_affine_parameters(images, config=config, generator=generator))


def draw_affine_parameters(images: Tensor, *, config: AffineConfig, generator: torch.Generator) -> AffineParameters:
    """Draw the movements for a batch; of `images`, only shape and device matter."""
    batch, dimensions = images.shape[0], images.ndim - 2
    draws = torch.rand(batch, dimensions + 3, generator=generator, device=images.device)
    signed = 2 * draws - 1
    return AffineParameters(
        rotation_rad=config.rotation_rad * signed[:, 0],
        scale=1 + config.scale * signed[:, 1],
        shift=config.shift * signed[:, 3:],
        chosen=draws[:, 2] < config.probability,
    )


@torch.no_grad()
def apply_affine(images: Tensor, labels: Tensor, parameters: AffineParameters) -> tuple[Tensor, Tensor]:
    """Move the anatomy: enlarge by `scale`, turn from the last axis towards the one before, then shift."""
    chosen = parameters.chosen.reshape(-1, *[1] * (images.ndim - 1))
    with torch.autocast(images.device.type, enabled=False):
        matrix = _sampling_matrix(parameters, images.shape[2:])
        grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
        moved = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
        turned = F.grid_sample(
            labels[:, None].float(), grid, mode="nearest", padding_mode="border", align_corners=False
        )
    return (
        torch.where(chosen, moved.to(images.dtype), images),
        torch.where(chosen[:, 0], turned[:, 0].to(labels.dtype), labels),
    )


def _sampling_matrix(parameters: AffineParameters, spatial: torch.Size) -> Tensor:
    """Where each output voxel is read, (B, d, d + 1), in torch's coordinates: (x, y[, z]), each axis from -1 to 1."""
    dimensions = len(spatial)
    cosine, sine = parameters.rotation_rad.cos(), parameters.rotation_rad.sin()
    # The axes are of different length in voxels, but each spans [-1, 1], so a rotation needs their ratio.
    ratio = spatial[-2] / spatial[-1]
    matrix = torch.zeros(len(cosine), dimensions, dimensions + 1, device=cosine.device)
    matrix[:, 0, 0] = cosine
    matrix[:, 0, 1] = sine * ratio
    matrix[:, 1, 0] = -sine / ratio
    matrix[:, 1, 1] = cosine
    if dimensions == 3:
        matrix[:, 2, 2] = 1
    linear = matrix[:, :, :dimensions] / parameters.scale[:, None, None]
    # Output p is read at linear (p - shift); a length is 2 in these coordinates, and the axes stand in reverse.
    shift = 2 * parameters.shift.flip(1)
    matrix[:, :, :dimensions] = linear
    matrix[:, :, dimensions] = -(linear @ shift[:, :, None])[:, :, 0]
    return matrix
