"""Membership inference: whoever holds the final model tells patients that it was trained on from others.

The score of a patient is how much better the model does on it than a reference model which the attacker trained on
patients of its own: log of the reference's loss minus log of the model's (Watson et al., "On the Importance of
Difficulty Calibration in Membership Inference Attacks", ICLR 2022; with one reference it is LiRA's poorer relative).
The model is overfitted on purpose: few patients, one slice each, no augmentation. That is the attacker's good case.

Masked, encrypted and plain runs give one model, bit for bit, so neither protection can act on this. Differential
privacy bounds it, and more training patients make it harder, which the row shows by a second run of as many steps.
"""

from itertools import islice
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.stats import norm

from secfed.audit.encrypted_uploads import encrypt_uploads
from secfed.audit.rows import Attack, AttackRow, Mode
from secfed.audit.slices import COLUMNS, ROWS, Slice, slices
from secfed.audit.small_run import SmallRun, run_small
from secfed.torch_threads import one_torch_thread

if TYPE_CHECKING:
    from torch import nn

Scores = npt.NDArray[np.float64]

NAME = "membership-inference"

_SITES = 4
_FALSE_POSITIVE_RATE = 0.05
_TABLES: dict[str, Any] = {
    "model": {"channels": [16, 32, 64], "residual_units": 0},
    "augmentation": {"method": "none", "affine": {"probability": 0.0}},
    "training": {
        "batch_size": 4,
        "patch_size": [ROWS, COLUMNS],
        "steps_per_round": 10,
        "optimizer_state": "average",
        "learning_rate": 8e-3,
        "weight_decay": 0.0,
    },
    "federation": {"rounds": 5, "weighting": "uniform", "min_cohort": 3},
}


def attack(
    mode: Mode, seed: int, *, few: int = 16, many: int = 64, strangers: int = 48, references: int = 24
) -> AttackRow:
    """Tell `few` training patients from `strangers`, then `many`; the figure is the AUC with few."""
    patients = list(islice(slices(seed), many + strangers + references))
    outside, own = patients[many : many + strangers], patients[many + strangers :]
    reference, crowded = (_train(group, mode="plain", seed=seed) for group in (own, patients[:many]))
    plain = _train(patients[:few], mode="plain", seed=seed)
    target, identical = plain, ""
    if mode == "masked":
        target = _train(patients[:few], mode=mode, seed=seed)
        same = np.array_equal(target.state, plain.state)
        identical = f"; the masked model {'is' if same else 'is NOT'} the plain one bit for bit"
    if mode == "encrypted":
        same = encrypt_uploads(plain, seed=seed).exact
        identical = (
            f"; the sum that sites decrypt in the last round {'is' if same else 'is NOT'} the plain one bit for bit, "
            "and with it the model, which the aggregator does not have"
        )
    with one_torch_thread():
        members, others = (_scores(target, reference, group) for group in (patients[:few], outside))
        many_members, many_others = (_scores(crowded, reference, group) for group in (patients[:many], outside))
    found, spread = auc(members, others), auc(many_members, many_others)
    low, high = auc_interval(found, len(members), len(others))
    # The same test where there is nothing to find: strangers against strangers.
    control = auc(others[::2], others[1::2])
    works = low > 0.5 and found > control
    caught = float((members > np.quantile(others, 1 - _FALSE_POSITIVE_RATE)).mean())
    return AttackRow(
        attack=NAME,
        mode=mode,
        control=f"strangers against strangers: AUC {control:.2f}",
        outcome=(
            f"AUC {found:.2f} [{low:.2f}, {high:.2f}] with {few} training patients, {caught:.0%} of them found at a "
            f"false positive rate of {_FALSE_POSITIVE_RATE:.0%}; AUC {spread:.2f} with {many} training patients and as "
            f"many steps{identical}. Neither masks nor encryption act on what the model says: differential privacy does"
        ),
        figure=round(found, 3),
        unit="AUC, 0.5 for guessing",
        verdict="succeeded" if works else "refused",
    )


def auc(members: Scores, others: Scores) -> float:
    """Probability that a member scores above a stranger; ties count half (Mann and Whitney, 1947)."""
    above = members[:, None] > others[None, :]
    level = members[:, None] == others[None, :]
    return float((above + 0.5 * level).mean())


def auc_interval(found: float, members: int, others: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Bounds of an AUC that hold at 0 and 1 too: Newcombe, Statistics in Medicine 2006, part 2, method 5."""
    z = float(norm.ppf(0.5 + confidence / 2))
    mean_size = (members + others) / 2

    def deviation(value: float) -> float:
        pull = (1 - value) / (2 - value) + value / (1 + value)
        return sqrt(max(0.0, value * (1 - value) * (1 + (mean_size - 1) * pull) / (members * others)))

    def lowest(value: float) -> float:
        """The smallest AUC that `value` does not contradict. 1 itself solves the equation for 1, and is not meant."""
        if value == 0.0:
            return 0.0
        return float(brentq(lambda low: value - low - z * deviation(low), 0.0, min(value, 1 - 1e-9)))

    # The formula does not change when members and strangers swap places.
    return lowest(found), 1 - lowest(1 - found)


def _train(patients: list[Slice], *, mode: Mode, seed: int) -> SmallRun:
    return run_small([patients[site::_SITES] for site in range(_SITES)], mode=mode, seed=seed, tables=_TABLES)


def _scores(target: SmallRun, reference: SmallRun, patients: list[Slice]) -> Scores:
    return np.log(model_losses(reference, patients)) - np.log(model_losses(target, patients))


def model_losses(run: SmallRun, patients: list[Slice]) -> Scores:
    """Cross entropy of the final model on each patient, (patients,)."""
    import torch

    from clients.loss import losses_per_image

    network: nn.Module = run.network(run.state).eval()
    images = torch.from_numpy(np.stack([patient.normalised() for patient in patients]))[:, None]
    labels = torch.from_numpy(np.stack([patient.label for patient in patients])).long()
    with torch.no_grad():
        losses = losses_per_image(
            network(images), labels, dice_weight=0.0, cross_entropy_weight=1.0, class_weights=None
        )
    values: Scores = losses.double().numpy()
    return np.maximum(values, 1e-12)


ATTACKS = (
    Attack(
        name=NAME,
        threat="whoever gets the model tells which patients it was trained on",
        defence="none by masks or encryption, which leave the model: differential privacy; more training patients",
        run=attack,
    ),
)
