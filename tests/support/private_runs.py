"""The small federation under differential privacy: configurations of every mode, one site asked alone, its ledger."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from small_federation import config, provision

from clients.contribution import Contribution, contribute
from clients.site import Session, Site
from privacy.ledger import Charge, read_entries
from privacy.ledger_account import Account
from secfed.config import RunConfig
from secfed.engines.job import Job
from secfed.parameters import load_vector

PATIENTS = {"ct-a": 1, "ct-b": 2, "mr-a": 3, "mr-b": 1}
CAP = 4
SIGMA, CLIP = 1.0, 0.5


def private_config(
    data: Path,
    mode: str,
    *,
    protection: str = "plain",
    rounds: int = 2,
    privacy: dict[str, Any] | None = None,
    **tables: Any,
) -> RunConfig:
    """A run of two rounds in that mode; further tables and keys win over what the mode needs."""
    settings: dict[str, Any] = {"mode": mode, "patches": 2, "views": 2, "sampling_prob": 0.7, "clip_norm": CLIP}
    if mode not in ("off", "clip_only"):
        settings |= {"noise_multiplier": SIGMA, "delta": 1e-5}
    federation = {"rounds": rounds, "min_cohort": 4, "example_cap": CAP}
    if mode == "silo":
        federation["weighting"] = "uniform"
    return config(
        data,
        training={"optimizer_state": "reset", **tables.pop("training", {})},
        federation={**federation, **tables.pop("federation", {})},
        protection={"mode": protection},
        privacy=settings | (privacy or {}),
        **tables,
    )


def one_site(folder: Path, run_config: RunConfig, name: str = "mr-a") -> tuple[Site, Session, npt.NDArray[np.float32]]:
    """A site that has agreed to the run's plan, without an aggregator, and the model of round 1."""
    job = provision(folder, run_config)
    site = Site(site_folder(job, name))
    model, layout = initial(job)
    session = Session(run=job.plan.digest(), session=bytes(32), plan=job.plan, layout=layout, max_clients=4)
    return site, session, model


def ask(site: Site, session: Session, model: npt.NDArray[np.float32], *, server_round: int = 1) -> Contribution:
    """The site's integers for a round."""
    return contribute(site, session, model=model, server_round=server_round, validate=False)


def site_folder(job: Job, name: str) -> Path:
    """Where a site of the job lives."""
    return job.site_folders[job.site_names.index(name)]


def initial(job: Job) -> tuple[npt.NDArray[np.float32], Any]:
    """The model of round 1 and its layout."""
    model, layout, _ = load_vector(job.aggregator_folder / "initial.safetensors")
    return model, layout


def ledger_of(folder: Path) -> Account:
    """What the one ledger of a site says."""
    (newest,) = (path for path in (folder / "ledgers").iterdir() if path.name.endswith(".ledger"))
    return Account(read_entries(newest)[0])


def charges_of(folder: Path) -> list[Charge]:
    """What a site has paid so far; nothing where it has no ledger."""
    return list(ledger_of(folder).charges) if (folder / "ledgers").exists() else []
