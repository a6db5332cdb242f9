"""The training loss: soft Dice plus class-weighted cross entropy.

Runs at sites. Both terms are computed for every image alone and then averaged over the batch with equal weight, so the
gradient of a batch is the mean of its images' gradients and no image looks at another one. A mode that bounds what one
patient can contribute relies on that; Dice over the whole batch, or cross entropy divided by the weights that happen to
be in the batch, would break it. Soft Dice: Milletari et al., "V-Net", 3DV 2016; here it is averaged over the classes
that an image contains, because most slices contain few of them, and false positives elsewhere are left to the cross
entropy.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch import Tensor

# One voxel in numerator and denominator keeps the gradient of very small structures bounded.
_SMOOTHING_VOXELS = 1.0


def segmentation_loss(
    logits: Tensor, labels: Tensor, *, dice_weight: float, cross_entropy_weight: float, class_weights: Tensor | None
) -> Tensor:
    """Mean over the batch of each image's own loss, a scalar; see `losses_per_image`."""
    return losses_per_image(
        logits,
        labels,
        dice_weight=dice_weight,
        cross_entropy_weight=cross_entropy_weight,
        class_weights=class_weights,
    ).mean()


def losses_per_image(
    logits: Tensor, labels: Tensor, *, dice_weight: float, cross_entropy_weight: float, class_weights: Tensor | None
) -> Tensor:
    """Loss of each image, (B,), from logits (B, classes, *spatial) and integer labels (B, *spatial).

    Cross entropy is the mean over an image's voxels, each weighted by its class's entry of `class_weights` (classes,):
    public constants, of which only the ratios matter. None counts all voxels alike. Computed in float32, inside
    autocast too.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float()
        labels = labels.long()
        entropy = F.cross_entropy(logits, labels, reduction="none")
        if class_weights is None:
            entropy = entropy.flatten(1).mean(dim=1)
        else:
            weights = class_weights[labels].flatten(1)
            entropy = (weights * entropy.flatten(1)).sum(dim=1) / weights.sum(dim=1)
        return dice_weight * (1 - _soft_dice(logits, labels)) + cross_entropy_weight * entropy


def _soft_dice(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean soft Dice over the foreground classes that each image contains, (B,); 1 for an image without any."""
    predicted = logits.softmax(dim=1).flatten(2)[:, 1:]
    # A comparison instead of one_hot, which would wait for the device to check its range.
    classes = torch.arange(1, logits.shape[1], device=logits.device)
    reference = (labels.flatten(1)[:, None] == classes[None, :, None]).to(predicted.dtype)
    overlap = (predicted * reference).sum(dim=2)
    reference_size = reference.sum(dim=2)
    dice = (2 * overlap + _SMOOTHING_VOXELS) / (predicted.sum(dim=2) + reference_size + _SMOOTHING_VOXELS)
    present = (reference_size > 0).to(dice.dtype)
    count = present.sum(dim=1)
    return torch.where(count > 0, (dice * present).sum(dim=1) / count.clamp(min=1), 1.0)
