"""Whether any sum can wrap, and how much rounding costs: the fixed-point format of a run, for people.

Computed by whoever plans a run, from the same `secfed.protected_vector.vector_format` that sites and aggregator use.
It says nothing about the accuracy of what is trained, only about the integers that carry it.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from privacy.errors import RangeError
from privacy.fixed_point import HALF_MODULUS, RangeAnalysis
from secfed.config import TrainingPlan
from secfed.errors import ConfigError
from secfed.parameters import ParameterLayout
from secfed.protected_vector import vector_format

CLIPPED_SEGMENT = "delta"


@dataclass(frozen=True, kw_only=True)
class ValueRange:
    """The range analysis for at most `max_clients` sites, and the error of stochastic rounding relative to clip_norm.

    `entry_error` bounds one entry of one update, `update_error` the L2 norm of the error of one whole update.
    """

    analysis: RangeAnalysis
    bits: int
    entry_error: float
    update_error: float

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "max_clients": self.analysis.max_clients,
            "noise_tail": self.analysis.noise_tail,
            "bits": self.bits,
            "max_integer": self.analysis.max_integer,
            "worst_integer": self.analysis.worst_integer,
            "limit": HALF_MODULUS - 1,
            "headroom": self.analysis.headroom,
            "can_wrap": self.analysis.headroom < 0,
            "segments": [
                {
                    "name": row.name,
                    "length": row.length,
                    "max_abs": row.max_abs,
                    "quantum": row.quantum,
                    "worst_sum": row.worst_sum,
                }
                for row in self.analysis.rows
            ],
            "entry_error_of_clip_norm": self.entry_error,
            "update_error_of_clip_norm": self.update_error,
            "lines": self.analysis.lines(),
        }


def value_range(layout: ParameterLayout, plan: TrainingPlan, *, max_clients: int, noise_tail: int = 0) -> ValueRange:
    """The format for `max_clients` sites whose integer noise, summed, stays within ±`noise_tail`.

    Raises:
        ConfigError: 32 bits have no room for that many sites and that much noise.
    """
    try:
        slots = replace(vector_format(layout, plan, cohort_size=max_clients), noise_tail=noise_tail)
    except RangeError as error:
        raise ConfigError(
            f"{max_clients} clients with a noise tail of {noise_tail} do not fit into 32 bits: clients + noise tail "
            f"must stay below 2^31 = {HALF_MODULUS}, so take {_what_would_do(max_clients, noise_tail)} ({error})"
        ) from error
    # Stochastic rounding moves an entry by less than one quantum, which is clip_norm / max_integer.
    entry_error = 1 / slots.max_integer
    return ValueRange(
        analysis=slots.analysis(),
        bits=slots.bits,
        entry_error=entry_error,
        update_error=math.sqrt(layout.num_parameters) * entry_error,
    )


def _what_would_do(max_clients: int, noise_tail: int) -> str:
    choices = []
    if noise_tail < HALF_MODULUS - 1:
        choices.append(f"at most {HALF_MODULUS - 1 - noise_tail} clients")
    if max_clients < HALF_MODULUS:
        choices.append(f"a noise tail of at most {HALF_MODULUS - 1 - max_clients}")
    return " or ".join(choices) or "fewer clients and a smaller noise tail"
