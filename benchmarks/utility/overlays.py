"""Pictures for the report: the best, the median and the worst test patient of a model, on CT and on MRI.

Ranked by the mean Dice over organs that the model reached; chosen for looking at, never for choosing a model.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.utility.cells import RUNS, Cell
from clients.evaluation import predict
from secfed.data.cases import LABEL_MAPS
from secfed.experiment.data import test_cases
from secfed.experiment.evaluation import overlay_of
from secfed.experiment.job_process import MODEL
from secfed.experiment.plans import job_specs
from secfed.experiment.run_folder import RunFolder
from secfed.model import build_model, load_flat
from secfed.parameters import load_vector
from secfed.study.record import CellRecord

RANKS = ("best", "median", "worst")


def ranked_patients(record: CellRecord, modality: str) -> dict[str, tuple[str, float]]:
    """Patient ("test-ct/amos_0001") and mean Dice of the best, the median and the worst case of a modality."""
    [scores] = [one for one in record.scores if one.modality == modality]
    means = []
    for index, patient in enumerate(scores.patients):
        known = [values[index] for values in scores.dice.values() if values[index] is not None]
        if known:
            means.append((statistics.fmean(value for value in known if value is not None), patient))
    means.sort(reverse=True)
    places = dict(zip(RANKS, (0, (len(means) - 1) // 2, len(means) - 1), strict=True))
    return {rank: (means[place][1], means[place][0]) for rank, place in places.items()} if means else {}


def overlays_of(cells: Sequence[tuple[Cell, CellRecord]], *, study: Path) -> list[dict[str, Any]]:
    """Overlays in the order of the cells; a cell that is not complete has none."""
    made = []
    for cell, record in cells:
        if cell.config is None or record.status != "complete":
            continue
        run = RunFolder(study / RUNS / cell.run_key)
        plan = next(spec.plan for spec in job_specs(cell.config) if spec.model == cell.model)
        labels = LABEL_MAPS[cell.config.task]
        network = build_model(plan.model, num_classes=labels.num_classes)
        vector, layout, _ = load_vector(run.job_folder(cell.model) / MODEL)
        load_flat(network, vector, layout)
        cases = {f"{name}/{case.patient}": (name, case) for name, case in test_cases(cell.config, run_folder=run.path)}
        for scores in record.scores:
            for rank, (patient, dice) in ranked_patients(record, scores.modality).items():
                test_set, case = cases[patient]
                prediction = predict(network, case, plan=plan, device=torch.device("cpu"))
                title = f"{cell.variant}, {rank} case, Dice {dice:.2f}"
                made.append(overlay_of(case, prediction, model=title, test_set=test_set, labels=labels))
    return made
