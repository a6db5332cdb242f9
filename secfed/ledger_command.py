"""`secfed site ledger`: what a site's patients have paid, what is left, and whether the ledgers are whole.

Runs at a site, on its own files; nothing is written and nobody is asked. With a run's configuration it says how many of
that run's rounds still fit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from clients.budget import Standing, standings
from clients.site import Site
from privacy.accounting import RELATION, UNIT
from privacy.errors import PrivacyError
from privacy.segment import Segment
from secfed.config import RunConfig
from secfed.errors import ConfigError, SecfedError
from secfed.privacy_plan import priced, round_cost
from secfed.protected_vector import vector_format
from secfed.provisioning.files import SIMULATED_NOISE_FILE
from secfed.results import SIMULATED_NOISE


@dataclass(frozen=True, kw_only=True)
class LedgerPage:
    """The ledgers of one site; `per_round` is what a round of the run that was asked about costs."""

    site: str
    standings: tuple[Standing, ...]
    simulated: bool
    per_round: Segment | None
    rounds: int | None

    @property
    def failed(self) -> bool:
        """Whether a ledger is not what it should be."""
        return any(finding.status == "failed" for standing in self.standings for finding in standing.findings)

    def rounds_left(self, standing: Standing) -> int | None:
        """How many of the run's rounds fit under this ledger's cap; None where no run was asked about."""
        return None if self.per_round is None else standing.account.rounds_left(self.per_round)

    def as_dict(self) -> dict[str, Any]:
        """For --json; an infinite epsilon is null."""
        return {
            "site": self.site,
            "simulated_noise": self.simulated,
            "rounds_of_the_run": self.rounds,
            "ledgers": [
                {
                    "ledger": standing.path.name,
                    "epsilon": standing.spent.epsilon if math.isfinite(standing.spent.epsilon) else None,
                    "cap_epsilon": standing.account.cap_epsilon,
                    "delta": standing.account.delta,
                    "unit": UNIT,
                    "relation": RELATION,
                    "accountant": standing.spent.accountant,
                    "tpr_at_1_percent_fpr": standing.spent.attacker(0.01).tpr,
                    "charges": len(standing.account.charges),
                    "carried_over": len(standing.account.counted) - len(standing.account.charges),
                    "rounds_left": self.rounds_left(standing),
                    "entries": standing.head.count,
                    "head": standing.head.digest,
                    "findings": [
                        {"status": finding.status, "where": finding.where, "what": finding.what}
                        for finding in standing.findings
                    ],
                }
                for standing in self.standings
            ],
        }


def ledger_page(site: Site, config: RunConfig | None) -> LedgerPage:
    """Read and check a site's ledgers; `config` is a run to be measured against them.

    Raises:
        ConfigError: the run has no noise, or none that can be accounted for.
        SecfedError: a ledger is damaged.
    """
    try:
        found = standings(site)
    except PrivacyError as error:
        raise SecfedError(f"site '{site.name}': {error}") from error
    return LedgerPage(
        site=site.name,
        standings=tuple(found),
        simulated=(site.folder / SIMULATED_NOISE_FILE).exists(),
        per_round=None if config is None else _per_round(config),
        rounds=None if config is None else config.federation.rounds,
    )


def print_ledger(page: LedgerPage, console: Console) -> None:
    """The page: a table, then what the check found."""
    if not page.standings:
        console.print(f"Site {page.site} has no ledger: no run has charged its patients.", markup=False)
        return
    table = Table(title=f"Privacy budget of site {page.site}")
    for name in ("data set", "epsilon", "cap", "delta", "charges"):
        table.add_column(name, justify="left" if name == "data set" else "right", no_wrap=True)
    if page.per_round is not None:
        table.add_column(f"rounds left, of {page.rounds}", justify="right")
    for standing in page.standings:
        left = page.rounds_left(standing)
        table.add_row(
            standing.path.name[:12],
            f"{standing.spent.epsilon:.4g}",
            f"{standing.account.cap_epsilon:g}",
            f"{standing.account.delta:g}",
            str(len(standing.account.charges)),
            *(() if left is None else (str(left),)),
        )
    console.print(table)
    console.print(f"Epsilon is per {UNIT} ({RELATION}), by {page.standings[0].spent.accountant}.", highlight=False)
    for standing in page.standings:
        console.print(f"{standing.path.name[:12]}: {standing.spent.attacker(0.01).sentence()}", highlight=False)
        for finding in standing.findings:
            where = f" ({finding.where})" if finding.where else ""
            console.print(f"  {finding.status}{where}: {finding.what}", highlight=False, soft_wrap=True, markup=False)
    if page.simulated:
        console.print(f"{SIMULATED_NOISE}: this site's noise follows from a seed.", style="yellow", highlight=False)


def print_raised(raised: Sequence[tuple[str, float, float]], console: Console) -> None:
    """Which caps were raised."""
    for name, before, after in raised:
        console.print(f"{name}: the cap is epsilon {after:g} now, it was {before:g}.", highlight=False, soft_wrap=True)


def _per_round(config: RunConfig) -> Segment:
    from clients.private_contribution import trained_count
    from secfed.experiment.start import starting_vector

    if not config.privacy.guarantees:
        raise ConfigError(f"--config: privacy.mode = '{config.privacy.mode}' adds no noise, so no round has a price")
    layout = starting_vector(config)[1]
    dimension, sites = trained_count(config, layout), len(config.sites)
    plan, _ = priced(config.plan(), layout, dimension=dimension, sites=sites)
    return round_cost(plan, vector_format(layout, plan, cohort_size=sites), dimension=dimension)
