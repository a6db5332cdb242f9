"""Which organs of the task somebody has drawn in the training cases of a run, and which no model of it can learn.

Runs on the experimenter's machine, where the configuration names every site's data. In a deployment nobody can ask
this: what a site has drawn is the site's own knowledge, and `secfed provision check` tells it to the site alone.

Where no training case has an organ drawn, the loss takes it and background together, so the model is free to call
background by its name: what it says of the organ means nothing, and so do the scores.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from secfed.config import RunConfig
from secfed.data.cases import LABEL_MAPS
from secfed.experiment.data import data_tasks


def organs_drawn(config: RunConfig, *, run_folder: Path) -> dict[str, frozenset[str]]:
    """Per site: the task's organs that are drawn in at least one of its training cases, by what its data set says.

    No scan is opened: `secfed data inspect` tells of an organ that is said to be drawn, and has a voxel in no label.

    Raises:
        DataError: a data set cannot be read.
    """
    found = {}
    for task in data_tasks(config, run_folder=run_folder):
        if not task.is_test:
            data_set = task.read()
            drawn = (data_set.annotated(case, LABEL_MAPS[config.task]) for case in data_set.training)
            found[task.name] = frozenset(organ for organs in drawn for organ in organs)
    return found


def never_drawn(drawn: Mapping[str, frozenset[str]], sites: Iterable[str], *, task: str) -> tuple[str, ...]:
    """The task's organs that none of these sites has drawn, in the task's order."""
    somewhere = frozenset[str]().union(*(drawn[site] for site in sites))
    return tuple(organ for organ in LABEL_MAPS[task].organs if organ not in somewhere)
