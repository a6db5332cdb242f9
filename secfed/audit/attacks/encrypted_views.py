"""Two truths for two halves: sites of an encrypted run that are shown different sums, or that stand on other models.

An aggregator cannot read what it splits, but two groups on two models are two smaller runs. As for survivor sets under
masks (survivor_lists), any two groups that are large enough share an honest site as long as 2 t > n + n_c.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from privacy.he.group_server import PublishedSum
from privacy.he.layout import message_root
from privacy.he.member import GroupMember
from secfed.audit.ciphertexts import sum_of
from secfed.audit.encrypted_group import EncryptedGroup, accept, with_announcement
from secfed.audit.finding import Finding, Tries, on_figure
from secfed.audit.target import Target


def two_histories(target: Target, seed: int) -> Finding:
    """Seven sites, t = 5, two of them collude: 2 t = 10 > 7 + 2, so the bound holds."""
    return _two_histories(target, seed, colluding=2)


def two_histories_beyond_the_bound(target: Target, seed: int) -> Finding:
    """Seven sites, t = 5, three of them collude: 2 t = 10 = 7 + 3, so the bound is broken."""
    return _two_histories(target, seed, colluding=3)


@dataclass(frozen=True, kw_only=True)
class _History:
    """One of the truths: who is told it, by which sum it begins, and each believer's process."""

    believers: tuple[str, ...]
    begins: PublishedSum
    members: dict[str, GroupMember] = field(repr=False)


def _two_histories(target: Target, seed: int, *, colluding: int) -> Finding:
    group = EncryptedGroup(target, count=7, seed=seed)
    control = group.control()
    victim, colluders, honest = group.names[0], group.names[-colluding:], group.names[:-colluding]
    middle = (len(honest) + 1) // 2
    minimum = _lowest_minimum(group)
    round_ = group.announce(minimum=minimum)
    for name in group.names:
        group.step(name, round_.announcement, group.before)
        group.upload(round_, name)
    whole = round_.finish()
    # A colluder is in both groups: it runs its process twice, from one stored state.
    halves = ((honest[:middle], whole), (honest[middle:], group.sum_over(whole, group.names[1:])))
    histories = [
        _History(
            believers=(*half, *colluders),
            begins=begins,
            members={name: group.twin_of(name) for name in (*half, *colluders)},
        )
        for half, begins in halves
    ]
    tries = Tries()
    went_on = [_goes_on(group, history, tries, minimum=minimum, honest=honest) for history in histories]
    return Finding(
        control=f"{control}, t = 5",
        outcome=f"the first sum was shown with and without {victim}; {sum(went_on)} of 2 groups went on from the "
        f"second sum, with {colluding} of 7 sites colluding; {tries}",
        figure=float(max(0, sum(went_on) - 1)),
        unit="histories that honest sites went on with beside the first",
        verdict=on_figure(sum(went_on) - 1, above=0),
    )


def _lowest_minimum(group: EncryptedGroup) -> int:
    """The smallest number of uploads that all sites let the aggregator announce."""
    for minimum in range(2, len(group.names)):
        announcement = group.announce(minimum=minimum).announcement
        tries = Tries()
        for name in group.names:
            tries.accepts(group.try_on, name, accept, announcement, group.before)
        if tries.accepted == tries.total:
            return minimum
    return len(group.names)


def _goes_on(group: EncryptedGroup, history: _History, tries: Tries, *, minimum: int, honest: Sequence[str]) -> bool:
    """Let the believers step on their sum, upload, and step on the sum of that; whether the honest ones all do."""
    announcement = group.announce(before=history.begins, minimum=minimum).announcement
    headers, ciphertexts = {}, {}
    for name in history.believers:
        member = history.members[name]
        if not tries.accepts(_step, member, announcement, history.begins):
            return False
        headers[name], ciphertexts[name] = member.encrypt(group.vectors[name])
    following = published(group, announcement, headers, ciphertexts, history.believers)
    last = group.announce(before=following, minimum=minimum).announcement
    return all(
        tries.accepts(_step, history.members[name], last, following) for name in history.believers if name in honest
    )


def _step(member: GroupMember, announcement: bytes, before: PublishedSum) -> None:
    words = accept(member, announcement, before)
    if words is not None:
        member.record_model(message_root(before.total))


def published(
    group: EncryptedGroup,
    announcement: bytes,
    headers: dict[str, bytes],
    ciphertexts: dict[str, bytes],
    names: Iterable[str],
) -> PublishedSum:
    """A sum that the aggregator publishes without asking whether it may."""
    chosen = tuple(sorted(names))
    total = sum_of(
        [ciphertexts[name] for name in chosen],
        count=len(chosen),
        length=group.length,
        key=group.server.fingerprint,
        parameters=group.parameters,
    )
    return PublishedSum(
        announcement=announcement,
        headers=tuple(headers[name] for name in chosen),
        inputs_digest=bytes(32),
        total=total,
        root=message_root(total),
        contributors=chosen,
        dropped=(),
        excluded={},
    )


def different_models(target: Target, seed: int) -> Finding:
    """All but one site stand on another model, and send zeros; the aggregator sums and publishes all the same."""
    group = EncryptedGroup(target, count=5, seed=seed)
    control = group.control()
    victim = group.names[seed % 5]
    round_ = group.announce()
    headers, ciphertexts = {}, {}
    for name, member in group.members.items():
        accept(member, round_.announcement, group.before)
        member.record_model((b"m" if name == victim else b"d") * 32)
        words = group.vectors[name] if name == victim else np.zeros(group.length, dtype=np.uint32)
        headers[name], ciphertexts[name] = member.encrypt(words)
    mixed = published(group, round_.announcement, headers, ciphertexts, group.names)
    announcement, tries = group.announce(before=mixed).announcement, Tries()
    for name in group.names:
        tries.accepts(group.try_on, name, accept, announcement, mixed)
    return Finding(
        control=control,
        outcome=f"inputs on two models were summed: {tries}",
        figure=float(tries.accepted),
        unit="sites that stepped on a sum over two models, of 5",
        verdict=on_figure(tries.accepted, above=0),
    )


def second_sum_of_a_round(target: Target, seed: int) -> Finding:
    """A server round is run twice, the second time without one site; sites step on the first sum, then get the second.

    And sites that have stepped are asked to upload for the same server round once more.
    """
    group = EncryptedGroup(target, count=5, seed=seed)
    control = group.control()
    return _second_sum(group, control, new_session=False)


def second_sum_in_a_new_session(target: Target, seed: int) -> Finding:
    """The same, after a new session began."""
    group = EncryptedGroup(target, count=5, seed=seed)
    control = group.control()
    return _second_sum(group, control, new_session=True)


def _second_sum(group: EncryptedGroup, control: str, *, new_session: bool) -> Finding:
    victim, others = group.names[0], group.names[1:]
    base = group.before
    sums = []
    for uploading in (group.names, others):
        # Nobody has stepped on the first of these sums when the second round begins: both are of one server round.
        round_ = group.announce(before=base)
        for name in uploading:
            group.step(name, round_.announcement, base)
            group.upload(round_, name)
        sums.append(round_.finish())
    whole, partial = sums
    honest = group.announce(before=whole).announcement
    # The sites' last upload was for the second sum: without a withdrawal they would not do without it.
    tries = Tries()
    for name in group.names:
        group.step(name, honest, whole)
    if new_session:
        group.begin_session()
    again = group.announce(before=partial).announcement
    rerun = with_announcement(
        group.announce(before=base).announcement, invited=others, minimum=4, sum_root=base.root if base else bytes(32)
    )
    for name in others:
        tries.accepts(group.try_on, name, accept, again, partial)
        tries.accepts(group.try_on, name, accept, rerun, base)
    return Finding(
        control=control,
        outcome=f"after a step on the sum of 5 sites, the sum without {victim}, and the same server round once more"
        f"{', in a new session' if new_session else ''}: {tries}",
        figure=float(tries.accepted),
        unit=f"second sums of one server round that sites took part in, of {tries.total}",
        verdict=on_figure(tries.accepted, above=0),
    )
