"""Sums that leave 32 bits: a wrapped sum is wrong by 2^32 quanta, and says nothing of it.

Both modes encode in the same way. The bound is analytic (privacy.fixed_point): n times the largest integer of a client
stays below 2^31. Here it is measured at its edge, and one step beyond.
"""

import numpy as np
import numpy.typing as npt

from privacy.errors import RangeError
from privacy.streams import Words
from secfed.audit.attacks import encrypted_noise
from secfed.audit.consortium import Consortium
from secfed.audit.finding import AttackOn, Finding, on_figure, protocol_attack
from secfed.audit.target import Target

_BEYOND = (1.0 + 2.0**-20, -1.0 - 2.0**-20, float("inf"), float("-inf"), float("nan"))


def _wraparound(*, masked: bool) -> AttackOn:
    def attack(target: Target, seed: int) -> Finding:
        """All sites send the largest value, the smallest, or either at random, in every coordinate."""
        world = Consortium(target, count=5, seed=seed)
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(len(world.names), world.vector_format.length))
        extremes = [np.ones_like(signs), -np.ones_like(signs), signs]
        worst = 0.0
        for number, values in enumerate(extremes, start=1):
            vectors = {name: world.encode(row, label=name) for name, row in zip(world.names, values, strict=True)}
            model = bytes([number]) * 32
            total = world.play(number, vectors=vectors, model=model).aggregate.total if masked else _sum(world, vectors)
            expected = values.sum(axis=0) * world.vector_format.max_integer
            worst = max(worst, float(np.abs(total.view(np.int32) - expected).max()))
        refused = sum(_is_refused(world, value) for value in _BEYOND)
        bound = world.vector_format.analysis().lines()[-1]
        return Finding(
            control=bound,
            outcome=f"largest error at the extremes {worst:g} quanta; {refused} of {len(_BEYOND)} values beyond the "
            "range refused",
            figure=worst + len(_BEYOND) - refused,
            unit="largest error of a sum in quanta, plus values beyond the range that were accepted",
            verdict=on_figure(worst + len(_BEYOND) - refused, above=0),
        )

    return attack


def _sum(world: Consortium, vectors: dict[str, Words]) -> Words:
    return world.total(world.names, vectors=vectors)


def _is_refused(world: Consortium, value: float) -> bool:
    values: npt.NDArray[np.float64] = world.values[world.names[0]].copy()
    values[-1] = value
    try:
        world.encode(values, label="beyond")
    except RangeError:
        return True
    return False


wraparound = _wraparound(masked=True)

ATTACKS = (
    protocol_attack(
        name="wraparound",
        threat="values of the largest magnitude wrap the sum",
        defence="the range leaves room for all sites; values beyond it are refused",
        masked=wraparound,
        plain=_wraparound(masked=False),
        encrypted=encrypted_noise.wraparound_of_sums,
    ),
)
