"""Gradients patient by patient against the plain step over the same images: time and memory, beside Opacus's hooks.

All three ways see one lot, with the training loss, on one thread, each in processes of its own, because what one way
frees shapes how the next one allocates. Time is the CPU time of whole steps; the processes of the three ways take
turns, so that a busy machine slows all of them, and what counts is the ratio of the medians. Memory is what a step adds
to the resident memory of a process, after a step with one image has loaded torch's kernels; glibc gives freed blocks
back at once there, or a peak would hold what was freed long before.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.memory import reset_peak, status_bytes
from benchmarks.rows import Row
from benchmarks.stopwatch import Stopwatch

WAYS = ("plain", "loop", "hooks")
CLASSES = 9
PUBLIC_WEIGHTS = (0.06, 0.30, 0.99, 0.92, 0.94, 1.53, 2.57, 0.52, 1.17)

_TIME_OF_PLAIN, _MEMORY_OF_PLAIN = 1.6, 1.1
_TIME_OF_HOOKS, _MEMORY_OF_HOOKS = 1 / 2, 1 / 3

# Blocks from 64 KiB on get their own pages, which go back to the system when they are freed.
_PROMPT_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A network and a lot: `views` are the patches of one patient times the views of each."""

    title: str
    architecture: str
    channels: tuple[int, ...]
    patients: int
    views: int
    patch_size: tuple[int, ...]


WORKLOADS = {
    "demo": Workload(
        title="demo U-Net, 10 patients x 8 views of 64 x 80",
        architecture="unet",
        channels=(16, 32, 64, 128),
        patients=10,
        views=8,
        patch_size=(64, 80),
    ),
    "basic": Workload(
        title="BasicUNet 3D, 4 patients x 2 views of 48^3",
        architecture="basic_unet",
        channels=(16, 16, 32, 64, 128),
        patients=4,
        views=2,
        patch_size=(48, 48, 48),
    ),
    "basic-small": Workload(
        title="BasicUNet 3D, 4 patients x 2 views of 32^3",
        architecture="basic_unet",
        channels=(16, 16, 32, 64, 128),
        patients=4,
        views=2,
        patch_size=(32, 32, 32),
    ),
}


def gradient_rows(*, quick: bool) -> list[Row]:
    """Rows for the demo's U-Net, for which the targets are set, and for a BasicUNet."""
    rows = []
    for name in ("demo", "basic-small" if quick else "basic"):
        laps: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(2 if quick else 3):
            for way in WAYS:
                laps[way] += _measured(name, "time", way, repeats=3 if quick else 5)
        seconds = {way: statistics.median(found) for way, found in laps.items()}
        memory = {way: _measured(name, "memory", way, repeats=1)[0] / 2**20 for way in WAYS}
        rows += _rows(WORKLOADS[name].title, seconds=seconds, megabytes=memory, targets=name == "demo")
    return rows


def _rows(title: str, *, seconds: dict[str, float], megabytes: dict[str, float], targets: bool) -> list[Row]:
    rows = [Row(measure=f"{title}: time, {way}", value=1e3 * seconds[way], unit="ms CPU") for way in WAYS]
    rows += [Row(measure=f"{title}: memory, {way}", value=megabytes[way], unit="MiB") for way in WAYS]
    for what, found, other, limit in (
        ("time", seconds, "plain", _TIME_OF_PLAIN),
        ("memory", megabytes, "plain", _MEMORY_OF_PLAIN),
        ("time", seconds, "hooks", _TIME_OF_HOOKS),
        ("memory", megabytes, "hooks", _MEMORY_OF_HOOKS),
    ):
        ratio = found["loop"] / found[other]
        rows.append(
            Row(
                measure=f"{title}: {what}, loop / {other}",
                value=ratio,
                unit="ratio",
                target=f"<= {limit:.2g}" if targets else None,
                met=ratio <= limit if targets else None,
            )
        )
    return rows


def _measured(workload: str, what: str, way: str, *, repeats: int) -> list[float]:
    """CPU seconds of every step, or the bytes of one, from a fresh process."""
    command = [sys.executable, "-m", "benchmarks.patient_gradients", workload, what, way, str(repeats)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} | (_PROMPT_MALLOC if what == "memory" else {})
    root = Path(__file__).parents[1]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=True)
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


def step_of(workload: Workload, way: str) -> Callable[[int], object]:
    """A step over the first so many patients; 0 stands for one image of one patient."""
    import torch

    from clients.loss import losses_per_image
    from privacy.opacus_backend import OpacusHooks
    from privacy.patientwise import PatientLoop
    from secfed.config import ModelConfig
    from secfed.model import initial_model

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    shape = workload.patch_size
    config = ModelConfig.model_validate(
        {
            "architecture": workload.architecture,
            "dimensions": len(shape),
            "channels": workload.channels,
            "residual_units": 0,
        }
    )
    model = initial_model(config, CLASSES, 0).train()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(workload.patients * workload.views, 1, *shape, generator=generator)
    labels = torch.randint(CLASSES, (len(images), *shape), generator=generator)
    lot = list(zip(torch.split(images, workload.views), torch.split(labels, workload.views), strict=True))
    weights = torch.tensor(PUBLIC_WEIGHTS)

    def loss(logits: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        return losses_per_image(logits, reference, dice_weight=1.0, cross_entropy_weight=1.0, class_weights=weights)

    def plain(patients: int) -> None:
        seen = slice(patients * workload.views or 1)
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(loss(model(images[seen]), labels[seen]).mean())

    example = (torch.zeros(1, 1, *shape), torch.zeros(1, *shape, dtype=torch.int64))
    if way == "plain":
        return plain
    backend = (PatientLoop if way == "loop" else OpacusHooks)(model, loss=loss, clip_norm=1.0, example=example)
    return lambda patients: backend.sum(lot[:patients] or [(images[:1], labels[:1])])


def _seconds(workload: Workload, way: str, *, repeats: int) -> list[float]:
    step, watch = step_of(workload, way), Stopwatch()
    step(workload.patients)
    for _ in range(repeats):
        with watch.part(way):
            step(workload.patients)
    return [lap.cpu for lap in watch.laps[way]]


def _bytes(workload: Workload, way: str) -> list[float]:
    step = step_of(workload, way)
    step(0)
    before = reset_peak()
    step(workload.patients)
    return [float(status_bytes("VmHWM") - before)]


def main() -> None:
    """One measurement, as a JSON list on the last line; `gradient_rows` starts it."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("workload", choices=sorted(WORKLOADS))
    made.add_argument("what", choices=("time", "memory"))
    made.add_argument("way", choices=WAYS)
    made.add_argument("repeats", type=int)
    given = made.parse_args()
    workload = WORKLOADS[given.workload]
    by_time = given.what == "time"
    found = _seconds(workload, given.way, repeats=given.repeats) if by_time else _bytes(workload, given.way)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
