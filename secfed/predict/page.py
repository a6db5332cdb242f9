"""What `secfed predict` shows: scans, scores per organ, and what could not be used, in the terminal or as JSON."""

import math
import statistics
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table

from clients.evaluation import CaseScore
from secfed.predict.order import Prediction, Segmented
from secfed.predict.sidecar import scores_as_dicts


def as_dict(found: Prediction) -> dict[str, Any]:
    """For --json."""
    trained = found.trained
    scores = [score for done in found.segmented for score in done.scores]
    return {
        "model": {
            "source": str(trained.source),
            "name": trained.name,
            "task": trained.label_map.task,
            "plan": trained.plan.digest().hex(),
            "notes": list(trained.notes),
        },
        "out": str(found.out),
        "device": found.device,
        "cases": [_case(done) for done in found.segmented],
        "organs": [
            {"organ": organ, "dice": _mean(dice), "hd95_mm": _mean(hd95), "n": len(dice)}
            for organ, dice, hd95 in _by_organ(trained.label_map.organs if scores else (), scores)
        ],
        "problems": [problem.as_dict() for problem in found.problems],
    }


def print_prediction(found: Prediction, console: Console) -> None:
    """Tables for a person, without the problems."""
    for note in found.trained.notes:
        console.print(note, style="yellow", markup=False, highlight=False, soft_wrap=True)
    if not found.segmented:
        return
    organs = found.trained.label_map.organs
    scores = [score for done in found.segmented for score in done.scores]
    table = Table(title=f"Segmented with {found.trained.name}, {found.trained.label_map.task}")
    table.add_column("scan", no_wrap=True)
    table.add_column("modality")
    table.add_column(f"found of {len(organs)}", justify="right")
    if scores:
        table.add_column("Dice", justify="right")
        table.add_column("HD95", justify="right")
    table.add_column("s", justify="right")
    for done in found.segmented:
        cells = [done.scan.name, done.modality.value, str(sum(ml > 0 for ml in done.volumes_ml.values()))]
        if scores:
            cells += [_number(_mean(s.dice for s in done.scores), 3), _number(_mean(s.hd95_mm for s in done.scores), 1)]
        table.add_row(*cells, f"{done.seconds:.1f}")
    console.print(table)
    if scores:
        console.print(_organ_table(organs, scores))
        console.print(
            "Dice is 3D, HD95 in mm, both on the scans' own voxels; means are over what labels or prediction have.",
            style="dim",
            highlight=False,
        )
    console.print(f"Labels: {found.out}", markup=False, highlight=False, soft_wrap=True)
    pages = [done.page for done in found.segmented if done.page is not None]
    if pages:
        console.print(f"To look at: {pages[0]}", markup=False, highlight=False, soft_wrap=True)


def _organ_table(organs: Iterable[str], scores: Iterable[CaseScore]) -> Table:
    table = Table()
    table.add_column("organ", no_wrap=True)
    for name in ("Dice", "HD95", "scans"):
        table.add_column(name, justify="right")
    for organ, dice, hd95 in _by_organ(organs, list(scores)):
        table.add_row(organ, _number(_mean(dice), 3), _number(_mean(hd95), 1), str(len(dice)))
    return table


def _by_organ(organs: Iterable[str], scores: list[CaseScore]) -> list[tuple[str, list[float], list[float]]]:
    """Per organ its defined values of Dice and HD95."""
    found = []
    for organ in organs:
        own = [score for score in scores if score.organ == organ]
        dice = [score.dice for score in own if math.isfinite(score.dice)]
        found.append((organ, dice, [score.hd95_mm for score in own if math.isfinite(score.hd95_mm)]))
    return found


def _case(done: Segmented) -> dict[str, Any]:
    return {
        "name": done.scan.name,
        "image": str(done.scan.image),
        "modality": done.modality.value,
        "segmentation": str(done.segmentation),
        "sidecar": str(done.sidecar),
        "preview": None if done.page is None else str(done.page),
        "normalisation_layers": done.layers,
        "volumes_ml": {organ: round(ml, 3) for organ, ml in done.volumes_ml.items()},
        "labels": None if done.scan.label is None else str(done.scan.label),
        "scores": scores_as_dicts(done.scores),
        "seconds": round(done.seconds, 3),
    }


def _mean(values: Iterable[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return statistics.fmean(finite) if finite else None


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
