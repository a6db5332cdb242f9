"""One short federation of the demo's sites under one protection, with a clock at every message that a site answers.

All parties run in one process, one after another, so whatever passes between two answers is the aggregator's time and
the transport's. The clock counts the CPU seconds of all threads, so that other programs do not count; in this process
the sites' own books use it too. `peak_of_aggregator` runs the same federation with the sites in other processes.
"""

import os
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Literal, TypeAlias
from unittest import mock

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

import aggregator.app
import clients.app
from aggregator.folder import AggregatorFolder, read_journal
from benchmarks.memory import reset_peak, status_bytes
from clients.books import TIMINGS
from secfed.config import ProtectionConfig, RunConfig, load_run_config
from secfed.engines import in_process
from secfed.engines.job import Job
from secfed.experiment.data import prepare_data
from secfed.experiment.final_model import final_state
from secfed.experiment.plans import JobSpec
from secfed.experiment.provision import provision_job
from secfed.experiment.run_folder import RunFolder
from secfed.messages import Stage
from secfed.parameters import model_digest
from secfed.protected_vector import vector_format
from secfed.torch_threads import one_torch_thread

Protection: TypeAlias = Literal["plain", "masked", "encrypted", "encrypted, CKKS"]

PROTECTIONS: dict[Protection, ProtectionConfig] = {
    "plain": ProtectionConfig(mode="plain"),
    "masked": ProtectionConfig(mode="masked"),
    "encrypted": ProtectionConfig(mode="encrypted"),
    "encrypted, CKKS": ProtectionConfig(mode="encrypted", scheme="ckks"),
}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One message to a site and back; times in CPU seconds of one clock, bytes of all records."""

    node: int
    stage: Stage
    server_round: int
    started: float
    ended: float
    bytes_down: int
    bytes_up: int


@dataclass(frozen=True, kw_only=True)
class TimedRun:
    """A whole federation; `training` and `encoding` by round, over all sites. `seconds` alone are wall clock."""

    protection: Protection
    sites: int
    entries: int
    parameters: int
    answers: tuple[Answer, ...]
    training: tuple[float, ...]
    encoding: tuple[float, ...]
    seconds: float
    model_hash: str


class TimedApp(ClientApp):
    """The sites' app with a clock around it."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[Answer] = []

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer as the sites' own app does."""
        started = time.process_time()
        reply = clients.app.app(message, context)
        ended = time.process_time()
        kind = message.metadata.message_type
        self.answers.append(
            Answer(
                node=message.metadata.dst_node_id,
                stage=Stage(kind.removeprefix("query.")),
                server_round=int(message.metadata.group_id),
                started=started,
                ended=ended,
                bytes_down=_bytes(message),
                bytes_up=_bytes(reply),
            )
        )
        return reply


def demo_config(*, rounds: int, seed: int, tiny: bool = False) -> RunConfig:
    """The demo's sites, data and model for a few rounds, without tests and validation; `tiny` is for tests of this."""
    with resources.as_file(resources.files("secfed") / "configs" / "demo.toml") as path:
        demo = load_run_config(path)
    federation = demo.federation.model_copy(update={"rounds": rounds, "validate_every": 0})
    config = demo.model_copy(update={"seed": seed, "references": (), "test": (), "federation": federation})
    if not tiny:
        return config
    small = {"train": 1, "validation": 0}
    sites = tuple(
        site.model_copy(update={"phantom": site.phantom.model_copy(update=small) if site.phantom else None})
        for site in config.sites
    )
    return config.model_copy(
        update={
            "sites": sites,
            "model": config.model.model_copy(update={"channels": (4, 8)}),
            "training": config.training.model_copy(update={"steps_per_round": 1}),
        }
    )


def prepare(config: RunConfig, *, folder: Path) -> None:
    """Generate and preprocess the scans that all runs share."""
    prepare_data(config, run_folder=folder, on_volume=lambda _: None)


def run(config: RunConfig, protection: Protection, *, folder: Path) -> TimedRun:
    """Train in this process, on one thread of torch."""
    job = _job(config, protection, folder=folder, name="timed")
    app = TimedApp()
    started = time.perf_counter()
    books_clock = mock.patch("clients.contribution.time", SimpleNamespace(perf_counter=time.process_time))
    with one_torch_thread(), books_clock, in_process.InProcessGrid(app, job.site_folders) as grid:
        run_dir: dict[str, bool | float | int | str] = {"run-dir": str(job.aggregator_folder)}
        aggregator.app.app(grid, Context(in_process.RUN_ID, in_process.SUPERLINK_NODE, {}, RecordDict(), run_dir))
    seconds = time.perf_counter() - started
    rounds = range(1, config.federation.rounds + 1)
    noted = [entry for site in job.site_folders for entry in read_journal(site / "books" / TIMINGS)]
    state, layout = final_state(job)
    return TimedRun(
        protection=protection,
        sites=len(job.site_names),
        entries=vector_format(layout, job.plan, cohort_size=len(job.site_names)).length,
        parameters=layout.num_parameters,
        answers=tuple(app.answers),
        training=tuple(sum(e["training_seconds"] for e in noted if e["round"] == number) for number in rounds),
        encoding=tuple(sum(e["encoding_seconds"] for e in noted if e["round"] == number) for number in rounds),
        seconds=seconds,
        model_hash=model_digest(state.model, layout).hex(),
    )


def peak_of_aggregator(config: RunConfig, protection: Protection, *, folder: Path) -> tuple[int, str]:
    """Bytes by which the process of the aggregator and the engine's inbox grew at most, and the model's hash."""
    job = _job(config, protection, folder=folder, name="memory")
    AggregatorFolder(job.aggregator_folder).initial_model()
    # Read when the sites' processes load torch; on several threads it would round otherwise.
    os.environ["OMP_NUM_THREADS"] = "1"
    before = reset_peak()
    in_process.run(job, workers=2)
    grown = status_bytes("VmHWM") - before
    state, layout = final_state(job)
    return grown, model_digest(state.model, layout).hex()


def _job(config: RunConfig, protection: Protection, *, folder: Path, name: str) -> Job:
    plan = config.plan().model_copy(update={"protection": PROTECTIONS[protection]})
    spec = JobSpec(
        model=f"{protection} {name}".replace(", ", " ").replace(" ", "-"),
        training="federated",
        plan=plan,
        participants={site.name: (site,) for site in config.sites},
    )
    return provision_job(RunFolder(folder), config, spec)


def _bytes(message: Message) -> int:
    return sum(record.count_bytes() for record in message.content.values())
