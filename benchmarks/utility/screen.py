"""What a person sees while a study runs: how many runs are done, which are at work, and how far each of them is."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from aggregator.folder import read_journal
from benchmarks.utility.cells import RUNS
from benchmarks.utility.worker import Outcome, RunOrder
from secfed.aggregator_files import JOURNAL
from secfed.engines.job import AGGREGATOR_FOLDER
from secfed.experiment.run_folder import RunFolder


class Screen:
    """Live bars, or one line per event where nobody looks at a terminal; a context manager."""

    def __init__(self, titles: Mapping[str, str], *, study: Path, total: int, done: int) -> None:
        self.titles = titles
        self.study = study
        self.console = Console()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._runs = self._bars.add_task("Runs", total=total, completed=done)
        self._ended = done
        self._total = total
        self._slots: dict[int, TaskID] = {}

    def __enter__(self) -> "Screen":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def started(self, slot: int, order: RunOrder) -> None:
        """A worker took a run."""
        if slot not in self._slots:
            self._slots[slot] = self._bars.add_task("")
        description = f"  {self.titles[order.key]}"
        self._bars.reset(self._slots[slot], total=order.config.federation.rounds, description=description, completed=0)

    def ended(self, slot: int, outcome: Outcome) -> None:
        """A run ended, well or not; a failure is said at once."""
        self._ended += 1
        self._bars.update(self._runs, completed=self._ended)
        title = self.titles[outcome.key]
        if outcome.reason is not None:
            self.console.print(f"[red]failed[/] {title} ({outcome.key}): {outcome.reason}", soft_wrap=True)
        elif not self.console.is_terminal:
            self.console.print(f"{self._ended}/{self._total} {title}", soft_wrap=True)

    def working(self, busy: Mapping[int, RunOrder]) -> None:
        """Read how far the runs at work are."""
        if not self.console.is_terminal:
            return
        for slot, order in busy.items():
            self._bars.update(self._slots[slot], completed=self._rounds(order))

    def _rounds(self, order: RunOrder) -> int:
        """Of the job that is at work."""
        jobs = RunFolder(self.study / RUNS / order.key).path / "jobs"
        rounds = [
            sum(entry["event"] == "round" for entry in read_journal(folder / AGGREGATOR_FOLDER / JOURNAL))
            for folder in (sorted(jobs.iterdir()) if jobs.exists() else [])
        ]
        unfinished = [count for count in rounds if count < order.config.federation.rounds]
        return unfinished[-1] if unfinished else max(rounds, default=0)
