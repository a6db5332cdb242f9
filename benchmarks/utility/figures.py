"""The frontier as one small SVG file for a README: Dice against epsilon, and what holds without one."""

from pathlib import Path

from benchmarks.lines import Line, draw_lines
from secfed.results import SIMULATED_NOISE
from secfed.study.record import StudyRecord
from secfed.study.summary import summarise

FRONTIER = "frontier"


def draw_frontier(record: StudyRecord, *, path: Path) -> bool:
    """Draw the first experiment of that kind; False where no cell of it is complete."""
    found = next((one.frontier for one in summarise(record).experiments if one.frontier is not None), None)
    if found is None or not (found.series or found.levels):
        return False
    lines = [
        Line(label=series.mode, points=tuple((point.epsilon, point.dice.mean) for point in series.points))
        for series in found.series
    ]
    lines += [Line(label=level.variant, level=level.dice.mean) for level in found.levels]
    modalities = " and ".join("MRI" if name == "MR" else name for name in found.modalities)
    draw_lines(lines, title=f"Mean Dice on {modalities}; {SIMULATED_NOISE}", path=path)
    return True
