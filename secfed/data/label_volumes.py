"""Class indices of a label, which lies on the grid of its image: a volume of values, or a binary mask per organ.

A site runs this on its own labels. Every organ of the task that was not drawn is background here; that it is unlabelled
stands beside the array (`secfed.data.preprocessing.PreparedCase`).
"""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secfed.data.cases import Case, LabelMap
from secfed.data.volumes import NiftiVolume, read_volume
from secfed.errors import FileError

Classes = NDArray[np.uint8]

_SAME_PLACE_VOXELS = 0.25

# What programs write for the inside of a mask; one of zeros alone is empty.
_MASK_VALUES = (0, 1, 255)

# Beyond 16 bits there is no label value, and float32 could not tell neighbours apart.
_MOST_VALUES = 2**16

# No task has as many classes.
_UNKNOWN = 255


def read_classes(
    case: Case,
    image: NiftiVolume,
    *,
    meanings: Mapping[int, str],
    annotated: Collection[str],
    label_map: LabelMap,
    source: str,
) -> Classes:
    """The label of a case, (z, y, x) as its image: 0, or the class index of one of the `annotated` organs.

    Args:
        case: it has a label.
        image: the case's image.
        meanings: organs by value, of a label that is a volume.
        annotated: the task's organs that were drawn.
        label_map: of the task.
        source: name of the data set, for messages.

    Raises:
        FileError: a file cannot be read, does not fit the image, or holds a value that is not accepted.
    """
    if case.masks:
        return _classes_of_masks(case.masks, image, annotated=annotated, label_map=label_map)
    if case.label is None:
        raise ValueError(f"{case.image}: has no label to read")
    values = _whole_numbers(case.label, _on_grid(case.label, image))
    known = {0, *meanings}
    # Of every value that a label can have: one look at a table costs less than asking first which values there are.
    table = np.full(_MOST_VALUES, _UNKNOWN, np.uint8)
    table[sorted(known)] = 0
    for value, organ in meanings.items():
        if organ in annotated:
            table[value] = label_map.index(organ)
    classes = np.empty(values.shape, np.uint8)
    for own, found in zip(classes, values, strict=True):
        # Slice by slice, because numpy widens all indices to 64 bits; no value is beyond the table for "clip" to move.
        table.take(found, out=own, mode="clip")
    unknown = classes == _UNKNOWN
    if unknown.any():
        raise FileError(
            case.label,
            f"holds the label value {int(values[unknown].min())}, which is not among those of data set '{source}'",
            f"known are {_listed(known)}: correct the label, or say what the value means",
        )
    return classes


def _classes_of_masks(
    masks: Mapping[str, Path], image: NiftiVolume, *, annotated: Collection[str], label_map: LabelMap
) -> Classes:
    classes = np.zeros(image.voxels.shape, np.uint8)
    for organ in annotated:
        path = masks[organ]
        values = _whole_numbers(path, _on_grid(path, image))
        inside = values > 0
        highest = int(values.max())
        if highest not in _MASK_VALUES or (values[inside] != highest).any():
            found = sorted(set(values.ravel().tolist()))
            raise FileError(path, f"holds the values {_listed(found)}; a mask has 0 and 1, or 0 and 255")
        taken = classes[inside]
        if taken.any():
            other = label_map.organs[int(taken.max()) - 1]
            raise FileError(
                path,
                f"{int((taken > 0).sum())} of its voxels are in {masks[other].name} too",
                "a voxel belongs to one organ: correct one of the masks",
            )
        classes[inside] = label_map.index(organ)
    return classes


def _on_grid(path: Path, image: NiftiVolume) -> NDArray[np.float32]:
    """Voxels of a label that lies where its image does."""
    label = read_volume(path)
    if label.voxels.shape != image.voxels.shape:
        raise FileError(
            path,
            f"the label has {label.voxels.shape} voxels (z, y, x), but its image has {image.voxels.shape}",
            "export both on one grid",
        )
    sizes = np.array(image.voxels.shape[::-1]) - 1
    corners = np.array([[*(sizes * place), 1.0] for place in np.ndindex(2, 2, 2)])
    shift = np.linalg.norm((corners @ (label.affine - image.affine).T)[:, :3], axis=1).max()
    if shift > _SAME_PLACE_VOXELS * min(image.spacing_mm):
        raise FileError(path, f"the label lies up to {shift:.3g} mm away from its image", "export both on one grid")
    return label.voxels


def _whole_numbers(path: Path, voxels: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The values of a label, whose type may be a floating one."""
    lowest, highest = float(voxels.min()), float(voxels.max())
    if lowest < 0 or highest >= _MOST_VALUES:
        value = lowest if lowest < 0 else highest
        raise FileError(path, f"holds the label value {value:g}, which no label map has")
    values = voxels.astype(np.uint16)
    broken = values != voxels
    if broken.any():
        raise FileError(
            path,
            f"holds label values that are not whole numbers, such as {float(voxels[broken][0]):g}",
            "resample labels by nearest neighbour",
        )
    return values


def _listed(values: Collection[int]) -> str:
    few = sorted(values)
    return ", ".join(map(str, few[:12])) + (", ..." if len(few) > 12 else "")
