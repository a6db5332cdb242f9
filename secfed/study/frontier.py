"""Dice against epsilon: one series per place of the noise, and the levels that have none, or none that bounds anything.

An epsilon travels with the text that gives its delta, unit, relation and accountant; where a record has no such text,
the text says what is missing. Several seeds have one epsilon each, and the largest counts.
"""

import math
from dataclasses import dataclass

from secfed.results import NO_DP, SIMULATED_NOISE
from secfed.study.methods import Cells, MethodTable
from secfed.study.record import CellRecord, Experiment, StudyRecord
from secfed.study.scores import matched
from secfed.study.statistics import Comparison, Estimate, ratio, within

# Above it, an epsilon excludes nothing that anybody could do, and its model is one without privacy: a level.
BOUNDS_NOTHING = 100.0


@dataclass(frozen=True, kw_only=True)
class FrontierPoint:
    """What one variant reached at its epsilon; `text` is its guarantee in full, `companions` that without the epsilon.

    `dice` is the mean over test modalities, `by_modality` that in each; `against` is the difference from the
    experiment's reference, and `share` the ratio to it.
    """

    variant: str
    epsilon: float
    delta: float | None
    text: str
    companions: str
    simulated: bool
    seeds: tuple[int, ...]
    dice: Estimate
    by_modality: dict[str, Estimate | None]
    against: Comparison | None
    share: Estimate | None


@dataclass(frozen=True, kw_only=True)
class FrontierSeries:
    """Points of one mode, such as "distributed", in rising order of epsilon."""

    mode: str
    points: tuple[FrontierPoint, ...]


@dataclass(frozen=True, kw_only=True)
class FrontierLevel:
    """A variant whose Dice holds at every epsilon, because it has none, or one that bounds nothing (with its text).

    `clipped` says that patients were clipped, and no noise added.
    """

    variant: str
    epsilon: float | None
    text: str | None
    training: str
    clipped: bool
    seeds: tuple[int, ...]
    dice: Estimate
    by_modality: dict[str, Estimate | None]
    against: Comparison | None
    share: Estimate | None


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """The figure of one experiment."""

    experiment: str
    modalities: tuple[str, ...]
    series: tuple[FrontierSeries, ...]
    levels: tuple[FrontierLevel, ...]

    @property
    def points(self) -> tuple[FrontierPoint, ...]:
        """The points of all series."""
        return tuple(point for one in self.series for point in one.points)


def frontier(record: StudyRecord, experiment: Experiment, table: MethodTable) -> Frontier:
    """Points and levels of the variants that were trained and tested in every modality."""
    against = next((record.complete(one) for one in experiment.variants if one.name == table.reference), ())
    series: dict[str, list[FrontierPoint]] = {}
    levels = []
    for variant in experiment.variants:
        cells, row = record.complete(variant), table.row(variant.name)
        if not cells or row.overall is None:
            continue
        by_modality = {result.modality: result.mean for result in row.modalities}
        worst = max(cells, key=lambda cell: -1.0 if cell.epsilon is None else cell.epsilon)
        epsilon = worst.epsilon
        share = None if row.is_reference else _share(cells, against, table.modalities)
        if epsilon is None or epsilon > BOUNDS_NOTHING:
            levels.append(
                FrontierLevel(
                    variant=variant.name,
                    epsilon=epsilon,
                    text=None if epsilon is None else privacy_text(worst),
                    training=cells[0].training,
                    clipped=privacy_text(cells[0]) == NO_DP,
                    seeds=row.seeds,
                    dice=row.overall,
                    by_modality=by_modality,
                    against=row.overall_comparison,
                    share=share,
                )
            )
            continue
        series.setdefault(mode_of(worst), []).append(
            FrontierPoint(
                variant=variant.name,
                epsilon=epsilon,
                delta=worst.delta,
                text=privacy_text(worst),
                companions=companions(worst),
                simulated=is_simulated(cells),
                seeds=row.seeds,
                dice=row.overall,
                by_modality=by_modality,
                against=row.overall_comparison,
                share=share,
            )
        )
    return Frontier(
        experiment=experiment.key,
        modalities=table.modalities,
        series=tuple(
            FrontierSeries(mode=mode, points=tuple(sorted(points, key=lambda point: point.epsilon)))
            for mode, points in series.items()
        ),
        levels=tuple(levels),
    )


def mode_of(cell: CellRecord) -> str:
    """Where noise is added: "local", "distributed", "silo" or "off"."""
    paid = None if cell.job is None else cell.job.privacy
    return paid.mode if paid is not None else cell.privacy.partition(":")[0].strip()


def privacy_text(cell: CellRecord) -> str:
    """The guarantee in full, or that there is none; never an epsilon without what it means."""
    paid = None if cell.job is None else cell.job.privacy
    if paid is not None:
        return paid.text()
    return cell.privacy if cell.epsilon is None else f"{mode_of(cell)}: epsilon {cell.epsilon:.4g} {companions(cell)}"


def companions(cell: CellRecord) -> str:
    """What belongs behind an epsilon: delta, unit, relation, accountant, and whether the noise was simulated."""
    paid = None if cell.job is None else cell.job.privacy
    if paid is not None:
        return f"at {paid.text().partition(' at ')[2]}"
    told = cell.privacy.partition(" at delta ")[2]
    if told:
        return f"at delta {told}"
    delta = "an unknown delta" if cell.delta is None else f"delta {cell.delta:g}"
    return f"at {delta}; unit, relation and accountant are not recorded: no guarantee can be read from this"


def is_simulated(cells: Cells) -> bool:
    """Whether the noise of any cell follows from its seed."""
    paid = [cell.job.privacy for cell in cells if cell.job is not None and cell.job.privacy is not None]
    return any(one.simulated for one in paid) or any(SIMULATED_NOISE in cell.privacy for cell in cells)


def _share(cells: Cells, against: Cells, modalities: tuple[str, ...]) -> Estimate | None:
    found = matched([cells, against], modalities)
    share = None if found is None else ratio(*found.tables)
    return None if share is None else within(share, 0.0, math.inf)
