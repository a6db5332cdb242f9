"""`secfed audit membership`: who was in the training, told from the final model with the help of shadow models.

Run by whoever audits, on models that it trains itself through the real apps. The attack is LiRA (Carlini et al.,
"Membership Inference Attacks From First Principles", IEEE S&P 2022): of a pool of patients each model is trained on a
random half. For a patient, phi = log(p / (1 - p)) of the confidence p = exp(-loss) that a model has in its labels; the
models that knew the patient and those that did not give two means of phi, all residuals together one deviation (their
choice for few shadow models), and the score is the log ratio of the two normal densities at the target's phi. Every
model is the target once. Models come in pairs with complementary halves, and a target's complement is no shadow of its.

The attacker knows the pool, the plan and the start, and has the final model alone: less than the accountant's attacker,
who sees all sums and knows all other patients. Scores of one patient under several targets are counted as independent
in the intervals, which are therefore a little too narrow.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from privacy.accounting import Spend
from privacy.fixed_point import VectorFormat
from secfed.audit.attacks.membership import model_losses
from secfed.audit.measured_leak import Attacker, Scores, measured_attacker
from secfed.audit.rows import Mode
from secfed.audit.slices import COLUMNS, ROWS, Slice, slices
from secfed.audit.small_run import SmallRun, run_small
from secfed.config import TrainingPlan
from secfed.errors import ConfigError
from secfed.parameters import FloatVector, model_digest
from secfed.torch_threads import one_torch_thread

SITES = 4
PATIENTS, MODELS = 32, 12
DELTA = 1e-5
_SMALL_MODEL = {"channels": [16, 32], "residual_units": 0}
_NO_AUGMENTATION = {"method": "none", "affine": {"probability": 0.0}}


@dataclass(frozen=True, kw_only=True)
class Training:
    """A way of training that is attacked; `tables` are those of its plan."""

    name: str
    protection: Mode
    tables: Mapping[str, Any] = field(repr=False)


def distributed(name: str, *, rounds: int = 24, protection: Mode = "masked", **noise: float) -> Training:
    """Distributed noise, all patients in every round, and a server with momentum that goes as far as 24 steps can."""
    return Training(
        name=name,
        protection=protection,
        tables={
            "model": _SMALL_MODEL,
            "augmentation": _NO_AUGMENTATION,
            "training": {"patch_size": [ROWS, COLUMNS], "optimizer_state": "reset", "steps_per_round": 1},
            "federation": {
                "rounds": rounds,
                "min_cohort": SITES,
                "server_optimizer": "fedavgm",
                "server_momentum": 0.9,
                "server_learning_rate": 2.0,
            },
            "privacy": {
                "mode": "distributed",
                "delta": DELTA,
                "sampling_prob": 1.0,
                "patches": 1,
                "views": 1,
                **noise,
            },
        },
    )


def unprotected(*, rounds: int = 5) -> Training:
    """No differential privacy, and many steps on few patients."""
    return Training(
        name="no DP",
        protection="plain",
        tables={
            "model": _SMALL_MODEL,
            "augmentation": _NO_AUGMENTATION,
            "training": {
                "batch_size": 4,
                "patch_size": [ROWS, COLUMNS],
                "steps_per_round": 10,
                "optimizer_state": "average",
                "learning_rate": 8e-3,
                "weight_decay": 0.0,
            },
            "federation": {"rounds": rounds, "weighting": "uniform", "min_cohort": SITES},
        },
    )


TRAININGS: tuple[Training, ...] = (
    unprotected(),
    distributed("noise 0.02", noise_multiplier=0.02),
    distributed("epsilon 8", epsilon=8.0),
)
"""What the command attacks; the second tells what clipping and one step a round do alone, and what is left to noise."""


@dataclass(frozen=True, kw_only=True)
class MembershipRow:
    """One way of training: what the attack found, and what the account allows; without one `epsilon` is None."""

    training: str
    patients: int
    models: int
    epsilon: float | None
    delta: float | None
    account: str | None
    attacker: Attacker

    @property
    def works(self) -> bool:
        """Whether members are told from others better than by guessing, at 95 % confidence."""
        return self.attacker.auc_low > 0.5

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {**asdict(self), "works": self.works, "within_account": not self.attacker.exceeded}


def audit_membership(
    *,
    patients: int = PATIENTS,
    models: int = MODELS,
    seed: int = 0,
    trainings: Sequence[Training] | None = None,
    on_model: Callable[[], None] = lambda: None,
) -> list[MembershipRow]:
    """One row per way of training (default: TRAININGS); `on_model` is called after each model.

    Raises:
        ConfigError: numbers that leave a target without shadow models, or sites without patients.
    """
    if models < 4 or models % 2:
        raise ConfigError(f"--models = {models}: give an even number of at least 4, so that each has shadow models")
    if patients < 4 * SITES or patients % (2 * SITES):
        raise ConfigError(f"--patients = {patients}: give a multiple of {2 * SITES}, at least {4 * SITES}")
    member = draw_halves(patients, models=models, seed=seed)
    return [
        _attack(training, member, seed=seed, on_model=on_model)
        for training in (TRAININGS if trainings is None else trainings)
    ]


def first_model_digest(training: Training, *, patients: int, models: int, seed: int) -> str:
    """SHA-256 of the first model that the audit of this training attacks, in hexadecimal digits.

    Equal for trainings that differ in how updates travel, and only then is one row for all of them enough.
    """
    member = draw_halves(patients, models=models, seed=seed)
    pool = list(islice(slices(seed), patients))
    run = _train(training, member, pool, number=0, seed=seed, start=None)
    return model_digest(run.state, run.layout).hex()


def as_expected(rows: Sequence[MembershipRow]) -> bool:
    """Whether the attack works where nothing stops it, and nowhere finds more than an account allows.

    Without the first the second would say nothing.
    """
    return all(row.works for row in rows if row.epsilon is None) and not any(row.attacker.exceeded for row in rows)


def draw_halves(patients: int, *, models: int, seed: int) -> npt.NDArray[np.bool_]:
    """Who is in which model, (models, patients): each model has half of the patients, the next one the other half."""
    generator = np.random.default_rng([seed, patients, models])
    halves = generator.permuted(np.tile(np.arange(patients) < patients // 2, (models // 2, 1)), axis=1)
    return np.stack([halves, ~halves], axis=1).reshape(models, patients)


def lira(phi: Scores, member: npt.NDArray[np.bool_]) -> Scores:
    """Scores of shape (models, patients), each model as the target; NaN where a target has no shadow of one kind."""
    models = len(phi)
    scores = np.full(phi.shape, np.nan)
    for target in range(models):
        shadows = np.array([other for other in range(models) if other // 2 != target // 2])
        knew = member[shadows]
        mean_in, mean_out = (_mean_where(phi[shadows], chosen) for chosen in (knew, ~knew))
        residuals = phi[shadows] - np.where(knew, mean_in, mean_out)
        variance = max(float(np.nanvar(residuals)), 1e-12)
        scores[target] = ((phi[target] - mean_out) ** 2 - (phi[target] - mean_in) ** 2) / (2 * variance)
    return scores


def _mean_where(values: Scores, chosen: npt.NDArray[np.bool_]) -> Scores:
    counts = chosen.sum(axis=0)
    means: Scores = np.where(counts > 0, (values * chosen).sum(axis=0) / np.maximum(counts, 1), np.nan)
    return means


def _attack(
    training: Training, member: npt.NDArray[np.bool_], *, seed: int, on_model: Callable[[], None]
) -> MembershipRow:
    models, patients = member.shape
    pool = list(islice(slices(seed), patients))
    phi, start, spent = np.zeros(member.shape), None, None
    for number in range(models):
        run = _train(training, member, pool, number=number, seed=seed, start=start)
        start = run.start
        spent = _spent(run.plan, dimension=run.layout.num_parameters, slots=run.slots)
        with one_torch_thread():
            losses = model_losses(run, pool)
        phi[number] = -losses - np.log(-np.expm1(-losses))
        on_model()
    scores = lira(phi, member)
    known = np.isfinite(scores)
    return MembershipRow(
        training=training.name,
        patients=patients,
        models=models,
        epsilon=None if spent is None else spent.epsilon,
        delta=None if spent is None else spent.delta,
        account=None if spent is None else str(spent),
        attacker=measured_attacker(scores[member & known], scores[~member & known], spent=spent),
    )


def _train(
    training: Training,
    member: npt.NDArray[np.bool_],
    pool: list[Slice],
    *,
    number: int,
    seed: int,
    start: FloatVector | None,
) -> SmallRun:
    """The model of that number; its seed decides on noise and batches.

    The start is one for all models, because whoever knows the plan has it; the first makes it.
    """
    own = [pool[index] for index in np.flatnonzero(member[number])]
    tables = dict(training.tables)
    if "privacy" in tables:
        # Every site holds as many patients as the cap says: half of the pool, dealt out.
        tables["federation"] = {**tables["federation"], "example_cap": len(pool) // (2 * SITES)}
    return run_small(
        [own[site::SITES] for site in range(SITES)],
        mode=training.protection,
        seed=seed * 1000 + number,
        tables=tables,
        start=start,
    )


def _spent(plan: TrainingPlan, *, dimension: int, slots: VectorFormat) -> Spend | None:
    from secfed.privacy_plan import run_cost

    return run_cost(plan, slots, dimension=dimension) if plan.privacy.guarantees else None
