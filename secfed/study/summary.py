"""All tables of a study in one value: what the page shows, what `--json` prints and what a benchmark commits."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from secfed.results import plain
from secfed.study.costs import CostRow, ModelsAtSeed, cost_rows, models_at_seeds
from secfed.study.frontier import Frontier, frontier
from secfed.study.methods import MethodTable, method_table
from secfed.study.record import Experiment, StudyRecord
from secfed.study.training import TrainingRatio, training_ratios


@dataclass(frozen=True, kw_only=True)
class Hole:
    """A cell that is not complete, and every place, as (experiment's key, variant), where it leaves a hole."""

    cell: str
    seed: int
    status: str
    reason: str
    places: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class ExperimentSummary:
    """Everything that one experiment answers; `frontier` for experiments of that kind only."""

    experiment: Experiment
    methods: MethodTable
    ratios: tuple[TrainingRatio, ...]
    costs: tuple[CostRow, ...]
    models: tuple[ModelsAtSeed, ...]
    frontier: Frontier | None


@dataclass(frozen=True, kw_only=True)
class StudySummary:
    """The tables of a study."""

    experiments: tuple[ExperimentSummary, ...]
    holes: tuple[Hole, ...]
    complete: int
    planned: int
    seeds: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        found = plain(dataclasses.asdict(self))
        assert isinstance(found, dict)  # noqa: S101 - asdict gives a dictionary
        return found


def summarise(record: StudyRecord) -> StudySummary:
    """Compute every table; the same record gives the same numbers."""
    done = [cell for cell in record.cells if cell.status == "complete"]
    return StudySummary(
        experiments=tuple(_experiment(record, experiment) for experiment in record.experiments),
        holes=holes(record),
        complete=len(done),
        planned=len(record.cells),
        seeds=tuple(sorted({cell.seed for cell in done})),
    )


def holes(record: StudyRecord) -> tuple[Hole, ...]:
    """Every cell that is not complete, in the record's order."""
    return tuple(
        Hole(
            cell=cell.key,
            seed=cell.seed,
            status=cell.status,
            reason=cell.reason or "no reason was recorded",
            places=tuple(
                (experiment.key, variant.name)
                for experiment in record.experiments
                for variant in experiment.variants
                if cell.key in variant.cells
            ),
        )
        for cell in record.cells
        if cell.status != "complete"
    )


def _experiment(record: StudyRecord, experiment: Experiment) -> ExperimentSummary:
    methods = method_table(record, experiment)
    return ExperimentSummary(
        experiment=experiment,
        methods=methods,
        ratios=training_ratios(record, experiment),
        costs=cost_rows(record, experiment),
        models=models_at_seeds(record, experiment),
        frontier=frontier(record, experiment, methods) if experiment.kind == "frontier" else None,
    )
