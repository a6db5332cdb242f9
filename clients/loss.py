"""The training loss: soft Dice plus class-weighted cross entropy, and the agreement of two views of an image.

Runs at sites. Over the batch, small structures give a steadier gradient, because few slices contain them. Over single
images, the gradient of a batch is the mean of its images' gradients and no image looks at another one: a mode that
bounds what one patient can contribute needs that. Soft Dice: Milletari et al., "V-Net", 3DV 2016.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch import Tensor

# One voxel in numerator and denominator keeps the gradient of very small structures bounded.
SMOOTHING_VOXELS = 1.0


def segmentation_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    dice_weight: float,
    cross_entropy_weight: float,
    class_weights: Tensor | None,
    over: Literal["batch", "image"],
) -> Tensor:
    """A scalar from logits (B, classes, *spatial) and integer labels (B, *spatial), in float32.

    Over "image" it is the mean of `losses_per_image`. Over "batch", Dice is the mean over all foreground classes of the
    soft Dice of the whole batch, and cross entropy is weighted by the classes of all its voxels.
    """
    if over == "image":
        return losses_per_image(
            logits,
            labels,
            dice_weight=dice_weight,
            cross_entropy_weight=cross_entropy_weight,
            class_weights=class_weights,
        ).mean()
    with torch.autocast(logits.device.type, enabled=False):
        logits, labels = logits.float(), labels.long()
        entropy = F.cross_entropy(logits, labels, weight=class_weights)
        dice, _ = _dice_terms(logits.transpose(0, 1).flatten(1)[None], labels.flatten()[None])
        return dice_weight * (1 - dice.mean()) + cross_entropy_weight * entropy


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


def consistency_loss(one: Tensor, other: Tensor) -> Tensor:
    """How far two views' class probabilities are from their average: a scalar from logits (B, classes, *spatial) each.

    The Kullback-Leibler divergence KL(average || view), averaged over both views, over images, voxels and classes; not
    negative, zero only where both agree, and symmetric. Gradients reach both views, also through the average. Averaging
    over the classes too is what the weight 10 of GIN-IPA is for. Computed in float32, inside autocast too. Source:
    Ouyang et al., IEEE TMI 2022, after Xu et al., ICLR 2021, whose average is of three views.
    """
    with torch.autocast(one.device.type, enabled=False):
        logarithms = torch.stack((one.float().log_softmax(dim=1), other.float().log_softmax(dim=1)))
        average = logarithms.logsumexp(dim=0) - math.log(2)
        return (average.exp() * (average - logarithms)).mean()


def _soft_dice(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean soft Dice over the foreground classes that each image contains, (B,); 1 for an image without any.

    Most slices contain few classes; false positives of the others are left to the cross entropy.
    """
    dice, reference_size = _dice_terms(logits.flatten(2), labels.flatten(1))
    present = (reference_size > 0).to(dice.dtype)
    count = present.sum(dim=1)
    return torch.where(count > 0, (dice * present).sum(dim=1) / count.clamp(min=1), 1.0)


def _dice_terms(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Soft Dice and voxels of each foreground class, both (B, classes - 1), from (B, classes, V) and (B, V)."""
    predicted = logits.softmax(dim=1)[:, 1:]
    # A comparison instead of one_hot, which would wait for the device to check its range.
    classes = torch.arange(1, logits.shape[1], device=logits.device)
    reference = (labels[:, None] == classes[None, :, None]).to(predicted.dtype)
    overlap = (predicted * reference).sum(dim=2)
    reference_size = reference.sum(dim=2)
    dice = (2 * overlap + SMOOTHING_VOXELS) / (predicted.sum(dim=2) + reference_size + SMOOTHING_VOXELS)
    return dice, reference_size
