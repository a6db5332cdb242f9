"""Sums that an aggregator of an encrypted run makes up: it has every ciphertext and no key, and sites step on sums.

It can add what it likes, publish what it likes, and say who is inside. Every lie comes with a root and an announcement
that fit it, so that nothing unsigned gives it away. What stands against it: the check slots inside the encryption, the
signed headers of who uploaded, and the tag of the model that each site stood on.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from privacy.errors import HostileInputError
from privacy.he.group_server import PublishedSum
from privacy.he.key_holder import GroupKey
from privacy.he.layout import HEADER_BYTES
from privacy.he.member import MAX_FAILED_SUMS
from privacy.he.requests import EncryptedAnnouncement
from secfed.audit.ciphertexts import moved, with_count, with_vector_added
from secfed.audit.encrypted_group import EncryptedGroup, accept, with_announcement, with_sum
from secfed.audit.finding import Finding, Tries, not_applicable, on_figure, protocol_attack
from secfed.audit.target import Target

_SITES = 5


def false_sums(target: Target, seed: int) -> Finding:
    """Show two sites, always on the same stored state, nine sums that are not the sum of what was signed."""
    group = EncryptedGroup(target, count=_SITES, seed=seed)
    control = group.control()
    published = group.play()
    tries = Tries()
    believed = set()
    for lie, total in _false_totals(group, seed).items():
        forged = with_sum(published, total)
        announcement = group.announce(before=forged).announcement
        for name in (group.names[0], group.names[-1]):
            words = tries(group.try_on, name, accept, announcement, forged)
            if words is not None:
                believed.add(lie)
    return Finding(
        control=control,
        outcome=f"sites stepped on {sorted(believed) or 'none of them'}; {tries}",
        figure=float(tries.accepted),
        unit=f"false sums that a site stepped on, of {tries.total}",
        verdict=on_figure(tries.accepted, above=0),
    )


def _false_totals(group: EncryptedGroup, seed: int) -> Mapping[str, bytes]:
    """Sums that claim to hold every site's vector of the last round once."""
    now = group.last_round
    earlier = max(number for number, _ in group.ciphertexts if number < now)
    uploads = [(now, name) for name in group.names]
    honest, parameters = group.summed(uploads), group.parameters
    generator = np.random.default_rng(seed)
    steps = generator.integers(1, 2**16, size=group.length, dtype=np.uint32)
    own_key = GroupKey.generate(parameters)
    own = own_key.encrypt(steps, contributor=group.names[0], context=bytes(32))
    single = group.ciphertexts[uploads[0]]
    length, key = group.length, group.server.fingerprint
    made_up = generator.integers(0, 2**47, size=(len(honest) - HEADER_BYTES) // 6, dtype=np.uint64)
    body = made_up.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :6].tobytes()
    # One step of the plaintext modulus is what a plaintext's coefficient grows by one with.
    step = parameters.moduli[0] // parameters.plain_modulus

    def counted(message: bytes) -> bytes:
        return with_count(message, _SITES, length=length, key=key, parameters=parameters)

    return {
        "a site counted twice in another's place": group.summed([uploads[1], *uploads[1:]], count=_SITES),
        "a site counted twice": group.summed([uploads[0], *uploads], count=_SITES),
        "a site left out": group.summed(uploads[1:], count=_SITES),
        "an upload of another round": group.summed([(earlier, group.names[0]), *uploads[1:]]),
        "one upload as the sum": counted(single),
        "a changed coefficient": moved(honest, 1000 * step, place=seed % parameters.ring_degree, parameters=parameters),
        "a vector of the aggregator's added": with_vector_added(honest, steps, parameters=parameters),
        "a ciphertext under a key of its own": counted(own),
        "made-up bytes": counted(honest[:HEADER_BYTES] + body),
    }


def false_histories(target: Target, seed: int) -> Finding:
    """Publish a sum with another story: other contributors, headers of another round, a round left out or twice."""
    group = EncryptedGroup(target, count=_SITES, seed=seed)
    control = group.control()
    first = group.before
    second = group.play()
    third = group.play()
    if first is None:
        raise RuntimeError("the control has played no round")
    victim = group.names[seed % _SITES]
    without = [name for name in group.names if name != victim]
    old_header = replace(third, headers=(second.headers[0], *third.headers[1:]))
    lies = {
        "another coordinate of the sum": with_sum(third, _raised(group, third)),
        "a contributor left out of the list": replace(
            third, contributors=tuple(without), headers=group.sum_over(third, without).headers
        ),
        "a header of another round": old_header,
        "the sum before the last again": second,
        "the first sum again": first,
    }
    honest = group.announce(before=third).announcement
    tries = Tries()
    believed = set()
    for lie, forged in lies.items():
        announcement = group.announce(before=forged, server_round=_following(forged)).announcement
        shown = with_announcement(announcement, server_round=EncryptedAnnouncement.from_bytes(honest).server_round)
        for name in group.names:
            before = tries.accepted
            tries.accepts(group.try_on, name, accept, shown, forged)
            believed |= {lie} if tries.accepted > before else set()
    return Finding(
        control=control,
        outcome=f"believed were {sorted(believed) or 'none of them'}; {tries}",
        figure=float(tries.accepted),
        unit=f"false histories that a site went on with, of {tries.total}",
        verdict=on_figure(tries.accepted, above=0),
    )


def _raised(group: EncryptedGroup, published: PublishedSum) -> bytes:
    one = np.zeros(group.length, dtype=np.uint32)
    one[0] = 1
    return with_vector_added(published.total, one, parameters=group.parameters)


def _following(published: PublishedSum) -> int:
    return EncryptedAnnouncement.from_bytes(published.announcement).server_round + 1


def key_reactions(target: Target, seed: int) -> Finding:
    """Push one coefficient of the true sum to the edge of where it decrypts, and note who still steps on it.

    Where the noise of the sum plus the push passes half a step of the plaintext modulus, decryption fails: each answer
    says on which side of a bound the noise lies, and enough of them say the noise, and with it the key. The site's
    process dies after every answer, and half-way a new session begins.
    """
    group = EncryptedGroup(target, count=4, seed=seed)
    control = group.control()
    published = group.play()
    victim = group.names[seed % 4]
    edge = group.parameters.moduli[0] // (2 * group.parameters.plain_modulus)
    pushes = [edge + 6 * MAX_FAILED_SUMS - step for step in range(3 * MAX_FAILED_SUMS)]
    refused = silent = 0
    for number, push in enumerate(pushes):
        if number == len(pushes) // 2:
            group.begin_session()
        forged = with_sum(published, moved(published.total, push, place=0, parameters=group.parameters))
        announcement = group.announce(before=forged).announcement
        try:
            accept(group.members[victim], announcement, forged)
            break
        except HostileInputError as refusal:
            # The site says nothing of a reason; but an attacker knows from whom no answer can be had any more.
            spent = "looks at no more" in str(refusal)
            refused, silent = refused + (not spent), silent + spent
        group.members[victim] = group.copy_of(victim)
    return Finding(
        control=control,
        outcome=f"{refused} of {len(pushes)} sums at the edge of what decrypts were looked at and refused, then none: "
        f"{silent} were not looked at, over restarts and a new session; a key has {group.parameters.ring_degree} "
        "coefficients",
        figure=float(refused),
        unit=f"answers about the key; {MAX_FAILED_SUMS} are allowed in a run",
        verdict=on_figure(refused, above=MAX_FAILED_SUMS),
    )


ATTACKS = (
    protocol_attack(
        name="false-sum",
        threat="the aggregator sums other ciphertexts than were signed, adds to them, or makes a sum up",
        defence="check slots inside the encryption bind contributor, round and place; headers are signed",
        masked=not_applicable("sites get the model and no sum; published-aggregate is the attack on masked sums"),
        plain=not_applicable("sites get the model and no sum, and have nothing to check it by"),
        encrypted=false_sums,
    ),
    protocol_attack(
        name="false-history",
        threat="the aggregator shows sites a true or changed sum with other contributors, or of another round",
        defence="signed headers of exactly the contributors, on one model and one history; own uploads inside",
        masked=not_applicable("sites get the model and no history; published-aggregate is the attack on the record"),
        plain=not_applicable("sites get the model and no history"),
        encrypted=false_histories,
    ),
    protocol_attack(
        name="key-reaction",
        threat="the aggregator learns about the group key from which made-up sums sites refuse",
        defence="a site counts sums that do not decrypt, in its stored state, and stops after eight in a run",
        masked=not_applicable("sites decrypt nothing"),
        plain=not_applicable("plain mode has no key"),
        encrypted=key_reactions,
    ),
)
