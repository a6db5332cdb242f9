"""Sums over different models whose survivors differ by one site: their difference is that site, up to what moved.

The aggregator calls the victim dropped in the second round, although it uploaded. The rule against it is each site's
own (privacy.secagg.differencing): a floor on how far two survivor sets may lie apart. It does not limit what many sums
say together; differential privacy does.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from privacy.fixed_point import decode_sum
from privacy.secagg.client_state import ClientFloors
from privacy.streams import Words
from secfed.audit.consortium import MODEL, Consortium
from secfed.audit.encrypted_group import EncryptedGroup
from secfed.audit.finding import Finding, on_figure, protocol_attack
from secfed.audit.plain import reads_the_update
from secfed.audit.successive_sums import exactness, open_sums
from secfed.audit.target import Target

_MOVE = 0.1
"""How far an update moves from one round to the next, as a fraction of its own spread: what the attacker hopes for."""

_CORRELATION = "correlation of the recovered update with the victim's"

# The Fano plane: seven lines of three points, any two with one point in common.
_LINES = ((0, 1, 2), (0, 3, 4), (0, 5, 6), (1, 3, 5), (1, 4, 6), (2, 3, 6), (2, 4, 5))


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
    sums, tries = open_sums(world, sets, models=[bytes([number]) * 32 for number in range(len(sets))], move=_MOVE)
    correlation = 0.0
    if all(total is not None for total in sums):
        whole, *rest = [_decoded(total, world) for total in sums if total is not None]
        lines = [whole - partial for partial in rest]
        through = np.add.reduce([line for line, points in zip(lines, _LINES, strict=True) if 0 in points])
        correlation = _correlation((through - np.add.reduce(lines) / 3) / 2, world.values[victim])
    return Finding(
        control=f"the first sum of 10 sites is {exactness(sums[0], world)}, min_cohort_change = 3",
        outcome=f"{sum(total is not None for total in sums)} of {len(sets)} sums were opened; updates move by "
        f"{_MOVE:.0%} of their spread a round; {tries}",
        figure=correlation,
        unit=_CORRELATION,
        verdict=on_figure(abs(correlation), above=0.3),
    )


def _leave_one_out(target: Target, seed: int, floors: ClientFloors) -> Finding:
    world = Consortium(target, count=7, seed=seed, floors=floors)
    victim = world.names[0]
    sums, tries = open_sums(world, [world.names, world.names[1:]], models=[MODEL, b"n" * 32], move=_MOVE)
    correlation = 0.0
    if sums[0] is not None and sums[1] is not None:
        correlation = _correlation(_decoded(sums[0], world) - _decoded(sums[1], world), world.values[victim])
    rule = f"min_cohort_change = {floors.min_cohort_change}"
    return Finding(
        control=f"the first sum of 7 sites is {exactness(sums[0], world)}, {rule}",
        outcome=f"second sum without {victim}, one round later, updates moved by {_MOVE:.0%} of their spread; {tries}",
        figure=correlation,
        unit=_CORRELATION,
        verdict=on_figure(abs(correlation), above=0.3),
    )


def changed_model_at_a_site(target: Target, seed: int) -> Finding:
    """In an encrypted run it is the sites that see every sum; one of them subtracts two, as the protocol gives them."""
    return _leave_one_out_encrypted(target, seed, ClientFloors(min_cohort=2, min_cohort_change=1))


def changed_model_at_a_site_with_a_floor(target: Target, seed: int) -> Finding:
    """The same at sites with min_cohort_change = 3, which says what a site helps to open, and here nobody is asked."""
    return _leave_one_out_encrypted(target, seed, ClientFloors(min_cohort=2, min_cohort_change=3))


def many_sums_at_a_site(target: Target, seed: int) -> Finding:
    """The eight sums of `many_sums`, decrypted by a site that is in all of them."""
    group = EncryptedGroup(target, count=10, seed=seed, floors=ClientFloors(min_cohort=2, min_cohort_change=3))
    victim, everyone = group.names[0], group.names
    sums = _decrypted_sums(group, [(), *([everyone[point] for point in line] for line in _LINES)])
    whole, *rest = [_decoded(total, group.world) for total in sums]
    lines = [whole - partial for partial in rest]
    through = np.add.reduce([line for line, points in zip(lines, _LINES, strict=True) if 0 in points])
    correlation = _correlation((through - np.add.reduce(lines) / 3) / 2, group.world.values[victim])
    return Finding(
        control=f"the first sum of 10 sites is {exactness(sums[0], group.world)}, min_cohort_change = 3",
        outcome=f"{everyone[-1]} decrypted {len(sums)} sums, as every site does; updates move by {_MOVE:.0%} of their "
        "spread a round",
        figure=correlation,
        unit=_CORRELATION,
        verdict=on_figure(abs(correlation), above=0.3),
    )


def _leave_one_out_encrypted(target: Target, seed: int, floors: ClientFloors) -> Finding:
    group = EncryptedGroup(target, count=7, seed=seed, floors=floors)
    victim, curious = group.names[0], group.names[-1]
    first, second = _decrypted_sums(group, [(), (victim,)])
    difference = _decoded(first, group.world) - _decoded(second, group.world)
    correlation = _correlation(difference, group.world.values[victim])
    return Finding(
        control=f"the first sum of 7 sites is {exactness(first, group.world)}, "
        f"min_cohort_change = {floors.min_cohort_change}",
        outcome=f"{curious} decrypted a second sum without {victim}, one round later, updates moved by {_MOVE:.0%} of "
        "their spread; the aggregator decrypts neither",
        figure=correlation,
        unit=_CORRELATION,
        verdict=on_figure(abs(correlation), above=0.3),
    )


def _decrypted_sums(group: EncryptedGroup, silent: Sequence[Sequence[str]]) -> list[Words]:
    """What the last site decrypts of one round for each set of silent sites, with updates that move as in open_sums."""
    generator = np.random.default_rng([group.world.seed, 1])
    spread = float(np.std(np.concatenate(list(group.world.values.values()))))
    sums = []
    for number, gone in enumerate(silent):
        vectors = {}
        for name, values in group.world.values.items():
            step = generator.normal(scale=_MOVE * spread, size=values.shape) if number else 0.0
            vectors[name] = group.world.encode(np.clip(values + step, -1, 1), label=name)
        group.play(silent=gone, vectors=vectors)
        sums.append(group.opened(group.names[-1]))
    return sums


def _decoded(total: Words, world: Consortium) -> npt.NDArray[np.float64]:
    return decode_sum(total, vector_format=world.vector_format)


def _correlation(guess: npt.NDArray[np.float64], truth: npt.NDArray[np.float64]) -> float:
    return float(np.corrcoef(guess, truth)[0, 1])


ATTACKS = (
    protocol_attack(
        name="differencing-changed-model",
        threat="a sum over the next model leaves one site out; sites set no floor on change",
        defence="none at min_cohort_change = 1: the difference is the update, up to what moved; raise it, or add noise",
        masked=changed_model,
        plain=reads_the_update,
        encrypted=changed_model_at_a_site,
        encrypted_defence="none: every site sees every sum; differential privacy bounds what they say",
    ),
    protocol_attack(
        name="differencing-cohort-change",
        threat="a sum over the next model leaves one site out; sites set min_cohort_change = 3",
        defence="the floor min_cohort_change between the survivors of any two sums",
        masked=changed_model_with_a_floor,
        plain=reads_the_update,
        encrypted=changed_model_at_a_site_with_a_floor,
        encrypted_defence="none: the floor is on what a site helps to open, and nobody is asked to open anything",
    ),
    protocol_attack(
        name="differencing-many-sums",
        threat="eight sums that differ pairwise by three sites or more are combined",
        defence="none: min_cohort_change bounds pairs of sums, not what many say together; differential privacy does",
        masked=many_sums,
        plain=reads_the_update,
        encrypted=many_sums_at_a_site,
        encrypted_defence="none: every site sees every sum; differential privacy bounds what they say",
    ),
)
