"""One round of local training: from the global model to this site's own weights.

Runs at sites, and centrally for the reference that sees all data. torch is imported when training starts and not with
this module, because a Flower process starts for every message.

All randomness follows from the plan's seed, the names of the sites and the round, so a round that is run again gives
the same weights: bit for bit on a CPU with the same number of threads and of replicas, on a GPU as far as its kernels
are deterministic.
The weights that come out are NOT protected; `clients.update` bounds and encodes them before anything leaves the site.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from secfed.config import TrainingConfig, TrainingPlan
from secfed.data.cases import LABEL_MAPS
from secfed.data.preprocessing import PreparedCase
from secfed.data.sampling import PatchSampler
from secfed.errors import DataError, SecfedError
from secfed.parameters import FloatVector, ParameterLayout

if TYPE_CHECKING:
    import torch
    from torch import nn

    from clients.replica import Replica


@dataclass(frozen=True, kw_only=True)
class TrainingSource:
    """A site's labelled cases; several sources together make the centralised reference."""

    site: str
    cases: tuple[PreparedCase, ...]


@dataclass(frozen=True, kw_only=True)
class RoundOutcome:
    """What a round of training gives: weights (layout.size,), the mean loss of its steps, and how much was seen."""

    weights: FloatVector
    mean_loss: float
    steps: int
    samples: int


def batch_for(source: TrainingSource, training: TrainingConfig) -> int:
    """Images per step at one site: fixed, or the site's share by number of cases, at least one."""
    if training.batch_cases is None:
        return training.batch_size
    return max(1, round(training.batch_size * len(source.cases) / training.batch_cases))


class TrainingDiverged(SecfedError):  # noqa: N818 - the field's word
    """The loss or the weights of a round are not finite."""


def steps_for(source: TrainingSource, training: TrainingConfig) -> int:
    """Optimiser steps per round at one site: fixed, or `passes_per_round` passes over its own slices, at least one."""
    if training.passes_per_round is None:
        return training.steps_per_round
    slices = _sampler(source, training).num_slices
    return max(1, round(training.passes_per_round * slices / batch_for(source, training)))


def samples_for(source: TrainingSource, training: TrainingConfig) -> int:
    """Slices or patches that a round draws from one source, wherever it is trained on."""
    return steps_for(source, training) * batch_for(source, training)


def steps_of(sources: tuple[TrainingSource, ...], samples: list[int], training: TrainingConfig) -> int:
    """Optimiser steps of a round on all sources together, of which each gives so many samples; at least one."""
    batch_size = batch_for(sources[0], training) if len(sources) == 1 else training.batch_size
    return max(1, round(sum(samples) / batch_size))


@dataclass(frozen=True, kw_only=True, eq=False)
class RoundOrder:
    """A round of training as every process is told it that takes part; `sources` in the order of their sites."""

    plan: TrainingPlan
    sources: tuple[TrainingSource, ...]
    start: FloatVector
    layout: ParameterLayout
    server_round: int
    state_folder: Path
    compiled: bool
    durable_state: bool

    @property
    def sites(self) -> list[str]:
        """Whose data it is."""
        return [source.site for source in self.sources]


def train_one_round(
    *,
    plan: TrainingPlan,
    sources: tuple[TrainingSource, ...],
    start: FloatVector,
    layout: ParameterLayout,
    server_round: int,
    state_folder: Path,
    device: "torch.device | None" = None,
    replicas: "tuple[torch.device, ...]" = (),
    compiled: bool = False,
    durable_state: bool = True,
    on_step: Callable[[], None] | None = None,
) -> RoundOutcome:
    """Train from `start` (layout.size,) for round `server_round`, counted from 1.

    `layout` is `state_layout`'s, without what is one modality's: a site trains one network.

    Several sources are shuffled together, each with as many samples as it would have at its own site. `on_step` is
    called after every step. With `optimizer_state = "keep"` the optimiser continues from the newest state in
    `state_folder` that is older than this round. `replicas`, where there are several, train every batch together in
    place of `device` (clients.replica). `compiled` has torch.compile make the network (clients.compilation).

    Raises:
        DataError: a source has no cases, or a case has no labels.
        RunFolderError: the saved optimiser state is damaged or belongs to another run.
        TrainingDiverged: loss or weights are not finite.
        ConfigError: the network cannot be compiled here.
        ReplicaFailed: one of several devices could not finish its part.
        ValueError: `start` or `layout` do not fit the plan's model, a site stands twice, or `server_round` is below 1.
    """
    import torch

    if server_round < 1:
        raise ValueError(f"server_round counts from 1, got {server_round}")
    order = RoundOrder(
        plan=plan,
        sources=tuple(sorted(sources, key=lambda source: source.site)),
        start=start,
        layout=layout,
        server_round=server_round,
        state_folder=state_folder,
        compiled=compiled,
        durable_state=durable_state,
    )
    if not order.sites or len(set(order.sites)) < len(order.sites):
        raise ValueError(f"give at least one source, and every site once, got {order.sites}")
    if len(replicas) > 1:
        from clients.replica_processes import train_on_replicas

        return train_on_replicas(order, devices=replicas, on_step=on_step)
    return carry_out(order, device=torch.device("cpu") if device is None else device, on_step=on_step)


def carry_out(
    order: RoundOrder,
    *,
    device: "torch.device",
    replica: "Replica | None" = None,
    on_step: Callable[[], None] | None = None,
) -> RoundOutcome:
    """The round on this process's device, alone or as one of several replicas, which all come to the same outcome.

    Raises:
        DataError, RunFolderError, TrainingDiverged, ConfigError, ValueError: as `train_one_round`.
    """
    import torch

    from clients.compilation import explained
    from clients.local_steps import adamw, run_steps
    from clients.optimizer_state import OptimizerStates, load_shared, shared_moments
    from secfed.model import flatten, load_flat

    plan, layout, sites, server_round = order.plan, order.layout, order.sites, order.server_round
    streams = _Streams.derive(plan.seed, sites, server_round)
    if replica is not None:
        streams = streams.of_replica(*replica.part)
    context = plan.model.context_slices
    samplers = tuple(_sampler(source, plan.training, context_slices=context) for source in order.sources)
    # Dropout and the network's own initialisation draw from torch's global generators, which are left as they were.
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), flushed_denormals():
        # Before the generator is seeded, because building a network draws from it and a cached one does not.
        model = (compiled_network_for if order.compiled else network_for)(plan, device).train()
        torch.default_generator.manual_seed(streams.dropout_seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(streams.dropout_seed)
        load_flat(model, order.start[: layout.model_size], layout.model_layout())
        optimizer = adamw(model, plan.training)
        samples = [samples_for(source, plan.training) for source in order.sources]
        steps = steps_of(order.sources, samples, plan.training)
        owner = json.dumps([plan.digest().hex(), sites])
        states = OptimizerStates(order.state_folder, owner=owner, durable=order.durable_state)
        if plan.training.optimizer_state == "keep":
            states.restore(model, optimizer, before=server_round)
        elif plan.training.optimizer_state == "average":
            load_shared(model, optimizer, order.start[layout.model_size :], steps_taken=(server_round - 1) * steps)
        with explained(device) if order.compiled else nullcontext():
            losses = run_steps(
                model,
                optimizer,
                plan=plan,
                samplers=samplers,
                samples=samples,
                steps=steps,
                server_round=server_round,
                sampling=streams.sampling,
                augmentation_seed=streams.augmentation_seed,
                device=device,
                replica=replica,
                on_step=on_step,
            )
    weights = flatten(model)
    if plan.training.optimizer_state == "average":
        weights = np.concatenate([weights, shared_moments(model, optimizer)])
    if not (np.isfinite(losses).all() and np.isfinite(weights).all()):
        raise TrainingDiverged(
            f"training diverged at {' and '.join(sites)} in round {server_round}: loss or weights are not finite; "
            f"lower training.learning_rate = {plan.training.learning_rate}, or use precision = 'float32'"
        )
    if replica is not None and not replica.all_hold(weights):
        raise SecfedError(
            f"round {server_round}: the {replica.count} devices that trained together came to different weights, so "
            "one of them computes wrongly; nothing of the round was kept. devices = 1 trains without replicas"
        )
    if plan.training.optimizer_state == "keep" and (replica is None or replica.index == 0):
        states.save(model, optimizer, server_round=server_round)
    return RoundOutcome(
        weights=weights,
        mean_loss=float(losses.mean()),
        steps=len(losses),
        samples=sum(samples),
    )


@functools.lru_cache(maxsize=2)
def network_for(plan: TrainingPlan, device: "torch.device") -> "nn.Module":
    """The plan's network on the device; built once per process, because every round overwrites all its values.

    What a round does not overwrite are the integer counters of batch normalisation, which no computation reads.
    """
    return _network(plan, device)


@functools.lru_cache(maxsize=2)
def compiled_network_for(plan: TrainingPlan, device: "torch.device") -> "nn.Module":
    """Another one, whose calls are compiled; what stands for it and leaves the site bears the same names."""
    from clients.compilation import compile_network

    model = _network(plan, device)
    compile_network(model)
    return model


def _network(plan: TrainingPlan, device: "torch.device") -> "nn.Module":
    from clients.local_steps import memory_format
    from secfed.network import build_network

    model = build_network(plan, num_classes=LABEL_MAPS[plan.task].num_classes).to(device)
    return model.to(memory_format=memory_format(plan, device))  # type: ignore[call-overload,no-any-return]


@dataclass(frozen=True)
class _Streams:
    """The three independent streams of a round, bound to the plan's seed, the sites and the round."""

    sampling: np.random.Generator
    augmentation_seed: int
    dropout_seed: int

    @classmethod
    def derive(cls, seed: int, sites: list[str], server_round: int) -> Self:
        text = json.dumps(["secfed/training/v1", seed, sites, server_round])
        entropy = int.from_bytes(hashlib.sha256(text.encode()).digest(), "little")
        sampling, augmentation, dropout = np.random.SeedSequence(entropy).spawn(3)
        return cls(
            sampling=np.random.default_rng(sampling),
            augmentation_seed=int(augmentation.generate_state(1, np.uint64)[0]),
            dropout_seed=int(dropout.generate_state(1, np.uint64)[0]),
        )

    def of_replica(self, index: int, count: int) -> Self:
        """Everybody draws the same patches; views and dropout of its own part come from streams of its own."""

        def own(seed: int) -> int:
            return int(np.random.SeedSequence([seed, count, index]).generate_state(1, np.uint64)[0])

        return dataclasses.replace(
            self, augmentation_seed=own(self.augmentation_seed), dropout_seed=own(self.dropout_seed)
        )


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Subnormal numbers slow a CPU down many times once activations fade.

    The switch belongs to the thread and changes other libraries' arithmetic too, so it is put back.
    """
    import torch

    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _sampler(source: TrainingSource, training: TrainingConfig, *, context_slices: int = 0) -> PatchSampler:
    if not source.cases:
        raise DataError(f"{source.site}: there are no cases to train on")
    return PatchSampler(
        source.cases,
        patch_size=training.patch_size,
        foreground_prob=training.foreground_prob,
        context_slices=context_slices,
    )
