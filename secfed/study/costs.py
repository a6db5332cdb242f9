"""What each variant's training took, and whether variants that must agree ended with the same model.

Each figure is a mean over the seeds that were trained. A cell that waited for its machine counts the waiting too.
"""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from secfed.results import JobRecord
from secfed.study.record import CellRecord, Experiment, StudyRecord, Variant
from secfed.study.training import passes_of


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """Means over seeds; `bytes_up` and `bytes_down` of one site in one round, `exchanges` of one round.

    `seconds` is wall time of training; `training_seconds` and `protection_seconds` are sums over all parties. What was
    not recorded, or does not travel, is None.
    """

    variant: str
    protection: str
    sites: int
    seeds: tuple[int, ...]
    passes: float | None
    rounds: float | None
    seconds: float | None
    training_seconds: float | None
    protection_seconds: float | None
    bytes_up: float | None
    bytes_down: float | None
    exchanges: float | None
    peak_memory_bytes: float | None


@dataclass(frozen=True, kw_only=True)
class ModelsAtSeed:
    """Which variants ended with which model, by the hex SHA-256 of the final parameters."""

    seed: int
    variants_of: dict[str, tuple[str, ...]]

    @property
    def same(self) -> bool:
        """Whether all variants have one model."""
        return len(self.variants_of) == 1


def cost_rows(record: StudyRecord, experiment: Experiment) -> tuple[CostRow, ...]:
    """One row per variant with a trained model."""
    rows = [_row(variant, record.complete(variant)) for variant in experiment.variants]
    return tuple(row for row in rows if row is not None)


def models_at_seeds(record: StudyRecord, experiment: Experiment) -> tuple[ModelsAtSeed, ...]:
    """The models per seed, where at least two variants were trained at it."""
    found: dict[int, dict[str, list[str]]] = {}
    for variant in experiment.variants:
        for cell in record.complete(variant):
            if cell.job is not None:
                found.setdefault(cell.seed, {}).setdefault(cell.job.model_hash, []).append(variant.name)
    return tuple(
        ModelsAtSeed(seed=seed, variants_of={model: tuple(names) for model, names in models.items()})
        for seed, models in sorted(found.items())
        if sum(len(names) for names in models.values()) > 1
    )


def _row(variant: Variant, cells: tuple[CellRecord, ...]) -> CostRow | None:
    if not cells:
        return None
    jobs = [cell.job for cell in cells if cell.job is not None]
    travelling = [job for job in jobs if job.training == "federated" and job.rounds and job.samples_seen]
    return CostRow(
        variant=variant.name,
        protection=cells[0].protection,
        sites=cells[0].sites,
        seeds=tuple(cell.seed for cell in cells),
        passes=passes_of(cells),
        rounds=_mean(job.rounds for job in jobs),
        seconds=_mean(job.seconds for job in jobs),
        training_seconds=_mean(job.training_seconds for job in jobs),
        protection_seconds=_mean(job.protection_seconds for job in travelling),
        bytes_up=_per_site_and_round(travelling, lambda job: job.bytes_up),
        bytes_down=_per_site_and_round(travelling, lambda job: job.bytes_down),
        exchanges=_mean(job.exchanges / job.rounds for job in travelling),
        peak_memory_bytes=_mean(cell.peak_memory_bytes for cell in cells if cell.peak_memory_bytes is not None),
    )


def _per_site_and_round(jobs: Iterable[JobRecord], total: Callable[[JobRecord], int]) -> float | None:
    return _mean(total(job) / (job.rounds * len(job.samples_seen)) for job in jobs)


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return statistics.fmean(known) if known else None
