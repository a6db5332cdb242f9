"""Several sums in a row over survivors that a malicious aggregator chooses, as far as the sites open them.

Run by the attacker; what it does with the sums is the attack's business.
"""

from collections.abc import Sequence

import numpy as np

from privacy.streams import Words
from secfed.audit.consortium import Consortium
from secfed.audit.finding import Tries
from secfed.audit.rogue_round import RogueRound


def open_sums(
    world: Consortium, sets: Sequence[Sequence[str]], *, models: Sequence[bytes], move: float
) -> tuple[list[Words | None], Tries]:
    """One round for each survivor set and model in turn; None for a sum that the sites did not open.

    All sites upload in every round. Updates are those of `world`, and from the second round on moved by normal noise of
    `move` times their spread. Sums are uint32 of shape (vector_length,).
    """
    generator = np.random.default_rng([world.seed, 1])
    spread = float(np.std(np.concatenate(list(world.values.values()))))
    sums: list[Words | None] = []
    tries = Tries()
    for number, (survivors, model) in enumerate(zip(sets, models, strict=True), start=1):
        round_ = RogueRound(world, number=number)
        round_.deal()
        for name in world.names:
            step = generator.normal(scale=move * spread, size=world.values[name].shape) if move and number > 1 else 0.0
            vector = world.encode(np.clip(world.values[name] + step, -1, 1), label=name)
            round_.upload(name, model=model, vector=vector)
        agreements = round_.agreements(survivors, tries)
        opened = [tries.accepts(round_.unmask, name, agreements) for name in survivors]
        sums.append(round_.guess_sum(survivors) if all(opened) else None)
    return sums, tries


def exactness(total: Words | None, world: Consortium) -> str:
    """Whether a sum over all sites is the plain one, in a word or two."""
    return "exact" if total is not None and np.array_equal(total, world.total(world.names)) else "not exact"
