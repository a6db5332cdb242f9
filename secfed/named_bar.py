"""A progress bar for work that is done name by name: cases, series. Names may be hostile: no control code passes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from secfed.command_line import printable


@dataclass(frozen=True)
class NamedBar:
    """A bar that shows the name of the last one."""

    bars: Progress
    task: TaskID

    def start(self, total: int) -> None:
        """Say how many there are."""
        self.bars.update(self.task, total=total)

    def move(self, name: str) -> None:
        """One is done, of this name."""
        self.bars.update(self.task, advance=1, note=printable(name))

    def at(self, done: float, total: int | None, name: str) -> None:
        """So many are done, in part too, and this one is at work; the total is None where nobody knows yet."""
        self.bars.update(self.task, completed=done, total=total, note=printable(name))


@contextmanager
def named_bar(title: str, *, quiet: bool, counted: bool = True) -> Iterator[NamedBar]:
    """A bar on standard error; nothing in quiet mode. Where it is not `counted`, it shows per cent."""
    columns = (
        TextColumn(title),
        BarColumn(bar_width=30),
        MofNCompleteColumn() if counted else TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), disable=quiet, transient=True) as bars:
        yield NamedBar(bars, bars.add_task("", total=None, note=""))
