"""What the patients of a job paid, as its sites wrote it down: read from their ledgers and books after the run.

Runs on the experimenter's machine, which plays every site; an aggregator cannot read either.
"""

import math
from pathlib import Path

from clients.books import Books
from clients.budget import standings
from clients.site import Site
from privacy.accounting import ACCOUNTANT, RELATION, UNIT
from secfed.config import TrainingPlan
from secfed.engines.job import SITES_FOLDER
from secfed.experiment.curves import BOOKS
from secfed.provisioning.files import SIMULATED_NOISE_FILE
from secfed.results import CurvePoint, PrivacyRecord


def privacy_record(plan: TrainingPlan, folder: Path) -> PrivacyRecord | None:
    """What the job in `folder` cost at the site that paid most; None where the plan says nothing of privacy."""
    privacy = plan.privacy
    if privacy.mode == "off":
        return None
    sites = sorted((folder / SITES_FOLDER).iterdir())
    paid = [found for site in sites for found in standings(Site(site))] if privacy.guarantees else []
    spent = max((found.spent for found in paid), key=lambda spend: spend.epsilon, default=None)
    bounded = spent is not None and math.isfinite(spent.epsilon)
    return PrivacyRecord(
        mode=privacy.mode,
        epsilon=spent.epsilon if spent is not None and bounded else None,
        delta=privacy.resolved_delta if spent is None else spent.delta,
        unit=UNIT,
        relation=RELATION,
        accountant=ACCOUNTANT,
        noise_multiplier=privacy.noise_multiplier,
        sampling_prob=1.0 if privacy.mode == "silo" else privacy.sampling_prob,
        clip_norm=privacy.clip_norm,
        simulated=any((site / SIMULATED_NOISE_FILE).exists() for site in sites),
        tpr_cap=spent.attacker(0.01).tpr if spent is not None and bounded else None,
    )


def epsilon_curve(model: str, folder: Path) -> list[CurvePoint]:
    """What had been paid after each round, at the site that had paid most."""
    highest: dict[int, float] = {}
    for site in sorted((folder / SITES_FOLDER).iterdir()):
        for server_round, epsilon in Books(site / BOOKS).budgets():
            highest[server_round] = max(epsilon, highest.get(server_round, 0.0))
    return [
        CurvePoint(model=model, round=server_round, metric="epsilon", modality="all", value=epsilon)
        for server_round, epsilon in sorted(highest.items())
    ]
