"""Prepare the cases of data sets into the cache that training reads, several at a time, whatever is wrong with one.

A site runs this on its own scans. Each case is an entry that is there whole or not at all, so a killed run loses only
the cases it was at, and the next takes what is there. A scan that cannot be used is named, and the rest goes on.
"""

import os
import signal
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from secfed.config import PreprocessingConfig
from secfed.data.cases import LABEL_MAPS, Case, LabelMap
from secfed.data.prepared_cache import entry_bytes, open_cache
from secfed.data.preprocessing import prepare_in
from secfed.data.problems import CaseProblem, problem_of, problem_of_data_set, warnings_about, without_label
from secfed.data.readers import DataSet
from secfed.data.site_data import DataEntry, read_site_data, task_of
from secfed.errors import DataError, FileError
from secfed.lifeline import stop_with_parent


@dataclass(frozen=True, kw_only=True)
class CachedEntry:
    """A data set and the cache that its prepared cases are kept in."""

    data: DataEntry
    cache: Path


@dataclass(frozen=True, kw_only=True)
class PreparationOrder:
    """What to prepare, and how. Without a `task`, that of each data set is the one of whose organs most are drawn.

    At a site, training and validation cases are prepared: those it trains on. Of a folder, whatever has a label.
    """

    entries: tuple[CachedEntry, ...]
    config: PreprocessingConfig
    task: str | None
    jobs: int
    at_site: bool


@dataclass(frozen=True, kw_only=True)
class CaseOutcome:
    """What came of one case: its entry in the cache, or None and among the problems an error."""

    patient: str
    entry: Path | None
    was_there: bool
    num_bytes: int
    problems: tuple[CaseProblem, ...]


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What came of an order; patients are persons, by the name that training knows them by in all data sets."""

    order: PreparationOrder
    tasks: tuple[str, ...]
    outcomes: tuple[CaseOutcome, ...]
    problems: tuple[CaseProblem, ...]
    seconds: float

    @property
    def scans(self) -> int:
        """Cases that are in the cache now."""
        return sum(outcome.entry is not None for outcome in self.outcomes)

    @property
    def taken(self) -> int:
        """Of these, those that were there before."""
        return sum(outcome.entry is not None and outcome.was_there for outcome in self.outcomes)

    @property
    def patients(self) -> int:
        """Persons with at least one case in the cache."""
        return len({outcome.patient for outcome in self.outcomes if outcome.entry is not None})

    @property
    def bytes_written(self) -> int:
        """Of new entries; two cases of one content share one."""
        return sum({o.entry: o.num_bytes for o in self.outcomes if o.entry is not None and not o.was_there}.values())

    @property
    def failed(self) -> bool:
        """Whether some case or data set cannot be used."""
        return any(problem.severity == "error" for problem in self.problems)

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "tasks": list(self.tasks),
            "preprocessing": self.order.config.model_dump(mode="json"),
            "caches": sorted({str(entry.cache) for entry in self.order.entries}),
            "jobs": self.order.jobs,
            "patients": self.patients,
            "scans": self.scans,
            "taken_from_cache": self.taken,
            "cannot_be_used": sum(outcome.entry is None for outcome in self.outcomes),
            "bytes_written": self.bytes_written,
            "seconds": round(self.seconds, 3),
            "problems": [problem.as_dict() for problem in self.problems],
        }


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A data set that could be read, and its cases that are to be prepared; handed to every process once."""

    data_set: DataSet
    cases: tuple[Case, ...]
    label_map: LabelMap
    config: PreprocessingConfig
    cache: Path


def prepare_data(
    order: PreparationOrder, *, on_start: Callable[[int], None], on_case: Callable[[str], None]
) -> Preparation:
    """Prepare everything; `on_start` is told how many cases there are, `on_case` each one that is done.

    Raises:
        DataError: a cache cannot be written, which is no case's fault, or a process was killed.
    """
    started = time.perf_counter()
    sources: list[_Source] = []
    problems: list[CaseProblem] = []
    for entry in order.entries:
        open_cache(entry.cache)
        try:
            sources.append(_source(entry, order))
        except DataError as error:
            problems.append(problem_of_data_set(entry.data.folder, error))
    places = [(source, case) for source, own in enumerate(sources) for case in range(len(own.cases))]
    on_start(len(places))
    found: dict[tuple[int, int], CaseOutcome] = {}
    # Closed at once where somebody stops this, because a generator that is left alone lets its pool work on to the end.
    with closing(_outcomes(sources, places, jobs=min(order.jobs, len(places)))) as coming:
        for place, outcome in coming:
            found[place] = outcome
            on_case(outcome.patient)
    outcomes = tuple(found[place] for place in places)
    return Preparation(
        order=order,
        tasks=tuple(sorted({source.label_map.task for source in sources})),
        outcomes=outcomes,
        problems=(*problems, *(problem for outcome in outcomes for problem in outcome.problems)),
        seconds=time.perf_counter() - started,
    )


def cpus_available() -> int:
    """How many CPUs this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _source(entry: CachedEntry, order: PreparationOrder) -> _Source:
    data_set = read_site_data(entry.data)
    training = data_set.training
    if order.at_site:
        cases = training + data_set.validation
    else:
        # Scans without a label come in data sets whose test labels are not public; no run reads them.
        labelled = (case for case in data_set.validation + data_set.test if case.label is not None)
        cases = (*training, *labelled)
    if not cases:
        raise DataError(f"{entry.data.folder}: has no case that a run would read")
    return _Source(
        data_set=data_set,
        cases=cases,
        label_map=task_of(data_set) if order.task is None else LABEL_MAPS[order.task],
        config=order.config,
        cache=entry.cache,
    )


def _outcomes(
    sources: list[_Source], places: list[tuple[int, int]], *, jobs: int
) -> Generator[tuple[tuple[int, int], CaseOutcome], None, None]:
    """Outcomes as they come; one job is done in this process."""
    if jobs <= 1:
        for place in places:
            yield place, _prepared(sources[place[0]], place[1])
        return
    with ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=_begin, initargs=(tuple(sources),)
    ) as pool:
        work: dict[Future[CaseOutcome], tuple[int, int]] = {pool.submit(_work, place): place for place in places}
        try:
            for done in as_completed(work):
                yield work[done], done.result()
        except BrokenProcessPool as error:
            raise DataError(
                "a process that prepared scans was killed, most likely because memory ran out: use fewer --jobs; what "
                "is prepared stays"
            ) from error
        except BaseException:
            # Whoever stops this waits for the cases that are at work, and not for all that are not.
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_sources: tuple[_Source, ...] = ()


def _begin(sources: tuple[_Source, ...]) -> None:
    global _sources  # noqa: PLW0603 - a process pool hands its workers something once in no other way
    stop_with_parent()
    # Ctrl-C reaches every process of a terminal; the parent stops the work, and a case that is begun is finished.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _sources = sources


def _work(place: tuple[int, int]) -> CaseOutcome:
    return _prepared(_sources[place[0]], place[1])


def _prepared(source: _Source, index: int) -> CaseOutcome:
    case = source.cases[index]
    problems = without_label(case, source.data_set)
    if not problems:
        try:
            cached = prepare_in(
                source.cache, case, data_set=source.data_set, label_map=source.label_map, config=source.config
            )
            warnings = warnings_about(case, cached.prepared.label, data_set=source.data_set, label_map=source.label_map)
            return CaseOutcome(
                patient=case.patient,
                entry=cached.entry,
                was_there=cached.was_there,
                num_bytes=entry_bytes(cached.entry),
                problems=tuple(warnings),
            )
        except FileError as error:
            problems = [problem_of(case, error)]
    return CaseOutcome(patient=case.patient, entry=None, was_there=False, num_bytes=0, problems=tuple(problems))
