"""From the run folders of a study to its record: what every cell was, what it took, and its scores per patient."""

import hashlib
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.utility.cells import RUNS, Cell
from benchmarks.utility.grid_file import Grid
from benchmarks.utility.worker import MEMORY, Outcome
from secfed.config import RunConfig
from secfed.errors import SecfedError
from secfed.experiment.evaluation import CaseResult
from secfed.experiment.job_process import SCORES
from secfed.experiment.plans import job_specs
from secfed.experiment.run_folder import RunFolder
from secfed.provenance import code_digest, platform_line, versions
from secfed.results import FILE_NAME, Provenance, RunRecord
from secfed.study.record import CellRecord, CellStatus, Experiment, LeakageRow, ModalityScores, StudyRecord, Variant

NOT_RUN = "not trained yet"


def collect(
    grid: Grid,
    cells: Sequence[Cell],
    outcomes: Mapping[str, Outcome],
    *,
    study: Path,
    command: str,
    started: str,
    clock: float,
    leakage: tuple[LeakageRow, ...] = (),
) -> StudyRecord:
    """Everything that is known now; cells without a finished run stand in it with the reason."""
    records: dict[str, CellRecord] = {}
    for cell in cells:
        if cell.key not in records:
            records[cell.key] = _record(cell, outcomes.get(cell.run_key), study=study)
    # The first that tells: reading every run's results again would be the same work a second time.
    device = next((found for cell in cells if (found := _device(study, cell)) is not None), "not known")
    return StudyRecord(
        name=grid.table.name,
        scale=grid.scale_name,
        command=command,
        generated=all(cell.config is None or _generated(cell.config) for cell in cells),
        provenance=Provenance(
            config_digest=_grid_digest(cells),
            code_digest=code_digest(),
            seed=min(grid.scale.seeds),
            versions=versions(),
            device=device,
            python=platform_line(),
            started=started,
            seconds_total=round(time.monotonic() - clock, 1),
        ),
        experiments=_experiments(grid, cells),
        cells=tuple(records.values()),
        leakage=leakage,
    )


def _experiments(grid: Grid, cells: Sequence[Cell]) -> tuple[Experiment, ...]:
    made = []
    for table in grid.table.experiments:
        own = [cell for cell in cells if cell.experiment == table.key]
        names = dict.fromkeys(cell.variant for cell in own)
        if not names:
            continue
        made.append(
            Experiment(
                key=table.key,
                title=table.title,
                question=table.question,
                kind=table.kind,
                task=table.task,
                reference=table.reference,
                variants=tuple(
                    Variant(
                        name=name,
                        note=next(cell.note for cell in own if cell.variant == name),
                        cells=tuple(cell.key for cell in own if cell.variant == name),
                    )
                    for name in names
                ),
            )
        )
    return tuple(made)


def _record(cell: Cell, outcome: Outcome | None, *, study: Path) -> CellRecord:
    config, folder = cell.config, study / RUNS / cell.run_key
    if config is None:
        return _without_run(cell, status="failed", reason=cell.problem or "no configuration")
    if not (folder / FILE_NAME).exists():
        if outcome is not None and outcome.reason is not None:
            return _without_run(cell, status="failed", reason=outcome.reason)
        return _without_run(cell, status="missing", reason=NOT_RUN)
    try:
        return _complete(cell, config, RunRecord.load(folder), study=study)
    except (SecfedError, OSError, ValueError, KeyError, TypeError) as error:
        return _without_run(cell, status="failed", reason=f"its results cannot be read: {error}")


def _complete(cell: Cell, config: RunConfig, run: RunRecord, *, study: Path) -> CellRecord:
    folder = study / RUNS / cell.run_key
    spec = next(spec for spec in job_specs(config) if spec.model == cell.model)
    found = json.loads((RunFolder(folder).job_folder(cell.model) / SCORES).read_text(encoding="utf-8"))
    rows = [row for row in run.results if row.model == cell.model]
    job = run.job(cell.model)
    privacy = None if job is None else job.privacy
    memory = folder / MEMORY
    return replace(
        _described(cell, config),
        training=spec.training,
        privacy=rows[0].privacy,
        epsilon=None if privacy is None else privacy.epsilon,
        delta=None if privacy is None or privacy.epsilon is None else privacy.delta,
        seen=tuple(sorted(spec.modalities)),
        code_digest=run.provenance.code_digest,
        status="complete",
        job=job,
        seconds=None if job is None else job.seconds,
        peak_memory_bytes=int(memory.read_text(encoding="utf-8")) if memory.exists() else None,
        scores=_scores([CaseResult(**entry) for entry in found]),
        curves=tuple(point for point in run.curves if point.model == cell.model),
    )


def _described(cell: Cell, config: RunConfig) -> CellRecord:
    """What the configuration alone says."""
    return replace(
        _blank(cell),
        augmentation=config.augmentation.label(),
        normalisation=config.normalisation_label(),
        federation=config.federation.label(),
        sites=1 if cell.model.startswith("site:") else len(config.sites),
        protection=config.protection.mode,
        config_digest=config.run_digest(),
    )


def _without_run(cell: Cell, *, status: CellStatus, reason: str) -> CellRecord:
    described = _blank(cell) if cell.config is None else _described(cell, cell.config)
    return replace(described, status=status, reason=reason)


def _blank(cell: Cell) -> CellRecord:
    return CellRecord(
        key=cell.key,
        task=cell.task,
        seed=cell.seed,
        model=cell.model,
        training="unknown",
        augmentation="unknown",
        normalisation="unknown",
        federation="unknown",
        sites=0,
        protection="unknown",
        privacy="off",
        epsilon=None,
        delta=None,
        seen=(),
        config_digest="",
        code_digest=code_digest(),
        status="missing",
    )


def _scores(results: Sequence[CaseResult]) -> tuple[ModalityScores, ...]:
    made = []
    for modality in sorted({result.modality for result in results}):
        own: dict[tuple[str, str], list[CaseResult]] = {}
        for result in results:
            if result.modality == modality:
                own.setdefault((f"{result.test_set}/{result.patient}", result.organ), []).append(result)
        patients, organs = (tuple(dict.fromkeys(key[part] for key in own)) for part in (0, 1))
        made.append(
            ModalityScores(
                modality=modality,
                patients=patients,
                dice={
                    organ: tuple(
                        _mean([found.dice for found in own.get((name, organ), ())], digits=5) for name in patients
                    )
                    for organ in organs
                },
                hd95_mm={
                    organ: tuple(
                        _mean([found.hd95_mm for found in own.get((name, organ), ())], digits=3) for name in patients
                    )
                    for organ in organs
                },
            )
        )
    return tuple(made)


def _mean(scans: Sequence[float | None], *, digits: int) -> float | None:
    """Over a patient's scans, of which none may have the organ drawn, or more than one."""
    defined = [value for value in scans if value is not None]
    return round(statistics.fmean(defined), digits) if defined else None


def _generated(config: RunConfig) -> bool:
    return all(source.phantom is not None for source in (*config.sites, *config.test))


def _device(study: Path, cell: Cell) -> str | None:
    folder = study / RUNS / cell.run_key
    try:
        return RunRecord.load(folder).provenance.device if (folder / FILE_NAME).exists() else None
    except SecfedError:
        return None


def _grid_digest(cells: Sequence[Cell]) -> str:
    """One digest over the configurations of all cells."""
    return hashlib.sha256("".join(sorted({cell.key for cell in cells})).encode()).hexdigest()
