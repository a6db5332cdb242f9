"""A whole run, top to bottom: claim the folder, make the data ready, train the jobs, collect, write the results.

Every step finds what an earlier attempt finished, so a run that was killed anywhere goes on where it stopped.
"""

import datetime
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aggregator.folder import read_journal
from clients.books import HISTOGRAM, TIMINGS
from secfed.aggregator_files import JOURNAL, VIEW
from secfed.config import RunConfig
from secfed.data.prepared_cache import open_cache
from secfed.engines.job import AGGREGATOR_FOLDER, SITES_FOLDER
from secfed.errors import ConfigError
from secfed.experiment.checks import check_computing, check_run
from secfed.experiment.curves import curve_points
from secfed.experiment.data import count_volumes, data_tasks, prepare_data
from secfed.experiment.drawn_organs import never_drawn, organs_drawn
from secfed.experiment.job_process import MODEL, OVERLAYS, SAMPLES, SCORES, EngineName, JobOrder, train_and_test
from secfed.experiment.plans import JobSpec, job_specs
from secfed.experiment.privacy_spend import epsilon_curve, privacy_record
from secfed.experiment.run_folder import CONFIG, RunFolder
from secfed.experiment.scheduler import JobProgress, run_jobs
from secfed.provenance import check_single_root, code_digest, platform_line, versions
from secfed.results import JobRecord, Provenance, RunRecord
from secfed.site_config import ONE_DEVICE, Computing

STARTED = "started.json"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Callbacks for whoever watches: totals first, then steps.

    `organs_never_drawn` is called before training with those that no training case of any site has drawn, if any.
    """

    data_started: Callable[[int], None]
    volume_done: Callable[[str], None]
    jobs_started: Callable[[list[JobSpec]], None]
    job_moved: Callable[[JobProgress], None]
    organs_never_drawn: Callable[[tuple[str, ...]], None] = lambda _: None


def run_experiment(
    config: RunConfig,
    *,
    out: Path,
    engine: EngineName,
    resume: bool,
    cores: int | None,
    computing: Computing = ONE_DEVICE,
    progress: Progress,
    cache: Path | None = None,
) -> RunRecord:
    """Run everything that `config` asks for into the folder `out` and return what was written to its `run.json`.

    With `cache`, preprocessed volumes are taken from there and kept there, and not in the run folder. `computing` is
    how the sites of all jobs train; it is no part of the run, and another attempt may have another.

    Raises:
        SecfedError: any of its kinds; nothing of another run is overwritten, and the folder can be resumed.
    """
    check_single_root()
    check_run(config)
    specs = job_specs(config)
    check_computing(computing, specs)
    if cache is not None:
        _require_outside(cache, out)
        open_cache(cache)
    with RunFolder(out) as run:
        run.claim(config, resume=resume, cache=cache)
        if run.complete:
            return RunRecord.load(out)
        started = _remember_start(out)
        clock = time.monotonic()
        progress.data_started(count_volumes(data_tasks(config, run_folder=out)))
        prepare_data(config, run_folder=out, workers=cores, on_volume=progress.volume_done)
        drawn = organs_drawn(config, run_folder=out)
        absent = never_drawn(drawn, drawn, task=config.task)
        if absent:
            progress.organs_never_drawn(absent)
        progress.jobs_started(specs)
        orders = _orders(config, specs, out=out, engine=engine, computing=computing)
        run_jobs(orders, cores=cores, on_progress=progress.job_moved)
        record = collect(run, config, specs, started=started, seconds=time.monotonic() - clock)
        record.save(out)
        return record


def _require_outside(cache: Path, out: Path) -> None:
    if cache.resolve().is_relative_to(out.resolve()):
        raise ConfigError(
            f"--cache {cache}: lies in the run folder {out}, which has a cache of its own: name another, or none"
        )


def run_in_this_process(
    config: RunConfig,
    *,
    out: Path,
    engine: EngineName = "in_process",
    workers: int = 1,
    before: Callable[[Path], None],
) -> RunRecord:
    """The same run, its jobs one after the other in the calling process, which spares a start per job.

    For a worker that trains many runs. A finished run is read, a half-written one goes on. `before` is called in the
    claimed folder and has to put all data there, preprocessed.

    Raises:
        SecfedError: any of its kinds; nothing of another run is overwritten, and the folder can be resumed.
    """
    check_single_root()
    check_run(config)
    specs = job_specs(config)
    with RunFolder(out) as run:
        run.claim(config, resume=(out / CONFIG).exists())
        if run.complete:
            return RunRecord.load(out)
        started, clock = _remember_start(out), time.monotonic()
        before(out)
        for order in _orders(config, specs, out=out, engine=engine):
            train_and_test(replace(order, workers=workers))
        record = collect(run, config, specs, started=started, seconds=time.monotonic() - clock)
        record.save(out)
        return record


def _orders(
    config: RunConfig, specs: list[JobSpec], *, out: Path, engine: EngineName, computing: Computing = ONE_DEVICE
) -> list[JobOrder]:
    return [
        JobOrder(run_folder=out, config=config, model=spec.model, engine=engine, workers=1, computing=computing)
        for spec in specs
    ]


def collect(run: RunFolder, config: RunConfig, specs: list[JobSpec], *, started: str, seconds: float) -> RunRecord:
    """Read the finished jobs' files into one record; copies the first job's model and the figures' data."""
    from secfed.data.cases import LABEL_MAPS
    from secfed.experiment.evaluation import CaseResult, rows

    results, jobs, curves = [], [], []
    drawn = organs_drawn(config, run_folder=run.path)
    for spec in specs:
        folder = run.job_folder(spec.model)
        scores = [CaseResult(**entry) for entry in json.loads((folder / SCORES).read_text(encoding="utf-8"))]
        privacy = privacy_record(spec.plan, folder)
        found = rows(spec, scores, seed=config.seed, labels=LABEL_MAPS[config.task])
        results += [replace(row, privacy="off" if privacy is None else privacy.text()) for row in found]
        entries = read_journal(folder / AGGREGATOR_FOLDER / JOURNAL)
        sites = [site.name for sources in spec.participants.values() for site in sources]
        absent = never_drawn(drawn, sites, task=config.task)
        jobs.append(replace(_job_record(spec, folder, entries), privacy=privacy, never_drawn=absent))
        curves += curve_points(spec.model, folder, entries)
        curves += epsilon_curve(spec.model, folder)
    _copy_outputs(run, specs)
    return RunRecord(
        name=config.name,
        provenance=Provenance(
            config_digest=config.run_digest(),
            code_digest=code_digest(),
            seed=config.seed,
            versions=versions(),
            device=_device(run, specs[0]),
            python=platform_line(),
            started=started,
            seconds_total=round(seconds, 1),
        ),
        jobs=tuple(jobs),
        results=tuple(results),
        curves=tuple(curves),
    )


def _device(run: RunFolder, spec: JobSpec) -> str:
    """What the first job's model was tested on, and trained on where its sites had the choice."""
    samples = json.loads((run.job_folder(spec.model) / SAMPLES).read_text(encoding="utf-8"))
    return str(samples["device"])


def _job_record(spec: JobSpec, folder: Path, entries: list[dict[str, Any]]) -> JobRecord:
    rounds = [entry for entry in entries if entry["event"] == "round"]
    timings = {
        (site.name, entry["round"]): entry
        for site in (folder / SITES_FOLDER).iterdir()
        for entry in read_journal(site / "books" / TIMINGS)
    }
    samples = json.loads((folder / SAMPLES).read_text(encoding="utf-8"))
    protection = sum(entry["protection_seconds"] for entry in entries)
    return JobRecord(
        model=spec.model,
        training=spec.training,
        augmentation=spec.plan.augmentation.label(),
        protection=spec.plan.protection.mode,
        rounds=len(rounds),
        seconds=sum(entry["seconds"] for entry in entries),
        training_seconds=sum(entry["training_seconds"] for entry in timings.values()),
        protection_seconds=protection + sum(entry["protection_seconds"] for entry in timings.values()),
        exchanges=sum(entry["exchanges"] for entry in entries),
        bytes_up=sum(entry["bytes_up"] for entry in entries),
        bytes_down=sum(entry["bytes_down"] for entry in entries),
        samples_seen={name: seen["samples"] for name, seen in samples["sources"].items()},
        passes={name: seen["passes"] for name, seen in samples["sources"].items()},
        model_hash=samples["model_hash"],
        survivors_min=min((len(entry["survivors"]) for entry in rounds), default=None),
    )


def _copy_outputs(run: RunFolder, specs: list[JobSpec]) -> None:
    from secfed.experiment.evaluation import load_overlays, save_overlays

    figures = run.path / "figures"
    figures.mkdir(exist_ok=True)
    overlays = []
    for spec in specs:
        overlays += load_overlays(run.job_folder(spec.model) / OVERLAYS)
    save_overlays(figures / OVERLAYS, overlays)
    first = run.job_folder(specs[0].model)
    # Beside the model there may be one per modality.
    for path in first.glob(MODEL.replace(".", "*.")):
        shutil.copyfile(path, run.path / path.name)
    view_file = first / AGGREGATOR_FOLDER / VIEW
    if view_file.exists():
        view = json.loads(view_file.read_text(encoding="utf-8"))
        own = first / SITES_FOLDER / view["site"] / "books" / HISTOGRAM
        # The second histogram is the site's own knowledge; on one machine the report may show both.
        view["plain_counts"] = json.loads(own.read_text(encoding="utf-8"))["counts"] if own.exists() else None
        (figures / "aggregator_view.json").write_text(json.dumps(view), encoding="utf-8")


def _remember_start(out: Path) -> str:
    """When the run was first started; a resumed run keeps it."""
    path = out / STARTED
    if not path.exists():
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        path.write_text(json.dumps({"started": now}), encoding="utf-8")
    return str(json.loads(path.read_text(encoding="utf-8"))["started"])
