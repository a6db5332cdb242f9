"""A consortium that is split before it meets: an aggregator that relays the first messages in two groups.

Each group sees a smaller cohort in which everything is in order, under masks as under a group key. What stands against
it is each site's own floor: no two groups of more than half of the sites are disjoint.
"""

from collections.abc import Sequence

from secfed.audit.attacks.encrypted_setup import relay_within
from secfed.audit.consortium import Consortium
from secfed.audit.encrypted_group import EncryptedGroup, accept
from secfed.audit.finding import Finding, Tries, on_figure, protocol_attack
from secfed.audit.plain import reads_the_update
from secfed.audit.rogue_round import RogueRound
from secfed.audit.target import Target

_SPLIT = "groups beside the first that run on their own"


def split_masks(target: Target, seed: int) -> Finding:
    """The same under masks: each group opens the sum of its own, one of two sites only."""
    control = Consortium(target, count=5, seed=seed).control()
    whole = Consortium(target, count=5, seed=seed, set_up=False)
    opened, tries = 0, Tries()
    for names in (whole.names[:2], whole.names[2:]):
        _set_up_within(whole, names, tries)
        round_ = RogueRound(whole, number=1, invited=names)
        if not tries.accepts(round_.deal):
            continue
        round_.upload()
        agreements = round_.agreements(names, tries)
        answers = [tries.accepts(round_.unmask, name, agreements) for name in names]
        opened += all(answers) and bool((round_.guess_sum(names) == whole.total(names)).all())
    return Finding(
        control=f"{control}, min_cohort = 2",
        outcome=f"{opened} of 2 groups opened a sum of their own; {tries}",
        figure=float(max(0, opened - 1)),
        unit=_SPLIT,
        verdict=on_figure(opened - 1, above=0),
    )


def split_from_the_start(target: Target, seed: int) -> Finding:
    """Five sites, min_cohort = 2: relay S0 to S2 in two groups already, and run each group as if it were all."""
    control = EncryptedGroup(target, count=5, seed=seed).control()
    running, fingerprints, tries = 0, set(), Tries()
    whole = EncryptedGroup(target, count=5, seed=seed, ready=False)
    for names in (whole.names[:2], whole.names[2:]):
        _set_up_within(whole.world, names, tries)
        if relay_within(whole, names, tries):
            fingerprints.add(whole.server.fingerprint)
            round_ = whole.announce(invited=names, minimum=len(names))
            running += all(tries.accepts(whole.try_on, name, accept, round_.announcement, None) for name in names)
    return Finding(
        control=f"{control}, min_cohort = 2",
        outcome=f"{running} of 2 groups run, with {len(fingerprints)} keys; {tries}",
        figure=float(max(0, running - 1)),
        unit=_SPLIT,
        verdict=on_figure(running - 1, above=0),
    )


def _set_up_within(world: Consortium, names: Sequence[str], tries: Tries) -> None:
    """S0 to S2 among some of the sites."""
    clients = [world.clients[name] for name in names]
    server = world.target.server(roster=world.roster, session=world.session)
    advertised = server.collect_advertisements([client.advertise_keys() for client in clients])
    encapsulated = server.collect_encapsulations([client.encapsulate_keys(advertised) for client in clients])
    confirmed = server.collect_confirmations([client.confirm_keys(encapsulated) for client in clients])
    for client in clients:
        tries.accepts(client.accept_confirmations, confirmed)
    world.setup_messages = (advertised, encapsulated, confirmed)


ATTACKS = (
    protocol_attack(
        name="split-consortium",
        threat="the aggregator splits the sites from the first message on, and runs each group as if it were all",
        defence="none at min_cohort = 2; min_cohort above half of the sites forbids it",
        masked=split_masks,
        plain=reads_the_update,
        encrypted=split_from_the_start,
    ),
)
