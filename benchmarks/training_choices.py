"""What a site may choose for its training, each choice against its opposite, in rounds that take turns.

Batches made ahead by a thread: the share of a step that waits with it and without, and what a round takes. A compiled
network, where there is a compiler. Two devices in place of one: on a CPU two processes of one thread each, which need
two cores that are idle; on GPUs two of them, where there are two. `benchmarks.training` runs this.
"""

import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Protocol, TypeAlias
from unittest import mock

import torch

from benchmarks.rows import Row
from clients.batches import AHEAD, Batch, DrawnBatch, on_device, send
from clients.compilation import require_compiler
from clients.prefetch import ahead
from secfed.errors import ConfigError

IDLE = 0.05

Feed: TypeAlias = Callable[[Iterator[DrawnBatch], torch.device], AbstractContextManager[Iterator[Batch]]]
"""Brings drawn batches to a device, as clients.batches.on_device does."""


class Seconds(Protocol):
    """Seconds of a round's steps; `wall` is for the clock on the wall, and the rest for `train_one_round`."""

    def __call__(self, *, wall: bool = False, compiled: bool = False, replicas: tuple[torch.device, ...] = ()) -> float:
        """Train one round and say what its steps took."""
        ...


@contextmanager
def at_once(drawn: Iterator[DrawnBatch], device: torch.device) -> Iterator[Iterator[Batch]]:
    """Every batch is made when it is asked for."""
    yield (send(one, device) for one in drawn)


@contextmanager
def by_a_thread(drawn: Iterator[DrawnBatch], device: torch.device) -> Iterator[Iterator[Batch]]:
    """Batches are made ahead, on a CPU too."""
    if device.type == "cuda":
        with on_device(drawn, device) as sent:
            yield sent
        return
    with closing(ahead((send(one, device) for one in drawn), depth=AHEAD)) as sent:
        yield sent


def choices(
    title: str, *, seconds: Seconds, idle: Callable[[Feed], float], device: torch.device, repeats: int
) -> list[Row]:
    """Rows of all choices that this machine has; `idle` is the share of a step that waits for its batch."""
    rows = _ahead(title, seconds, idle, shipped=by_a_thread if device.type == "cuda" else at_once, repeats=repeats)
    rows += _compiled(title, seconds, device, repeats)
    rows += _two_devices(title, seconds, device, repeats)
    return rows


def _ahead(title: str, seconds: Seconds, idle: Callable[[Feed], float], *, shipped: Feed, repeats: int) -> list[Row]:
    def fed(feed: Feed) -> Callable[[], float]:
        def timed() -> float:
            with mock.patch("clients.local_steps.on_device", feed):
                return seconds(wall=True)

        return timed

    shares = {feed: statistics.median(idle(feed) for _ in range(repeats)) for feed in (at_once, by_a_thread)}
    words = {at_once: "without a thread", by_a_thread: "with batches made ahead by a thread"}
    return [
        *(
            Row(
                measure=f"{title}: share of a step that waits for its batch, {words[feed]}",
                value=share,
                unit="share",
                target=f"<= {IDLE:g}" if feed is shipped else None,
                met=share <= IDLE if feed is shipped else None,
                note="what runs on this device" if feed is shipped else "for comparison",
            )
            for feed, share in shares.items()
        ),
        _ratio(
            f"{title}: a round with batches made ahead over one without",
            fed(by_a_thread),
            fed(at_once),
            repeats,
            note="wall clock, median over rounds that took turns; a busy machine has no core for the thread",
        ),
    ]


def _compiled(title: str, seconds: Seconds, device: torch.device, repeats: int) -> list[Row]:
    try:
        require_compiler(device)
    except ConfigError:
        return []
    # The first round compiles, and what it compiled stays in the process.
    seconds(compiled=True)
    return [
        _ratio(
            f"{title}: a compiled step over one that is not",
            lambda: seconds(compiled=True),
            seconds,
            repeats,
            note="median over rounds that took turns, without the time that compiling took",
        )
    ]


def _two_devices(title: str, seconds: Seconds, device: torch.device, repeats: int) -> list[Row]:
    if device.type == "cpu":
        pair = (device, device)
    elif torch.cuda.device_count() > 1:
        pair = (torch.device("cuda", 0), torch.device("cuda", 1))
    else:
        return []
    return [
        _ratio(
            f"{title}: a step on two devices over one on one",
            lambda: seconds(wall=True, replicas=pair),
            lambda: seconds(wall=True),
            repeats,
            note="wall clock between the first step and the last: starting the processes is not in it; 0.5 is the best",
        )
    ]


def _ratio(measure: str, chosen: Callable[[], float], other: Callable[[], float], repeats: int, *, note: str) -> Row:
    pairs = [(chosen(), other()) for _ in range(repeats)]
    value = statistics.median(one / another for one, another in pairs)
    return Row(measure=measure, value=value, unit="ratio", note=f"{repeats} pairs; {note}")
