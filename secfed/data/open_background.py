"""Labels of cases in which some of a task's organs were not drawn: there, background is one of several classes.

A site's sampler writes such background as a number below 0 whose bits name the organs that it may be, and the loss
(clients.marginal_loss) reads them from it. So what is known of a voxel moves, turns and is cut with the voxel, and
labels of cases in which everything was drawn stay as they are.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# Augmentation moves labels as float32, which counts in whole numbers up to 2^24.
MOST_ORGANS = 24


def background_of(unlabelled: Iterable[int]) -> int:
    """What background is written as where these classes were not drawn: minus the sum of 2^(class - 1), 0 for none.

    Raises:
        ValueError: a class is no foreground class, or above `MOST_ORGANS`.
    """
    classes = set(unlabelled)
    if classes and not 1 <= min(classes) <= max(classes) <= MOST_ORGANS:
        raise ValueError(f"unlabelled = {sorted(classes)}: classes 1 to {MOST_ORGANS} are accepted")
    return -sum(1 << (index - 1) for index in classes)


def open_organs(labels: "Tensor", num_classes: int) -> "Tensor":
    """Which foreground classes a voxel may be beside background, bool (B, num_classes - 1, V) from integers (B, V)."""
    import torch

    # 32 bits hold every code, and this is the largest array of the loss.
    bits = torch.arange(num_classes - 1, dtype=torch.int32, device=labels.device)[None, :, None]
    return (((-labels.clamp(max=0)).int()[:, None] >> bits) & 1).bool()
