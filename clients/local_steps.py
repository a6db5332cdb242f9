"""The steps of a round: batches, augmentation, loss, gradient, AdamW.

Runs at sites. Everything between two batches stays on the device; the losses are read once, after the last step.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from clients.batches import draw_batches, on_device
from clients.loss import consistency_loss, segmentation_loss
from clients.marginal_loss import marginal_segmentation_loss
from secfed.augmentation.appearance import views
from secfed.augmentation.spatial import random_affine
from secfed.config import TrainingConfig, TrainingPlan
from secfed.data.sampling import PatchSampler

if TYPE_CHECKING:
    # One device needs no torch.distributed, and a Flower process starts for every message.
    from clients.replica import Replica

_ONE_CYCLE_RISE = 0.3
_ONE_CYCLE_START = 1 / 25
_ONE_CYCLE_END = 1 / 250_000
_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# A round may be short, so the loss scale starts where no step is lost instead of at torch's 65,536.
_FLOAT16_SCALE = 1024.0


def precision_of(training: TrainingConfig) -> torch.dtype:
    """The type that activations are computed in."""
    return _PRECISIONS[training.precision]


def adamw(model: nn.Module, training: TrainingConfig) -> torch.optim.AdamW:
    """The local optimiser; `run_steps` sets the learning rate before every step."""
    return torch.optim.AdamW(
        model.parameters(), lr=0.0, betas=training.adam_betas, weight_decay=training.weight_decay, fused=True
    )


def memory_format(plan: TrainingPlan, device: torch.device) -> torch.memory_format:
    """Channels last where tensor cores want it; on a CPU the plain order is up to a tenth faster for these networks."""
    if device.type == "cpu":
        return torch.contiguous_format
    return torch.channels_last if plan.model.dimensions == 2 else torch.channels_last_3d


def run_steps(
    model: nn.Module,
    optimizer: torch.optim.AdamW,
    *,
    plan: TrainingPlan,
    samplers: tuple[PatchSampler, ...],
    samples: list[int],
    steps: int,
    server_round: int,
    sampling: np.random.Generator,
    augmentation_seed: int,
    device: torch.device,
    replica: "Replica | None" = None,
    on_step: Callable[[], None] | None,
) -> npt.NDArray[np.float64]:
    """Train `model` in place and return the loss of every step, (steps,).

    Sampler i gives `samples[i]` patches; those of all samplers are shuffled together and cut into `steps` batches. A
    `replica` takes its part of every batch; gradients and losses are then the means over all replicas.
    """
    training = plan.training
    weights = training.class_weights
    class_weights = None if weights is None else torch.tensor(weights, dtype=torch.float32, device=device)
    augmentation = torch.Generator(device).manual_seed(augmentation_seed)
    proximal = _Proximal(model, plan.federation.proximal_mu)
    dtype = precision_of(training)
    scaler = torch.amp.GradScaler(device.type, init_scale=_FLOAT16_SCALE, enabled=dtype is torch.float16)
    losses: list[Tensor] = []
    forward = model if replica is None else replica.wrapped(model)
    part = (0, 1) if replica is None else replica.part
    drawn = draw_batches(samplers, samples, steps=steps, generator=sampling, part=part)
    with on_device(drawn, device) as batches:
        for step, given in enumerate(batches):
            progress = (server_round - 1 + (step + 0.5) / steps) / plan.federation.rounds
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(progress, training)
            images, labels = random_affine(
                given.images, given.labels, config=plan.augmentation.affine, generator=augmentation
            )
            first, partner = views(images, labels, config=plan.augmentation, generator=augmentation)
            batch = first if partner is None else torch.cat((first, partner))
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32):
                logits = forward(batch.to(memory_format=memory_format(plan, device)))
            both = partner is not None and plan.augmentation.consistency.labelled == "both"
            supervised_loss = marginal_segmentation_loss if given.partial else segmentation_loss
            loss = supervised_loss(
                logits if both else logits[: len(first)],
                torch.cat((labels, labels)) if both else labels,
                dice_weight=training.dice_weight,
                cross_entropy_weight=training.cross_entropy_weight,
                class_weights=class_weights,
                over=training.loss_over,
            )
            if partner is not None:
                loss = loss + plan.augmentation.consistency_weight * consistency_loss(*logits.chunk(2))
            if replica is not None:
                loss = loss * replica.share(len(first), given.whole)
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call] # torch ships no type for it
            scaler.unscale_(optimizer)
            proximal.add_gradient()
            torch.nn.utils.clip_grad_norm_(model.parameters(), training.gradient_clip_norm)
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.detach())
            if on_step is not None:
                on_step()
    means = torch.stack(losses)
    if replica is not None:
        replica.settle(model)
        means = replica.mean(means)
    values: npt.NDArray[np.float64] = means.cpu().double().numpy()
    return values


class _Proximal:
    """FedProx (Li et al., MLSys 2020): mu / 2 times the squared distance of the weights from where the round started.

    It enters as its gradient, mu * (w - start), so that the reported loss stays that of the segmentation.
    """

    def __init__(self, model: nn.Module, mu: float) -> None:
        self._mu = mu
        self._parameters = [parameter for parameter in model.parameters() if mu and parameter.requires_grad]
        self._start = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def add_gradient(self) -> None:
        """Add it to the gradients of the loss; everything stays on the device."""
        for parameter, start in zip(self._parameters, self._start, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter - start, alpha=self._mu)


def learning_rate(progress: float, training: TrainingConfig) -> float:
    """The rate at a share of the whole run, 0 to 1, the same at every site.

    "constant" and "cosine" rise linearly over `warmup_fraction`; cosine then falls to 0 along half a wave. "one_cycle"
    (Smith and Topin, 2018, with PyTorch's constants) rises from 1/25 to 1 and falls to 1/250,000 along half waves; its
    rise takes 30 % of the run, or `warmup_fraction` where that is longer.
    """
    peak = training.learning_rate
    rise = training.warmup_fraction
    if training.schedule == "one_cycle":
        rise = max(rise, _ONE_CYCLE_RISE)
        if progress < rise:
            return peak * (_ONE_CYCLE_START + (1 - _ONE_CYCLE_START) * (1 - _half_wave(progress / rise)))
        return peak * (_ONE_CYCLE_END + (1 - _ONE_CYCLE_END) * _half_wave((progress - rise) / (1 - rise)))
    if progress < rise:
        return peak * progress / rise
    return peak if training.schedule == "constant" else peak * _half_wave((progress - rise) / (1 - rise))


def _half_wave(share: float) -> float:
    """Falls from 1 at share 0 to 0 at share 1, and stays there."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
