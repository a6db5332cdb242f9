"""A page to look at one segmentation: slices of the scan with contours, volumes, and scores where there are labels.

It shows the labels as they were written, on the scan's own voxels, and the scan itself: keep it where the scan is kept.
One HTML file that loads nothing.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clients.evaluation import CaseScore
from secfed.data.cases import Modality
from secfed.data.preprocessing import Voxel
from secfed.data.volumes import NiftiVolume
from secfed.predict.trained_model import TrainedModel
from secfed.report.document import document, section
from secfed.report.markup import DASH, Markup, across, join, number, tag
from secfed.report.naming import modality_name, organ_name
from secfed.report.overlays import Contour, organ_colour, overlay_legend, slice_drawing
from secfed.report.stylesheet import STYLESHEET
from secfed.whole_file import write_whole

AXIAL_SLICES = 10

# Letters on the left, on the right and on top, of slices across each axis of (z, y, x), both their axes reversed.
_SIDES = {"axial": ("R", "L", "A"), "coronal": ("R", "L", "S"), "sagittal": ("A", "P", "S")}

_READING = (
    "Letters mark the patient's right, left, anterior, posterior and upper side. Contours follow the voxel borders of "
    "the scan. Slices are spread evenly over what was found, or over the scan where nothing was, and are counted from "
    "below, from behind and from the patient's left."
)

# Three in a row on a wide screen, where a report shows two.
_STYLE = ".overlays { grid-template-columns: repeat(auto-fill, minmax(min(100%, 18rem), 1fr)); }"


def write_preview(
    path: Path,
    volume: NiftiVolume,
    labels: NDArray[np.uint8],
    *,
    reference: NDArray[np.uint8] | None,
    trained: TrainedModel,
    title: str,
    modality: Modality,
    volumes: Mapping[str, float],
    scores: Sequence[CaseScore],
) -> None:
    """Write the page; arrays are (z, y, x) in canonical axes.

    Raises:
        OSError: it cannot be written.
    """
    organs = trained.label_map.organs
    image = volume.voxels
    if modality is Modality.CT:
        # Grey levels of a slice run from its lowest to its highest value, which in CT are air and metal.
        image = np.clip(image, *trained.plan.preprocessing.ct_window_hu)
    shown = [
        _figure(image, labels, reference, volume, plane=plane, index=index, organs=organs)
        for plane, index in slices_to_show(labels if labels.any() or reference is None else reference)
    ]
    found = sum(value > 0 for value in volumes.values())
    lead = f"{found} of {len(organs)} structures were found in this {modality_name(modality)} scan."
    body = join(
        tag("header", tag("h1", title), tag("p", "secfed predict", class_="kicker")),
        tag("p", lead, class_="lead"),
        section(
            "slices",
            "Slices",
            overlay_legend(organs, compared=reference is not None),
            tag("div", shown, class_="overlays"),
            tag("p", _READING, class_="note"),
        ),
        section("organs", "Structures", _table(organs, volumes, scores)),
    )
    page = document(f"{title}: segmentation", body, style=STYLESHEET + _STYLE)
    write_whole(path, page.encode(), durable=False)


def slices_to_show(labels: NDArray[np.uint8]) -> list[tuple[str, int]]:
    """Planes and positions: axial slices over the extent of what is labelled, and one along each other axis."""
    where = np.nonzero(labels)
    empty = not len(where[0])
    first, last = (0, len(labels) - 1) if empty else (int(where[0].min()), int(where[0].max()))
    axial = sorted({round(z) for z in np.linspace(last, first, AXIAL_SLICES)}, reverse=True)
    middle = [size // 2 if empty else int(np.median(found)) for size, found in zip(labels.shape, where, strict=True)]
    return [("coronal", middle[1]), ("sagittal", middle[2]), *(("axial", z) for z in axial)]


def _figure(
    image: NDArray[np.float32],
    labels: NDArray[np.uint8],
    reference: NDArray[np.uint8] | None,
    volume: NiftiVolume,
    *,
    plane: str,
    index: int,
    organs: Sequence[str],
) -> Markup:
    axis = ("axial", "coronal", "sagittal").index(plane)
    spacing = [step for own, step in enumerate(volume.spacing_mm) if own != axis]

    def hung(values: NDArray[Voxel]) -> NDArray[Voxel]:
        return np.asarray(np.take(values, index, axis=axis)[::-1, ::-1])

    layers = [(hung(labels), "alone" if reference is None else "prediction")]
    if reference is not None:
        layers.insert(0, (hung(reference), "reference"))
    contours = [
        Contour(mask=layer == value, colour=organ_colour(organ, organs), line=line)
        for layer, line in layers
        for value, organ in enumerate(organs, start=1)
        if (layer == value).any()
    ]
    seen = np.unique(hung(labels))
    names = [organ_name(organ) for value, organ in enumerate(organs, start=1) if value in seen]
    left, right, top = _SIDES[plane]
    drawing = slice_drawing(
        hung(image),
        contours,
        spacing_mm=(spacing[0], spacing[1]),
        left=left,
        right=right,
        top=top,
        alt=f"{plane} slice {index} with contours of: {', '.join(names) or 'no organ'}",
    )
    return tag("figure", tag("figcaption", tag("b", plane.capitalize()), f", slice {index}"), drawing)


def _table(organs: Sequence[str], volumes: Mapping[str, float], scores: Sequence[CaseScore]) -> Markup:
    scored = {score.organ: score for score in scores}
    columns = ["ml", *(["Dice", "HD95, mm"] if scores else [])]
    rows = []
    for organ in organs:
        cells = [number(volumes[organ], 1)]
        if scores:
            score = scored.get(organ)
            cells += [DASH, DASH] if score is None else [number(score.dice, 3), number(score.hd95_mm, 1)]
        rows.append((organ_name(organ), cells))
    return across(columns, rows, "Volume, and what labels say about it where there are any", "structure")
