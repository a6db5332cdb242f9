"""Slices with contours: reference solid, prediction dashed, one colour per organ, shown as radiologists hang them.

Stored arrays grow to the patient's right and to anterior; on the page anterior is up and the patient's right is on the
left, so both axes are reversed. Images are grey PNGs inside the page, contours are pixel borders as SVG paths.
"""

import base64
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secfed.report.contours import outlines, svg_path
from secfed.report.markup import Markup, join, tag
from secfed.report.naming import modality_name, model_name, ordered, organ_name
from secfed.report.run_folder import Overlay
from secfed.results import RunRecord

# Bright on grey in both colour schemes, and apart for the common colour-vision deficiencies (after Paul Tol, "bright"
# and "light" schemes, 2021).
_COLOURS = ("#ffb000", "#44bb99", "#ee6677", "#77aadd", "#bbcc33", "#ff9fd0", "#99ddff", "#ee8866")

READING = (
    "Anterior is up and R marks the patient's right. Contours follow the voxel borders of the grid on which the models "
    "work; grey levels run from the 0.5th to the 99.5th percentile of the slice."
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Contour:
    """The border of a mask (H, W); `line` is "reference", "prediction" beside it, or "alone"."""

    mask: NDArray[np.bool_]
    colour: str
    line: str


def overlays_section(overlays: Sequence[Overlay], problem: str | None, record: RunRecord) -> Markup:
    """All slices with one legend, or the sentence that says why there are none."""
    if not overlays:
        return tag("p", problem or "There are no overlays.", class_="missing")
    order = ordered(overlay.model for overlay in overlays)
    overlays = sorted(overlays, key=lambda overlay: order.index(overlay.model))
    organs = list(dict.fromkeys(organ for overlay in overlays for organ in overlay.organs))
    figures = [overlay_figure(overlay, organs, name=model_name(overlay.model, record)) for overlay in overlays]
    return join(overlay_legend(organs), tag("div", figures, class_="overlays"), tag("p", READING, class_="note"))


def grey_png(image: NDArray[np.float32]) -> bytes:
    """An 8-bit grey PNG of an (H, W) image, between its 0.5th and 99.5th percentiles (ISO/IEC 15948)."""
    finite = np.where(np.isfinite(image), image, 0.0)
    low, high = np.percentile(finite, (0.5, 99.5))
    scaled = np.clip((finite - low) / max(high - low, 1e-12), 0.0, 1.0)
    pixels = np.round(255 * scaled).astype(np.uint8)
    height, width = pixels.shape
    # Every line starts with its filter type, 0: no filter.
    lines = np.pad(pixels, ((0, 0), (1, 0))).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def organ_colour(organ: str, organs: Sequence[str]) -> str:
    """Colour of an organ among all that the page shows."""
    return _COLOURS[organs.index(organ) % len(_COLOURS)]


def overlay_figure(overlay: Overlay, organs: Sequence[str], *, name: str) -> Markup:
    """A slice with its contours, under `name`; `organs` are all that the page shows."""
    shown = [
        organ
        for label, organ in enumerate(overlay.organs, start=1)
        if (overlay.reference == label).any() or (overlay.prediction == label).any()
    ]
    title = f"{modality_name(overlay.modality)} · {name}"
    place = f"{overlay.site_or_set}, patient {overlay.patient}, slice {overlay.slice_index}"
    names = ", ".join(organ_name(organ) for organ in shown) or "no organ"
    alt = f"{modality_name(overlay.modality)} slice of {place}, with reference and predicted contours of: {names}"
    return tag(
        "figure",
        tag("figcaption", tag("b", title), tag("br"), place),
        _drawing(overlay, organs, alt),
    )


def _drawing(overlay: Overlay, organs: Sequence[str], alt: str) -> Markup:
    contours = [
        Contour(mask=labels[::-1, ::-1] == label, colour=organ_colour(organ, organs), line=line)
        for line, labels in (("reference", overlay.reference), ("prediction", overlay.prediction))
        for label, organ in enumerate(overlay.organs, start=1)
        if (labels == label).any()
    ]
    return slice_drawing(
        overlay.image[::-1, ::-1], contours, spacing_mm=overlay.spacing_mm, left="R", right="L", top="A", alt=alt
    )


def slice_drawing(
    image: NDArray[np.float32],
    contours: Sequence[Contour],
    *,
    spacing_mm: tuple[float, float],
    left: str,
    right: str,
    top: str,
    alt: str,
) -> Markup:
    """A slice as it hangs, (H, W) with row 0 on top, its contours, and the sides of the patient as letters."""
    rows, columns = image.shape
    row_mm, column_mm = spacing_mm
    height, width = rows * row_mm, columns * column_mm
    encoded = base64.b64encode(grey_png(image)).decode()
    picture = tag(
        "image",
        href=f"data:image/png;base64,{encoded}",
        width=f"{width:g}",
        height=f"{height:g}",
        preserveAspectRatio="none",
    )
    # A faint dark edge below all lines keeps them apart from bright tissue. The dashes are paler than the solid lines,
    # so that both show where prediction and reference agree.
    drawn = [(svg_path(outlines(contour.mask)), contour) for contour in contours]
    lines = [tag("path", d=path, class_=f"edge {contour.line}") for path, contour in drawn] + [
        tag(
            "path",
            d=path,
            stroke=_paler(contour.colour) if contour.line == "prediction" else contour.colour,
            class_=contour.line,
        )
        for path, contour in drawn
    ]
    letter = 0.045 * max(height, width)
    marks = [
        tag("text", text, x=f"{x:g}", y=f"{y:g}", font_size=f"{letter:g}", text_anchor=anchor, class_="side")
        for text, x, y, anchor in (
            (left, 0.02 * width, height / 2, "start"),
            (right, 0.98 * width, height / 2, "end"),
            (top, width / 2, 0.02 * height + letter * 0.8, "middle"),
        )
    ]
    scale = tag("g", lines, transform=f"scale({column_mm:g} {row_mm:g})", fill="none")
    return tag("svg", picture, scale, marks, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=alt)


def _paler(colour: str) -> str:
    channels = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return "#" + "".join(f"{round(0.45 * channel + 0.55 * 255):02x}" for channel in channels)


def overlay_legend(organs: Sequence[str], *, compared: bool = True) -> Markup:
    """Colours of the organs, and where predictions are compared with a reference, which line is whose."""
    items = [
        tag("li", tag("span", class_="dot", style=f"background:{organ_colour(organ, organs)}"), organ_name(organ))
        for organ in organs
    ]
    lines = (("reference", "solid: reference"), ("prediction", "dashed: prediction")) if compared else ()
    for kind, text in lines:
        dashes = "5 4" if kind == "prediction" else None
        line = tag("line", x1=0, y1=6, x2=30, y2=6, stroke="currentColor", stroke_width=2, stroke_dasharray=dashes)
        items.append(tag("li", tag("svg", line, width=30, height=12, aria_hidden="true"), text))
    return tag("ul", items, class_="legend")
