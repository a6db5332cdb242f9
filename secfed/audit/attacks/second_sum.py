"""A second sum over one model, without one of the sites: what they trained on is the same, and so is what they send.

The difference of the two sums is then that site's update, exactly. Sites remember what they helped to open
(privacy.secagg.differencing), and any two sets of t sites share an honest one that does.
"""

from secfed.audit.attacks import encrypted_views
from secfed.audit.consortium import MODEL, Consortium
from secfed.audit.finding import Finding, Tries, not_applicable, protocol_attack, recovered, recovery
from secfed.audit.plain import reads_the_update
from secfed.audit.rogue_round import RogueRound
from secfed.audit.successive_sums import exactness, open_sums
from secfed.audit.target import Target


def same_model(target: Target, seed: int) -> Finding:
    """Sites that train on the same model again send the same update again; leave one out the second time."""
    world = Consortium(target, count=7, seed=seed)
    victim = world.names[0]
    sums, tries = open_sums(world, [world.names, world.names[1:]], models=[MODEL, MODEL], move=0.0)
    exact = exactness(sums[0], world)
    fraction = 0.0
    if sums[0] is not None and sums[1] is not None:
        fraction = recovered(sums[0] - sums[1], world.vectors[victim])
    return recovery(
        fraction,
        control=f"the first sum of 7 sites is {exact}",
        outcome=f"second sum over the same model without {victim}: {tries}",
    )


def hidden_sum(target: Target, seed: int) -> Finding:
    """Ask just enough sites to open the first sum, so that few know of it; two of seven collude, t = 5."""
    world = Consortium(target, count=7, seed=seed)
    victim, colluders = world.names[0], world.names[-2:]
    asked = (*world.names[:3], *colluders)
    first = RogueRound(world, number=1, colluders=colluders)
    first.deal()
    first.upload()
    tries = Tries()
    agreements = first.agreements(world.names, tries)
    for name in asked:
        if name not in colluders:
            first.unmask(name, agreements)
    whole = first.guess_sum(world.names)
    second = RogueRound(world, number=2, colluders=colluders)
    second.deal()
    second.upload()
    others, tries = world.names[1:], Tries()
    agreements = second.agreements(others, tries)
    for name in others:
        tries.accepts(second.unmask, name, agreements)
    fraction = recovered(whole - second.guess_sum(others), world.vectors[victim])
    return recovery(
        fraction,
        control=f"the first sum of 7 sites is {exactness(whole, world)}, opened with {len(asked)} of them",
        outcome=f"{len(agreements)} of 5 signatures for a second sum without {victim}; {tries}",
    )


def new_session(target: Target, seed: int) -> Finding:
    """Open a sum, begin a new session with the same sites, and open one over the same model without the victim."""
    world = Consortium(target, count=7, seed=seed)
    victim = world.names[0]
    first, _ = open_sums(world, [world.names], models=[MODEL], move=0.0)
    world.begin_session()
    second, tries = open_sums(world, [world.names[1:]], models=[MODEL], move=0.0)
    fraction = 0.0
    if first[0] is not None and second[0] is not None:
        fraction = recovered(first[0] - second[0], world.vectors[victim])
    return recovery(
        fraction,
        control=f"the first sum of 7 sites is {exactness(first[0], world)}",
        outcome=f"in a new session, a sum over the same model without {victim}: {tries}",
    )


ATTACKS = (
    protocol_attack(
        name="differencing-same-model",
        threat="a second sum over the same model leaves one site out",
        defence="one sum per model, unless the survivors are the same",
        masked=same_model,
        plain=reads_the_update,
        encrypted=encrypted_views.second_sum_of_a_round,
    ),
    protocol_attack(
        name="differencing-hidden-sum",
        threat="few sites are asked to open the first sum, so that the rest helps with a second one",
        defence="2 t > n + n_c: any two sets of t sites share an honest one, which remembers",
        masked=hidden_sum,
        plain=reads_the_update,
        encrypted=not_applicable(
            "nobody opens a sum for the aggregator; what a colluder reads is collusion-of-one-site"
        ),
    ),
    protocol_attack(
        name="differencing-new-session",
        threat="a new session makes sites forget what they helped to open",
        defence="the record of opened sums goes on from session to session",
        masked=new_session,
        plain=reads_the_update,
        encrypted=encrypted_views.second_sum_in_a_new_session,
    ),
)
