"""The data of all cells, generated and preprocessed once and lent to every run folder by links.

What a data set holds is decided by its source, its name and the seed; equal ones are one folder under `shared/`.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from secfed.config import RunConfig, TrainingPlan
from secfed.experiment.data import DataTask, count_volumes, data_tasks, prepare_tasks

SHARED = "shared"
CACHE = "cache"
DONE = "prepared.json"


def shared_tasks(configs: Sequence[RunConfig], *, study: Path) -> list[tuple[DataTask, TrainingPlan]]:
    """Every data set that is not prepared yet, once, with a plan that says how."""
    found: dict[str, tuple[DataTask, TrainingPlan]] = {}
    for config in configs:
        for task in data_tasks(config, run_folder=study):
            found.setdefault(_key(task, config), (replace(task, folder=shared_folder(task, study)), config.plan()))
    done = _done(study)
    return [pair for key, pair in found.items() if key not in done]


def prepare_shared(configs: Sequence[RunConfig], *, study: Path, cores: int, on_volume: Callable[[str], None]) -> None:
    """Generate and preprocess what is missing."""
    tasks = shared_tasks(configs, study=study)
    if not tasks:
        return
    (study / SHARED).mkdir(parents=True, exist_ok=True)
    prepare_tasks(tasks, cache=study / CACHE, workers=cores, on_volume=on_volume)
    keys = {_key(task, config) for config in configs for task in data_tasks(config, run_folder=study)}
    (study / DONE).write_text(json.dumps(sorted(_done(study) | keys), indent=0), encoding="utf-8")


def volumes(tasks: Sequence[tuple[DataTask, TrainingPlan]]) -> int:
    """How many volume steps preparing these takes."""
    return count_volumes([task for task, _ in tasks])


def lend(config: RunConfig, run: Path, *, study: Path) -> None:
    """Link the shared data into a claimed run folder."""
    (run / "data").mkdir(exist_ok=True)
    for task in data_tasks(config, run_folder=run):
        link = run / "data" / task.name
        if task.source.phantom is not None and not link.exists():
            link.symlink_to(shared_folder(task, study).resolve(), target_is_directory=True)
    cache = run / CACHE
    if not cache.exists():
        cache.symlink_to((study / CACHE).resolve(), target_is_directory=True)


def shared_folder(task: DataTask, study: Path) -> Path:
    """Where a generated data set lies for all runs; a real one stays where it is."""
    if task.source.phantom is None:
        return task.folder
    text = json.dumps([task.source.phantom.model_dump(mode="json"), task.name, task.seed], sort_keys=True)
    return study / SHARED / f"{task.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _key(task: DataTask, plan: TrainingPlan) -> str:
    """Data set and preprocessing together: a cache entry belongs to both."""
    text = json.dumps(
        [task.source.model_dump(mode="json"), task.name, task.seed, plan.task, plan.preprocessing.model_dump()],
        sort_keys=True,
        default=str,
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _done(study: Path) -> set[str]:
    path = study / DONE
    return set(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else set()
