"""Lines over a logarithmic axis as one SVG file, without a library and without a script."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 600, 330
_LEFT, _TOP, _RIGHT, _BOTTOM = 54, 44, 250, 44
_COLOURS = ("#1f6f8b", "#c8553d", "#8a8f98", "#d9a441")
_DASHES = ("5 4", "1.5 3", "12 3")
"""Where a colour comes again."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """Points (epsilon, Dice) in rising order, or a `level` that holds at every epsilon."""

    label: str
    points: tuple[tuple[float, float], ...] = ()
    level: float | None = None


def draw_lines(lines: Sequence[Line], *, title: str, path: Path, axis: str = "epsilon") -> None:
    """Write Dice against epsilon; the axis of Dice starts at zero, and `axis` is written below the other one."""
    ticks = sorted({x for line in lines for x, _ in line.points})
    values = [value for line in lines for value in _values(line)]
    low, high = (ticks[0], ticks[-1]) if ticks else (1.0, 1.0)
    top = math.ceil(max(values) * 10 + 0.5) / 10 if values else 1.0

    def across(x: float) -> float:
        share = 0.5 if low == high else math.log(x / low) / math.log(high / low)
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def down(y: float) -> float:
        return HEIGHT - _BOTTOM - y / top * (HEIGHT - _TOP - _BOTTOM)

    size = f"0 0 {WIDTH} {HEIGHT}"
    found = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="12" y="22" font-size="14" font-weight="600">{escape(title)}</text>',
    ]
    for step in range(round(top * 10) + 1):
        y = down(step / 10)
        found += [
            f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e3e5e8"/>',
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#555">{step / 10:.1f}</text>',
        ]
    for tick in ticks:
        place = f'x="{across(tick):.1f}" y="{HEIGHT - _BOTTOM + 18}"'
        found.append(f'<text {place} text-anchor="middle" fill="#555">{tick:g}</text>')
    found.append(f'<text x="{_LEFT}" y="{HEIGHT - 8}" fill="#555">{escape(axis)}</text>')
    for index, line in enumerate(lines):
        colour = _COLOURS[index % len(_COLOURS)]
        places = [(across(x), down(y)) for x, y in line.points]
        if line.level is not None:
            places = [(_LEFT, down(line.level)), (WIDTH - _RIGHT, down(line.level))]
        dashes = "" if line.level is None else f' stroke-dasharray="{_DASHES[index // len(_COLOURS) % len(_DASHES)]}"'
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        found.append(f'<polyline points="{corners}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>')
        if line.level is None:
            found += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in places]
        left, y_label = WIDTH - _RIGHT + 14, _TOP + 18 * index
        ends = f'x1="{left}" x2="{left + 18}" y1="{y_label}" y2="{y_label}"'
        found += [
            f'<line {ends} stroke="{colour}" stroke-width="2"{dashes}/>',
            f'<text x="{left + 24}" y="{y_label + 4}">{escape(line.label)}</text>',
        ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*found, "</svg>\n"]), encoding="utf-8")


def _values(line: Line) -> list[float]:
    return [y for _, y in line.points] + ([] if line.level is None else [line.level])
