"""Two sums whose survivors differ by one site: their difference is that site, up to what moved in between.

The aggregator calls the victim dropped in the second round, although it uploaded. Rules against it are each site's own
(privacy.secagg.differencing): one sum per model, and optionally a floor on how far two survivor sets may lie apart.
Neither limits what many sums say together; differential privacy does.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from privacy.fixed_point import decode_sum
from privacy.secagg.client_state import ClientFloors
from privacy.streams import Words
from secfed.audit.consortium import MODEL, Consortium
from secfed.audit.finding import RECOVERED, Finding, Tries, on_figure, protocol_attack, recovered
from secfed.audit.plain import reads_the_update
from secfed.audit.rogue_round import RogueRound
from secfed.audit.target import Target

_MOVE = 0.1
"""How far an update moves from one round to the next, as a fraction of its own spread: what the attacker hopes for."""

_CORRELATION = "correlation of the recovered update with the victim's"

# The Fano plane: seven lines of three points, any two with one point in common.
_LINES = ((0, 1, 2), (0, 3, 4), (0, 5, 6), (1, 3, 5), (1, 4, 6), (2, 3, 6), (2, 4, 5))


def same_model(target: Target, seed: int) -> Finding:
    """Sites that train on the same model again send the same update again; leave one out the second time."""
    world = Consortium(target, count=7, seed=seed)
    victim = world.names[0]
    sums, tries = _sums(world, [world.names, world.names[1:]], models=[MODEL, MODEL], move=0.0)
    exact = _exact(sums[0], world)
    fraction = 0.0
    if sums[0] is not None and sums[1] is not None:
        fraction = recovered(sums[0] - sums[1], world.vectors[victim])
    return Finding(
        control=f"the first sum of 7 sites is {exact}",
        outcome=f"second sum over the same model without {victim}: {tries}",
        figure=fraction,
        unit=RECOVERED,
        verdict=on_figure(fraction, above=0.01),
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
    return Finding(
        control=f"the first sum of 7 sites is {_exact(whole, world)}, opened with {len(asked)} of them",
        outcome=f"{len(agreements)} of 5 signatures for a second sum without {victim}; {tries}",
        figure=fraction,
        unit=RECOVERED,
        verdict=on_figure(fraction, above=0.01),
    )


def new_session(target: Target, seed: int) -> Finding:
    """Open a sum, begin a new session with the same sites, and open one over the same model without the victim."""
    world = Consortium(target, count=7, seed=seed)
    victim = world.names[0]
    first, _ = _sums(world, [world.names], models=[MODEL], move=0.0)
    world.begin_session()
    second, tries = _sums(world, [world.names[1:]], models=[MODEL], move=0.0)
    fraction = 0.0
    if first[0] is not None and second[0] is not None:
        fraction = recovered(first[0] - second[0], world.vectors[victim])
    return Finding(
        control=f"the first sum of 7 sites is {_exact(first[0], world)}",
        outcome=f"in a new session, a sum over the same model without {victim}: {tries}",
        figure=fraction,
        unit=RECOVERED,
        verdict=on_figure(fraction, above=0.01),
    )


def changed_model(target: Target, seed: int) -> Finding:
    """The same with a model that has changed, at sites that set no floor on change: min_cohort_change = 1."""
    return _leave_one_out(target, seed, ClientFloors(min_cohort=2, min_cohort_change=1))


def changed_model_with_a_floor(target: Target, seed: int) -> Finding:
    """The same at sites with min_cohort_change = 3."""
    return _leave_one_out(target, seed, ClientFloors(min_cohort=2, min_cohort_change=3))


def many_sums(target: Target, seed: int) -> Finding:
    """Eight sums that differ by three sites or more, pairwise, which together single one out all the same.

    With the sums over all ten sites and without each line of the Fano plane on seven of them, half of the lines through
    the victim less a third of all lines is the victim.
    """
    world = Consortium(target, count=10, seed=seed, floors=ClientFloors(min_cohort=2, min_cohort_change=3))
    victim, everyone = world.names[0], world.names
    sets = [everyone, *([name for i, name in enumerate(everyone) if i not in line] for line in _LINES)]
    sums, tries = _sums(world, sets, models=[bytes([number]) * 32 for number in range(len(sets))], move=_MOVE)
    correlation = 0.0
    if all(total is not None for total in sums):
        whole, *rest = [_decoded(total, world) for total in sums if total is not None]
        lines = [whole - partial for partial in rest]
        through = np.add.reduce([line for line, points in zip(lines, _LINES, strict=True) if 0 in points])
        correlation = _correlation((through - np.add.reduce(lines) / 3) / 2, world.values[victim])
    return Finding(
        control=f"the first sum of 10 sites is {_exact(sums[0], world)}, min_cohort_change = 3",
        outcome=f"{sum(total is not None for total in sums)} of {len(sets)} sums were opened; updates move by "
        f"{_MOVE:.0%} of their spread a round; {tries}",
        figure=correlation,
        unit=_CORRELATION,
        verdict=on_figure(abs(correlation), above=0.3),
    )


def _leave_one_out(target: Target, seed: int, floors: ClientFloors) -> Finding:
    world = Consortium(target, count=7, seed=seed, floors=floors)
    victim = world.names[0]
    sums, tries = _sums(world, [world.names, world.names[1:]], models=[MODEL, b"n" * 32], move=_MOVE)
    correlation = 0.0
    if sums[0] is not None and sums[1] is not None:
        correlation = _correlation(_decoded(sums[0], world) - _decoded(sums[1], world), world.values[victim])
    return Finding(
        control=f"the first sum of 7 sites is {_exact(sums[0], world)}, min_cohort_change = {floors.min_cohort_change}",
        outcome=f"second sum without {victim}, one round later, updates moved by {_MOVE:.0%} of their spread; {tries}",
        figure=correlation,
        unit=_CORRELATION,
        verdict=on_figure(abs(correlation), above=0.3),
    )


def _sums(
    world: Consortium, sets: Sequence[Sequence[str]], *, models: Sequence[bytes], move: float
) -> tuple[list[Words | None], Tries]:
    """One round for each survivor set in turn; None for a sum that the sites did not open."""
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


def _decoded(total: Words, world: Consortium) -> npt.NDArray[np.float64]:
    return decode_sum(total, vector_format=world.vector_format)


def _exact(total: Words | None, world: Consortium) -> str:
    return "exact" if total is not None and np.array_equal(total, world.total(world.names)) else "not exact"


def _correlation(guess: npt.NDArray[np.float64], truth: npt.NDArray[np.float64]) -> float:
    return float(np.corrcoef(guess, truth)[0, 1])


ATTACKS = (
    protocol_attack(
        name="differencing-same-model",
        threat="a second sum over the same model leaves one site out",
        defence="one sum per model, unless the survivors are the same",
        masked=same_model,
        plain=reads_the_update,
    ),
    protocol_attack(
        name="differencing-hidden-sum",
        threat="few sites are asked to open the first sum, so that the rest helps with a second one",
        defence="2 t > n + n_c: any two sets of t sites share an honest one, which remembers",
        masked=hidden_sum,
        plain=reads_the_update,
    ),
    protocol_attack(
        name="differencing-new-session",
        threat="a new session makes sites forget what they helped to open",
        defence="the record of opened sums goes on from session to session",
        masked=new_session,
        plain=reads_the_update,
    ),
    protocol_attack(
        name="differencing-changed-model",
        threat="a sum over the next model leaves one site out; sites set no floor on change",
        defence="none at min_cohort_change = 1: the difference is the update, up to what moved; raise it, or add noise",
        masked=changed_model,
        plain=reads_the_update,
    ),
    protocol_attack(
        name="differencing-cohort-change",
        threat="a sum over the next model leaves one site out; sites set min_cohort_change = 3",
        defence="the floor min_cohort_change between the survivors of any two sums",
        masked=changed_model_with_a_floor,
        plain=reads_the_update,
    ),
    protocol_attack(
        name="differencing-many-sums",
        threat="eight sums that differ pairwise by three sites or more are combined",
        defence="none: min_cohort_change bounds pairs of sums, not what many say together; differential privacy does",
        masked=many_sums,
        plain=reads_the_update,
    ),
)
