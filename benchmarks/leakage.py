"""What can be rebuilt from updates and told from final models, with and without each protection.

The attacks are those of `secfed audit`, repeated: gradient inversion on one run per repetition, each with its own
patients and model, and LiRA with shadow models. Every figure stands beside its control, the same attack where there is
nothing to find, and has a 95 % interval. All scans are generated, all noise is simulated. What an attack does not find,
a better one may: only differential privacy bounds every attack.

    python -m benchmarks.leakage --json bench/leakage.json --study bench/leakage-study.json
"""

import dataclasses
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from benchmarks.rows import Row, parser, publish
from secfed.audit.bootstrap import mean_interval
from secfed.audit.inversion import Search
from secfed.audit.measured_leak import FALSE_POSITIVE_RATES, Rate
from secfed.audit.rebuilt import SUCCESS_DB, Rebuilt, rebuild
from secfed.audit.shadow_models import (
    SITES,
    MembershipRow,
    Training,
    audit_membership,
    distributed,
    first_model_digest,
    unprotected,
)
from secfed.audit.slices import slices
from secfed.audit.update_views import CLIPPED, SIZE, SUM, UPDATE, UpdateView, count_views, update_views
from secfed.results import SIMULATED_NOISE
from secfed.study.record import LeakageRow

GAIN = "PSNR gain over the control"
NOISE_DB = 1.0
"""A protected upload may gain less than this, and its interval has to hold 0.

An interval of 95 % misses the 0 of an honest one in one benchmark of twenty; a larger run then tells.
"""

_Scores = Mapping[UpdateView, Sequence[tuple[Rebuilt, ...]]]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured: runs and steps of inversion, sizes of sums, models per training and their pool."""

    repetitions: int
    search: Search
    cohorts: tuple[int, ...]
    models: int
    patients: int = 32
    trainings: tuple[Training, ...] = field(repr=False)

    @property
    def steps(self) -> int:
        """How often `on_step` is called."""
        return self.repetitions * count_views(self.cohorts) + self.models * len(self.trainings)


# Of fewer than six values no bootstrap knows the spread.
QUICK = Scale(
    repetitions=6,
    search=Search(steps=120),
    cohorts=(2, 4),
    models=4,
    trainings=(unprotected(rounds=3), distributed("distributed epsilon 8", rounds=6, epsilon=8.0)),
)
STANDARD = Scale(
    repetitions=10,
    search=Search(steps=500),
    cohorts=(2, 4, 8),
    models=14,
    trainings=(
        unprotected(),
        distributed("clipped, noise 0.02", noise_multiplier=0.02),
        distributed("distributed epsilon 8", epsilon=8.0),
        distributed("distributed epsilon 1", epsilon=1.0),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A figure, and what it is held against; `met` is None without a target."""

    row: LeakageRow
    target: str | None = None
    met: bool | None = None

    def as_row(self) -> Row:
        """As every benchmark writes it."""
        row = self.row
        parts = [] if row.low is None or row.high is None else [f"95 % [{row.low:.3g}, {row.high:.3g}]"]
        parts += [] if row.control is None else [f"control {row.control:.3g}"]
        sites = f" ({row.cohort} sites)" if row.target == SUM else ""
        return Row(
            measure=f"{row.target}{sites}, {row.protection}: {row.metric}",
            value=row.value,
            unit=row.unit,
            target=self.target,
            met=self.met,
            note="; ".join([*parts, row.note]),
        )


def main() -> None:
    """Measure and publish the rows."""
    made = parser(__doc__ or "")
    made.add_argument("--study", type=Path, metavar="FILE", help="write the rows of a study's leakage here, as JSON")
    made.add_argument("--seed", type=int, default=0, help="patients, models and simulated noise")
    given = made.parse_args()
    scale = QUICK if given.quick else STANDARD
    with Progress(console=Console(stderr=True)) as bars:
        task = bars.add_task("Attacks", total=scale.steps)
        found = findings(scale, seed=given.seed, on_step=lambda: bars.advance(task))
    publish([finding.as_row() for finding in found], path=given.json)
    if given.study is not None:
        given.study.parent.mkdir(parents=True, exist_ok=True)
        tree = [dataclasses.asdict(finding.row) for finding in found]
        given.study.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


def measure(*, quick: bool, seed: int, on_step: Callable[[], None] = lambda: None) -> tuple[LeakageRow, ...]:
    """The rows of a study; `on_step` is called `Scale.steps` times."""
    found = findings(QUICK if quick else STANDARD, seed=seed, on_step=on_step)
    return tuple(finding.row for finding in found)


def findings(scale: Scale, *, seed: int, on_step: Callable[[], None]) -> list[Finding]:
    """Every attack on every view.

    Raises:
        RuntimeError: masks or encryption change a sum or a model, so that figures of one mode do not hold for others.
    """
    return [
        *inversion_findings(scale, seed=seed, on_step=on_step),
        *membership_findings(scale, seed=seed, on_step=on_step),
    ]


def inversion_findings(scale: Scale, *, seed: int, on_step: Callable[[], None]) -> list[Finding]:
    """PSNR, SSIM and the gain in PSNR for every view of an update."""
    scores: dict[UpdateView, list[tuple[Rebuilt, ...]]] = {}
    patients = slices(seed, size=SIZE)
    parameters = 0
    for repetition in range(scale.repetitions):
        group = list(islice(patients, 2 * max((SITES, *scale.cohorts))))
        own_seed = seed * 1000 + repetition
        for seen in update_views(group, seed=own_seed, cohorts=scale.cohorts):
            parameters = seen.gradient.size
            found = rebuild(seen.network, seen.gradient, seen.unrelated, seen.cases, seed=own_seed, search=scale.search)
            scores.setdefault(seen.view, []).append(found)
            on_step()
    setting = _setting(scale.search, parameters=parameters)
    gains = {view: _mean(found, "gain_db") for view, found in scores.items()}
    return [finding for view in scores for finding in _of_view(view, scores, gains, setting=setting, seed=seed)]


def _setting(search: Search, *, parameters: int) -> str:
    rows, columns = SIZE
    return (
        f"attacker's good case: one step on one slice of {rows} x {columns} pixels at 10 mm per site, no augmentation, "
        f"a U-Net of {parameters:,} parameters that the attacker knows, as it does all labels; cosine distance and "
        f"total variation (Geiping et al. 2020), {search.steps} steps of Adam; control: the same search on the same "
        "kind of update of other sites; interval: bootstrap over runs, each with its own patients and model"
    )


def _of_view(
    view: UpdateView, scores: _Scores, gains: Mapping[UpdateView, float], *, setting: str, seed: int
) -> list[Finding]:
    found = scores[view]

    def row(metric: str, unit: str, name: str, control: str | None) -> LeakageRow:
        low, high = mean_interval([statistics.fmean(getattr(one, name) for one in run) for run in found], seed=seed)
        return LeakageRow(
            attack="inversion",
            target=view.target,
            protection=view.protection,
            cohort=view.cohort,
            metric=metric,
            unit=unit,
            value=_mean(found, name),
            low=low,
            high=high,
            control=0.0 if control is None else _mean(found, control),
            repetitions=len(found),
            note="; ".join(part for part in (view.note, setting) if part),
        )

    target, met = _held_against(gain := row(GAIN, "dB", "gain_db", None), view, gains)
    return [
        Finding(row=row("PSNR", "dB", "psnr_db", "control_psnr_db")),
        Finding(row=row("SSIM", "1", "ssim", "control_ssim")),
        Finding(row=gain, target=target, met=met),
    ]


def _held_against(
    gain: LeakageRow, view: UpdateView, gains: Mapping[UpdateView, float]
) -> tuple[str | None, bool | None]:
    """What a gain is to be; of what noise leaves nothing is promised but the account."""
    if view.target == UPDATE and view.protection in ("plain", CLIPPED):
        return f">= {SUCCESS_DB:g}: the attack works where nothing stops it", gain.value >= SUCCESS_DB
    if view.target == UPDATE and view.protection in ("masked", "encrypted"):
        holds_zero = gain.low is not None and gain.high is not None and gain.low <= 0.0 <= gain.high
        return f"|gain| < {NOISE_DB:g}, 0 in the interval: noise", abs(gain.value) < NOISE_DB and holds_zero
    if view.target == SUM and view.protection == "masked":
        smaller = [
            (other.cohort, found)
            for other, found in gains.items()
            if other.cohort < view.cohort and other.protection == ("plain" if other.target == UPDATE else "masked")
        ]
        sites, before = max(smaller)
        return f"< that with {sites} site{'s' * (sites > 1)}: falls with n", gain.value < before
    return None, None


def _mean(found: Sequence[tuple[Rebuilt, ...]], name: str) -> float:
    return statistics.fmean(getattr(one, name) for run in found for one in run)


def membership_findings(scale: Scale, *, seed: int, on_step: Callable[[], None]) -> list[Finding]:
    """AUC and true positives at fixed rates of false ones, for every way of training."""
    digests = {
        first_model_digest(
            dataclasses.replace(scale.trainings[0], protection=mode),
            patients=scale.patients,
            models=scale.models,
            seed=seed,
        )
        for mode in ("plain", "masked")
    }
    if len(digests) > 1:
        raise RuntimeError("a masked and a plain run of one seed end on different models")
    same = f"a masked and a plain run end on one model (SHA-256 {digests.pop()[:16]}...): the mode changes nothing here"
    found = audit_membership(
        patients=scale.patients, models=scale.models, seed=seed, trainings=scale.trainings, on_model=on_step
    )
    return [finding for row in found for finding in _of_training(row, same=same)]


def _of_training(row: MembershipRow, *, same: str) -> list[Finding]:
    attacker = row.attacker
    setting = (
        f"LiRA (Carlini et al. 2022): each of {row.models} models attacked with those of the others that are not its "
        f"complement, on {row.patients} patients of whom each model has half at {SITES} sites; the attacker knows them "
        f"all, the plan and the start, and has the final model; {attacker.members} scores of members, "
        f"{attacker.others} of others, counted as independent; 0.1 % false positives take 1,000 others and are left out"
    )
    account = "" if row.account is None else f"{row.account}; {SIMULATED_NOISE}"
    capped = row.epsilon is not None

    def finding(
        metric: str, value: float, *, low: float, high: float, control: float, cap: float, at: str = ""
    ) -> Finding:
        parts = (at, f"at most {cap:.3g} by the account" if capped else "no cap", account, same, setting)
        target, met = None, None
        if capped:
            target, met = f"<= {cap:.3g}, the account's cap", low <= cap
        elif metric == "AUC":
            target, met = "interval above 0.5: the attack works where nothing stops it", low > 0.5
        made = LeakageRow(
            attack="membership",
            target="final model",
            protection=row.training,
            cohort=SITES,
            metric=metric,
            unit="1",
            value=value,
            low=low,
            high=high,
            control=control,
            repetitions=row.models,
            note="; ".join(part for part in parts if part),
        )
        return Finding(row=made, target=target, met=met)

    def share(fpr: float, rate: Rate) -> Finding:
        return finding(
            f"TPR at {100 * fpr:g} % FPR",
            rate.tpr,
            low=rate.low,
            high=rate.high,
            control=rate.fpr,
            cap=rate.cap,
            at=f"{rate.fpr:.2%} of the others pass",
        )

    auc = finding("AUC", attacker.auc, low=attacker.auc_low, high=attacker.auc_high, control=0.5, cap=attacker.auc_cap)
    # Where not even one of the others may pass, a rate says nothing.
    told = zip(FALSE_POSITIVE_RATES, attacker.rates, strict=True)
    return [auc, *(share(fpr, rate) for fpr, rate in told if rate.fpr > 0.0)]


if __name__ == "__main__":
    main()
