"""The frontier as one small SVG file for a README: Dice against epsilon, and what holds without one."""

from pathlib import Path

from benchmarks.lines import Line, draw_lines
from secfed.results import SIMULATED_NOISE
from secfed.study.record import StudyRecord
from secfed.study.summary import summarise


def draw_frontier(record: StudyRecord, *, path: Path) -> bool:
    """Draw the first experiment of that kind; False where no cell of it is complete."""
    found = next((one.frontier for one in summarise(record).experiments if one.frontier is not None), None)
    if found is None or not (found.series or found.levels):
        return False
    lines = [
        # To two digits, so that modes whose account differs in the fourth share a tick.
        Line(
            label=f"{series.mode} noise",
            points=tuple((float(f"{point.epsilon:.2g}"), point.dice.mean) for point in series.points),
        )
        for series in found.series
    ]
    lines += [Line(label=level.variant, level=level.dice.mean) for level in found.levels]
    modalities = " and ".join("MRI" if name == "MR" else name for name in found.modalities)
    companions = "".join({f" {point.companions.partition(';')[0]}" for point in found.points} if found.points else {""})
    draw_lines(lines, title=f"Mean Dice on {modalities}; {SIMULATED_NOISE}", path=path, axis=f"epsilon{companions}")
    return True
