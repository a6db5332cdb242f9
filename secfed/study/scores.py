"""From the records of cells to complete tables (seeds, patients): what is compared with what, and what is left out.

A structure that is in neither reference nor prediction of a patient has no Dice. A patient's mean over organs is over
those that have a value at every seed, and in a comparison, in both variants, so that no side is tested on other organs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from secfed.results import MEAN
from secfed.study.record import CellRecord, ModalityScores
from secfed.study.statistics import Table

Metric = Literal["dice", "hd95"]


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Tables (seeds, patients) of the same seeds and patients: `tables[variant][modality]`.

    `dropped` counts patients whom some cell names and who lack a value somewhere.
    """

    tables: tuple[tuple[Table, ...], ...]
    seeds: tuple[int, ...]
    dropped: int


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """Scores of one variant in one modality, (seeds, patients, organs), NaN where there is none."""

    patients: tuple[str, ...]
    organs: tuple[str, ...]
    values: NDArray[np.float64]


def matched(
    variants: Sequence[Sequence[CellRecord]],
    modalities: Sequence[str],
    *,
    organ: str = MEAN,
    metric: Metric = "dice",
) -> Matched | None:
    """Tables over the seeds and patients for which every variant has a value; None where that leaves a modality empty.

    `organ` may be "mean": per patient, over the organs with a value at every seed of every variant.

    Raises:
        ValueError: two cells of a variant have one seed.
    """
    by_seed = [_by_seed(cells, modalities) for cells in variants]
    seeds = sorted(set.intersection(*(set(found) for found in by_seed))) if by_seed else []
    columns, dropped = [], 0
    for modality in modalities:
        panels = [_panel([found[seed] for seed in seeds], modality, metric) for found in by_seed]
        column = _common(panels, organ)
        if column is None:
            return None
        columns.append(column)
        dropped += len({name for panel in panels for name in panel.patients}) - column[0].shape[1]
    if not columns or not seeds:
        return None
    return Matched(tables=tuple(zip(*columns, strict=True)), seeds=tuple(seeds), dropped=dropped)


def _by_seed(cells: Sequence[CellRecord], modalities: Sequence[str]) -> dict[int, CellRecord]:
    """The cells that were tested in all of these modalities."""
    tested = [cell for cell in cells if set(modalities) <= {scores.modality for scores in cell.scores}]
    seeds = [cell.seed for cell in tested]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"the cells of a variant must have a seed each, got the seeds {sorted(seeds)}")
    return dict(zip(seeds, tested, strict=True))


def _panel(cells: Sequence[CellRecord], modality: str, metric: Metric) -> _Panel:
    found = [scores for cell in cells for scores in cell.scores if scores.modality == modality]
    patients = tuple(sorted({patient for scores in found for patient in scores.patients}))
    organs = tuple(dict.fromkeys(organ for scores in found for organ in _values(scores, metric)))
    values = np.full((len(found), len(patients), len(organs)), np.nan)
    for seed, scores in enumerate(found):
        rows = [patients.index(patient) for patient in scores.patients]
        for organ, column in _values(scores, metric).items():
            values[seed, rows, organs.index(organ)] = [np.nan if value is None else value for value in column]
    return _Panel(patients=patients, organs=organs, values=values)


def _common(panels: Sequence[_Panel], organ: str) -> list[Table] | None:
    """One table per panel, over the patients who have what is asked for in all of them."""
    first = panels[0]
    patients = [name for name in first.patients if all(name in other.patients for other in panels)]
    wanted = first.organs if organ == MEAN else (organ,)
    organs = [name for name in wanted if all(name in other.organs for other in panels)]
    if not patients or not organs:
        return None
    parts = [
        panel.values[:, [panel.patients.index(name) for name in patients]][
            :, :, [panel.organs.index(name) for name in organs]
        ]
        for panel in panels
    ]
    defined = np.all([np.isfinite(part).all(axis=0) for part in parts], axis=0)  # (patients, organs)
    kept = defined.any(axis=1)
    if not kept.any():
        return None
    counts = defined[kept].sum(axis=1)
    return [np.where(defined[kept], part[:, kept], 0.0).sum(axis=2) / counts for part in parts]


def _values(scores: ModalityScores, metric: Metric) -> dict[str, tuple[float | None, ...]]:
    return scores.dice if metric == "dice" else scores.hd95_mm
