"""The masks of CHAOS (Kavur et al., Med Image Anal 2021;69:101950): a PNG per slice, a grey value per organ.

A site runs this on its own copy. The data set counts slices by the names of their files and not by their positions, so
the first mask by name belongs to the first slice by name; where a mask is called like a slice, it has to be that one's.
In MRI a range of greys stands for an organ; what is written is the middle of it. Any other grey is refused.
"""

from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from secfed.data.cases import Modality
from secfed.data.dicom.series import Stack
from secfed.errors import FileError

# Lowest and highest grey that the data set's own page gives for an organ, and the one that stands for it.
_MR_GREYS = ((0, 0, 0), (55, 70, 63), (110, 135, 126), (175, 200, 189), (240, 255, 252))
_CT_GREYS = ((0, 0, 0), (255, 255, 255))

# Modes of Pillow for pixels of one bit and of eight.
_GREY_MODES = ("1", "L")


def mask_files(ground: Path) -> list[Path]:
    """The masks of a folder, by name; none where there is no folder."""
    if not ground.is_dir():
        return []
    return [
        path for path in sorted(ground.iterdir()) if path.suffix.lower() == ".png" and not path.name.startswith(".")
    ]


def read_masks(masks: list[Path], stack: Stack) -> NDArray[np.uint8]:
    """The label of a stack from the masks of its slices, on its grid: (columns, rows, slices).

    Raises:
        FileError: there are more or fewer masks than slices, or one cannot be read or is of another size or value.
    """
    by_name = sorted(stack.slices, key=lambda one: one.path.name)
    if len(masks) != len(by_name):
        raise FileError(
            masks[0].parent,
            f"holds {len(masks)} masks, but there are {len(by_name)} slices in {by_name[0].path.parent}",
        )
    names = {one.path.stem for one in by_name}
    place = {id(one): index for index, one in enumerate(stack.slices)}
    label = np.zeros(stack.shape, np.uint8, order="F")
    for mask, one in zip(masks, by_name, strict=True):
        if mask.stem in names and mask.stem != one.path.stem:
            raise FileError(
                mask,
                f"is called like another slice than {one.path.name}, which it belongs to by its place",
                "is a mask missing, and another too many?",
            )
        label[:, :, place[id(one)]] = _read_mask(mask, shape=one.shape, modality=stack.modality).T
    return label


def _read_mask(path: Path, *, shape: tuple[int, int], modality: Modality) -> NDArray[np.uint8]:
    try:
        with PIL.Image.open(path, formats=["PNG"]) as image:
            if image.mode not in _GREY_MODES:
                raise FileError(path, f"has pixels of mode '{image.mode}'; a mask is grey, of one or eight bits")
            if image.size != shape[::-1]:
                raise FileError(path, f"is {image.size[::-1]} pixels large, but its slice is {shape}")
            values = np.asarray(image.convert("L"))
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise FileError(path, f"not a readable PNG file, it may be truncated: {error}", "copy it again") from error
    table = np.zeros(256, np.uint8)
    known = np.zeros(256, bool)
    for lowest, highest, stands_for in _CT_GREYS if modality is Modality.CT else _MR_GREYS:
        table[lowest : highest + 1] = stands_for
        known[lowest : highest + 1] = True
    if not known[values].all():
        grey = int(values[~known[values]].min())
        raise FileError(path, f"holds the grey {grey}, which stands for no organ in {modality} of CHAOS")
    organs: NDArray[np.uint8] = table[values]
    return organs
