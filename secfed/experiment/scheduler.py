"""Training jobs over the machine's cores, in waves: as many jobs at once as there are cores, each with its share.

Jobs of one run cost about the same, so a wave ends together; the last wave spreads its sites over the cores that are
left. Progress is read from the jobs' own files, so that it works the same under every engine.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.context import SpawnProcess
from pathlib import Path

from aggregator.folder import read_journal
from secfed.aggregator_files import JOURNAL
from secfed.engines.job import AGGREGATOR_FOLDER, SITES_FOLDER
from secfed.errors import GroupKeyLost, RoundAborted, SecfedError
from secfed.experiment.curves import newest_metrics
from secfed.experiment.job_process import TESTED, JobOrder, execute, read_failure
from secfed.experiment.run_folder import RunFolder

POLL_SECONDS = 0.3


class JobFailed(SecfedError):  # noqa: N818 - like RoundAborted, an event
    """A training job ended with an error; carries its exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, kw_only=True)
class JobProgress:
    """How far a job is: completed rounds, tested cases and the newest metrics that somebody may know."""

    model: str
    rounds: int
    tested: int
    metrics: dict[str, float]


def waves(orders: list[JobOrder], *, cores: int) -> list[list[JobOrder]]:
    """Jobs that run at the same time; every job of a wave gets an equal share of the cores, at least one worker."""
    grouped = [orders[start : start + cores] for start in range(0, len(orders), cores)]
    return [[replace(order, workers=max(1, cores // len(wave))) for order in wave] for wave in grouped]


def run_jobs(orders: list[JobOrder], *, cores: int | None = None, on_progress: Callable[[JobProgress], None]) -> None:
    """Run all jobs; the first failure ends the others, which can be resumed.

    Raises:
        JobFailed: a job failed; the message is the job's own.
    """
    context = multiprocessing.get_context("spawn")
    for wave in waves(orders, cores=cores or os.cpu_count() or 1):
        processes: dict[JobOrder, SpawnProcess] = {}
        with single_threaded():
            for order in wave:
                process = context.Process(target=execute, args=(order,), name=f"secfed-{order.model}")
                process.start()
                processes[order] = process
        try:
            while any(process.is_alive() for process in processes.values()):
                for order, process in processes.items():
                    on_progress(_progress(order))
                    if process.exitcode not in (None, 0):
                        raise _failure(order, process.exitcode or 1)
                time.sleep(POLL_SECONDS)
            for order, process in processes.items():
                process.join()
                on_progress(_progress(order))
                if process.exitcode != 0:
                    raise _failure(order, process.exitcode or 1)
        finally:
            for process in processes.values():
                if process.is_alive():
                    process.terminate()
                    process.join(10)


def _progress(order: JobOrder) -> JobProgress:
    folder = RunFolder(order.run_folder).job_folder(order.model)
    journal = read_journal(folder / AGGREGATOR_FOLDER / JOURNAL)
    rounds = [entry["round"] for entry in journal if entry["event"] == "round"]
    tested = folder / TESTED
    return JobProgress(
        model=order.model,
        rounds=rounds[-1] if rounds else 0,
        tested=_count_lines(tested),
        metrics=newest_metrics(folder, journal),
    )


def _count_lines(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n") if path.exists() else 0


def _failure(order: JobOrder, code: int) -> JobFailed:
    folder = RunFolder(order.run_folder).job_folder(order.model)
    failure = read_failure(folder)
    if failure is None:
        return JobFailed(f"job '{order.model}' ended with exit code {code}; --resume goes on from its last round", 1)
    message = f"job '{order.model}': {failure['message']}"
    if failure["exit_code"] in (RoundAborted.exit_code, GroupKeyLost.exit_code):
        message += f"\nEach site wrote its reason to its own log: {folder / SITES_FOLDER}/*/books/site.log"
    return JobFailed(message, int(failure["exit_code"]))


@contextmanager
def single_threaded() -> Iterator[None]:
    """Processes started here have one thread each, which they read before they import torch; undone afterwards."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
