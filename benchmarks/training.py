"""What a step of local training costs: images per second, GIN's share of it, and how long it waits for images.

And what a site may choose: batches made ahead by a thread, a compiled network, two devices in place of one, each as a
ratio within this run (benchmarks.training_choices).

The shipped training code runs as it is, on one site of generated scans, one round after another with and without GIN,
so that a busy machine slows both. Seconds are CPU time of one thread on a CPU, and wall clock on a GPU. Shares are
measured in rounds of their own, with a clock around augmentation and batches, and on a GPU with its queue emptied at
each, which costs time: images per second are those of the rounds without. A GPU is measured where one is found, in
float32 and in bfloat16.

    python -m benchmarks.training --json bench/training.json
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from unittest import mock

import numpy as np
import torch

from benchmarks.demo_plan import demo_tree
from benchmarks.rows import Row, parser, publish
from benchmarks.training_choices import Feed, choices
from clients.batches import Batch, DrawnBatch, on_device
from clients.training import TrainingSource, train_one_round
from secfed.augmentation.appearance import views
from secfed.config import TrainingPlan
from secfed.data.cases import LABEL_MAPS
from secfed.data.phantom.writer import write_mixed_phantom
from secfed.data.preprocessing import PreparedCase, prepare
from secfed.data.readers import read_data_set
from secfed.network import initial_vector
from secfed.torch_threads import one_torch_thread

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

CASES, SEED = 6, 0
REPEATS, QUICK_REPEATS = 5, 2
GIN_ON_GPU, GIN_ON_CPU, IDLE = 0.05, 0.03, 0.05
PAPER_GIN = {"width": 2, "probability": 1.0}
"""GIN as in the paper: 2 channels wide, on every image."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One kind of training; `changes` are made to the demo's plan, and `gin` is what it augments with."""

    title: str
    steps: int
    gin: Mapping[str, Any] | None = None
    changes: Mapping[str, Any] | None = None

    def plan(self, *, method: str, precision: str) -> TrainingPlan:
        """The plan of one round."""
        tree = demo_tree(rounds=100, **(self.changes or {}))
        tree["training"] |= {"steps_per_round": self.steps, "precision": precision}
        tree["training"].pop("batch_cases", None)
        tree["augmentation"] |= {"method": method}
        if self.gin is not None:
            tree["augmentation"]["gin"] = dict(self.gin)
        return TrainingPlan.model_validate(tree)


_THREE = {
    "model": {"architecture": "basic_unet", "dimensions": 3, "channels": [16, 16, 32, 64, 128], "residual_units": 0},
    "training": {"patch_size": [32, 64, 64], "batch_size": 2},
}
# Two convolutions a block, 32 to 256 channels, 2.0 million parameters: the size of FedGIN's U-Net (arXiv 2508.05137).
_FEDGIN = {"model": {"architecture": "basic_unet", "channels": [32, 32, 64, 128, 256], "residual_units": 0}}
_LARGE = {"model": {"channels": [32, 64, 128, 256, 512], "residual_units": 2}}
ON_CPU = (
    Workload(title="2D, the demo", steps=28),
    Workload(title="2D, GIN as in the paper", steps=28, gin=PAPER_GIN),
    Workload(title="2D, GIN as in the paper, a network of FedGIN's size", steps=12, gin=PAPER_GIN, changes=_FEDGIN),
    Workload(title="3D, 32 x 64 x 64", steps=4, gin=PAPER_GIN, changes=_THREE),
)
ON_GPU = (
    Workload(title="2D, the demo", steps=100),
    Workload(
        title="2D, 32 x 256 x 256",
        steps=40,
        gin=PAPER_GIN,
        changes={**_LARGE, "training": {"patch_size": [256, 256], "batch_size": 32}},
    ),
    Workload(
        title="3D, 2 x 96 x 96 x 96",
        steps=20,
        gin=PAPER_GIN,
        changes={**_THREE, "training": {"patch_size": [96, 96, 96], "batch_size": 2}},
    ),
)


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Seconds of a clocked round, and of them those of GIN and of drawing batches."""

    whole: float
    gin: float
    batches: float


def main() -> None:
    """Measure and publish."""
    given = parser(__doc__ or "").parse_args()
    repeats = QUICK_REPEATS if given.quick else REPEATS
    with tempfile.TemporaryDirectory(prefix="secfed-training-") as folder, one_torch_thread():
        cases = generated_cases(Path(folder))
        rows = [row for one in ON_CPU for row in measured(one, cases, torch.device("cpu"), "float32", repeats=repeats)]
        rows += chosen(ON_CPU[0], cases, torch.device("cpu"), "float32", repeats=repeats)
        if torch.cuda.is_available():
            device = torch.device("cuda")
            for precision in ("float32", "bfloat16"):
                for one in ON_GPU:
                    rows += measured(one, cases, device, precision, repeats=repeats)
                    rows += chosen(one, cases, device, precision, repeats=repeats)
    publish(rows, path=given.json)


def generated_cases(folder: Path) -> tuple[PreparedCase, ...]:
    """A site's prepared CT scans."""
    plan = ON_CPU[0].plan(method="gin", precision="float32")
    write_mixed_phantom(
        folder / "scans", ct=CASES, mri=0, seed=SEED, population="north", task=plan.task, on_case=lambda _: None
    )
    data_set = read_data_set(folder / "scans")
    return tuple(
        prepare(
            case,
            data_set=data_set,
            label_map=LABEL_MAPS[plan.task],
            config=plan.preprocessing,
            cache=folder / "cache",
        )
        for case in data_set.training
    )


def measured(
    workload: Workload, cases: tuple[PreparedCase, ...], device: torch.device, precision: str, *, repeats: int
) -> list[Row]:
    """Rows of one workload on one device."""
    with_gin = workload.plan(method="gin", precision=precision)
    without = workload.plan(method="none", precision=precision)
    _round(with_gin, cases, device)
    _round(without, cases, device)
    seconds: dict[str, list[float]] = {"gin": [], "none": []}
    shares: list[Shares] = []
    for _ in range(repeats):
        seconds["gin"].append(_round(with_gin, cases, device))
        seconds["none"].append(_round(without, cases, device))
        shares.append(clocked_round(with_gin, cases, device))
    images = workload.steps * with_gin.training.batch_size
    title = f"{workload.title}, {device.type}" + ("" if precision == "float32" else f", {precision}")
    gin = statistics.median(one.gin / one.whole for one in shares)
    idle = statistics.median(one.batches / one.whole for one in shares)
    allowed = GIN_ON_CPU if device.type == "cpu" else GIN_ON_GPU
    flat = with_gin.model.dimensions == 2
    note = f"{repeats} rounds of {workload.steps} steps, batches of {with_gin.training.batch_size}"
    more = [found / other for found, other in zip(seconds["gin"], seconds["none"], strict=True)]
    return [
        Row(
            measure=f"{title}: images per second",
            value=images / statistics.median(seconds["gin"]),
            unit="images/s",
            note=note,
        ),
        Row(
            measure=f"{title}: GIN's share of a step",
            value=gin,
            unit="share",
            target=f"<= {allowed:g}" if flat else None,
            met=gin <= allowed if flat else None,
            note=note,
        ),
        Row(
            measure=f"{title}: a step with GIN over one without",
            value=statistics.median(more),
            unit="ratio",
            note="median over rounds that took turns",
        ),
        Row(
            measure=f"{title}: share of a step that waits for its batch",
            value=idle,
            unit="share",
            target=f"<= {IDLE:g}",
            met=idle <= IDLE,
            note=note,
        ),
    ]


def chosen(
    workload: Workload, cases: tuple[PreparedCase, ...], device: torch.device, precision: str, *, repeats: int
) -> list[Row]:
    """Rows of one workload under each choice that a site has."""
    plan = workload.plan(method="gin", precision=precision)

    def idle(feed: Feed) -> float:
        found = clocked_round(plan, cases, device, feed=feed)
        return found.batches / found.whole

    def seconds(**how: Any) -> float:
        return _round(plan, cases, device, **how)

    title = f"{workload.title}, {device.type}" + ("" if precision == "float32" else f", {precision}")
    return choices(title, seconds=seconds, idle=idle, device=device, repeats=repeats)


def clocked_round(
    plan: TrainingPlan, cases: tuple[PreparedCase, ...], device: torch.device, *, feed: Feed = on_device
) -> Shares:
    """One round with clocks in it; `feed` brings batches to the device."""
    spent = {"gin": 0.0, "batches": 0.0}

    def clocked(part: str, function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        def call(*arguments: Arguments.args, **more: Arguments.kwargs) -> Result:
            before = _now(device)
            found = function(*arguments, **more)
            spent[part] += _now(device) - before
            return found

        return call

    @contextmanager
    def batches(drawn: Iterator[DrawnBatch], where: torch.device) -> Iterator[Iterator[Batch]]:
        with feed(drawn, where) as made:
            take = clocked("batches", lambda: next(made, None))
            yield iter(take, None)

    with (
        mock.patch("clients.local_steps.views", clocked("gin", views)),
        mock.patch("clients.local_steps.on_device", batches),
    ):
        whole = _round(plan, cases, device)
    return Shares(whole=whole, gin=spent["gin"], batches=spent["batches"])


def _round(
    plan: TrainingPlan, cases: tuple[PreparedCase, ...], device: torch.device, *, wall: bool = False, **how: Any
) -> float:
    """Seconds between the first step and the last of a round: what a round begins with is left out.

    `how` is for `train_one_round`; with `wall` it is the clock on the wall that counts, on a CPU too.
    """
    start, layout = _initial(plan)
    ends = _Ends(plan.training.steps_per_round, time.perf_counter if wall else lambda: _now(device))
    with tempfile.TemporaryDirectory(prefix="secfed-round-") as state:
        train_one_round(
            plan=plan,
            sources=(TrainingSource(site="site", cases=cases),),
            start=start,
            layout=layout,
            server_round=1,
            state_folder=Path(state),
            device=device,
            durable_state=False,
            on_step=ends.step,
            **how,
        )
    return ends.seconds()


class _Ends:
    """The moments at which the first and the last step of a round have ended; at no other is a GPU's queue emptied."""

    def __init__(self, steps: int, clock: Callable[[], float]) -> None:
        self._steps = steps
        self._clock = clock
        self._seen = 0
        self._first = self._last = 0.0

    def step(self) -> None:
        """Called after every step."""
        self._seen += 1
        if self._seen == 1:
            self._first = self._clock()
        elif self._seen == self._steps:
            self._last = self._clock()

    def seconds(self) -> float:
        """What all steps take at the pace between these two."""
        return (self._last - self._first) * self._steps / (self._steps - 1)


def _initial(plan: TrainingPlan) -> tuple[Any, Any]:
    start, layout = initial_vector(plan, num_classes=LABEL_MAPS[plan.task].num_classes)
    return np.asarray(start), layout


def _now(device: torch.device) -> float:
    """CPU seconds of this process, or wall clock once the device has done all that it was asked."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    main()
