"""Sites that collude with the aggregator: fewer than t learn nothing, t learn everything.

This is the limit of secret sharing, and no implementation can do better: the second attack succeeds on every target.
"""

from secfed.audit.attacks import encrypted_holders
from secfed.audit.consortium import Consortium
from secfed.audit.finding import Finding, protocol_attack, recovered, recovery
from secfed.audit.plain import reads_the_update
from secfed.audit.rogue_round import RogueRound
from secfed.audit.target import Target

_SITES, _THRESHOLD = 7, 5


def collusion_below_the_threshold(target: Target, seed: int) -> Finding:
    """Four of seven sites hand over all that they hold, in a round that is opened by the rules."""
    return _collude(target, seed, colluding=_THRESHOLD - 1)


def collusion_of_the_threshold(target: Target, seed: int) -> Finding:
    """Five of seven sites hand over all that they hold."""
    return _collude(target, seed, colluding=_THRESHOLD)


def one_colluding_site(target: Target, seed: int) -> Finding:
    """One of seven sites hands over all that it holds."""
    return _collude(target, seed, colluding=1)


def stolen_state(target: Target, seed: int) -> Finding:
    """Record a round, and steal a site's stored state when it is over: its own masks were erased meanwhile."""
    world = Consortium(target, count=5, seed=seed)
    control = world.control()
    victim = world.names[-1]
    round_ = RogueRound(world, number=2)
    round_.deal()
    round_.upload()
    agreements = [round_.agree(name, world.names) for name in world.names]
    for name in world.names:
        round_.unmask(name, agreements)
    round_.learn_state(victim)
    return recovery(
        recovered(round_.guess(victim), world.vectors[victim]),
        control=control,
        outcome=f"{victim}'s state after the round, and all shares of its self seed, do not open its upload",
    )


def _collude(target: Target, seed: int, *, colluding: int) -> Finding:
    world = Consortium(target, count=_SITES, seed=seed)
    control = world.control()
    colluders, honest = world.names[:colluding], world.names[colluding:]
    victim = honest[seed % len(honest)]
    round_ = RogueRound(world, number=2, colluders=colluders)
    round_.deal()
    round_.upload()
    agreements = [round_.agree(name, world.names) for name in world.names]
    for name in honest:
        round_.unmask(name, agreements)
    fraction = recovered(round_.guess(victim), world.vectors[victim])
    seeds, wraps = round_.shares_known(victim)
    return recovery(
        fraction,
        control=control,
        outcome=f"{colluding} of {_SITES} sites and the aggregator hold {seeds} shares of {victim}'s self seed and "
        f"{wraps} of its wrap key, t = {_THRESHOLD}",
    )


ATTACKS = (
    protocol_attack(
        name="collusion-below-t",
        threat="t - 1 sites hand over all that they hold",
        defence="t shares are needed for either kind of secret",
        masked=collusion_below_the_threshold,
        plain=reads_the_update,
        encrypted=encrypted_holders.fewer_than_the_threshold,
        encrypted_defence="none: every site holds the one key, so one colluding site is enough",
    ),
    protocol_attack(
        name="collusion-of-t-sites",
        threat="t sites hand over all that they hold",
        defence="none: any t sites can open everything, by design; a site can insist on a higher t (min_threshold)",
        masked=collusion_of_the_threshold,
        plain=reads_the_update,
        encrypted=encrypted_holders.the_threshold,
        encrypted_defence="none: every site holds the one key, so one colluding site is enough",
    ),
    protocol_attack(
        name="collusion-of-one-site",
        threat="one site hands over all that it holds",
        defence="t shares are needed for either kind of secret",
        masked=one_colluding_site,
        plain=reads_the_update,
        encrypted=encrypted_holders.one_key_holder,
        encrypted_defence="none: whoever holds the group key reads every upload; only a key in shares would prevent it",
    ),
    protocol_attack(
        name="stolen-state",
        threat="uploads are recorded, and a site's stored state is stolen when their round is over",
        defence="a round's secrets are erased from the state, and pair keys are ratcheted past it",
        masked=stolen_state,
        plain=reads_the_update,
        encrypted=encrypted_holders.stolen_state,
        encrypted_defence="none inside a run: one group key opens all its uploads; sites erase it at the end",
    ),
)
