"""`secfed audit canaries`: does what leaves a run tell as much about a patient as its ledger says, and no more?

Run by whoever audits this installation. Runs of the real apps are trained on canaries (secfed.audit.canary_run), in
every way in which updates travel. Each run is judged by what a membership attacker with perfect knowledge measures:

    distance    members' mean score less others', in standard deviations, where the score is the sum over rounds of what
                stands at a canary's entry. Without sampling that is mu, and the ledger says sqrt(rounds) / noise
    attacker    area and true positives of the likelihood ratio, against the accountant's whole trade-off curve
    one run     a lower bound on epsilon from guessed coins (secfed.audit.one_run), against the ledger's epsilon

A run "agrees" where none of them tells more and the distance is no less than claimed either: a canary that does not
reach the sum would otherwise look like perfect privacy. The attack is on sums and models; timing, other patients'
gradients and silo mode, whose unit is the site, are not measured.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from secfed.audit.canary_run import ENTRIES, CanaryData, CanaryRun, Setting, run_canaries
from secfed.audit.measured_leak import (
    FALSE_ALARM,
    Attacker,
    Distance,
    Scores,
    gaussian_distance,
    measured_attacker,
    sampled_distance,
)
from secfed.audit.one_run import OneRun, guess_coins
from secfed.errors import ConfigError

CanaryVerdict: TypeAlias = Literal[
    "agrees", "more is given away than the ledger says", "less is given away than the ledger says"
]
AGREES: CanaryVerdict = "agrees"
MORE: CanaryVerdict = "more is given away than the ledger says"
LESS: CanaryVerdict = "less is given away than the ledger says"

CANARIES, ROUNDS = 2000, 4
FEWEST_CANARIES = 100
HONEST_SITES = 4
SETTINGS: tuple[Setting, ...] = (
    Setting(mode="distributed", protection="masked", honest=HONEST_SITES),
    Setting(mode="distributed", protection="encrypted", honest=HONEST_SITES),
    Setting(mode="distributed", protection="plain", honest=HONEST_SITES),
    Setting(mode="distributed", protection="masked", honest=HONEST_SITES, dropouts=1),
    Setting(mode="distributed", protection="masked", honest=HONEST_SITES, colluders=1),
    Setting(mode="distributed", protection="masked", honest=HONEST_SITES, dropouts=2, colluders=1),
    Setting(mode="distributed", protection="encrypted", honest=HONEST_SITES, colluders=1),
    Setting(mode="distributed", protection="masked", honest=HONEST_SITES, sampling_prob=0.5),
    Setting(mode="local", protection="plain", honest=HONEST_SITES),
    Setting(mode="local", protection="plain", honest=HONEST_SITES, sampling_prob=0.5),
)
"""What the command runs: every protection, sites that drop out or collude, sampling, and noise at each site alone."""

_GUESSED = 0.2
"""Of all canaries; settled before any run was looked at, for a mu of about 2."""


@dataclass(frozen=True, kw_only=True)
class CanaryRow:
    """One run: what its ledger says, what was measured, and the verdict.

    `account` is the ledger's epsilon with delta, unit, relation and accountant, in words.
    """

    run: str
    canaries: int
    rounds: int
    sampling_prob: float
    noise_multiplier: float
    epsilon: float
    delta: float
    account: str
    distance: Distance
    attacker: Attacker
    one_run: OneRun
    verdict: CanaryVerdict
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


def audit_canaries(
    *,
    canaries: int = CANARIES,
    rounds: int = ROUNDS,
    seed: int = 0,
    settings: Sequence[Setting] | None = None,
    on_row: Callable[[CanaryRow], None] = lambda _: None,
) -> list[CanaryRow]:
    """One row per setting (default: SETTINGS), of runs with the same coins; `on_row` is called with each at once.

    Raises:
        ConfigError: too few canaries to say anything, or more than the network has parameters; or no rounds.
    """
    if not FEWEST_CANARIES <= canaries <= ENTRIES:
        raise ConfigError(f"--canaries = {canaries}: give {FEWEST_CANARIES} to {ENTRIES}, one entry of the sum each")
    if not 2 <= rounds <= 100 or rounds % 2:
        raise ConfigError(f"--rounds = {rounds}: give an even number from 2 to 100, so that signs are balanced")
    rows = []
    with CanaryData(count=canaries, rounds=rounds, honest=HONEST_SITES, seed=seed) as data:
        for setting in SETTINGS if settings is None else settings:
            started = time.perf_counter()
            run = run_canaries(data, setting)
            rows.append(judged(run, setting=setting, seconds=time.perf_counter() - started))
            on_row(rows[-1])
    return rows


def judged(run: CanaryRun, *, setting: Setting, seconds: float) -> CanaryRow:
    """What a run's scores say about its ledger."""
    member = run.canaries.member
    spent = run.spent
    sums, ratios = run.seen.sum(axis=1), _likelihood_ratios(run)
    sampling_prob = run.segments[0].sampling_prob
    claimed = sampling_prob * math.sqrt(sum(part.steps / part.noise_multiplier**2 for part in run.segments))
    distance_of = gaussian_distance if sampling_prob == 1.0 else sampled_distance
    distance = distance_of(sums[member], sums[~member], claimed=claimed)
    attacker = measured_attacker(ratios[member], ratios[~member], spent=spent)
    one_run = guess_coins(ratios, member, guesses=int(_GUESSED * len(member)), delta=spent.delta)
    verdict = AGREES
    if distance.p_less < FALSE_ALARM:
        verdict = LESS
    if distance.p_more < FALSE_ALARM or attacker.exceeded or one_run.epsilon_at_least > spent.epsilon:
        verdict = MORE
    return CanaryRow(
        run=setting.name,
        canaries=len(member),
        rounds=run.seen.shape[1],
        sampling_prob=sampling_prob,
        noise_multiplier=run.segments[0].noise_multiplier,
        epsilon=spent.epsilon,
        delta=spent.delta,
        account=str(spent),
        distance=distance,
        attacker=attacker,
        one_run=one_run,
        verdict=verdict,
        seconds=seconds,
    )


def agree(rows: Iterable[CanaryRow]) -> bool:
    """Whether every run gave away what its ledger says."""
    return all(row.verdict == AGREES for row in rows)


def _likelihood_ratios(run: CanaryRun) -> Scores:
    """The best score there is against the mechanism that the ledger names: log of the ratio of densities, (canaries,).

    A member's entry holds 1 with the sampling probability in each round and 0 otherwise, with Gaussian noise on it.
    """
    total = np.zeros(len(run.canaries))
    for seen, part in zip(run.seen.T, run.segments, strict=True):
        q = part.sampling_prob
        ratio = (seen - 0.5) / part.noise_multiplier**2
        total += ratio if q == 1.0 else np.logaddexp(math.log1p(-q), math.log(q) + ratio)
    return total
