"""Segmentation quality: Dice overlap and the 95th percentile of surface distances, per structure.

Runs wherever labels are: at sites and with whoever started the run. Dice: Dice, 1945. The surface distance follows
DeepMind's `surface-distance` and MONAI: the larger of the two directed 95th percentiles. Distances are taken between
surface voxels with a k-d tree, exactly and without a distance map of the volume, so their cost grows with the surfaces.
"""

import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects
from scipy.spatial import cKDTree

Labels = npt.NDArray[np.integer]
PerClass = npt.NDArray[np.float64]

_PERCENTILE = 95.0


def dice_per_class(prediction: Labels, reference: Labels, num_classes: int) -> PerClass:
    """Dice of the classes 1 to num_classes - 1, (num_classes - 1,); NaN where a class is absent from both.

    Raises:
        ValueError: the shapes differ, or a label is not a class.
    """
    _check(prediction, reference, num_classes)
    pairs = prediction.astype(np.intp).ravel() * num_classes + reference.ravel()
    confusion = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    overlap = confusion.diagonal()[1:]
    total = (confusion.sum(axis=0) + confusion.sum(axis=1))[1:]
    dice: PerClass = np.divide(2 * overlap, total, out=np.full(num_classes - 1, np.nan), where=total > 0)
    return dice


def hd95_per_class(
    prediction: Labels, reference: Labels, num_classes: int, *, spacing_mm: tuple[float, ...]
) -> PerClass:
    """Symmetric 95th percentile surface distance in mm of the classes 1 to num_classes - 1, (num_classes - 1,).

    A surface voxel is one with a face neighbour outside the structure or outside the volume.

    | in the prediction | in the reference | value |
    |---|---|---|
    | absent | absent | NaN |
    | absent | present, or the reverse | the diagonal of the volume, so that missing a structure is never rewarded |
    | present | present | the larger of the two directed 95th percentiles |

    Raises:
        ValueError: the shapes differ, a label is not a class, or `spacing_mm` does not fit the axes.
    """
    _check(prediction, reference, num_classes)
    if len(spacing_mm) != prediction.ndim or not all(0 < step < np.inf for step in spacing_mm):
        raise ValueError(f"spacing_mm needs {prediction.ndim} positive lengths, got {spacing_mm}")
    diagonal = float(np.linalg.norm(np.multiply(prediction.shape, spacing_mm)))
    surfaces = zip(
        _surfaces_mm(prediction, num_classes, spacing_mm), _surfaces_mm(reference, num_classes, spacing_mm), strict=True
    )
    return np.array([_hd95(ours, theirs, absent=diagonal) for ours, theirs in surfaces])


def _hd95(ours: PerClass, theirs: PerClass, *, absent: float) -> float:
    if not len(ours) or not len(theirs):
        return absent if len(ours) or len(theirs) else float("nan")
    return max(_directed(ours, theirs), _directed(theirs, ours))


def _directed(points: PerClass, targets: PerClass) -> float:
    distances, _ = cKDTree(targets).query(points)
    return float(np.percentile(distances, _PERCENTILE))


def _surfaces_mm(labels: Labels, num_classes: int, spacing_mm: tuple[float, ...]) -> list[PerClass]:
    """Surface voxels of each foreground class, (points, axes) in mm."""
    boxes = find_objects(labels.astype(np.int32), max_label=num_classes - 1)
    surfaces = []
    for index, box in enumerate(boxes, start=1):
        if box is None:
            surfaces.append(np.empty((0, labels.ndim)))
            continue
        # A margin of one voxel outside the box stands for the background, beyond the volume's border too.
        mask = np.pad(labels[box] == index, 1)
        inner = mask.copy()
        for axis in range(mask.ndim):
            # The margin is background, so what rolls around the end never counts.
            inner &= np.roll(mask, 1, axis) & np.roll(mask, -1, axis)
        # Counted from 1: where a thread flushes denormals, as training does, a coordinate of 0 makes the k-d tree's
        # split at the next number above it recurse without end.
        offset = np.array([part.start for part in box])
        surfaces.append((np.argwhere(mask & ~inner) + offset) * np.asarray(spacing_mm))
    return surfaces


def _check(prediction: Labels, reference: Labels, num_classes: int) -> None:
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction {prediction.shape} and reference {reference.shape} must have the same shape")
    for name, labels in (("prediction", prediction), ("reference", reference)):
        if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
            raise ValueError(f"{name} must hold classes 0 to {num_classes - 1}, got {labels.min()} to {labels.max()}")
