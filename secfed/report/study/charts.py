"""Parts of the figures of a study: scales, markers and rules as SVG without a script.

Places along x are percentages of the drawing's width and places along y pixels, so a figure fills a narrow window and
a wide one with letters of one size. Colours are CSS variables, and every colour comes with a shape of its own.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from secfed.report.markup import Child, Markup, tag

# Room at both ends of a scale, in percent, so that markers and their labels stay inside.
_EDGE = 3.0
_SHAPES = {
    "circle": "M-5.5 0A5.5 5.5 0 1 0 5.5 0A5.5 5.5 0 1 0 -5.5 0Z",
    "diamond": "M0 -6.8L6.8 0L0 6.8L-6.8 0Z",
    "square": "M-5 -5H5V5H-5Z",
    "triangle": "M0 -6.4L6 4.6H-6Z",
}
SHAPES = tuple(_SHAPES)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """An axis from `low` to `high`; `digits` are those of its tick labels."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False
    digits: int = 1

    def share(self, value: float) -> float:
        """Place of a value from 0 to 1; what lies outside is put at the border."""
        low, high, here = (math.log(v) if self.log else v for v in (self.low, self.high, max(value, self._least())))
        return 0.5 if high <= low else min(1.0, max(0.0, (here - low) / (high - low)))

    def across(self, value: float) -> str:
        """The place of a value along x."""
        return f"{_EDGE + (100 - 2 * _EDGE) * self.share(value):.2f}%"

    def label(self, tick: float) -> str:
        """A tick's text."""
        return f"{tick:.{self.digits}f}"

    def _least(self) -> float:
        return self.low if self.log else -math.inf


def linear(values: Iterable[float], *, floor: float | None = None, ceiling: float | None = None) -> Scale:
    """A scale around the values with some five round ticks, kept within `floor` and `ceiling`."""
    known = list(values) or [0.0, 1.0]
    low, high = min(known), max(known)
    wide = (high - low) or abs(high) or 1.0
    step = next(step for step in _steps(wide / 5.5) if wide / step <= 7)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    low = low if floor is None else max(low, floor)
    high = high if ceiling is None else min(high, ceiling)
    high = high if high > low else low + step
    count = round((high - low) / step)
    ticks = tuple(round(low + index * step, 10) for index in range(count + 1))
    return Scale(low=low, high=high, ticks=ticks, digits=max(0, -math.floor(math.log10(step) + 1e-9)))


_FEW_TICKS = 6


def logarithmic(values: Iterable[float]) -> Scale:
    """A logarithmic scale with a little room at both ends.

    Ticks stand at the values themselves, to two digits, where they are few; else at 1, 2 and 5 times powers of ten.
    """
    known = sorted(values) or [1.0, 10.0]
    low, high = known[0] / 1.25, known[-1] * 1.25
    marked = sorted({float(f"{value:.2g}") for value in known})
    if len(marked) <= _FEW_TICKS:
        return Scale(low=low, high=high, ticks=tuple(marked), log=True)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [lead * 10.0**power for power in powers for lead in (1, 2, 5)]
    return Scale(low=low, high=high, ticks=tuple(tick for tick in ticks if low <= tick <= high), log=True)


def marker(scale: Scale, value: float, y: float, *, shape: str, colour: str, filled: bool = True) -> Markup:
    """A shape at a value; hollow ones show the paper through."""
    drawn = tag("path", d=_SHAPES[shape], stroke=f"var({colour})", fill=f"var({colour})" if filled else "var(--paper)")
    return tag("svg", drawn, x=scale.across(value), y=f"{y:g}", overflow="visible", class_="marker")


def bar_across(scale: Scale, low: float, high: float, y: float, *, colour: str) -> Markup:
    """A horizontal interval with caps."""
    ends = [
        tag("line", x1=scale.across(end), x2=scale.across(end), y1=f"{y - 3:g}", y2=f"{y + 3:g}") for end in (low, high)
    ]
    whole = tag("line", x1=scale.across(low), x2=scale.across(high), y1=f"{y:g}", y2=f"{y:g}")
    return tag("g", whole, ends, stroke=f"var({colour})", class_="interval")


def upright(scale: Scale, value: float, *, height: str, kind: str) -> Markup:
    """A rule from top to bottom at a value."""
    return tag("line", x1=scale.across(value), x2=scale.across(value), y1="0", y2=height, class_=kind)


def swatch(colour: str, *, shape: str | None = None, filled: bool = True, dash: str | None = None) -> Markup:
    """A legend's sample: a line, a marker, or both."""
    line = tag(
        "line", x1=1, x2=29, y1=8, y2=8, stroke=f"var({colour})", stroke_width=2.2, stroke_dasharray=dash
    )  # fmt: skip
    drawn: list[Child] = [] if shape is not None and dash == "none" else [line]
    if shape is not None:
        fill = f"var({colour})" if filled else "var(--paper)"
        path = tag("path", d=_SHAPES[shape], stroke=f"var({colour})", fill=fill, transform="translate(15 8)")
        drawn.append(path)
    return tag("svg", drawn, width=30, height=16, aria_hidden="true", class_="marker swatch")


def legend(items: Sequence[tuple[Markup, Child]]) -> Markup:
    """Samples with their names."""
    return tag("ul", [tag("li", sample, tag("span", name)) for sample, name in items], class_="legend")


def _steps(least: float) -> Iterable[float]:
    power = 10.0 ** math.floor(math.log10(least))
    for scale in (power, 10 * power):
        yield from (lead * scale for lead in (1, 2, 5))
