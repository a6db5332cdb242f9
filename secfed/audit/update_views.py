"""What an attacker sees of one training step: single updates and sums, under each protection.

Run by whoever audits, through the real apps; the attacker is the aggregator, or whoever it gives its files to. Each
view comes with the same view of other sites at the same model, on which a search finds nothing of the victims but what
labels and prior give away. Masks and group keys come from the operating system, so masked and encrypted uploads differ
from call to call; everything else follows from the seed.

Under distributed noise the step itself travels instead of AdamW's moments. `UNNOISED` is that view with next to no
noise: what the attack makes of it says whether noise or the view stops the attack.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from secfed.audit.encrypted_uploads import encrypt_uploads
from secfed.audit.rows import Mode
from secfed.audit.slices import Slice
from secfed.audit.small_run import ONE_STEP, SmallRun, run_small
from secfed.data.preprocessing import PreparedCase
from secfed.privacy_plan import run_cost
from secfed.results import SIMULATED_NOISE

if TYPE_CHECKING:
    from torch import nn

SIZE = (16, 16)
SITES = 4
"""Sites of the runs whose single updates are attacked."""
DELTA = 1e-5
EPSILON = 8.0
UNNOISED = 1e-3
UPDATE, SUM = "one site's update", "sum of all sites"
CLIPPED = "clipped, noise 0.001"
PRIVATE = f"distributed epsilon {EPSILON:g}"
SINGLE_VIEWS = 3
PRIVATE_VIEWS = 3

_OF_THE_SUM = f"masked, {PRIVATE}"


@dataclass(frozen=True, kw_only=True)
class UpdateView:
    """What is attacked, how it is protected, and how many sites' updates are in it."""

    target: str
    protection: str
    cohort: int
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One instance of a view: the gradient in it, the same of other sites, and, for scoring, the victims' cases."""

    view: UpdateView
    network: "nn.Module" = field(repr=False)
    gradient: npt.NDArray[np.float64] = field(repr=False)
    unrelated: npt.NDArray[np.float64] = field(repr=False)
    cases: tuple[PreparedCase, ...] = field(repr=False)


def count_views(cohorts: Sequence[int]) -> int:
    """How many views `update_views` gives."""
    return SINGLE_VIEWS + len(cohorts) + PRIVATE_VIEWS


def update_views(patients: Sequence[Slice], *, seed: int, cohorts: Sequence[int]) -> Iterator[Seen]:
    """One instance of each view, of runs on these patients: one per site, the first half victims, the rest controls.

    Raises:
        RuntimeError: a protected run's sum is not that of the plain run, bit for bit.
    """
    half = len(patients) // 2
    victims, others = patients[:half], patients[half:]
    plain = _run(victims[:SITES], mode="plain", seed=seed, tables=ONE_STEP)
    masked = _run(victims[:SITES], mode="masked", seed=seed, tables=ONE_STEP)
    encrypted = encrypt_uploads(plain, seed=seed)
    if not (np.array_equal(plain.state, masked.state) and encrypted.exact):
        raise RuntimeError("the sum of a masked or encrypted run is not the plain one: the views cannot be compared")
    single = UpdateView(target=UPDATE, protection="plain", cohort=1)
    yield _single(plain, single, [plain.gradient_in(upload) for upload in plain.uploads.values()])
    single = UpdateView(target=UPDATE, protection="masked", cohort=1, note="as it arrived at the aggregator")
    yield _single(plain, single, [masked.gradient_in(upload) for upload in masked.uploads.values()])
    single = UpdateView(target=UPDATE, protection="encrypted", cohort=1, note="without the sites' key")
    yield _single(plain, single, [plain.gradient_in(encrypted.without_key(one)) for one in encrypted.ciphertexts])
    for cohort in cohorts:
        own, other = (_run(group[:cohort], mode="masked", seed=seed, tables=ONE_STEP) for group in (victims, others))
        yield Seen(
            view=UpdateView(target=SUM, protection="masked", cohort=cohort, note="the same sum in every mode"),
            network=own.network(own.start),
            gradient=own.gradient_in_sum(),
            unrelated=other.gradient_in_sum(),
            cases=_cases(own),
        )
    yield from _private_views(victims[:SITES], others[:SITES], seed=seed)


def _private_views(victims: Sequence[Slice], others: Sequence[Slice], *, seed: int) -> Iterator[Seen]:
    clipped = _run(victims, mode="plain", seed=seed, tables=_private(noise_multiplier=UNNOISED))
    view = UpdateView(target=UPDATE, protection=CLIPPED, cohort=1, note="the step of a plain run")
    yield _single(clipped, view, [clipped.step_in(upload) for upload in clipped.uploads.values()])
    tables = _private(epsilon=EPSILON)
    own, other = (_run(group, mode="masked", seed=seed, tables=tables) for group in (victims, others))
    noise = own.plan.privacy.noise_multiplier
    assert noise is not None  # noqa: S101 - provisioning resolves it
    # The same integers without their masks.
    bare = _run(victims, mode="plain", seed=seed, tables=_private(noise_multiplier=noise))
    if not np.array_equal(bare.state, own.state):
        raise RuntimeError("the noisy sum of a masked run is not the plain one: the views cannot be compared")
    view = UpdateView(
        target=UPDATE,
        protection=PRIVATE,
        cohort=1,
        note=f"a site's share of the noise of {SITES}, its mask taken off; such a share alone: {_account(bare)}",
    )
    yield _single(bare, view, [bare.step_in(upload) for upload in bare.uploads.values()])
    yield Seen(
        view=UpdateView(target=SUM, protection=_OF_THE_SUM, cohort=SITES, note=_account(own)),
        network=own.network(own.start),
        gradient=own.step_in_sum(),
        unrelated=other.step_in_sum(),
        cases=_cases(own),
    )


def _private(**noise: float) -> dict[str, Any]:
    """The same step with distributed noise; all of the budget goes into it, which is the attacker's good case."""
    return {
        "model": ONE_STEP["model"],
        "augmentation": ONE_STEP["augmentation"],
        "training": {"patch_size": SIZE, "steps_per_round": 1, "optimizer_state": "reset"},
        "federation": {"rounds": 1, "example_cap": 1, "min_cohort": SITES},
        "privacy": {
            "mode": "distributed",
            "delta": DELTA,
            "sampling_prob": 1.0,
            "patches": 1,
            "views": 1,
            **noise,
        },
    }


def _run(patients: Sequence[Slice], *, mode: Mode, seed: int, tables: Mapping[str, Any]) -> SmallRun:
    federation = {**tables["federation"], "min_cohort": len(patients)}
    sites = [[patient] for patient in patients]
    return run_small(sites, mode=mode, seed=seed, tables={**tables, "federation": federation})


def _single(run: SmallRun, view: UpdateView, gradients: Sequence[npt.NDArray[np.float64]]) -> Seen:
    """The first site's update, beside the second's."""
    return Seen(
        view=view,
        network=run.network(run.start),
        gradient=gradients[0],
        unrelated=gradients[1],
        cases=_cases(run)[:1],
    )


def _cases(run: SmallRun) -> tuple[PreparedCase, ...]:
    return tuple(case for (case,) in run.cases.values())


def _account(run: SmallRun) -> str:
    return f"{run_cost(run.plan, run.slots, dimension=run.layout.num_parameters)}; {SIMULATED_NOISE}"
