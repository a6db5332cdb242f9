"""Bytes and exchanges of a run, per stage, per round and in total, all of them per site.

Plain numbers, which `secfed.preflight.rehearsal` measures. Up is from a site to the aggregator, down the other way;
TLS, HTTP/2 and Flower's envelope come on top.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class StageTraffic:
    """One exchange: mean bytes of one site."""

    stage: str
    up_bytes: float
    down_bytes: float


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What a run sends where no site drops out.

    `rehearsed` holds the exchanges of rounds 1, 2 and the last, fewer where the run has fewer; `ending` those after the
    last round, which encrypted runs have. `vector_bytes` is the vector on its way up, masked or in ciphertexts, and
    `model_bytes` the global model on its way down; both are part of stage "train". In an encrypted run `sum_bytes`, the
    encrypted sum of the round before, comes down instead, with every round but the first and with the end.
    `measured_with` says with how many sites the messages were measured; more than one number means extrapolated.
    """

    sites: int
    rounds: int
    measured_with: tuple[int, ...]
    vector_bytes: int
    model_bytes: int
    setup: tuple[StageTraffic, ...]
    rehearsed: tuple[tuple[StageTraffic, ...], ...]
    ending: tuple[StageTraffic, ...] = ()
    sum_bytes: int = 0

    @property
    def first_round(self) -> tuple[StageTraffic, ...]:
        """The round that follows the setup."""
        return self.rehearsed[0]

    @property
    def later_round(self) -> tuple[StageTraffic, ...]:
        """A round in the middle of the run; the first where there is only one."""
        return self.rehearsed[min(1, len(self.rehearsed) - 1)]

    @property
    def up_bytes_per_run(self) -> float:
        """One site, setup, all rounds and the end."""
        return self._per_run(up_bytes)

    @property
    def down_bytes_per_run(self) -> float:
        """One site, setup, all rounds and the end."""
        return self._per_run(down_bytes)

    @property
    def exchanges_per_run(self) -> int:
        """Requests that the aggregator waits for, setup, all rounds and the end."""
        repeated = (self.rounds - len(self.rehearsed)) * len(self.later_round)
        return len(self.setup) + sum(map(len, self.rehearsed)) + repeated + len(self.ending)

    def as_dict(self) -> dict[str, Any]:
        """For --json."""

        def totals(stages: tuple[StageTraffic, ...]) -> dict[str, Any]:
            return {
                "exchanges": len(stages),
                "up_bytes": round(up_bytes(stages)),
                "down_bytes": round(down_bytes(stages)),
                "stages": [asdict(stage) for stage in stages],
            }

        return {
            "measured_with_sites": list(self.measured_with),
            "vector_up_bytes": self.vector_bytes,
            "model_down_bytes": self.model_bytes,
            "sum_down_bytes": self.sum_bytes,
            "per_site": {
                "setup": totals(self.setup),
                "first_round": totals(self.first_round),
                "later_round": totals(self.later_round),
                "ending": totals(self.ending),
                "run": {
                    "exchanges": self.exchanges_per_run,
                    "up_bytes": round(self.up_bytes_per_run),
                    "down_bytes": round(self.down_bytes_per_run),
                },
            },
            "aggregator_in_bytes_per_run": round(self.sites * self.up_bytes_per_run),
            "aggregator_out_bytes_per_run": round(self.sites * self.down_bytes_per_run),
        }

    def _per_run(self, total: Callable[[tuple[StageTraffic, ...]], float]) -> float:
        repeated = (self.rounds - len(self.rehearsed)) * total(self.later_round)
        return total(self.setup) + sum(map(total, self.rehearsed)) + repeated + total(self.ending)


def up_bytes(stages: tuple[StageTraffic, ...]) -> float:
    """What one site sends in these exchanges."""
    return sum(stage.up_bytes for stage in stages)


def down_bytes(stages: tuple[StageTraffic, ...]) -> float:
    """What one site receives in these exchanges."""
    return sum(stage.down_bytes for stage in stages)
