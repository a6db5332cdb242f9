"""A dot plot: one row per method, a marker per measure with its interval, on a common scale."""

from collections.abc import Sequence
from dataclasses import dataclass

from secfed.report.markup import Child, Markup, join, tag
from secfed.report.study.charts import Scale, bar_across, marker, upright

_GAP = 15
_ROOM = 16


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A value with its interval; `told` is what hovering says."""

    value: float
    low: float | None
    high: float | None
    colour: str
    shape: str
    filled: bool
    told: str


@dataclass(frozen=True, kw_only=True)
class DotRow:
    """A named row; `detail` stands small beside the name. A row without dots says that it has no data."""

    name: Child
    dots: tuple[Dot, ...]
    detail: str = ""


def dot_plot(
    rows: Sequence[DotRow], *, scale: Scale, unit: str, told: str, rules: Sequence[tuple[float, str]] = ()
) -> Markup:
    """The plot; `told` is its text for who cannot see it, and `rules` are (value, class) of upright lines."""
    most = max((len(row.dots) for row in rows), default=1)
    height = _ROOM + _GAP * max(most, 1)
    drawn = [
        join(
            tag("div", tag("span", row.name), tag("small", row.detail) if row.detail else None, class_="dotname"),
            _row(row, scale, rules, height),
        )
        for row in rows
    ]
    labels = [tag("text", scale.label(tick), x=scale.across(tick), y=14, text_anchor="middle") for tick in scale.ticks]
    axis = join(
        tag("div", class_="dotname axisname"),
        tag("svg", labels, width="100%", height=20, aria_hidden="true"),
        tag("div", class_="dotname axisname"),
        tag("div", unit, class_="unit"),
    )
    return tag("div", drawn, axis, class_="dotplot", role="img", aria_label=told)


def _row(row: DotRow, scale: Scale, rules: Sequence[tuple[float, str]], height: int) -> Markup:
    start = height / 2 - _GAP * (len(row.dots) - 1) / 2
    dots = []
    for index, dot in enumerate(row.dots):
        y = start + _GAP * index
        known = dot.low is not None and dot.high is not None
        interval = bar_across(scale, dot.low or 0.0, dot.high or 0.0, y, colour=dot.colour) if known else None
        shape = marker(scale, dot.value, y, shape=dot.shape, colour=dot.colour, filled=dot.filled)
        dots.append(tag("g", tag("title", dot.told), interval, shape))
    grid = [upright(scale, tick, height="100%", kind="grid") for tick in scale.ticks]
    lines = [upright(scale, value, height="100%", kind=kind) for value, kind in rules]
    empty = tag("text", "no data", x="4%", y=height / 2 + 4) if not row.dots else None
    return tag("svg", grid, lines, empty, dots, width="100%", height=height, aria_hidden="true", class_="dotrow")
