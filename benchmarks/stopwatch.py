"""CPU and wall-clock seconds of the parts of a protocol run, kept apart by party."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """`cpu` counts all threads of the process, `wall` includes what other programs took of the machine."""

    cpu: float
    wall: float

    def __add__(self, other: "Seconds") -> "Seconds":
        return Seconds(cpu=self.cpu + other.cpu, wall=self.wall + other.wall)

    def __sub__(self, other: "Seconds") -> "Seconds":
        return Seconds(cpu=self.cpu - other.cpu, wall=self.wall - other.wall)


NOTHING = Seconds(cpu=0.0, wall=0.0)


class Stopwatch:
    """Seconds by part; a part may run several times."""

    def __init__(self) -> None:
        self.laps: dict[str, list[Seconds]] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the block to a part."""
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        lap = Seconds(cpu=time.process_time() - cpu, wall=time.perf_counter() - wall)
        self.laps.setdefault(name, []).append(lap)

    def total(self, *names: str) -> Seconds:
        """The sum over all laps of these parts; of all parts if none is named."""
        return sum((lap for name in names or self.laps for lap in self.laps.get(name, [])), NOTHING)

    def median_cpu(self, name: str) -> float:
        """CPU seconds of the middle lap."""
        return statistics.median(lap.cpu for lap in self.laps[name])
