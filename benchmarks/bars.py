"""Horizontal bars side by side as one SVG file, without a library and without a script."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

WIDTH, LABEL, BAR, ROW = 300, 110, 120, 26
COLOURS = ("#8a8f98", "#1f6f8b", "#c8553d", "#d9a441")


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One measure: a bar and the text beside it for each label, all bars from zero."""

    title: str
    values: tuple[float, ...]
    texts: tuple[str, ...]


def draw_bars(panels: Sequence[Panel], *, labels: Sequence[str], title: str, path: Path) -> None:
    """Write the panels from left to right and, three in a row, from top to bottom."""
    columns = min(3, len(panels))
    height = 34 + ROW * len(labels) + 16
    lines = -(-len(panels) // columns)
    size = f"0 0 {WIDTH * columns} {40 + height * lines}"
    found = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="12" y="24" font-size="15" font-weight="600">{escape(title)}</text>',
    ]
    for index, panel in enumerate(panels):
        line, column = divmod(index, columns)
        found += _panel(panel, labels=labels, left=WIDTH * column + 12, top=40 + height * line)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*found, "</svg>\n"]), encoding="utf-8")


def _panel(panel: Panel, *, labels: Sequence[str], left: int, top: int) -> list[str]:
    largest = max(*panel.values, 1e-12)
    found = [f'<text x="{left}" y="{top + 20}" font-weight="600">{escape(panel.title)}</text>']
    for index, (label, value, text) in enumerate(zip(labels, panel.values, panel.texts, strict=True)):
        y, length = top + 34 + ROW * index, BAR * max(value, 0.0) / largest
        found += [
            f'<text x="{left}" y="{y + 13}">{escape(label)}</text>',
            f'<rect x="{left + LABEL}" y="{y + 2}" width="{length:.1f}" height="15" fill="{COLOURS[index]}"/>',
            f'<text x="{left + LABEL + length + 5:.1f}" y="{y + 13}" fill="#555">{escape(text)}</text>',
        ]
    return found
