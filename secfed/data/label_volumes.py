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

# What programs write for the inside of a mask.
_MASK_VALUES = ({0}, {0, 1}, {1}, {0, 255}, {255})


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
    unknown = sorted(_found(values) - known)
    if unknown:
        raise FileError(
            case.label,
            f"holds the label value {unknown[0]}, which is not among those of data set '{source}'",
            f"known are {_listed(known)}: correct the label, or say what the value means",
        )
    table = np.zeros(max(known) + 1, np.uint8)
    for value, organ in meanings.items():
        if organ in annotated:
            table[value] = label_map.index(organ)
    return table[values]


def _classes_of_masks(
    masks: Mapping[str, Path], image: NiftiVolume, *, annotated: Collection[str], label_map: LabelMap
) -> Classes:
    classes = np.zeros(image.voxels.shape, np.uint8)
    for organ in annotated:
        path = masks[organ]
        values = _whole_numbers(path, _on_grid(path, image))
        found = _found(values)
        if found not in _MASK_VALUES:
            raise FileError(path, f"holds the values {_listed(found)}; a mask has 0 and 1, or 0 and 255")
        inside = values > 0
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


def _whole_numbers(path: Path, voxels: NDArray[np.float32]) -> NDArray[np.int32]:
    """The values of a label, whose type may be a floating one."""
    # Beyond 16 bits there is no label value, and float32 could not tell neighbours apart.
    lowest, highest = float(voxels.min()), float(voxels.max())
    if lowest < 0 or highest > np.iinfo(np.uint16).max:
        value = lowest if lowest < 0 else highest
        raise FileError(path, f"holds the label value {value:g}, which no label map has")
    values = voxels.astype(np.int32)
    broken = values != voxels
    if broken.any():
        raise FileError(
            path,
            f"holds label values that are not whole numbers, such as {float(voxels[broken][0]):g}",
            "resample labels by nearest neighbour",
        )
    return values


def _found(values: NDArray[np.int32]) -> set[int]:
    return set(np.flatnonzero(np.bincount(values.ravel())).tolist())


def _listed(values: Collection[int]) -> str:
    few = sorted(values)
    return ", ".join(map(str, few[:12])) + (", ..." if len(few) > 12 else "")
