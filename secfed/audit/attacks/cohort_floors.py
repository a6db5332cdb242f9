"""An aggregator that makes the cohort small, the threshold low, or the members up.

Each site insists on its own floors (privacy.secagg.client_state) and takes members from the consortium's roster only.
"""

from privacy.secagg.client_state import ClientFloors
from privacy.secagg.identity import Identity
from privacy.secagg.roster import Member, Roster, generate_consortium_key, sign_roster
from secfed.audit.attacks import encrypted_holders, encrypted_rounds, encrypted_setup
from secfed.audit.consortium import Consortium
from secfed.audit.finding import Finding, Tries, protocol_attack, recovered, recovery
from secfed.audit.impostors import attack_alone, surround
from secfed.audit.plain import reads_the_update
from secfed.audit.rogue_round import RogueRound
from secfed.audit.target import Target


def lowered_threshold(target: Target, seed: int) -> Finding:
    """Five sites, one of which colludes: announce thresholds from 1 on, and go on with the first that is accepted."""
    world = Consortium(target, count=5, seed=seed)
    control = world.control()
    victim, colluder = world.names[-1], world.names[0]
    tries = Tries()
    for threshold in range(1, len(world.names) + 1):
        round_ = RogueRound(world, number=2, threshold=threshold, colluders=[colluder])
        if tries.accepts(round_.deal):
            break
    round_.upload()
    fraction = recovered(round_.guess(victim), world.vectors[victim])
    return recovery(
        fraction,
        control=f"{control}, t = 4",
        outcome=f"the lowest threshold that all accept is {round_.invitation.threshold} of 5; "
        f"one colluding site; {tries}",
    )


def tiny_cohort(target: Target, seed: int) -> Finding:
    """The sites' floor is five; invite the victim and a colluder, then one honest site more at a time.

    Then invite five of whom only the colluder has a confirmed key: it is peers with keys that count, not names.
    """
    floors = ClientFloors(min_cohort=5)
    world = Consortium(target, count=5, seed=seed, floors=floors)
    control = world.control()
    victim, colluder = world.names[-1], world.names[0]
    tries = Tries()
    fraction, size = 0.0, 0
    for size in range(2, len(world.names)):
        invited = (colluder, *world.names[-size + 1 :])
        round_ = RogueRound(world, number=2, invited=invited, colluders=[colluder])
        if tries.accepts(round_.deal):
            round_.upload()
            agreements = [round_.agree(name, invited) for name in invited]
            round_.unmask(victim, agreements)
            fraction = recovered(round_.guess(victim), world.vectors[victim])
            break
    accepted = f"the smallest cohort that was accepted is {size}" if tries.accepted else "none below 5 was accepted"
    hidden = tries.accepts(_share_with_one_peer, Consortium(target, count=5, seed=seed, set_up=False, floors=floors))
    return recovery(
        fraction,
        control=f"{control}, min_cohort = 5",
        outcome=f"{accepted}; five members of whom one confirmed keys were {'' if hidden else 'not '}accepted; {tries}",
    )


def two_sites(target: Target, seed: int) -> Finding:
    """A cohort of two, played by the rules: either site takes its own update from the sum."""
    world = Consortium(target, count=2, seed=seed)
    control = world.control()
    victim, curious = world.names[seed % 2], world.names[1 - seed % 2]
    total = world.play(2).aggregate.total
    fraction = recovered(total - world.vectors[curious], world.vectors[victim])
    return recovery(
        fraction,
        control=control,
        outcome=f"{curious} takes its own update from the sum, as the sites' floor of min_cohort = 2 allows",
    )


def _share_with_one_peer(world: Consortium) -> None:
    """Relay to one site the setup of a single peer, and invite it with all five members of the roster."""
    pair = (world.names[0], world.names[-1])
    clients = [world.clients[name] for name in pair]
    advertised = [client.advertise_keys() for client in clients]
    encapsulated = [client.encapsulate_keys(advertised) for client in clients]
    confirmed = [client.confirm_keys(encapsulated) for client in clients]
    for client in clients:
        client.accept_confirmations(confirmed)
    RogueRound(world, number=1).deal(pair[1])


def sybil_cohort(target: Target, seed: int) -> Finding:
    """Four invented sites, first beside the consortium's roster, then in a roster that the aggregator signed."""
    world = Consortium(target, count=5, seed=seed, floors=ClientFloors(min_cohort=5))
    control = world.control()
    invented = [Identity.generate(f"clinic-{number}") for number in range(1, 5)]
    victim, tries = world.names[-1], Tries()
    round_ = RogueRound(world, number=2, invited=[victim, *(identity.name for identity in invented)])
    tries(round_.deal, victim)

    fresh = Consortium(target, count=5, seed=seed, set_up=False)
    members = [Member(identity.name, identity.public_key) for identity in (*invented, fresh.identities[victim])]
    roster = Roster(consortium="consortium", version=2, expires=2**40, members=tuple(members))
    fresh.signed_roster = sign_roster(roster, generate_consortium_key())
    fraction = 0.0
    client = tries(fresh.new_client, victim)
    if client is not None:
        fresh.clients = {victim: client}
        surround(fresh, victim, impostors=invented, roster=roster)
        fraction = attack_alone(fresh, victim, tries=tries)
    return recovery(
        fraction,
        control=f"{control}, min_cohort = 5",
        outcome=f"four invented sites around {victim}; {tries}",
    )


ATTACKS = (
    protocol_attack(
        name="lowered-threshold",
        threat="the aggregator announces so low a threshold that few shares open every secret",
        defence="each site's floor on the threshold",
        masked=lowered_threshold,
        plain=reads_the_update,
        encrypted=encrypted_rounds.lowered_minimum,
    ),
    protocol_attack(
        name="tiny-cohort",
        threat="the aggregator invites one site and its accomplice",
        defence="each site's floor min_cohort, which counts confirmed peers only",
        masked=tiny_cohort,
        plain=reads_the_update,
        encrypted=encrypted_rounds.tiny_group,
    ),
    protocol_attack(
        name="two-sites",
        threat="one of two sites takes its own update from the sum",
        defence="none in a cohort of two; a site can insist on a larger one (min_cohort)",
        masked=two_sites,
        plain=reads_the_update,
        encrypted=encrypted_holders.two_sites,
    ),
    protocol_attack(
        name="sybil-cohort",
        threat="the aggregator fills the cohort with sites that it invented",
        defence="members come from the roster that the consortium signed",
        masked=sybil_cohort,
        plain=reads_the_update,
        encrypted=encrypted_setup.sybil_group,
    ),
)
