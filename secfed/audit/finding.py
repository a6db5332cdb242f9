"""What one attack found, before it is a row; and how a protocol attack becomes an entry of the suite.

Pure records. The rules that turn a figure into a verdict stand here, so that every attack is judged alike.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import numpy as np

from privacy.errors import HostileInputError
from privacy.streams import Words
from secfed.audit.rows import Attack, AttackRow, Mode, Verdict
from secfed.audit.target import SECFED, Target

T = TypeVar("T")
P = ParamSpec("P")

RECOVERED = "fraction of the victim's coordinates recovered exactly"
DIFFERENCE = "fraction of coordinates of the difference of two updates recovered exactly"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The fields of a row that an attack decides."""

    control: str
    outcome: str
    figure: float | None
    unit: str
    verdict: Verdict

    def as_row(self, attack: str, mode: Mode) -> AttackRow:
        """The row of this attack on this mode."""
        return AttackRow(
            attack=attack,
            mode=mode,
            control=self.control,
            outcome=self.outcome,
            figure=self.figure,
            unit=self.unit,
            verdict=self.verdict,
        )


AttackOn = Callable[[Target, int], Finding]
"""An attack on one implementation; the integer seeds data and choices that no guarantee rests on."""


class Tries:
    """Counts what honest software answered and what it refused, and keeps the reasons for refusals."""

    def __init__(self) -> None:
        self.accepted = 0
        self.reasons: list[str] = []

    def __call__(self, act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """What `act` returned, or None where it refused."""
        try:
            answer = act(*args, **kwargs)
        except HostileInputError as refusal:
            self.reasons.append(str(refusal))
            return None
        self.accepted += 1
        return answer

    def accepts(self, act: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> bool:
        """Whether `act` did not refuse; for what returns nothing."""
        before = self.accepted
        self(act, *args, **kwargs)
        return self.accepted > before

    @property
    def total(self) -> int:
        """All tries."""
        return self.accepted + len(self.reasons)

    def __str__(self) -> str:
        text = f"{len(self.reasons)} of {self.total} requests refused"
        return f"{text}, the first because: {self.reasons[0]}" if self.reasons else text


def recovered(guess: Words, truth: Words) -> float:
    """The fraction of equal coordinates; a random guess is right in 2^-32 of them."""
    return float(np.mean(guess == truth))


def on_figure(figure: float, *, above: float) -> Verdict:
    """Whether the attack worked: its figure exceeds what chance gives."""
    return "succeeded" if figure > above else "refused"


def recovery(fraction: float, *, control: str, outcome: str, unit: str = RECOVERED) -> Finding:
    """The finding of an attack whose figure is a fraction of coordinates: above one in a hundred it worked."""
    return Finding(
        control=control, outcome=outcome, figure=fraction, unit=unit, verdict=on_figure(fraction, above=0.01)
    )


def not_applicable(reason: str) -> AttackOn:
    """A finding for what a mode does not have."""

    def finding(target: Target, seed: int) -> Finding:
        del target, seed
        return Finding(control="none", outcome=reason, figure=None, unit="", verdict="not applicable")

    return finding


def protocol_attack(
    *,
    name: str,
    threat: str,
    defence: str,
    masked: AttackOn,
    plain: AttackOn,
    encrypted: AttackOn,
    encrypted_defence: str | None = None,
) -> Attack:
    """An entry of the suite that attacks this project's own software in any mode."""
    by_mode: Mapping[Mode, AttackOn] = {"plain": plain, "masked": masked, "encrypted": encrypted}

    def run(mode: Mode, seed: int) -> AttackRow:
        return by_mode[mode](SECFED, seed).as_row(name, mode)

    return Attack(name=name, threat=threat, defence=defence, run=run, encrypted_defence=encrypted_defence)
