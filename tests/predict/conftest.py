"""Small runs with the model files that users get, trained once per kind of normalisation."""

import dataclasses
from pathlib import Path

import pytest
from small_federation import config, provision, train

from secfed.engines.job import Job
from secfed.experiment.evaluation import CaseResult, evaluate_job
from secfed.experiment.plans import job_specs
from secfed.experiment.run_folder import RunFolder


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    folder: Path
    job: Job
    results: list[CaseResult]


def finish(scans, folder, *, rule="shared", kind="batch", **changes):
    """A run folder whose federated job is trained and tested."""
    run_config = config(
        scans,
        **{
            "model": {"normalisation": kind},
            "federation": {"normalisation": rule, "rounds": 2},
            "training": {"steps_per_round": 1},
            "protection": {"mode": "plain"},
            **changes,
        },
    )
    with RunFolder(folder) as run:
        run.claim(run_config, resume=False)
        job = provision(folder, run_config)
        train(job)
        results = evaluate_job(job, job_specs(run_config)[0], run_config, run=run)
    return FinishedRun(folder=folder, job=job, results=results)


@pytest.fixture(scope="session")
def runs(scans, tmp_path_factory):
    """Finished runs by kind of normalisation; read only."""
    made = {}

    def of(rule):
        if rule not in made:
            made[rule] = finish(scans, tmp_path_factory.mktemp(f"run-{rule}") / "run", rule=rule)
        return made[rule]

    return of
