"""Ratios to centralised training, with the passes over the data of both sides: a ratio is fair at equal passes only."""

import math
import statistics
from dataclasses import dataclass

from secfed.study.methods import Cells
from secfed.study.record import Experiment, StudyRecord
from secfed.study.scores import matched
from secfed.study.statistics import Estimate, ratio, within

# Passes that differ by less than this share count as the same number.
SAME_PASSES = 0.02


@dataclass(frozen=True, kw_only=True)
class TrainingRatio:
    """Dice of a variant divided by that of centralised training, `modality` None for the mean over all.

    `like_for_like` is None where the passes of one side are not recorded.
    """

    variant: str
    centralised: str
    modality: str | None
    ratio: Estimate
    passes: float | None
    centralised_passes: float | None
    like_for_like: bool | None
    dropped: int


def training_ratios(record: StudyRecord, experiment: Experiment) -> tuple[TrainingRatio, ...]:
    """One row per federated variant and modality, and one over all, where a like centralised variant was tested.

    Like means: in the same experiment, of the same task, modalities and augmentation, and if there are several, of the
    same normalisation and number of sites.
    """
    trained = {variant.name: record.complete(variant) for variant in experiment.variants}
    pooled = {name: cells for name, cells in trained.items() if cells and cells[0].training == "centralised"}
    modalities = sorted({scores.modality for cells in trained.values() for cell in cells for scores in cell.scores})
    rows = []
    for variant, cells in trained.items():
        if not cells or cells[0].training != "federated":
            continue
        alike = [name for name, others in pooled.items() if _must(others) == _must(cells)]
        if not alike:
            continue
        like = max(alike, key=lambda name: _agreeing(pooled[name], cells))
        for modality in (*modalities, None) if len(modalities) > 1 else modalities:
            found = _row(variant, cells, like, pooled[like], modality, tuple(modalities))
            rows += [] if found is None else [found]
    return tuple(rows)


def passes_of(cells: Cells) -> float | None:
    """Mean over the seeds of the passes over the training data; None where a cell does not tell."""
    passes = [None if cell.job is None else cell.job.effective_passes() for cell in cells]
    known = [value for value in passes if value is not None]
    return statistics.fmean(known) if known and len(known) == len(passes) else None


def like_for_like(ours: float | None, theirs: float | None) -> bool | None:
    """Whether two numbers of passes are the same but for `SAME_PASSES`; None where one is not known."""
    if ours is None or theirs is None:
        return None
    return abs(ours - theirs) <= SAME_PASSES * max(ours, theirs)


def _row(
    variant: str, cells: Cells, like: str, others: Cells, modality: str | None, modalities: tuple[str, ...]
) -> TrainingRatio | None:
    found = matched([cells, others], modalities if modality is None else [modality])
    share = None if found is None else ratio(*found.tables)
    if found is None or share is None:
        return None
    ours, theirs = (passes_of(tuple(cell for cell in side if cell.seed in found.seeds)) for side in (cells, others))
    return TrainingRatio(
        variant=variant,
        centralised=like,
        modality=modality,
        ratio=within(share, 0.0, math.inf),
        passes=ours,
        centralised_passes=theirs,
        like_for_like=like_for_like(ours, theirs),
        dropped=found.dropped,
    )


def _must(cells: Cells) -> tuple[str, str, tuple[str, ...]]:
    return cells[0].task, cells[0].augmentation, tuple(sorted(cells[0].seen))


def _agreeing(one: Cells, other: Cells) -> int:
    """How many of the facts that may differ are the same."""
    return sum(getattr(one[0], fact) == getattr(other[0], fact) for fact in ("normalisation", "sites"))
