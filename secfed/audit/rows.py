"""One row of the attack suite: what was tried, on what, what came of it, and the number that says so.

A verdict rests on `figure` and never on the absence of an exception. "refused" means that the honest software declined
and the attacker learned nothing beyond the control; "succeeded" means that the attack worked, on this project's own
modes too: a suite that can only pass proves nothing. "not applicable" gives its reason in `outcome`.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

Mode: TypeAlias = Literal["plain", "masked", "encrypted"]
Verdict: TypeAlias = Literal["refused", "succeeded", "not applicable"]

MODES: tuple[Mode, ...] = ("plain", "masked", "encrypted")


@dataclass(frozen=True, kw_only=True)
class AttackRow:
    """The outcome of one attack on one mode.

    `control` says what an honest run of the same setting gave, `outcome` what the attack gave, both as a sentence for
    a reader; `figure` is the number behind the verdict and `unit` says what it counts.
    """

    attack: str
    mode: Mode
    control: str
    outcome: str
    figure: float | None
    unit: str
    verdict: Verdict

    def as_dict(self) -> dict[str, Any]:
        """The row as it stands in --json."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A named attack. `run` takes the mode and a seed for what no guarantee rests on (data, choice of victims).

    `defence` says what there is against it, `encrypted_defence` the same of encrypted runs, where that differs.
    """

    name: str
    threat: str
    defence: str
    run: Callable[[Mode, int], AttackRow]
    encrypted_defence: str | None = None

    def defence_in(self, mode: Mode) -> str:
        """What there is against it in this mode."""
        return self.encrypted_defence if mode == "encrypted" and self.encrypted_defence else self.defence
