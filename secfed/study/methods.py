"""The table of methods: Dice per variant, organ and test modality, each variant compared with the reference.

Rows keep the record's order. A variant without a trained model stays a row without values, so that no hole is hidden.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from secfed.results import MEAN
from secfed.study.record import CellRecord, Experiment, StudyRecord, Variant
from secfed.study.scores import Metric, matched
from secfed.study.statistics import Comparison, Estimate, compare, estimate, holm, within

# Figures are ranked as the page shows them, so that none looks better than its equal.
DIGITS = 3

Cells = tuple[CellRecord, ...]


@dataclass(frozen=True, kw_only=True)
class ModalityResult:
    """A variant on the test patients of one modality.

    `seen` says whether its models trained on that modality, None without a complete cell. `mean` is over organs, and
    `organs` holds one estimate each, None without values. `dropped` counts patients without a value at every seed.
    `comparison` is with the experiment's reference, over `shared_seeds` and the patients of both; `p_holm` corrects its
    p over all comparisons of the experiment. `best` names the columns ("mean" among them) where no variant is better.
    """

    modality: str
    seen: bool | None
    mean: Estimate | None
    organs: dict[str, Estimate | None]
    hd95_mm: Estimate | None
    dropped: int
    comparison: Comparison | None
    shared_seeds: int
    dropped_in_comparison: int
    p_holm: float | None = None
    best: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One variant; `overall` is the mean over the test modalities, None unless it has a value in each."""

    variant: str
    note: str
    cells: tuple[str, ...]
    seeds: tuple[int, ...]
    planned: int
    modalities: tuple[ModalityResult, ...]
    overall: Estimate | None
    overall_comparison: Comparison | None
    is_reference: bool

    def modality(self, name: str) -> ModalityResult:
        """The result in that modality; every row has all modalities of its table."""
        return next(result for result in self.modalities if result.modality == name)


@dataclass(frozen=True, kw_only=True)
class MethodTable:
    """All variants of one experiment; `family` counts the comparisons that Holm's correction covers.

    `smallest_p` is the least corrected p that any of them could have, by its number of patients; None without one.
    """

    experiment: str
    reference: str | None
    organs: tuple[str, ...]
    modalities: tuple[str, ...]
    rows: tuple[MethodRow, ...]
    family: int
    smallest_p: float | None

    def row(self, variant: str) -> MethodRow:
        """The row of that variant."""
        return next(row for row in self.rows if row.variant == variant)


def method_table(record: StudyRecord, experiment: Experiment) -> MethodTable:
    """Estimates, comparisons with the reference, and marks for the best."""
    trained = {variant.name: record.complete(variant) for variant in experiment.variants}
    scores = [scores for cells in trained.values() for cell in cells for scores in cell.scores]
    modalities = tuple(sorted({one.modality for one in scores}))
    organs = tuple(dict.fromkeys(organ for one in scores for organ in one.dice))
    reference = experiment.reference if experiment.reference in trained else None
    rows = [_row(variant, trained, reference, modalities, organs) for variant in experiment.variants]
    tests = [result.comparison.test for row in rows for result in row.modalities if result.comparison is not None]
    return MethodTable(
        experiment=experiment.key,
        reference=reference,
        organs=organs,
        modalities=modalities,
        rows=_marked(_corrected(rows, holm([test.p for test in tests])), organs),
        family=len(tests),
        smallest_p=min((min(1.0, len(tests) * test.smallest) for test in tests), default=None),
    )


def overall_estimate(cells: Cells, modalities: Sequence[str]) -> Estimate | None:
    """Mean over modalities, each counts the same, of the mean over organs."""
    found = matched([cells], modalities)
    return None if found is None else within(estimate(found.tables[0]), 0.0, 1.0)


def overall_comparison(ours: Cells, theirs: Cells, modalities: Sequence[str]) -> Comparison | None:
    """Ours minus theirs in that mean, over the seeds and patients of both."""
    found = matched([ours, theirs], modalities)
    return None if found is None else compare(*found.tables)


def _row(
    variant: Variant,
    trained: dict[str, Cells],
    reference: str | None,
    modalities: tuple[str, ...],
    organs: tuple[str, ...],
) -> MethodRow:
    cells = trained[variant.name]
    other = None if reference in (None, variant.name) else trained[str(reference)]
    return MethodRow(
        variant=variant.name,
        note=variant.note,
        cells=variant.cells,
        seeds=tuple(cell.seed for cell in cells),
        planned=len(variant.cells),
        modalities=tuple(_result(cells, other, modality, organs) for modality in modalities),
        overall=overall_estimate(cells, modalities),
        overall_comparison=None if other is None else overall_comparison(cells, other, modalities),
        is_reference=variant.name == reference,
    )


def _result(cells: Cells, other: Cells | None, modality: str, organs: tuple[str, ...]) -> ModalityResult:
    mean = matched([cells], [modality])
    both = None if other is None else matched([cells, other], [modality])
    return ModalityResult(
        modality=modality,
        seen=any(modality in cell.seen for cell in cells) if cells else None,
        mean=None if mean is None else within(estimate(mean.tables[0]), 0.0, 1.0),
        organs={organ: _estimate(cells, modality, organ, "dice") for organ in organs},
        hd95_mm=_estimate(cells, modality, MEAN, "hd95"),
        dropped=0 if mean is None else mean.dropped,
        comparison=None if both is None else compare(*both.tables),
        shared_seeds=0 if both is None else len(both.seeds),
        dropped_in_comparison=0 if both is None else both.dropped,
    )


def _estimate(cells: Cells, modality: str, organ: str, metric: Metric) -> Estimate | None:
    found = matched([cells], [modality], organ=organ, metric=metric)
    most = 1.0 if metric == "dice" else math.inf
    return None if found is None else within(estimate(found.tables[0]), 0.0, most)


def _corrected(rows: list[MethodRow], adjusted: list[float | None]) -> list[MethodRow]:
    """The rows with Holm's p, which come in the order of the rows and their modalities."""
    left = iter(adjusted)
    return [
        replace(
            row,
            modalities=tuple(
                result if result.comparison is None else replace(result, p_holm=next(left)) for result in row.modalities
            ),
        )
        for row in rows
    ]


def _marked(rows: list[MethodRow], organs: tuple[str, ...]) -> tuple[MethodRow, ...]:
    """The rows with `best`; a column that has one value only has no best."""
    best: dict[tuple[str, str], float] = {}
    for column in (MEAN, *organs):
        for modality in {result.modality for row in rows for result in row.modalities}:
            shown = [_shown(row.modality(modality), column) for row in rows]
            known = [value for value in shown if value is not None]
            if len(known) > 1:
                best[modality, column] = max(known)
    return tuple(
        replace(
            row,
            modalities=tuple(
                replace(
                    result,
                    best=tuple(
                        column
                        for column in (MEAN, *organs)
                        if (value := _shown(result, column)) is not None
                        and value == best.get((result.modality, column))
                    ),
                )
                for result in row.modalities
            ),
        )
        for row in rows
    )


def _shown(result: ModalityResult, column: str) -> float | None:
    found = result.mean if column == MEAN else result.organs[column]
    return None if found is None else round(found.mean, DIGITS)
