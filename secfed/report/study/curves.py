"""How fast each variant learns: validation Dice per round, the mean over seeds, in one small panel per variant."""

import statistics
from collections.abc import Sequence

from secfed.report.markup import Markup, join, number, tag
from secfed.report.naming import modality_name
from secfed.report.study.charts import legend, swatch
from secfed.report.study.methods import look
from secfed.study.record import CellRecord, Experiment, StudyRecord

Points = list[tuple[int, float]]

_HEIGHT = 92
_ENOUGH = 0.95


def curves_part(record: StudyRecord, experiment: Experiment) -> Markup | None:
    """All panels on one scale; None where no cell recorded a curve."""
    found = {variant.name: mean_curves(record.complete(variant)) for variant in experiment.variants}
    drawn = {name: curves for name, curves in found.items() if curves}
    if not drawn:
        return None
    modalities = sorted({modality for curves in drawn.values() for modality in curves})
    last = max(points[-1][0] for curves in drawn.values() for points in curves.values())
    highest = max(value for curves in drawn.values() for points in curves.values() for _, value in points)
    top = 1.0 if highest > 0.5 else 0.5
    reference = drawn.get(experiment.reference or "", {})
    panels = [_panel(name, curves, reference, modalities, last, top) for name, curves in drawn.items()]
    items = [(swatch(_colour(name, modalities)), modality_name(name)) for name in modalities]
    if reference and len(drawn) > 1:
        items.append((swatch("--line-8", dash="3 3"), f"the reference, {experiment.reference}"))
    note = (
        f"Validation Dice from round 0 to {last}, mean over seeds; all panels have one scale from 0 to {top:g}. The "
        "number is the value after the last round, and the round is the first that reached 95 % of it."
    )
    return join(
        tag("h3", "Convergence"),
        tag(
            "figure",
            tag("figcaption", "Validation Dice per round", tag("small", note)),
            legend(items),
            tag("div", panels, class_="minis"),
        ),
    )


def mean_curves(cells: Sequence[CellRecord]) -> dict[str, Points]:
    """Validation Dice by modality: at each round that every seed has, the mean over seeds."""
    values: dict[str, dict[int, list[float]]] = {}
    counts: dict[str, int] = {}
    for cell in cells:
        points = [point for point in cell.curves if point.metric == "validation_dice" and point.value is not None]
        for modality in {point.modality for point in points}:
            counts[modality] = counts.get(modality, 0) + 1
        for point in points:
            values.setdefault(point.modality, {}).setdefault(point.round, []).append(float(point.value or 0.0))
    curves = {
        name: [(at, statistics.fmean(found)) for at, found in sorted(rounds.items()) if len(found) == counts[name]]
        for name, rounds in values.items()
    }
    return {modality: points for modality, points in sorted(curves.items()) if points}


def settled(points: Points) -> int:
    """The first round with 95 % of the last value."""
    return next(at for at, value in points if value >= _ENOUGH * points[-1][1])


def _panel(
    name: str,
    curves: dict[str, Points],
    reference: dict[str, Points],
    modalities: Sequence[str],
    last: int,
    top: float,
) -> Markup:
    lines: list[Markup] = []
    if reference and reference != curves:
        lines += [
            _line(points, "--line-8", last, top, dash="3 3") for name, points in reference.items() if name in curves
        ]
    lines += [_line(points, _colour(modality, modalities), last, top) for modality, points in curves.items()]
    grid = [tag("line", x1=0, x2=100, y1=y, y2=y, class_="grid") for y in (0, 50, 100)]
    ends = [
        f"{modality_name(modality)} {number(points[-1][1], 2)}, round {settled(points)}"
        for modality, points in curves.items()
    ]
    drawing = tag(
        "svg",
        tag("title", f"{name}: {'; '.join(ends)}"),
        grid,
        lines,
        viewBox="0 -3 100 106",
        preserveAspectRatio="none",
        width="100%",
        height=_HEIGHT,
        role="img",
    )
    return tag("div", tag("b", name), drawing, tag("small", " · ".join(ends)), class_="mini")


def _line(points: Points, colour: str, last: int, top: float, *, dash: str | None = None) -> Markup:
    corners = " ".join(f"{100 * at / max(last, 1):.2f},{100 - 100 * value / top:.2f}" for at, value in points)
    # A single point is a line of no length, which the round cap makes a dot.
    corners = corners if len(points) > 1 else f"{corners} {corners}"
    return tag("polyline", points=corners, stroke=f"var({colour})", stroke_dasharray=dash, class_="learning")


def _colour(modality: str, modalities: Sequence[str]) -> str:
    return "--line-1" if modality == "all" else look(modality, [name for name in modalities if name != "all"])[0]
