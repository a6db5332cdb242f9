"""Rounds of an encrypted run by other rules: fewer sites than a site accepts, the same round again, old messages.

The aggregator announces rounds and says what came before. Each site insists on its own floors, and its stored state
only moves forward.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from privacy.he.member import GroupMember
from privacy.he.requests import EncryptedAnnouncement
from privacy.secagg.client_state import ClientFloors
from secfed.audit.ciphertexts import read_difference, read_words, secret_of
from secfed.audit.encrypted_group import EncryptedGroup, accept, with_announcement
from secfed.audit.finding import DIFFERENCE, Finding, Tries, on_figure, recovered, recovery
from secfed.audit.target import Target

_REPLAYED = "replayed messages accepted of"


def lowered_minimum(target: Target, seed: int) -> Finding:
    """Five sites: announce rounds for which one, two or three uploads are enough."""
    group = EncryptedGroup(target, count=5, seed=seed)
    control = group.control()
    honest = group.announce()
    lowest, tries = EncryptedAnnouncement.from_bytes(honest.announcement).minimum, Tries()
    for minimum in range(1, lowest):
        announcement = with_announcement(honest.announcement, minimum=minimum)
        for name in group.names:
            tries.accepts(group.try_on, name, accept, announcement, group.before)
    return Finding(
        control=f"{control}, at least {lowest} uploads",
        outcome=f"minimums of 1 to {lowest - 1} uploads, with no site colluding; {tries}",
        figure=float(tries.accepted),
        unit=f"rounds below the sites' floor accepted, of {tries.total}",
        verdict=on_figure(tries.accepted, above=0),
    )


def tiny_group(target: Target, seed: int) -> Finding:
    """The sites' floor is five: invite two, three or four of them, and relay the key among two of them only."""
    floors = ClientFloors(min_cohort=5)
    group = EncryptedGroup(target, count=5, seed=seed, floors=floors)
    control = group.control()
    victim, tries = group.names[-1], Tries()
    for size in range(2, len(group.names)):
        announcement = group.announce(invited=group.names[-size:], minimum=size).announcement
        tries.accepts(group.try_on, victim, accept, announcement, group.before)
    fresh = EncryptedGroup(target, count=5, seed=seed, floors=floors)
    pair = (fresh.names[0], fresh.names[-1])
    fresh.world.begin_session()
    fresh.server = fresh.new_server()
    tries.accepts(fresh.agree_on_key, pair)
    return Finding(
        control=f"{control}, min_cohort = 5",
        outcome=f"rounds of two to four sites, and a key among two of them: {tries}",
        figure=float(tries.accepted),
        unit=f"cohorts below the site's floor accepted, of {tries.total}",
        verdict=on_figure(tries.accepted, above=0),
    )


def smaller_sum(target: Target, seed: int) -> Finding:
    """Ten sites, at least seven: publish the sum over six of the uploads, with their headers, to all."""
    group = EncryptedGroup(target, count=10, seed=seed)
    control = group.control()
    published = group.play()
    kept = group.names[4:]
    forged, tries = group.sum_over(published, kept), Tries()
    announcement = group.announce(before=forged).announcement
    for name in group.names:
        tries.accepts(group.try_on, name, accept, announcement, forged)
    return Finding(
        control=f"{control}, at least 7 uploads",
        outcome=f"a true sum over {len(kept)} of 10 uploads was published: {tries}",
        figure=float(tries.accepted),
        unit="sites that stepped on a sum over 6 of 10",
        verdict=on_figure(tries.accepted, above=0),
    )


def second_upload(target: Target, seed: int) -> Finding:
    """Ask one site to upload a second time in the same round, with an update that has changed meanwhile."""
    return _second_upload(target, seed, again=lambda group, name: group.members[name])


def second_upload_after_a_restart(target: Target, seed: int) -> Finding:
    """Kill the site's process after its upload, and ask the new one for another update in the same round."""
    return _second_upload(target, seed, again=lambda group, name: group.copy_of(name))


def _second_upload(target: Target, seed: int, *, again: Callable[[EncryptedGroup, str], GroupMember]) -> Finding:
    group = EncryptedGroup(target, count=4, seed=seed)
    control = group.control()
    victim = group.names[-1]
    round_ = group.announce()
    for name in group.names:
        group.step(name, round_.announcement, group.before)
        group.upload(round_, name)
    member, tries = again(group, victim), Tries()
    tries.accepts(accept, member, round_.announcement, group.before)
    changed = group.world.encode(group.world.values[victim] / 2, label="changed")
    answer = tries(member.encrypt, changed)
    return Finding(
        control=control,
        outcome=f"a second upload was {'refused' if answer is None else 'made for the same round'}; {tries}",
        figure=float(answer is not None),
        unit="second uploads of one site in one round",
        verdict=on_figure(answer is not None, above=0),
    )


def same_number_again(target: Target, seed: int) -> Finding:
    """Announce a round under a number that is past: the same announcement, and another one of this number."""
    group = EncryptedGroup(target, count=4, seed=seed)
    control = group.control()
    round_ = group.announce()
    for name in group.names:
        group.step(name, round_.announcement, group.before)
        group.upload(round_, name)
    tries = Tries()
    shown = (round_.announcement, with_announcement(round_.announcement, previous=b"x" * 32))
    for name in group.names:
        for announcement in shown:
            tries.accepts(group.try_on, name, accept, announcement, group.before)
    return Finding(
        control=control,
        outcome=f"a round that is past was announced again, and another under its number: {tries}",
        figure=float(tries.accepted),
        unit=f"rounds begun again, of {tries.total}",
        verdict=on_figure(tries.accepted, above=0),
    )


def restored_backup(target: Target, seed: int) -> Finding:
    """Put back a copy of the site's storage from before its upload; it uploads twice, and both are subtracted.

    Nothing stops the second upload. But encryption is randomised, so the two have no mask in common.
    """
    group = EncryptedGroup(target, count=4, seed=seed)
    control = group.control()
    victim = group.names[-1]
    round_ = group.announce()
    group.step(victim, round_.announcement, group.before)
    changed = group.world.encode(group.world.values[victim] / 2, label="changed")
    sent = [group.try_on(victim, GroupMember.encrypt, words)[1] for words in (group.vectors[victim], changed)]
    difference = group.vectors[victim] - changed
    without = read_difference(sent[0], sent[1], length=group.length, parameters=group.parameters)
    secret = secret_of(group.stolen_key(victim))
    first, second = (read_words(data, length=group.length, parameters=group.parameters, secret=secret) for data in sent)
    return recovery(
        recovered(without, difference),
        control=f"{control}; with the key, {recovered(first - second, difference):.0%} of the difference is read",
        outcome=f"{victim} went on from an older copy of its state and uploaded twice for one round; without the key, "
        "the difference of the two ciphertexts says nothing",
        unit=DIFFERENCE,
    )


def equal_updates(target: Target, seed: int) -> Finding:
    """Subtract each site's ciphertexts of two rounds: where randomness repeats, its updates' difference is left."""
    group = EncryptedGroup(target, count=4, seed=seed)
    control = group.control()
    first = group.last_round - len(group.names)
    changed = {name: group.world.encode(group.world.values[name] / 2, label=f"changed {name}") for name in group.names}
    group.play(vectors=changed)
    fractions = [
        recovered(
            read_difference(
                group.ciphertexts[first, name],
                group.ciphertexts[group.last_round, name],
                length=group.length,
                parameters=group.parameters,
            ),
            group.vectors[name] - changed[name],
        )
        for name in group.names
    ]
    return recovery(
        max(fractions),
        control=control,
        outcome=f"{len(fractions)} pairs of ciphertexts of one site in two rounds were subtracted",
        unit=DIFFERENCE,
    )


def replayed_messages(target: Target, seed: int) -> Finding:
    """Play three rounds in two sessions, then show one site every message of the first ones again."""
    group = EncryptedGroup(target, count=4, seed=seed)
    victim, tries = group.names[-1], Tries()
    rounds = []
    for _ in range(2):
        published = group.play()
        rounds.append((group.last_round, published))
    (first_number, first), (second_number, second) = rounds
    giver = group.names[0]
    old_snapshot = group.members[giver].give_snapshot(group.models[giver])
    old_offers, old_confirmations = group.server.setup_messages.values()
    group.begin_session()
    third = group.play()
    now = group.announce().announcement
    for announcement, before in (
        (first.announcement, None),
        (second.announcement, first),
        (third.announcement, second),
        (group.announce(before=first).announcement, first),
    ):
        tries.accepts(group.try_on, victim, accept, announcement, before)
    # An old header, and an old ciphertext, in the place of a new one.
    for number in (first_number, second_number):
        for name in group.names[:-1]:
            headers = dict(zip(third.contributors, third.headers, strict=True))
            headers[name] = group.headers[number, name]
            shown = replace(third, headers=tuple(headers.values()))
            tries.accepts(group.try_on, victim, accept, now, shown)
    tries.accepts(group.try_on, victim, GroupMember.adopt_snapshot, old_snapshot[0], model_hash=group.models[giver])
    tries.accepts(group.try_on, victim, GroupMember.offer, group.channels(victim))
    group.world.begin_session()
    fresh = group.copy_of(victim)
    own = fresh.offer(group.channels(victim))
    tries.accepts(fresh.accept_offers, group.channels(victim), old_offers)
    tries.accepts(fresh.accept_offers, group.channels(victim), (*old_offers[:-1], own[0]))
    tries.accepts(group.try_on, victim, GroupMember.accept_confirmations, group.channels(victim), old_confirmations)
    return Finding(
        control="all messages of three rounds are accepted in their own round, and the sites' sums are exact: "
        f"largest error {_largest_error(group)}",
        outcome=str(tries),
        figure=float(tries.accepted),
        unit=f"{_REPLAYED} {tries.total}",
        verdict=on_figure(tries.accepted, above=0),
    )


def _largest_error(group: EncryptedGroup) -> int:
    plain = group.world.total(group.names)
    return int(np.abs((group.opened(group.names[0]) - plain).view(np.int32)).max())
