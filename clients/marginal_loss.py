"""The training loss where organs are unlabelled: background there is whatever nobody drew.

Runs at sites. Cross entropy takes, where the label says background, the sum of the probabilities of background and of
all organs that the case leaves open (the marginal loss of Shi et al., Med Image Anal 2021;70:101979); soft Dice leaves
an organ out of the images that leave it open. So a model is neither taught that an organ is missing because a site did
not draw it, nor that it is there. Where nothing is open both are those of `clients.loss`, up to rounding; and so are
their promises: over "image", no image looks at another one.
"""

from typing import Literal

import torch
from torch import Tensor

from clients.loss import SMOOTHING_VOXELS
from secfed.data.open_background import open_organs


def marginal_segmentation_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    dice_weight: float,
    cross_entropy_weight: float,
    class_weights: Tensor | None,
    over: Literal["batch", "image"],
) -> Tensor:
    """A scalar from logits (B, classes, *spatial) and integer labels (B, *spatial), in float32.

    Labels below 0 are open background (`secfed.data.open_background`), which is weighted as background.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits, labels = logits.float().flatten(2), labels.long().flatten(1)
        is_open = open_organs(labels, logits.shape[1])
        known = labels.clamp(min=0)
        weights = torch.ones_like(logits[:, 0]) if class_weights is None else class_weights[known]
        entropy = weights * _marginal_entropy(logits, known, is_open)
        if over == "image":
            terms = entropy.sum(dim=1) / weights.sum(dim=1)
            dice = _dice_per_image(logits, known)
        else:
            terms = entropy.sum() / weights.sum()
            dice = _dice_of_batch(logits, known, is_open)
        return (dice_weight * (1 - dice) + cross_entropy_weight * terms).mean()


def _marginal_entropy(logits: Tensor, known: Tensor, is_open: Tensor) -> Tensor:
    """Minus the logarithm of the probability of all classes that a voxel may be, (B, V)."""
    classes = torch.arange(logits.shape[1], device=logits.device)[None, :, None]
    admitted = known[:, None] == classes
    admitted[:, 1:] |= is_open
    return -logits.log_softmax(dim=1).masked_fill(~admitted, -torch.inf).logsumexp(dim=1)


def _dice_per_image(logits: Tensor, known: Tensor) -> Tensor:
    """Mean over the organs that an image contains, (B,); what it leaves open is not among them."""
    predicted, reference = _foreground(logits, known)
    dice = _soft_dice((predicted * reference).sum(dim=2), predicted.sum(dim=2), reference.sum(dim=2))
    present = (reference.sum(dim=2) > 0).to(dice.dtype)
    count = present.sum(dim=1)
    return torch.where(count > 0, (dice * present).sum(dim=1) / count.clamp(min=1), 1.0)


def _dice_of_batch(logits: Tensor, known: Tensor, is_open: Tensor) -> Tensor:
    """Mean over the organs that an image of the batch has drawn, a scalar, each over the images that have; else 1."""
    drawn = (~is_open.any(dim=2)).to(logits.dtype)
    predicted, reference = _foreground(logits, known)
    predicted = predicted * drawn[:, :, None]
    dice = _soft_dice((predicted * reference).sum(dim=(0, 2)), predicted.sum(dim=(0, 2)), reference.sum(dim=(0, 2)))
    counted = (drawn.sum(dim=0) > 0).to(dice.dtype)
    return torch.where(counted.sum() > 0, (dice * counted).sum() / counted.sum().clamp(min=1), 1.0)


def _foreground(logits: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities and labels of the foreground classes, (B, classes - 1, V) each."""
    predicted = logits.softmax(dim=1)[:, 1:]
    classes = torch.arange(1, logits.shape[1], device=logits.device)
    return predicted, (known[:, None] == classes[None, :, None]).to(predicted.dtype)


def _soft_dice(overlap: Tensor, predicted: Tensor, reference: Tensor) -> Tensor:
    return (2 * overlap + SMOOTHING_VOXELS) / (predicted + reference + SMOOTHING_VOXELS)
