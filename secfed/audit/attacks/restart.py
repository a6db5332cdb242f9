"""A stage or a round that is begun again: two updates under one mask give away their difference.

The aggregator says that something failed and asks for the same step once more. A client answers every step of a round
once, and every round number once.
"""

from collections.abc import Mapping

from privacy.streams import Words
from secfed.audit.attacks import encrypted_rounds
from secfed.audit.consortium import Consortium
from secfed.audit.finding import DIFFERENCE, Finding, Tries, protocol_attack, recovered, recovery
from secfed.audit.plain import reads_the_update
from secfed.audit.rogue_round import RogueRound
from secfed.audit.target import Target


def stage_restart(target: Target, seed: int) -> Finding:
    """Ask one site to upload a second time in the same round, with an update that has changed meanwhile."""
    world = Consortium(target, count=4, seed=seed)
    control = world.control()
    victim, bystander = world.names[-1], world.names[0]
    round_ = RogueRound(world, number=2)
    round_.deal()
    round_.upload()
    changed = world.encode(world.values[victim] / 2, label="changed")
    tries = Tries()
    tries.accepts(round_.accept, victim)
    again = tries(world.clients[victim].mask, changed)
    # Without a second upload, the attacker has nothing better than another site's.
    second = round_.uploads[bystander] if again is None else again[1]
    fraction = recovered(round_.uploads[victim] - second, world.vectors[victim] - changed)
    return recovery(
        fraction,
        control=control,
        outcome=f"a second upload was {'refused' if again is None else 'made under the same mask'}; {tries}",
        unit=DIFFERENCE,
    )


def round_restart(target: Target, seed: int) -> Finding:
    """Open a round, then run the same round number again; what is left of two uploads differs by the updates only."""
    world = Consortium(target, count=4, seed=seed)
    control = world.control()
    victim, bystander = world.names[-1], world.names[0]
    changed = {name: world.encode(world.values[name] / 2, label=f"changed {name}") for name in world.names}
    first, second = RogueRound(world, number=2), RogueRound(world, number=2)
    _open(first, world.vectors)
    tries = Tries()
    again = tries.accepts(_open, second, changed)
    rest = second.guess(victim) if again else first.guess(bystander)
    fraction = recovered(first.guess(victim) - rest, world.vectors[victim] - changed[victim])
    return recovery(
        fraction,
        control=control,
        outcome=f"round 2 was {'run a second time' if again else 'not run a second time'}; {tries}",
        unit=DIFFERENCE,
    )


def _open(round_: RogueRound, vectors: Mapping[str, Words]) -> None:
    """A round by the rules, so that all self masks become known."""
    round_.deal()
    for name, vector in vectors.items():
        round_.upload(name, vector=vector)
    agreements = [round_.agree(name, vectors) for name in vectors]
    for name in vectors:
        round_.unmask(name, agreements)


ATTACKS = (
    protocol_attack(
        name="stage-restart",
        threat="the aggregator asks for a second upload in the same round",
        defence="every step is legal once, in the stored state",
        masked=stage_restart,
        plain=reads_the_update,
        encrypted=encrypted_rounds.second_upload,
    ),
    protocol_attack(
        name="round-restart",
        threat="the aggregator runs a round a second time under the same number",
        defence="only newer rounds are accepted; pair keys are ratcheted past every round",
        masked=round_restart,
        plain=reads_the_update,
        encrypted=encrypted_rounds.same_number_again,
    ),
)
