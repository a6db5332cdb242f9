"""A run's scans: generate what is configured as phantom, then read and preprocess everything, before any training.

Whatever is wrong with a volume, a label or a modality shows here, as a DataError that names the file. Work is spread
over processes, one data set each, and every volume is reported as it is done. Nothing here imports torch.
"""

import hashlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.queues import Queue
from pathlib import Path

from secfed.config import DataSource, PreprocessingConfig, RunConfig, SiteConfig, TestSetConfig, TrainingPlan
from secfed.data.cases import LABEL_MAPS, Case, Modality
from secfed.data.preprocessing import PreparedCase, prepare
from secfed.data.readers import DataSet, modality_by_name
from secfed.data.site_data import entry_of, read_site_data
from secfed.errors import DataError
from secfed.experiment.run_folder import RunFolder
from secfed.lifeline import stop_with_parent


@dataclass(frozen=True, kw_only=True)
class DataTask:
    """One data set of a run. `modality` is None for a test set that may mix both."""

    name: str
    source: SiteConfig | TestSetConfig
    folder: Path
    modality: Modality | None
    is_test: bool
    seed: int

    def read(self) -> DataSet:
        """The data set as the configuration says that it is to be read; raises DataError where it cannot be."""
        return read_site_data(entry_of(self.source, self.folder))


def data_tasks(config: RunConfig, *, run_folder: Path) -> list[DataTask]:
    """Every data set of the run: sites first, then test sets."""
    sources: tuple[SiteConfig | TestSetConfig, ...] = (*config.sites, *config.test)
    return [
        DataTask(
            name=source.name,
            source=source,
            folder=source.folder if source.folder is not None else run_folder / "data" / source.name,
            modality=None if source.modality is None else Modality(source.modality),
            is_test=isinstance(source, TestSetConfig),
            seed=phantom_seed(source, name=source.name, run_seed=config.seed),
        )
        for source in sources
    ]


def phantom_seed(source: DataSource, *, name: str, run_seed: int) -> int:
    """The configured seed, or 48 bits bound to the run's seed and the data set's name."""
    if source.phantom is not None and source.phantom.seed is not None:
        return source.phantom.seed
    return int.from_bytes(hashlib.sha256(f"phantom/{run_seed}/{name}".encode()).digest()[:6], "big")


def count_volumes(tasks: list[DataTask]) -> int:
    """How many volumes will be reported: generated ones twice, once when written and once when preprocessed."""
    total = 0
    for task in tasks:
        if task.source.phantom is not None:
            total += 2 * (task.source.phantom.train + task.source.phantom.validation + task.source.phantom.test)
        else:
            total += len(used_cases(task, task.read()))
    return total


def used_cases(task: DataTask, data_set: DataSet) -> tuple[Case, ...]:
    """The labelled cases that the run reads: training and validation of a site, everything labelled of a test set.

    Raises:
        DataError: a site has nothing to train on, a test set has no labels, or the name of a site's scan says that it
            was made with another modality than the site's.
    """
    if not task.is_test and not any(case.label is not None for case in data_set.training):
        raise DataError(f"{task.folder}: site '{task.name}' has no labelled training cases")
    cases = data_set.training + data_set.validation
    if task.is_test:
        cases += data_set.test
    cases = tuple(case for case in cases if case.label is not None)
    if not cases:
        raise DataError(f"{task.folder}: '{task.name}' has no labelled cases")
    for case in cases:
        told = modality_by_name(case.image)
        if task.modality is not None and told not in (None, task.modality):
            kind = "test set" if task.is_test else "site"
            raise DataError(
                f"{case.image}: the name of a {told} scan in {kind} '{task.name}', which is configured as "
                f"{task.modality}; {'a test set of both says none' if task.is_test else 'a site holds one modality'}"
            )
    return cases


def prepare_data(
    config: RunConfig, *, run_folder: Path, workers: int | None = None, on_volume: Callable[[str], None]
) -> None:
    """Generate and preprocess all data sets; `on_volume` is called with each data set's name, once per volume step.

    Raises:
        DataError: a volume, label or modality cannot be used.
    """
    prepare_tasks(
        [(task, config) for task in data_tasks(config, run_folder=run_folder)],
        cache=RunFolder(run_folder).cache,
        workers=workers,
        on_volume=on_volume,
    )


def prepare_tasks(
    tasks: Sequence[tuple[DataTask, TrainingPlan]],
    *,
    cache: Path,
    workers: int | None = None,
    on_volume: Callable[[str], None],
) -> None:
    """Generate and preprocess data sets, each as its plan says; `on_volume` is as for `prepare_data`.

    Raises:
        DataError: a volume, label or modality cannot be used.
    """
    context = multiprocessing.get_context("spawn")
    queue: Queue[str | None] = context.Queue()
    with ProcessPoolExecutor(
        workers or min(len(tasks), os.cpu_count() or 1), mp_context=context, initializer=_share, initargs=(queue,)
    ) as pool:
        jobs = [
            pool.submit(_prepare_task, task, plan.preprocessing, plan.task, cache)
            # Large data sets first, so that the processes end together.
            for task, plan in sorted(tasks, key=lambda pair: _size(pair[0]), reverse=True)
        ]
        for job in jobs:
            job.add_done_callback(lambda _: queue.put(None))
        try:
            for name in _until_done(queue, len(jobs)):
                on_volume(name)
            for job in jobs:
                job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def test_cases(config: RunConfig, *, run_folder: Path) -> list[tuple[str, PreparedCase]]:
    """All prepared test cases with the name of their set, in a fixed order."""
    found = []
    for task in data_tasks(config, run_folder=run_folder):
        if not task.is_test:
            continue
        data_set = task.read()
        for case in used_cases(task, data_set):
            found.append(
                (
                    task.name,
                    prepare(
                        case,
                        data_set=data_set,
                        label_map=LABEL_MAPS[config.task],
                        config=config.preprocessing,
                        cache=RunFolder(run_folder).cache,
                    ),
                )
            )
    return found


def _size(task: DataTask) -> int:
    phantom = task.source.phantom
    return 0 if phantom is None else phantom.train + phantom.validation + phantom.test


def _until_done(queue: "Queue[str | None]", tasks: int) -> Iterator[str]:
    done = 0
    while done < tasks:
        name = queue.get()
        if name is None:
            done += 1
        else:
            yield name


_progress: "Queue[str | None] | None" = None


def _share(queue: "Queue[str | None]") -> None:
    global _progress  # noqa: PLW0603 - a process pool hands a queue to its workers in no other way
    stop_with_parent()
    _progress = queue


def _report(name: str) -> None:
    if _progress is not None:
        _progress.put(name)


def _prepare_task(task: DataTask, preprocessing: PreprocessingConfig, label_map: str, cache: Path) -> None:
    if task.source.phantom is not None:
        generate(task)
    data_set = task.read()
    for case in used_cases(task, data_set):
        prepare(case, data_set=data_set, label_map=LABEL_MAPS[label_map], config=preprocessing, cache=cache)
        _report(task.name)


def generate(task: DataTask) -> None:
    """Write a configured phantom data set into the task's folder; a complete one is left as it is."""
    from secfed.data.phantom.protocol import PROTOCOLS
    from secfed.data.phantom.writer import write_phantom

    phantom = task.source.phantom
    if phantom is None:
        return
    write_phantom(
        task.folder,
        splits={"train": phantom.train, "validation": phantom.validation, "test": phantom.test},
        modality=task.modality or PROTOCOLS[phantom.protocol].modality,
        protocol=phantom.protocol,
        population=phantom.population,
        seed=task.seed,
        on_case=lambda _: _report(task.name),
    )
