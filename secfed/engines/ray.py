"""Flower's Ray simulation: the same two apps, with every message answered in an actor process of its own CPU.

For many sites on one large machine. A simulated node knows the number of its partition only, and its runs carry no
configuration, so both apps are built by their factories: the ServerApp for the job's folder, the ClientApp with a map
from partitions to site folders. Actors share nothing: what a site remembers stands in its own folder, so the model is
the one that the in-process engine gives.

Source: flwr 1.41, `flwr.simulation.run_simulation`. One machine plays every party here, as in every simulation.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flwr.app import Context

import aggregator.app
import clients.app
from secfed.engines.job import Job

PARTITION = "partition-id"


@dataclass(frozen=True)
class SiteOfPartition:
    """Finds the site folder of a simulated node; a value and no closure, because it travels to the actors."""

    folders: tuple[Path, ...]

    def __call__(self, context: Context) -> Path:
        """The folder of the partition that the node was given."""
        return self.folders[int(context.node_config[PARTITION])]


def run(job: Job, *, workers: int = 1) -> None:
    """Run a job to its last round with `workers` actors; raises what the ServerApp raises.

    A local Ray cluster is started and stopped again; one that runs in this process already is used and then stopped.
    """
    folders = tuple(folder.resolve() for folder in job.site_folders)
    with _quiet():
        from flwr.simulation import run_simulation

        run_simulation(
            server_app=aggregator.app.create_app(job.aggregator_folder),
            client_app=clients.app.create_app(SiteOfPartition(folders)),
            num_supernodes=len(folders),
            backend_config={
                "init_args": {
                    "num_cpus": min(workers, len(folders)),
                    "include_dashboard": False,
                    "log_to_driver": False,
                    "logging_level": logging.ERROR,
                },
                # One thread per actor, as in the other engine: sums must not depend on the number of cores.
                "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            },
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """No report to Flower or Ray about this run, no log lines between the progress bars."""
    from flwr.supercore import telemetry

    # Actors and Ray's own processes read the environment; Flower read it when it was imported.
    settings = {
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the behaviour that Ray's warning announces for later versions
        "OMP_NUM_THREADS": "1",
    }
    before = {name: os.environ.get(name) for name in (*settings, "PYTHONPATH")}
    enabled, telemetry.FLWR_TELEMETRY_ENABLED = telemetry.FLWR_TELEMETRY_ENABLED, "0"
    logger = logging.getLogger("flwr")
    level = logger.level
    os.environ.update(settings)
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        telemetry.FLWR_TELEMETRY_ENABLED = enabled
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
