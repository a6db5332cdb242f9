"""Dice against epsilon: a curve per place of the noise, the levels without an epsilon, and the guarantees in full."""

from collections.abc import Sequence
from itertools import pairwise

from secfed.report.markup import DASH, Child, Markup, caption, join, number, percent, scrollable, tag
from secfed.report.naming import modality_name
from secfed.report.study.charts import Scale, legend, linear, logarithmic, marker, swatch
from secfed.report.study.notes import (
    Footnotes,
    Study,
    below,
    bracketed,
    epsilon_key,
    epsilon_text,
    heads,
    interval,
    value_cell,
    variant_name,
)
from secfed.results import SIMULATED_NOISE
from secfed.study.frontier import Frontier, FrontierLevel, FrontierPoint
from secfed.study.record import Experiment
from secfed.study.statistics import Estimate

_HEIGHT, _TOP, _BOTTOM = 360, 12, 34
_SERIES = (("--line-0", "circle"), ("--line-2", "diamond"), ("--line-4", "square"), ("--line-3", "triangle"))
_MODES = {
    "local": "local: each site adds noise of its own, enough alone",
    "distributed": "distributed: each site adds a share of the noise, the sum holds enough",
    "silo": "silo: noise for a whole site's participation",
}
_DASHES = ("8 4", "2 4", "10 4 2 4", "5 5", "1 6")


def frontier_figure(study: Study, found: Frontier) -> Markup:
    """The figure; without any point it still shows the levels, and says that points are missing."""
    if not found.points and not found.levels:
        return tag("p", "No model of this frontier was trained.", class_="missing")
    down = _dice_scale(found)
    across = logarithmic(point.epsilon for point in found.points)
    names = " and ".join(modality_name(name) for name in found.modalities)
    simulated = f" {SIMULATED_NOISE.capitalize()}." if any(point.simulated for point in found.points) else ""
    key = f" {epsilon_key(study.record)}" if found.points else ""
    note = f"Mean over organs, then over {names}; bars are 95 % intervals; lower epsilon is stronger privacy.{key}"
    told = f"Dice against epsilon on a logarithmic axis. {_spoken(found)}{simulated}"
    drawing = tag(
        "svg",
        tag("title", "Dice against epsilon"),
        tag("desc", told),
        _grid(across, down),
        [_level(level, style, down) for level, style in _styled(found.levels)],
        [_curve(found, index, across, down) for index in range(len(found.series))],
        width="100%",
        height=_HEIGHT,
        role="img",
    )
    ticks = [
        tag("text", down.label(tick), x=34, y=f"{_y(down, tick) + 4:.1f}", text_anchor="end") for tick in down.ticks
    ]
    labels = tag("svg", ticks, width=40, height=_HEIGHT, aria_hidden="true")
    plot = tag(
        "div",
        tag("div", "Dice", class_="unit ytitle"),
        tag("div", labels, drawing, class_="plotbox"),
        tag("div", "epsilon, logarithmic", class_="unit"),
        class_="frontierplot",
    )
    return tag(
        "figure",
        tag("figcaption", "Dice against epsilon", tag("small", note)),
        tag("div", plot, _legend(found), class_="withlegend"),
    )


def frontier_table(study: Study, found: Frontier, experiment: Experiment, notes: Footnotes) -> Markup:
    """Every point and level with its guarantee, and what it keeps of the reference's Dice."""
    reference = experiment.reference
    share_of = f"Of {reference}" if reference else "Of the reference"
    columns = ["Variant", "Epsilon", "Dice", *map(modality_name, found.modalities), share_of]
    rows = []
    by_name: dict[str, FrontierPoint | FrontierLevel] = {point.variant: point for point in found.points}
    by_name |= {level.variant: level for level in found.levels}
    for variant in experiment.variants:
        one = by_name.get(variant.name)
        epsilon: Child = DASH
        share: Child = DASH
        guarantee = "not trained" if one is None else "none: no DP"
        if isinstance(one, FrontierLevel) and one.clipped:
            guarantee = "none: clipped, no noise"
        if one is not None and one.epsilon is not None and one.text is not None:
            epsilon, guarantee = epsilon_text(one.epsilon), one.text
            guarantee += "; an epsilon so large bounds nothing" if isinstance(one, FrontierLevel) else ""
        if variant.name == reference:
            share = tag("span", "reference", class_="soft")
        elif one is not None and one.share is not None:
            share = join(percent(one.share.mean), below(interval(one.share, share=True)))
        rows.append(
            tag(
                "tr",
                tag("th", variant_name(study, variant.name, variant.cells, notes, note=variant.note), scope="row"),
                tag("td", epsilon),
                value_cell(None if one is None else one.dice),
                [value_cell(None if one is None else one.by_modality.get(name)) for name in found.modalities],
                tag("td", share),
                tag("td", guarantee, class_="words"),
                class_="reference" if variant.name == reference else None,
            )
        )
    title = "Dice and guarantee"
    key = epsilon_key(study.record)
    body = tag(
        "table",
        caption(f"{title}, with 95 % intervals.{'' if key is None else f' {key}'}"),
        heads([*columns, "Guarantee"], left=("Guarantee",)),
        tag("tbody", rows),
        class_="scores methods",
    )
    return scrollable(body, title)


def _dice_scale(found: Frontier) -> Scale:
    estimates = [point.dice for point in found.points] + [level.dice for level in found.levels]
    ends = [value for one in estimates for value in (one.mean, one.low, one.high) if value is not None]
    return linear(ends, floor=0.0, ceiling=1.0)


def _y(scale: Scale, value: float) -> float:
    return _HEIGHT - _BOTTOM - scale.share(value) * (_HEIGHT - _TOP - _BOTTOM)


def _grid(across: Scale, down: Scale) -> Markup:
    heights = [f"{_y(down, tick):.1f}" for tick in down.ticks]
    lines = [tag("line", x1="0", x2="100%", y1=y, y2=y, class_="grid") for y in heights]
    bottom = _HEIGHT - _BOTTOM
    marks = [
        join(
            tag("line", x1=across.across(tick), x2=across.across(tick), y1=_TOP, y2=bottom + 5, class_="grid"),
            tag("text", f"{tick:g}", x=across.across(tick), y=bottom + 20, text_anchor="middle"),
        )
        for tick in across.ticks
    ]
    return join(lines, marks)


def _styled(levels: Sequence[FrontierLevel]) -> list[tuple[FrontierLevel, tuple[str, str | None]]]:
    """Centralised training is the solid line; every other level has dashes of its own."""
    styled: list[tuple[FrontierLevel, tuple[str, str | None]]] = []
    others = 0
    for level in levels:
        if level.training == "centralised":
            styled.append((level, ("--line-1", None)))
        else:
            colour = ("--line-5", "--line-6", "--line-8", "--line-3")[others % 4]
            styled.append((level, (colour, _DASHES[others % len(_DASHES)])))
            others += 1
    return styled


def _level(level: FrontierLevel, style: tuple[str, str | None], down: Scale) -> Markup:
    colour, dash = style
    y = f"{_y(down, level.dice.mean):.1f}"
    line = tag(
        "line", x1="0", x2="100%", y1=y, y2=y, stroke=f"var({colour})", stroke_width=2, stroke_dasharray=dash
    )  # fmt: skip
    band = None
    if level.dice.low is not None and level.dice.high is not None and level.training == "centralised":
        top, bottom = (_y(down, value) for value in (level.dice.high, level.dice.low))
        band = tag(
            "rect",
            x="0",
            y=f"{top:.1f}",
            width="100%",
            height=f"{max(bottom - top, 0.5):.1f}",
            fill=f"var({colour})",
            opacity="0.12",
        )
    return tag("g", tag("title", f"{level.variant}: {_told(level.dice)}"), band, line)


def _curve(found: Frontier, index: int, across: Scale, down: Scale) -> Markup:
    series, (colour, shape) = found.series[index], _SERIES[index % len(_SERIES)]
    # Series that share an epsilon stand beside each other, not on top.
    shift = 7 * (index - (len(found.series) - 1) / 2)
    points = [(across.across(point.epsilon), _y(down, point.dice.mean), point) for point in series.points]
    lines = [
        tag("line", x1=x1, y1=f"{y1:.1f}", x2=x2, y2=f"{y2:.1f}", stroke=f"var({colour})", class_="curve")
        for (x1, y1, _), (x2, y2, _) in pairwise(points)
    ]
    drawn = [
        tag(
            "g",
            tag("title", f"{point.variant}: Dice {_told(point.dice)}; {point.text}"),
            _bar(x, point.dice, colour, down),
            marker(across, point.epsilon, y, shape=shape, colour=colour),
        )
        for x, y, point in points
    ]
    return tag("g", lines, drawn, transform=f"translate({shift:g} 0)")


def _bar(x: str, dice: Estimate, colour: str, down: Scale) -> Markup | None:
    if dice.low is None or dice.high is None:
        return None
    top, bottom = _y(down, dice.high), _y(down, dice.low)
    lines = [tag("line", x1=0, x2=0, y1=f"{top:.1f}", y2=f"{bottom:.1f}")] + [
        tag("line", x1=-4, x2=4, y1=f"{end:.1f}", y2=f"{end:.1f}") for end in (top, bottom)
    ]
    return tag(
        "svg", tag("g", lines, stroke=f"var({colour})", class_="interval"), x=x, overflow="visible", class_="marker"
    )


def _legend(found: Frontier) -> Markup:
    """Curves and levels, the highest first, as the eye meets them."""
    items = []
    for index, series in enumerate(found.series):
        colour, shape = _SERIES[index % len(_SERIES)]
        name = f"{_MODES.get(series.mode, series.mode)}"
        items.append((series.points[-1].dice.mean, swatch(colour, shape=shape), name))
    for level, (colour, dash) in _styled(found.levels):
        items.append((level.dice.mean, swatch(colour, dash=dash), f"{level.variant}: {number(level.dice.mean)}"))
    ordered = sorted(items, key=lambda item: -item[0])
    return legend([(sample, name) for _, sample, name in ordered])


def _told(dice: Estimate) -> str:
    return f"{number(dice.mean)}{bracketed(dice)}"


def _spoken(found: Frontier) -> str:
    curves = [
        f"{series.mode}: "
        + ", ".join(f"{number(point.dice.mean)} at {epsilon_text(point.epsilon)}" for point in series.points)
        for series in found.series
    ]
    levels = [f"{level.variant}: {number(level.dice.mean)} at no epsilon" for level in found.levels]
    return "; ".join([*curves, *levels]) + "."
