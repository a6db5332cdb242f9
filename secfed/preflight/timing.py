"""How long masking and training take on THIS machine, from about half a second of the real code each.

Run by whoever plans a run. Masking is the keystream of `privacy.streams` over a vector of the plan's length or a part
of it; training is `clients.local_steps` on random scans, with the plan's network, patch, batch and augmentation. Other
machines take other times, and so does a busy one.
"""

import secrets
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from privacy.streams import KEY_BYTES, Keystream, Sign, add_streams
from secfed.config import RunConfig, SiteConfig
from secfed.data.cases import LABEL_MAPS, Modality
from secfed.torch_threads import one_torch_thread

if TYPE_CHECKING:
    import torch
    from torch import nn

_SECONDS = 0.5
_MOST_ENTRIES = 2**22  # 16 MiB: far beyond the caches, so that a longer vector takes its multiple
_MOST_STREAMS = 16
_MOST_STEPS = 20


@dataclass(frozen=True, kw_only=True)
class MaskingTime:
    """The keystream of one round: each site adds one stream per site of the cohort, the aggregator takes as many off.

    A part of both was measured, and `seconds` is scaled to the whole.
    """

    entries: int
    streams: int
    measured_entries: int
    measured_streams: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class SiteTraining:
    """One site's training; `steps` is None where it follows from scans that preflight does not read."""

    site: str
    batch: int
    batch_is_known: bool
    steps: int | None
    seconds_per_step: float

    @property
    def seconds_per_round(self) -> float | None:
        """The steps of one round."""
        return None if self.steps is None else self.steps * self.seconds_per_step


@dataclass(frozen=True, kw_only=True)
class TrainingTime:
    """An estimate for this machine, one core or GPU at a time; `device` says which."""

    device: str
    rounds: int
    sites: tuple[SiteTraining, ...]

    @property
    def seconds_in_turn(self) -> float | None:
        """All rounds of the federation, one site after the other."""
        return self._all_rounds([site.seconds_per_round for site in self.sites], sum)

    @property
    def seconds_side_by_side(self) -> float | None:
        """All rounds, every site on a machine of its own like this one: the slowest site decides."""
        return self._all_rounds([site.seconds_per_round for site in self.sites], max)

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "device": self.device,
            "sites": [{**asdict(site), "seconds_per_round": site.seconds_per_round} for site in self.sites],
            "seconds_in_turn": self.seconds_in_turn,
            "seconds_side_by_side": self.seconds_side_by_side,
        }

    def _all_rounds(self, seconds: list[float | None], combine: Any) -> float | None:
        known = [value for value in seconds if value is not None]
        return None if len(known) < len(seconds) else self.rounds * float(combine(known))


def time_masking(*, entries: int, sites: int) -> MaskingTime:
    """Mask a vector with one stream per site, again and again for half a second; the median pass counts."""
    accumulator = np.zeros(min(entries, _MOST_ENTRIES), np.uint32)
    count = min(sites, _MOST_STREAMS)
    passes: list[float] = []
    while sum(passes) < _SECONDS:
        started = time.perf_counter()
        signs: list[Sign] = [1 if index % 2 else -1 for index in range(count)]
        add_streams(accumulator, [(Keystream(secrets.token_bytes(KEY_BYTES)), sign) for sign in signs])
        passes.append(time.perf_counter() - started)
    return MaskingTime(
        entries=entries,
        streams=sites,
        measured_entries=accumulator.size,
        measured_streams=count,
        seconds=statistics.median(passes) * (entries / accumulator.size) * (sites / count),
    )


def time_training(config: RunConfig) -> TrainingTime:
    """Take a few steps for every batch size that a site of the run will have."""
    from clients.device import device_description, torch_device
    from secfed.model import initial_model

    device = torch_device("auto")
    batches = {site.name: _batch_of(site, config) for site in config.sites}
    with one_torch_thread():
        model = initial_model(config.model, LABEL_MAPS[config.task].num_classes, config.seed).to(device)
        seconds = {
            batch: _seconds_per_step(config, model, batch=batch, device=device)
            for batch in sorted({batch for batch, _ in batches.values()})
        }
    steps = config.training.steps_per_round if config.training.passes_per_round is None else None
    return TrainingTime(
        device=device_description(device),
        rounds=config.federation.rounds,
        sites=tuple(
            SiteTraining(
                site=site.name,
                batch=batches[site.name][0],
                batch_is_known=batches[site.name][1],
                steps=steps,
                seconds_per_step=seconds[batches[site.name][0]],
            )
            for site in config.sites
        ),
    )


def _batch_of(site: SiteConfig, config: RunConfig) -> tuple[int, bool]:
    """Images per step, and whether it is sure: with `batch_cases` it follows from the number of training cases."""
    training = config.training
    if training.batch_cases is None:
        return training.batch_size, True
    if site.phantom is None:
        return training.batch_size, False
    return max(1, round(training.batch_size * site.phantom.train / training.batch_cases)), True


def _seconds_per_step(config: RunConfig, model: "nn.Module", *, batch: int, device: "torch.device") -> float:
    from clients.local_steps import adamw, memory_format, run_steps
    from secfed.data.preprocessing import PreparedCase
    from secfed.data.sampling import PatchSampler

    generator = np.random.default_rng(config.seed)
    patch = config.training.patch_size
    shape = patch if len(patch) == 3 else (1, *patch)
    case = PreparedCase(
        patient="random",
        modality=Modality.CT,
        image=generator.normal(size=shape).astype(np.float32),
        label=generator.integers(0, LABEL_MAPS[config.task].num_classes, shape).astype(np.uint8),
        spacing_mm=config.preprocessing.spacing_mm,
        source=Path("random"),
    )
    sampler = PatchSampler(
        (case,),
        patch_size=patch,
        foreground_prob=config.training.foreground_prob,
        context_slices=config.model.context_slices,
    )
    model = model.to(memory_format=memory_format(config, device)).train()  # type: ignore[call-overload]
    optimizer = adamw(model, config.training)

    def seconds(steps: int) -> float:
        # Timed as a whole, because a GPU works behind the program; reading the losses at the end waits for it.
        started = time.perf_counter()
        run_steps(
            model,
            optimizer,
            plan=config,
            samplers=(sampler,),
            samples=[steps * batch],
            steps=steps,
            server_round=1,
            sampling=generator,
            augmentation_seed=config.seed,
            device=device,
            on_step=None,
        )
        return (time.perf_counter() - started) / steps

    seconds(1)  # the first step allocates memory and chooses kernels
    once = seconds(1)
    more = min(_MOST_STEPS, int(_SECONDS / once))
    return seconds(more) if more > 1 else once
