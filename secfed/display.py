"""What a person sees in the terminal: live progress of a run, and the summary at its end.

Reads callbacks and records; decides nothing. Quiet mode draws nothing, so that --json output stays clean.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from clients.export import Export, Standing
from secfed import results
from secfed.config import RunConfig
from secfed.experiment.plans import JobSpec
from secfed.experiment.run import Progress as RunProgress
from secfed.experiment.scheduler import JobProgress
from secfed.report import never_drawn
from secfed.report.headline import passes_sentence
from secfed.report.trust import METRICS_FROM_BOOKS, NOT_PRIVATE, cohort_warning
from secfed.results import JobRecord, RunRecord

TITLES = {
    "federated": "Federated",
    "federated_without_augmentation": "Federated, no GIN",
    "centralised": "Centralised",
}


@contextmanager
def counting_bar(title: str, *, total: int, quiet: bool) -> Iterator[Callable[[], None]]:
    """A progress bar that advances by one per call."""
    with _progress(quiet=quiet) as bars:
        task = bars.add_task(title, total=total, note="")
        yield lambda: bars.advance(task)


class RoundsBar:
    """A progress bar that is told how many rounds are done, and of how many, with lines above it; a context manager."""

    def __init__(self, title: str, *, quiet: bool) -> None:
        self._bars = _progress(quiet=quiet)
        self._task = self._bars.add_task(title, total=None, note="")

    def move(self, completed: int, total: int) -> None:
        """Show how far the run is."""
        self._bars.update(self._task, completed=completed, total=total)

    def say(self, line: str) -> None:
        """One line that stays; nothing in quiet mode."""
        if not self._bars.disable:
            self._bars.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()


class RunDisplay:
    """Live progress of one run; a context manager."""

    def __init__(self, config: RunConfig, *, quiet: bool) -> None:
        self.config = config
        self._bars = _progress(quiet=quiet)
        self._data: TaskID | None = None
        self._jobs: dict[str, TaskID] = {}

    @property
    def progress(self) -> RunProgress:
        """The callbacks that a run reports to."""
        return RunProgress(
            data_started=self._data_started,
            volume_done=self._volume_done,
            jobs_started=self._jobs_started,
            job_moved=self._job_moved,
            organs_never_drawn=self._organs_never_drawn,
        )

    def status(self, text: str) -> None:
        """One line without a bar; nothing in quiet mode."""
        if not self._bars.disable:
            self._bars.console.print(f"[dim]{text}[/]", highlight=False)

    def _data_started(self, volumes: int) -> None:
        self._data = self._bars.add_task("Data", total=volumes, note="")

    def _volume_done(self, name: str) -> None:
        if self._data is not None:
            self._bars.update(self._data, advance=1, note=name)

    def _organs_never_drawn(self, organs: tuple[str, ...]) -> None:
        if not self._bars.disable:
            line = f"warning: {never_drawn.warning(organs)}"
            self._bars.console.print(line, style="yellow", highlight=False, markup=False, soft_wrap=True)

    def _jobs_started(self, specs: list[JobSpec]) -> None:
        if self._data is not None:
            # Cached volumes are not reported one by one.
            self._bars.update(self._data, completed=self._bars.tasks[self._data].total, note="ready")
        for spec in specs:
            self._jobs[spec.model] = self._bars.add_task(
                TITLES.get(spec.model, spec.model), total=spec.plan.federation.rounds, note="waiting"
            )

    def _job_moved(self, moved: JobProgress) -> None:
        self._bars.update(self._jobs[moved.model], completed=moved.rounds, note=_note(moved))

    def __enter__(self) -> "RunDisplay":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The few numbers that answer what a run was for; ratios and gains are None where a reference is missing."""

    record: RunRecord
    rows: tuple[dict[str, Any], ...]
    ratio_to_centralised: float | None
    augmentation_gain_mr: float | None
    protection: str
    protection_share: float | None
    small_cohort: str | None
    equal_passes: bool
    privacy: str
    never_drawn: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "models": list(self.rows),
            "ratio_to_centralised": self.ratio_to_centralised,
            "augmentation_gain_mr": self.augmentation_gain_mr,
            "equal_passes": self.equal_passes,
            "protection_share_of_time": self.protection_share,
            "small_cohort": self.small_cohort,
            "privacy": self.privacy,
            "never_drawn": list(self.never_drawn),
            "seconds": self.record.provenance.seconds_total,
        }

    def print(self, console: Console, *, run_folder: Path, report: Path) -> None:
        """The table at the end of a run."""
        modalities = self.record.test_modalities()
        table = Table(title=f"{self.record.name}: mean over organs of the test patients")
        table.add_column("model", no_wrap=True)
        for modality in modalities:
            table.add_column(f"Dice {modality}", justify="right")
        table.add_column("Dice", justify="right", style="bold")
        for modality in modalities:
            table.add_column(f"HD95 {modality}", justify="right")
        table.add_column("s", justify="right")
        for row in self.rows:
            table.add_row(
                TITLES.get(row["model"], row["model"]),
                *(_number(row[f"dice_{modality}"], 3) for modality in modalities),
                _number(row["dice"], 3),
                *(_number(row[f"hd95_{modality}"], 1) for modality in modalities),
                f"{row['seconds']:.0f}",
            )
        console.print(table)
        console.print("Dice is 3D, HD95 in mm, s is seconds of training; one seed.", style="dim", highlight=False)
        if self.ratio_to_centralised is not None:
            passes = "the same number of" if self.equal_passes else "ANOTHER number of"
            console.print(
                f"Federated reaches {100 * self.ratio_to_centralised:.1f} % of centralised training, "
                f"at {passes} passes over the data.",
                highlight=False,
            )
        if self.augmentation_gain_mr is not None:
            console.print(
                f"Augmentation moves MRI Dice by {self.augmentation_gain_mr:+.3f} in this federation.", highlight=False
            )
        if self.protection_share is not None:
            work = "Encryption" if self.protection == "encrypted" else "Masking"
            share = f"{100 * self.protection_share:.1f} %"
            console.print(f"{work} took {share} of the federated job's time.", highlight=False)
        if self.never_drawn:
            console.print(never_drawn.warning(self.never_drawn), style="yellow", highlight=False, soft_wrap=True)
        if self.small_cohort is not None:
            console.print(self.small_cohort, style="yellow", highlight=False)
        if self.protection == "encrypted":
            console.print(METRICS_FROM_BOOKS, highlight=False)
        console.print(self.privacy, highlight=False, soft_wrap=True)
        console.print(f"Run folder: {run_folder}", soft_wrap=True, highlight=False)
        console.print(f"Report:     {report}", soft_wrap=True, highlight=False)


def summary(record: RunRecord) -> Summary:
    """Read the summary off a record's rows."""
    rows = []
    for model in record.models():
        job = record.job(model)
        row: dict[str, Any] = {
            "model": model,
            "dice": results.overall(record, model),
            "protection": job.protection if job else "",
            "seconds": job.seconds if job else 0.0,
        }
        for modality in record.test_modalities():
            for metric in ("dice", "hd95"):
                found = results.score(record.results, model=model, modality=modality, metric=metric)
                row[f"{metric}_{modality}"] = None if found is None else found.mean
        rows.append(row)
    federated = record.job("federated")
    protection = federated.protection if federated is not None else "plain"
    protected = federated is not None and protection != "plain"
    return Summary(
        record=record,
        rows=tuple(rows),
        ratio_to_centralised=results.ratio(record),
        augmentation_gain_mr=results.gain(record, modality="MR"),
        protection=protection,
        protection_share=federated.protection_share() if federated is not None and protected else None,
        small_cohort=None if federated is None else cohort_warning(protection, federated.survivors_min or 2),
        equal_passes=passes_sentence(record)[1],
        privacy=_privacy(federated, protection),
        never_drawn=never_drawn.of_whole_run(record),
    )


def _privacy(federated: JobRecord | None, protection: str) -> str:
    """What a run's patients paid, with all that an epsilon needs, or that there is no bound."""
    paid = None if federated is None else federated.privacy
    if paid is None:
        return NOT_PRIVATE[protection]
    if paid.epsilon is None:
        return f"{NOT_PRIVATE[protection]} ({paid.text()})"
    cap = "" if paid.tpr_cap is None else f" An attacker finds at most {100 * paid.tpr_cap:.1f} % at 1 % false alarms."
    return f"Differential privacy: {paid.text()}.{cap}"


def print_standings(site: str, found: Sequence[Standing], problems: Sequence[str], console: Console) -> None:
    """The encrypted runs of a site as a table."""
    if not found and not problems:
        console.print(f"Site {site} has taken part in no encrypted run.", markup=False, highlight=False)
    elif found:
        table = Table(title=f"Encrypted runs of site {site}")
        for name in ("run", "name", "began"):
            table.add_column(name, no_wrap=True)
        table.add_column("rounds done", justify="right")
        table.add_column("state")
        for run in found:
            table.add_row(run.run[:12], run.name, run.began, f"{run.completed} of {run.rounds}", run.state)
        console.print(table)
    for problem in problems:
        console.print(problem, style="red", markup=False, highlight=False, soft_wrap=True)


def print_export(written: Export, console: Console) -> None:
    """What was exported, and what it means."""
    standing = written.standing
    lines = (
        f"Model:   {written.out}",
        f"SHA-256: {written.sha256}",
        f"Run:     {standing.run} ('{standing.name}')",
        f"Rounds:  {standing.completed} of {standing.rounds}, {standing.state}",
        f"Noted in the log of site {written.site}. The file is not encrypted: whoever has it has the model.",
    )
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _note(moved: JobProgress) -> str:
    if moved.tested:
        return f"testing, {moved.tested} cases"
    if not moved.rounds:
        return "starting"
    loss = moved.metrics.get("train_loss")
    parts = [] if loss is None else [f"loss {loss:.3f}"]
    for modality in ("ct", "mr"):
        dice = moved.metrics.get(f"validation_dice_{modality}")
        if dice is not None:
            parts.append(f"val {modality.upper()} {dice:.3f}")
    return " ".join(parts)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _progress(*, quiet: bool) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[note]}"),
        console=Console(stderr=True),
        disable=quiet,
    )
