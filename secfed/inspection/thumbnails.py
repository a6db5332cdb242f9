"""One small slice of a scan with the contours of its label, as radiologists hang it, drawn as reports draw slices.

A thumbnail shows the scan: whoever keeps the page keeps patient data.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from secfed.config import PreprocessingConfig
from secfed.data.cases import Case, LabelMap, Modality
from secfed.data.preprocessing import ReadCase, Voxel
from secfed.report.markup import Markup, join, tag
from secfed.report.naming import modality_name, organ_name
from secfed.report.overlays import Contour, organ_colour, slice_drawing

# Pixels along the longer side: a page of a thousand scans stays one that a browser opens.
LARGEST_SIDE = 160


def thumbnail(case: Case, read: ReadCase, *, label_map: LabelMap, config: PreprocessingConfig) -> Markup:
    """The axial slice in the middle of what is drawn, or of the scan where nothing is."""
    classes = read.classes
    index = middle_slice(read)
    step = -(-max(read.scan.voxels.shape[1:]) // LARGEST_SIDE)
    image = _hung(read.scan.voxels[index], step)
    if case.modality is Modality.CT:
        # Grey levels of a slice run from its lowest to its highest value, which in CT are air and metal.
        image = np.clip(image, *config.ct_window_hu)
    labels = None if classes is None else _hung(classes[index], step)
    organs = [] if labels is None else _organs_in(labels, label_map)
    contours = [
        Contour(mask=labels == label_map.index(organ), colour=organ_colour(organ, label_map.organs), line="alone")
        for organ in organs
        if labels is not None
    ]
    names = ", ".join(organ_name(organ) for organ in organs) or "no organ"
    drawing = slice_drawing(
        image,
        contours,
        spacing_mm=(step * read.scan.spacing_mm[1], step * read.scan.spacing_mm[2]),
        left="R",
        right="L",
        top="A",
        alt=f"{modality_name(case.modality)} slice {index} of {case.patient} with contours of: {names}",
    )
    return _figure(case, f"{modality_name(case.modality)}, slice {index} of {len(read.scan.voxels)}", drawing)


def without_picture(case: Case) -> Markup:
    """What stands in the place of a case that cannot be used."""
    return _figure(case, modality_name(case.modality), tag("p", "cannot be used, see above", class_="missing"))


def middle_slice(read: ReadCase) -> int:
    """The middle one of the slices that hold something drawn; of all where none does."""
    if read.classes is not None and read.classes.any():
        slices = np.flatnonzero(read.classes.any(axis=(1, 2)))
        return int(slices[len(slices) // 2])
    return len(read.scan.voxels) // 2


def _figure(case: Case, place: str, content: Markup) -> Markup:
    return tag("figure", tag("figcaption", join(tag("b", case.patient), tag("br"), place)), content)


def _organs_in(labels: NDArray[np.uint8], label_map: LabelMap) -> Sequence[str]:
    return [label_map.organs[value - 1] for value in np.unique(labels) if value]


def _hung(values: NDArray[Voxel], step: int) -> NDArray[Voxel]:
    # Both axes grow to the other side than the page's do; every step-th voxel keeps image and label together.
    return np.asarray(values[::step, ::step][::-1, ::-1])
