"""Problems of cases as lines for the terminal. Names of files and patients may be hostile: no control code passes."""

from collections.abc import Iterable

from rich.text import Text

from secfed.command_line import printable
from secfed.data.problems import CaseProblem

_STYLES = {"error": "red", "warning": "yellow"}


def problem_lines(problems: Iterable[CaseProblem]) -> Text:
    """Each with its file, the reason and what to do; every line ends with a line break."""
    lines = Text()
    for problem in problems:
        about = f" ({problem.case})" if problem.case else ""
        said = printable(f"{problem.severity}: {problem.file}{about}: {problem.reason}")
        lines.append(f"{said}\n", style=_STYLES[problem.severity])
        if problem.todo:
            lines.append(f"  what to do: {printable(problem.todo)}\n")
    return lines
