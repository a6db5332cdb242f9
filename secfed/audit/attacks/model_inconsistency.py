"""Different models for different sites: a model that makes everybody else send zeros leaves the victim's update alone.

Source: Pasquini, Francati and Ateniese, "Eluding Secure Aggregation in Federated Learning via Model Inconsistency",
CCS 2022. It needs no lie about keys, members or survivors.
"""

import numpy as np

from secfed.audit.attacks import encrypted_views
from secfed.audit.consortium import MODEL, Consortium
from secfed.audit.finding import Finding, Tries, protocol_attack, recovered, recovery
from secfed.audit.plain import reads_the_update
from secfed.audit.rogue_round import RogueRound
from secfed.audit.target import Target
from secfed.audit.uniformity import p_value

_WORDS = 2**14


def model_inconsistency(target: Target, seed: int) -> Finding:
    """One site gets the real model; all others get one whose units are dead, so that their updates are zero."""
    world = Consortium(target, count=5, seed=seed, length=_WORDS)
    control = world.control()
    victim = world.names[seed % len(world.names)]
    others = [name for name in world.names if name != victim]
    round_ = RogueRound(world, number=2)
    round_.deal()
    round_.upload(victim, model=MODEL)
    round_.upload(*others, model=b"d" * 32, vector=np.zeros(_WORDS, dtype=np.uint32))
    tries = Tries()
    # First everybody is a survivor, then each group alone: the others may well open their sum of zeros.
    for survivors in (world.names, tuple(others), (victim,)):
        agreements = round_.agreements(survivors, tries)
        for name in survivors:
            tries.accepts(round_.unmask, name, agreements)
    guesses = [round_.guess_sum(world.names), round_.guess(victim)]
    fraction = max(recovered(guess, world.vectors[victim]) for guess in guesses)
    noise = p_value(np.add.reduce(list(round_.uploads.values()), dtype=np.uint32))
    return recovery(
        fraction,
        control=control,
        outcome=f"the sum of the uploads has p = {noise:.2g} as noise; {tries}",
    )


ATTACKS = (
    protocol_attack(
        name="model-inconsistency",
        threat="sites are sent different models, so that only the victim's update is not zero",
        defence="the model's hash is part of every mask's key and of everything that is signed",
        masked=model_inconsistency,
        plain=reads_the_update,
        encrypted=encrypted_views.different_models,
    ),
)
