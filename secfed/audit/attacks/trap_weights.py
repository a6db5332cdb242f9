"""Trap weights: the right architecture, but weights that make a sum speak of one site alone.

The aggregator picks an organ that one site of the cohort shows and the others do not. In the last layer it gives every
other class the same weights, and the organ's class a bias that no activation overcomes. Errors of the softmax then sum
to zero over the classes, so that behind the last layer only pixels labelled with that organ have a gradient: all other
sites add nothing there, and the sum over any number of sites is one site's gradient, exactly.

Source: the idea of fishing for one sample (Wen et al., "Fishing for User Data in Large-Batch Federated Learning", ICML
2022; Boenisch et al., "When the Curious Abandon Honesty", 2021), here for segmentation. The good case is that of
gradient inversion, see there. The layout is the honest one, so no architecture check can notice; masks hide who sent a
value and not what the sum says. What acts on it: differential privacy, and an encrypted run, where sites make the first
model themselves and step on sums that they check.
"""

from dataclasses import dataclass, fields
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from secfed.audit.attacks.encrypted_model import chosen_weights
from secfed.audit.inversion import Search, invert, psnr_db
from secfed.audit.rows import Attack, AttackRow, Mode
from secfed.audit.slices import Slice, slices_by_organ
from secfed.audit.small_run import ONE_STEP, SmallRun, run_small
from secfed.audit.target import SECFED
from secfed.data.cases import ABDOMEN
from secfed.parameters import FloatVector
from secfed.torch_threads import one_torch_thread

if TYPE_CHECKING:
    from torch import nn

NAME = "trap-weights"

SUCCESS_DB = 3.0
"""As for gradient inversion: half the squared error of the control."""

_ORGAN = "gallbladder"
_SIZE = (16, 16)
# The receptive field of the small network reaches about this far beyond a pixel.
_REACH = 3
# The organ's class gets this much more weight and this bias: its probability is below 1e-8 wherever features are sane.
_LOUDNESS, _BIAS = 3.0, -30.0


def attack(mode: Mode, seed: int, *, sites: int = 10, victims: int = 2, search: Search | None = None) -> AttackRow:
    """Rebuild what surrounds the organ at the one site that shows it; the figure is the mean gain in PSNR there.

    In plain mode the attacker looks at the victim's upload, and the control is another site's upload under the same
    weights. In masked mode it looks at the sum over all sites, and the control is the sum under honest weights. In
    encrypted mode it has neither a model to send nor a sum to look at; it tries to bring sites to its weights, and the
    figure counts those that stand on them.
    """
    if mode == "encrypted":
        return chosen_weights(SECFED, seed).as_row(NAME, mode)
    search = search or Search(steps=300, total_variation=1e-3)
    showing = islice(slices_by_organ(seed, organ=_ORGAN, present=True, size=_SIZE), victims)
    # Another seed, so that no patient is at two sites.
    without = list(islice(slices_by_organ(seed + 1, organ=_ORGAN, present=False, size=_SIZE), sites - 1))
    rounds = [_attack_one([patient, *without], mode=mode, seed=seed, search=search) for patient in showing]
    reached, control, isolation, honest_isolation = (
        float(np.mean([getattr(single, field.name) for single in rounds])) for field in fields(_Round)
    )
    gain = round(reached - control, 2)
    works = gain >= SUCCESS_DB
    looks_at, compared = (
        ("its upload", "another site's upload under the same weights")
        if mode == "plain"
        else (f"the unmasked sum over {sites} sites", "the same sum under honest weights")
    )
    return AttackRow(
        attack=NAME,
        mode=mode,
        control=(
            f"{compared}: PSNR {control:.1f} dB around the {_ORGAN}; under honest weights the sum over {sites} sites "
            f"points along one site's gradient with cosine {honest_isolation:.2f}"
        ),
        outcome=(
            f"every site trained on the weights it was sent; {looks_at} gave PSNR {reached:.1f} dB around the {_ORGAN} "
            f"of the one site that shows it; behind the last layer the sum is that site's gradient (cosine "
            f"{isolation:.4f}). Masks and the check of the layout do not act on this, differential privacy does"
        ),
        figure=gain,
        unit=f"dB of PSNR around the {_ORGAN} gained over the control",
        verdict="succeeded" if works else "refused",
    )


@dataclass(frozen=True, kw_only=True)
class _Round:
    """PSNR around the organ of attack and control, in dB; cosine of sum and victim's gradient, trapped and honest."""

    reached: float
    control: float
    isolation: float
    honest_isolation: float


def _attack_one(patients: list[Slice], *, mode: Mode, seed: int, search: Search) -> _Round:
    """One cohort, one patient per site; the first patient is the victim."""
    honest = _train(patients, mode=mode, seed=seed)
    trapped = _train(patients, mode=mode, seed=seed, start=trap(honest))
    behind = _behind_last_layer(trapped)
    (case,) = next(iter(trapped.cases.values()))
    truth = case.image[0].astype(np.float64)
    near = _around(np.asarray(case.label)[0] == ABDOMEN.index(_ORGAN))

    def rebuild(run: SmallRun, gradient: npt.NDArray[np.float64], used: npt.NDArray[np.bool_]) -> float:
        with one_torch_thread():
            network = run.network(run.start)
            (found,) = invert(network, gradient, np.asarray(case.label), seed=seed, search=search, used=used)
        return psnr_db(found[near], truth[near])

    if mode == "plain":
        victim, bystander = list(trapped.uploads.values())[:2]
        reached = rebuild(trapped, trapped.gradient_in(victim), behind)
        control = rebuild(trapped, trapped.gradient_in(bystander), behind)
    else:
        reached = rebuild(trapped, trapped.gradient_in_sum(), behind)
        control = rebuild(honest, honest.gradient_in_sum(), np.ones_like(behind))

    def isolation(run: SmallRun) -> float:
        # Whose gradient a sum is can only be told from outside: the same round in plain shows the victim's own.
        plain = _train(patients, mode="plain", seed=seed, start=run.start)
        own = plain.gradient_in(next(iter(plain.uploads.values())))[behind]
        total = run.gradient_in_sum()[behind]
        return float(total @ own / (np.linalg.norm(total) * np.linalg.norm(own)))

    return _Round(reached=reached, control=control, isolation=isolation(trapped), honest_isolation=isolation(honest))


def _train(patients: list[Slice], *, mode: Mode, seed: int, start: FloatVector | None = None) -> SmallRun:
    return run_small([[patient] for patient in patients], mode=mode, seed=seed, tables=ONE_STEP, start=start)


def trap(honest: SmallRun) -> FloatVector:
    """The honest start with a last layer that is deaf to everything but the organ; same layout."""
    import torch

    from secfed.model import flatten

    network = honest.network(honest.start)
    layer = _last_convolution(network)[1]
    organ = ABDOMEN.index(_ORGAN)
    bias = torch.zeros_like(layer.weight[0, :, 0, 0])
    bias[organ] = _BIAS
    with torch.no_grad():
        # A transposed convolution holds its outputs, the classes, along the second axis.
        chosen = _LOUDNESS * layer.weight[:, organ].clone()
        layer.weight.zero_()
        layer.weight[:, organ] = chosen
    layer.bias = torch.nn.Parameter(bias)
    vector = honest.start.copy()
    vector[: honest.layout.model_size] = flatten(network)
    return vector


def _last_convolution(network: "nn.Module") -> "tuple[str, nn.ConvTranspose2d]":
    from torch import nn

    return [(name, part) for name, part in network.named_modules() if isinstance(part, nn.ConvTranspose2d)][-1]


def _behind_last_layer(run: SmallRun) -> npt.NDArray[np.bool_]:
    """Entries of the gradient that do not belong to the last layer, (num_parameters,)."""
    name, _ = _last_convolution(run.network(run.start))
    kept = np.ones(run.layout.num_parameters, bool)
    for spec, place in run.layout.slices():
        if spec.kind == "parameter" and spec.name.startswith(name + "."):
            kept[place] = False
    return kept


def _around(organ: npt.NDArray[np.bool_]) -> tuple[slice, slice]:
    rows, columns = np.nonzero(organ)
    return (
        slice(max(0, int(rows.min()) - _REACH), int(rows.max()) + _REACH + 1),
        slice(max(0, int(columns.min()) - _REACH), int(columns.max()) + _REACH + 1),
    )


ATTACKS = (
    Attack(
        name=NAME,
        threat="a malicious aggregator sends weights under which the sum over all sites is one site's gradient",
        defence="none by masks or by the check of the architecture: differential privacy; encrypted runs send no model",
        run=attack,
    ),
)
