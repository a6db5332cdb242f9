"""Where the aggregator keeps a deployed run, and what stands there about it; read by all of its processes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secfed.aggregator_files import JOURNAL, PLAN
from secfed.config import TrainingPlan
from secfed.errors import RunFolderError

RUNS = "runs"
READY = "ready.json"
FLOWER_RUNS = "flower-runs.json"
"""The ids under which Flower ran it, the newest last."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is: completed rounds of all, and the last line of its journal."""

    completed: int
    rounds: int
    last: dict[str, Any]


def run_place(folder: Path, name: str) -> Path:
    """The folder of a run that was prepared; raises RunFolderError where there is none."""
    place = folder / RUNS / name
    if not (place / READY).exists():
        known = sorted(found.parent.name for found in (folder / RUNS).glob(f"*/{READY}"))
        raise RunFolderError(f"{place}: no such run; runs here: {', '.join(known) or 'none'}")
    return place


def progress_of(place: Path) -> Progress:
    """Read from plan and journal."""
    plan = TrainingPlan.model_validate_json((place / PLAN).read_text(encoding="utf-8"))
    last: dict[str, Any] = {}
    path = place / JOURNAL
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            last = json.loads(line)
        except ValueError:
            # A kill may have cut the last line short.
            continue
    return Progress(completed=int(last.get("round", 0)), rounds=plan.federation.rounds, last=last)


def flower_runs(place: Path) -> list[str]:
    """Flower's ids of this run, the newest last."""
    path = place / FLOWER_RUNS
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else []
