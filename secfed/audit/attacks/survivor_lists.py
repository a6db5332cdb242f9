"""An aggregator that lies about who survived: both kinds of share for one site would open its upload.

A client gives the share of a peer's self seed where the peer survived, and of its wrap key where it dropped. Source:
Bonawitz et al. 2017 (eprint 2017/281), section 6.2; the bound 2 t > n + n_c is in privacy.secagg.threshold.
"""

from secfed.audit.attacks import encrypted_rounds, encrypted_views
from secfed.audit.consortium import Consortium
from secfed.audit.finding import Finding, Tries, not_applicable, protocol_attack, recovered, recovery
from secfed.audit.plain import reads_the_update
from secfed.audit.rogue_round import RogueRound
from secfed.audit.target import Target


def both_lists(target: Target, seed: int) -> Finding:
    """After the sum was opened with the victim in it, ask again and call the victim dropped."""
    world = Consortium(target, count=5, seed=seed)
    control = world.control()
    victim, others = world.names[-1], world.names[:-1]
    round_ = RogueRound(world, number=2)
    round_.deal()
    round_.upload()
    agreements = [round_.agree(name, world.names) for name in world.names]
    for name in world.names:
        round_.unmask(name, agreements)
    tries = Tries()
    second = round_.agreements(others, tries)
    for name in others:
        tries.accepts(round_.unmask, name, second)
    return _finding(round_, victim, control=control, tries=tries)


def two_survivor_sets(target: Target, seed: int) -> Finding:
    """Seven sites, t = 5, two of them collude: 2 t = 10 > 7 + 2, so the bound holds."""
    return _two_sets(target, seed, colluding=2)


def two_survivor_sets_beyond_the_bound(target: Target, seed: int) -> Finding:
    """Seven sites, t = 5, three of them collude: 2 t = 10 = 7 + 3, so the bound is broken."""
    return _two_sets(target, seed, colluding=3)


def smaller_sum(target: Target, seed: int) -> Finding:
    """Ten sites, t = 7: every site is told another set of seven or more, and the sum over six would be opened.

    Four sites are to be seen as dropped by seven others each; nobody believes that more than three dropped.
    """
    world = Consortium(target, count=10, seed=seed)
    control = world.control()
    gone, kept = world.names[:4], world.names[4:]
    round_ = RogueRound(world, number=2)
    round_.deal()
    round_.upload()
    believed = {name: set(world.names) - (set(gone) - {name}) for name in gone}
    believed |= {name: set(world.names) - (set(gone) - {gone[place % 4]}) for place, name in enumerate(kept)}
    tries = Tries()
    agreements = {name: tries(round_.agree, name, believed[name]) for name in world.names}
    for name in world.names:
        same_set = [found for other, found in agreements.items() if found and believed[other] == believed[name]]
        tries.accepts(round_.unmask, name, same_set)
    fraction = recovered(round_.guess_sum(kept), world.total(kept))
    return recovery(
        fraction,
        control=f"{control}; the smallest sum that t = 7 allows is over 7",
        outcome=f"a sum over 6 sites was {'opened' if fraction > 0.01 else 'not opened'}; {tries}",
        unit="fraction of coordinates of the sum over 6 of 10 sites",
    )


def _two_sets(target: Target, seed: int, *, colluding: int) -> Finding:
    world = Consortium(target, count=7, seed=seed)
    control = world.control()
    victim, colluders = world.names[0], world.names[-colluding:]
    honest = world.names[:-colluding]
    middle = (len(honest) + 1) // 2
    first, second = honest[:middle], honest[middle:]
    everyone, without_victim = world.names, world.names[1:]
    round_ = RogueRound(world, number=2, colluders=colluders)
    round_.deal()
    round_.upload()
    tries = Tries()
    own_sets = [(first, everyone), (second, without_victim)]
    other_sets = [(first, without_victim), (second, everyone)]
    signed: dict[tuple[str, ...], list[bytes]] = {everyone: [], without_victim: []}
    for survivors, pool in signed.items():
        pool += [round_.agree(name, survivors) for name in colluders]
    # A client that forgets what it answered is asked for its own set again, now that the pool has grown.
    for half, survivors in (*own_sets, *other_sets, *own_sets):
        for name in (name for name in half if name in survivors):
            agreement = tries(round_.agree, name, survivors)
            if agreement is not None and agreement not in signed[survivors]:
                signed[survivors].append(agreement)
        for name in half:
            tries.accepts(round_.unmask, name, signed[survivors])
    return _finding(round_, victim, control=control, tries=tries)


def _finding(round_: RogueRound, victim: str, *, control: str, tries: Tries) -> Finding:
    fraction = recovered(round_.guess(victim), round_.world.vectors[victim])
    seeds, wraps = round_.shares_known(victim)
    return recovery(
        fraction,
        control=control,
        outcome=f"the attacker holds {seeds} shares of {victim}'s self seed and {wraps} of its wrap key, "
        f"t = {round_.invitation.threshold}; {tries}",
    )


_AGREEMENT = "one signed survivor set per client and round (R3), one kind of share per peer (R4)"

ATTACKS = (
    protocol_attack(
        name="both-lists",
        threat="the aggregator names a site both survived and dropped",
        defence=_AGREEMENT,
        masked=both_lists,
        plain=reads_the_update,
        encrypted=not_applicable("no site releases shares: a sum opens for all who hold the key, or for none"),
    ),
    protocol_attack(
        name="two-sets",
        threat="two halves are shown two survivor sets, with 2 of 7 sites colluding",
        defence=f"2 t > n + n_c, and {_AGREEMENT}",
        masked=two_survivor_sets,
        plain=reads_the_update,
        encrypted=encrypted_views.two_histories,
    ),
    protocol_attack(
        name="two-sets-beyond-the-bound",
        threat="two halves are shown two survivor sets, with 3 of 7 sites colluding",
        defence="none at this threshold: 2 t has to exceed n + n_c; a site can insist on a higher one (min_threshold)",
        masked=two_survivor_sets_beyond_the_bound,
        plain=reads_the_update,
        encrypted=encrypted_views.two_histories_beyond_the_bound,
    ),
    protocol_attack(
        name="smaller-sum",
        threat="every site is shown another survivor set, so that a sum over fewer than t sites opens",
        defence="t signatures on one and the same survivor set (R3)",
        masked=smaller_sum,
        plain=reads_the_update,
        encrypted=encrypted_rounds.smaller_sum,
    ),
)
