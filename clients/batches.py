"""The batches of a round: drawn and collated by the host, and on the device before the step that needs them.

Runs at sites. Which patches a batch holds follows from the generator alone: not from the device, nor from whether
batches are made ahead. A replica (clients.replica) cuts its own part of every batch out of the cases, and of the rest
draws the places only.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clients.prefetch import ahead
from secfed.data.sampling import PatchSampler

AHEAD = 2
"""Batches that wait on a GPU: one would do for steps of equal length, and drawing is not equally long."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DrawnBatch:
    """Images float32 (B, C, *patch) and labels (B, *patch) as the sampler gives them; `whole` counts all parts' images.

    `partial` says whether background is open somewhere (secfed.data.open_background).
    """

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.uint8] | npt.NDArray[np.int32]
    partial: bool
    whole: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """The same on the device, labels as int64."""

    images: Tensor
    labels: Tensor
    partial: bool
    whole: int


def draw_batches(
    samplers: tuple[PatchSampler, ...],
    samples: list[int],
    *,
    steps: int,
    generator: np.random.Generator,
    part: tuple[int, int] = (0, 1),
) -> Iterator[DrawnBatch]:
    """The round's batches: `samples[i]` patches of sampler i, shuffled together and cut into `steps`.

    `part` = (i, n) is the i-th of n nearly equal parts of every batch, in their order. The generator is used alike by
    all of them, and by whoever takes the whole.

    Raises:
        ValueError: a batch has fewer images than there are parts.
    """
    if sum(samples) // steps < part[1]:
        raise ValueError(
            f"{sum(samples)} images in {steps} steps cannot be split over {part[1]} devices: "
            "each needs one of every step"
        )
    slots = generator.permutation(np.repeat(np.arange(len(samplers)), samples))
    for batch in np.array_split(slots, steps):
        first, last = part_bounds(len(batch), part)
        for index in batch[:first]:
            samplers[index].place(generator)
        images, labels = zip(*(samplers[index].draw(generator) for index in batch[first:last]), strict=True)
        for index in batch[last:]:
            samplers[index].place(generator)
        stacked = np.stack(labels)
        yield DrawnBatch(
            # One channel, or with context slices as many as there are slices in a stack.
            images=np.stack(images).reshape(len(images), -1, *stacked.shape[1:]),
            labels=stacked,
            # Asked here, because an answer from the device would have to be waited for.
            partial=bool((stacked < 0).any()),
            whole=len(batch),
        )


def part_bounds(size: int, part: tuple[int, int]) -> tuple[int, int]:
    """Where the i-th of n nearly equal parts of `size` items begins and ends; none is empty where n <= size."""
    index, parts = part
    return size * index // parts, size * (index + 1) // parts


@contextmanager
def on_device(drawn: Iterator[DrawnBatch], device: torch.device) -> Iterator[Iterator[Batch]]:
    """The batches on the device, in their order; for a GPU a thread draws and sends them ahead until the block ends.

    On a CPU they are made when they are asked for. Drawing took 2 % of a step there, which is all that a thread could
    win, and with one a round took 1.00 times the processor's seconds and 1.02 times the clock's (benchmarks.training):
    no core of a site that trains on its CPU waits for work.
    """
    if device.type != "cuda":
        yield (send(one, device) for one in drawn)
        return
    if device.index is None:
        # The device that is current belongs to the thread.
        device = torch.device("cuda", torch.cuda.current_device())
    with closing(ahead(_sent_aside(drawn, device), depth=AHEAD)) as sent:
        yield (_arrived(batch, event) for batch, event in sent)


def send(drawn: DrawnBatch, device: torch.device) -> Batch:
    """One batch on the device; to a GPU the copy may still be under way, for the current stream to wait for."""
    images, labels = torch.from_numpy(drawn.images), torch.from_numpy(drawn.labels)
    if device.type == "cuda":
        # From memory that cannot be swapped out, a copy runs beside the work of host and device.
        images, labels = images.pin_memory(), labels.pin_memory()
    return Batch(
        images=images.to(device, non_blocking=True),
        labels=labels.to(device, non_blocking=True).long(),
        partial=drawn.partial,
        whole=drawn.whole,
    )


def _sent_aside(drawn: Iterator[DrawnBatch], device: torch.device) -> Iterator[tuple[Batch, torch.cuda.Event]]:
    """Send on a stream of its own, so that copies run beside the steps; the event says when a batch is there."""
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call] # torch ships no type for it
    for one in drawn:
        with torch.cuda.stream(stream):
            batch = send(one, device)
            event = stream.record_event()
        yield batch, event


def _arrived(batch: Batch, event: torch.cuda.Event) -> Batch:
    """The batch for the current stream, which waits for the copy; the host does not."""
    current = torch.cuda.current_stream(batch.images.device)
    current.wait_event(event)
    for tensor in (batch.images, batch.labels):
        # The memory was handed out for the other stream, and must not be used again before this one is done with it.
        tensor.record_stream(current)
    return batch
