"""What came of preparing data, as a person reads it in the terminal."""

from rich.console import Console
from rich.text import Text

from secfed.command_line import printable
from secfed.preparation.prepare import Preparation
from secfed.problem_lines import problem_lines
from secfed.report.markup import duration, size, words


def print_preparation(found: Preparation, console: Console) -> None:
    """Problems first, the summary last."""
    console.print(problem_lines(found.problems), end="", soft_wrap=True)
    config = found.order.config
    spacing = " x ".join(f"{step:g}" for step in config.spacing_mm)
    failed = sum(outcome.entry is None for outcome in found.outcomes)
    written = f"{size(found.bytes_written)} written in {duration(found.seconds)}"
    lines = [
        f"Prepared: {found.scans} scans of {found.patients} patients, {found.taken} of them there already; {written}.",
        f"For:      {words(found.tasks)}, voxels of {spacing} mm (z, y, x).",
        f"Cache:    {printable(words(sorted({str(entry.cache) for entry in found.order.entries})))}",
    ]
    if failed:
        lines.append(f"{failed} scans cannot be used; correct them and call again, the others are kept.")
    for line in lines:
        console.print(Text(line), soft_wrap=True)
