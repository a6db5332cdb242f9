"""What came of a conversion, as a person reads it in the terminal."""

from rich.console import Console
from rich.text import Text

from secfed.command_line import printable
from secfed.conversion.convert import Conversion
from secfed.problem_lines import problem_lines
from secfed.report.markup import size


def print_conversion(found: Conversion, console: Console) -> None:
    """Problems first, the summary last."""
    console.print(problem_lines(found.problems), end="", soft_wrap=True)
    there = sum(one.was_there for one in found.converted)
    labelled = sum(one.label is not None for one in found.converted)
    written = size(sum(one.num_bytes for one in found.series))
    lines = [
        f"Converted: {len(found.converted)} series, {labelled} with a label, {there} there already; {written} written.",
        f"Into:      {printable(str(found.out))}",
        "Kept:      values, and where they lie. Dropped: all else of the DICOM header, names, dates and UIDs included.",
    ]
    if found.problems:
        lines.append(f"{len(found.problems)} series were left out; correct them and call again, the others are kept.")
    for line in lines:
        console.print(Text(line), soft_wrap=True)
