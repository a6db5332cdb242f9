"""Imprint layers: the aggregator offers a model with a layer in front that copies training images into its gradient.

The layer projects an image onto one direction and compares the result with rising thresholds. Neurons whose threshold
lies below it are active, so two neighbours differ by exactly the images between their thresholds: the difference of
their weight gradients over the difference of their bias gradients is such an image, to the last digits of float32. This
works on sums as on single updates, so masks do not help; what helps is that a site takes no layout but the one that its
own code builds for the plan.

Source: Fowl et al., "Robbing the Fed", ICLR 2022. The real programs run on both sides; the offer is one plan with the
honest layout (control) and with the imprint layer. What the layer gives on sites that take it is shown in tests/.
"""

from collections.abc import Iterator
from itertools import islice
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from secfed.audit.attacks.encrypted_model import chosen_layout
from secfed.audit.inversion import Images, psnr_db
from secfed.audit.rows import Attack, AttackRow, Mode
from secfed.audit.slices import slices
from secfed.audit.small_run import ONE_STEP, SitesRefused, SmallRun, run_small
from secfed.audit.target import SECFED
from secfed.config import TrainingPlan
from secfed.data.cases import LABEL_MAPS

if TYPE_CHECKING:
    from torch import nn

NAME = "imprint-layer"

SUCCESS_DB = 3.0

_SIZE = (16, 16)
_BINS = 1024
# What a site that refuses the layout writes into its own log.
_REFUSAL = "not the one that the plan's architecture has"
# The layer whispers into loud weights: its output hardly changes the image, and yet its own gradient is large.
_WHISPER, _VOLUME = 1e-3, 5.0


def attack(mode: Mode, seed: int, *, sites: int = 4) -> AttackRow:
    """Offer the layer and read what comes back; the figure is the mean gain in PSNR over a blank guess.

    In encrypted mode nobody offers a layout: what is tried there is a longer vector, and the figure counts sites.
    """
    if mode == "encrypted":
        return chosen_layout(SECFED, seed).as_row(NAME, mode)
    from secfed.model import flatten, state_layout

    patients = [[patient] for patient in islice(slices(seed, size=_SIZE), sites)]
    honest = run_small(patients, mode=mode, seed=seed, tables=ONE_STEP)
    truths = [case.image[0].astype(np.float64) for (case,) in honest.cases.values()]
    blank = np.zeros(_SIZE)
    guesses: list[Images] = [blank]
    network = imprinted(honest.plan, seed=seed)
    layout = state_layout(network, honest.plan.training.optimizer_state)
    start = np.zeros(layout.size, np.float32)
    start[: layout.model_size] = flatten(network)
    try:
        run = run_small(patients, mode=mode, seed=seed, tables=ONE_STEP, start=start, layout=layout)
    except SitesRefused as refused:
        if not all(_REFUSAL in reason for reason in refused.reasons.values()):
            # A site that fails for another reason shows nothing about the check.
            raise
        happened = f"{sites} of {sites} sites refused the layout at the join, so that no update left them"
    else:
        seen = [run.gradient_in_sum()] if mode == "masked" else [run.gradient_in(u) for u in run.uploads.values()]
        guesses += [image for gradient in seen for image in read(gradient, run)]
        happened = f"{sites} of {sites} sites trained on it, and {len(guesses) - 1} images were read from the layer"
    reached = float(np.mean([max(psnr_db(guess, truth) for guess in guesses) for truth in truths]))
    control = float(np.mean([psnr_db(blank, truth) for truth in truths]))
    gain = round(reached - control, 2)
    works = gain >= SUCCESS_DB
    return AttackRow(
        attack=NAME,
        mode=mode,
        control=(
            f"the honest layout was accepted by {len(honest.uploads)} of {sites} sites; a blank guess has PSNR "
            f"{control:.1f} dB"
        ),
        outcome=f"{happened}; best guesses have PSNR {reached:.1f} dB",
        figure=gain,
        unit="dB of PSNR gained over a blank guess",
        verdict="succeeded" if works else "refused",
    )


def imprinted(plan: TrainingPlan, *, seed: int) -> "nn.Module":
    """The plan's network behind an imprint layer for images of the plan's patch size."""
    import torch
    from torch import nn

    from secfed.model import initial_model

    pixels = int(np.prod(plan.training.patch_size))
    generator = torch.Generator().manual_seed(seed)

    class Imprinted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.imprint = nn.Linear(pixels, _BINS)
            self.readout = nn.Linear(_BINS, pixels, bias=False)
            self.network = initial_model(plan.model, LABEL_MAPS[plan.task].num_classes, plan.seed)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            active = torch.relu(self.imprint(images.flatten(1)))
            return self.network(images + self.readout(active).view_as(images))  # type: ignore[no-any-return]

    model = Imprinted()
    # Images are normalised, so a projection onto a random unit direction is nearly a standard normal number.
    direction = torch.randn(pixels, generator=generator)
    thresholds = [NormalDist().inv_cdf((index + 0.5) / _BINS) for index in range(_BINS)]
    with torch.no_grad():
        model.imprint.weight.copy_((_WHISPER * direction / direction.norm()).expand(_BINS, pixels))
        model.imprint.bias.copy_(-_WHISPER * torch.tensor(thresholds))
        model.readout.weight.copy_(_VOLUME * torch.randn(pixels, 1, generator=generator).expand(pixels, _BINS))
    return model


def read(gradient: npt.NDArray[np.float64], run: SmallRun) -> Iterator[Images]:
    """The images between neighbouring thresholds, from the gradient of an imprinted network."""
    places = {spec.name: (spec.shape, place) for spec, place in run.layout.slices() if spec.kind == "parameter"}
    weights, biases = (
        gradient[place].reshape(shape) for shape, place in (places["imprint.weight"], places["imprint.bias"])
    )
    # Above the highest threshold lies nothing.
    weights, biases = (-np.diff(values, axis=0, append=0 * values[:1]) for values in (weights, biases))
    loudest = np.abs(biases).max()
    for weight, bias in zip(weights, biases, strict=True):
        if abs(bias) > 0.02 * loudest:
            yield (weight / bias).reshape(run.plan.training.patch_size)


ATTACKS = (
    Attack(
        name=NAME,
        threat="a malicious aggregator offers a model with a layer that copies images into the update, or into the sum",
        defence="a site accepts only the layout that its own code builds for the plan",
        run=attack,
    ),
)
