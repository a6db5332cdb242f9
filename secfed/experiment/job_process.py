"""One training job in a process of its own: provision, train under an engine, then test the final model.

The parent reads the job's journal for progress and the job's files for results, so nothing is lost when either dies. A
job whose parent has died stops at once, since a second process must not train in the same folder.
"""

import json
import os
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from secfed.config import RunConfig
from secfed.errors import SecfedError
from secfed.lifeline import stop_with_parent
from secfed.site_config import ONE_DEVICE, Computing
from secfed.whole_file import write_whole

# What a finished job leaves in its folder; named here, where nothing imports torch.
SCORES = "scores.json"
SAMPLES = "samples.json"
OVERLAYS = "overlays.npz"
MODEL = "model.safetensors"
FAILURE = "failure.json"
TESTED = "tested.txt"

EngineName = Literal["in_process", "ray"]


@dataclass(frozen=True, kw_only=True)
class JobOrder:
    """What a job process is told; everything else stands in the run folder. `computing` is how its sites train."""

    run_folder: Path
    config: RunConfig
    model: str
    engine: EngineName
    workers: int
    computing: Computing = ONE_DEVICE


def execute(order: JobOrder) -> None:
    """Entry point of the process; exits with the error's code after writing `failure.json`."""
    stop_with_parent()
    from secfed.experiment.run_folder import RunFolder

    folder = RunFolder(order.run_folder).job_folder(order.model)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FAILURE).unlink(missing_ok=True)
    try:
        train_and_test(order)
    except SecfedError as error:
        _fail(folder, str(error), error.exit_code)
    except Exception as error:
        _fail(folder, f"{type(error).__name__}: {error}", 1)


def train_and_test(order: JobOrder) -> None:
    """Do the job in this process, from wherever it was left; what it found stands in its folder.

    Raises:
        SecfedError: any of its kinds; the job can be resumed.
    """
    import torch

    from secfed.experiment.evaluation import evaluate_job
    from secfed.experiment.plans import job_specs
    from secfed.experiment.provision import provision_job
    from secfed.experiment.run_folder import RunFolder

    # One thread per process: sums do not depend on the machine's number of cores, and two OpenMP pools on one core
    # slow each other down many times.
    torch.set_num_threads(1)
    run = RunFolder(order.run_folder)
    spec = next(spec for spec in job_specs(order.config) if spec.model == order.model)
    job = provision_job(run, order.config, spec, computing=order.computing)
    if order.engine == "ray":
        from secfed.engines import ray

        ray.run(job, workers=order.workers)
    else:
        from secfed.engines import in_process

        in_process.run(job, workers=order.workers)
    if not (job.folder / SCORES).exists():
        scores = evaluate_job(job, spec, order.config, run=run)
        write_whole(job.folder / SCORES, json.dumps([asdict(score) for score in scores]).encode(), durable=False)


def read_failure(folder: Path) -> dict[str, Any] | None:
    """What a failed job left: message, exit code and traceback."""
    path = folder / FAILURE
    if not path.exists():
        return None
    failure = json.loads(path.read_text(encoding="utf-8"))
    return failure if isinstance(failure, dict) else None


def _fail(folder: Path, message: str, code: int) -> None:
    failure = {"message": message, "exit_code": code, "traceback": traceback.format_exc()}
    (folder / FAILURE).write_text(json.dumps(failure), encoding="utf-8")
    # Worker threads of an engine may still wait for messages that will never come.
    os._exit(code)
