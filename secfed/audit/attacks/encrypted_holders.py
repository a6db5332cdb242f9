"""What a site of an encrypted run can do, because every site holds the one key: read, spoil, and subtract.

Most of these succeed, as limits that docs/encrypted-aggregation.md states: encryption under a shared key needs no trust
in the aggregator for sums and models, and full trust that no site works with it.
"""

from dataclasses import replace

import numpy as np

from privacy.errors import HostileInputError
from privacy.he.layout import HEADER_BYTES, message_root
from privacy.he.messages import EncryptedInput
from privacy.he.requests import EncryptedAnnouncement
from privacy.secagg.envelope import open_envelope, seal_envelope
from secfed.audit.ciphertexts import read_words, secret_of
from secfed.audit.encrypted_group import EncryptedGroup, accept
from secfed.audit.finding import Finding, Tries, on_figure, recovered, recovery
from secfed.audit.target import Target

_RUINED = "fraction of coordinates of the sum that are wrong"
_UNNAMED = "cheats whose author was not named, or not alone"


def one_key_holder(target: Target, seed: int) -> Finding:
    """One of seven sites hands its stored state to the aggregator, which has every ciphertext of the round."""
    return _hand_over(target, seed, colluding=1)


def fewer_than_the_threshold(target: Target, seed: int) -> Finding:
    """Four of seven sites hand over all that they hold: the first of them is enough."""
    return _hand_over(target, seed, colluding=4)


def the_threshold(target: Target, seed: int) -> Finding:
    """Five of seven sites hand over all that they hold: the first of them is enough."""
    return _hand_over(target, seed, colluding=5)


def _hand_over(target: Target, seed: int, *, colluding: int) -> Finding:
    group = EncryptedGroup(target, count=7, seed=seed)
    control = group.control()
    group.play()
    colluders, honest = group.names[:colluding], group.names[colluding:]
    secret = secret_of(group.stolen_key(colluders[0]))

    def read(name: str, *, with_key: bool) -> float:
        words = read_words(
            group.ciphertexts[group.last_round, name],
            length=group.length,
            parameters=group.parameters,
            secret=secret if with_key else None,
        )
        return recovered(words, group.vectors[name])

    without = max(read(name, with_key=False) for name in honest)
    fractions = [read(name, with_key=True) for name in honest]
    return recovery(
        min(fractions),
        control=f"{control}; without the key {without:.0%} of any update is read",
        outcome=f"{colluding} of 7 sites and the aggregator read {sum(found == 1 for found in fractions)} of "
        f"{len(honest)} other sites' updates in full: one key opens every upload of the run",
    )


def two_sites(target: Target, seed: int) -> Finding:
    """A run of two sites, played by the rules: either takes its own update from the sum that it decrypts."""
    group = EncryptedGroup(target, count=2, seed=seed)
    control = group.control()
    group.play()
    victim, curious = group.names[seed % 2], group.names[1 - seed % 2]
    fraction = recovered(group.opened(curious) - group.vectors[curious], group.vectors[victim])
    return recovery(
        fraction,
        control=control,
        outcome=f"{curious} takes its own update from the sum, as the sites' floor of min_cohort = 2 allows",
    )


def stolen_state(target: Target, seed: int) -> Finding:
    """Record two rounds, then steal one site's stored state; and steal it once more after the end of the run."""
    group = EncryptedGroup(target, count=5, seed=seed)
    control = group.control()
    group.play()
    thief, victim = group.names[0], group.names[-1]
    secret = secret_of(group.stolen_key(thief))
    words = read_words(
        group.ciphertexts[min(number for number, _ in group.ciphertexts), victim],
        length=group.length,
        parameters=group.parameters,
        secret=secret,
    )
    _end(group)
    left = len(group.members[thief].to_bytes())
    return recovery(
        recovered(words, group.vectors[victim]),
        control=control,
        outcome=f"{thief}'s state opens {victim}'s upload of the first round, recorded before; after the end of the "
        f"run the state has {left} bytes and no key",
    )


def _end(group: EncryptedGroup) -> None:
    """E0 for the end, and E2: the key is erased."""
    if group.before is None:
        raise RuntimeError("no round was played")
    group.last_round += 1
    end = group.server.announce_end(
        round_number=group.last_round,
        server_round=EncryptedAnnouncement.from_bytes(group.before.announcement).server_round + 1,
        plan_hash=b"p" * 32,
        before=group.before,
    )
    for name in group.names:
        group.step(name, end.announcement, group.before)
    endings = end.collect([member.close() for member in group.members.values()])
    for member in group.members.values():
        member.finish(endings)


def false_update(target: Target, seed: int) -> Finding:
    """A site encrypts random words within the format, correctly signed."""
    group = EncryptedGroup(target, count=5, seed=seed)
    control = group.control()
    cheater = group.names[seed % 5]
    noise = np.random.default_rng(seed).integers(2**24, size=group.length, dtype=np.uint32)
    published = group.play(vectors={**group.vectors, cheater: noise})
    ruined = float(np.mean(group.opened(group.names[0]) != group.world.total(group.names)))
    return Finding(
        control=control,
        outcome=f"{len(published.excluded)} sites were named; only a site's own software bounds its update",
        figure=ruined,
        unit=_RUINED,
        verdict=on_figure(ruined, above=0.01),
    )


def spoiled_sum(target: Target, seed: int) -> Finding:
    """A site signs bytes that are no encryption under this round's check; the sum decrypts for nobody.

    The attack is on the round, not on secrets; the figure is whether anybody can say who it was.
    """
    group = EncryptedGroup(target, count=5, seed=seed)
    control = group.control()
    cheater = group.names[seed % 5]
    round_ = group.announce()
    for name in group.names:
        group.step(name, round_.announcement, group.before)
        if name != cheater:
            group.upload(round_, name)
    header, ciphertext = _nonsense(group, cheater, round_.announcement, seed)
    round_.add_input(header, ciphertext)
    published, tries = round_.finish(), Tries()
    announcement = group.announce(before=published).announcement
    named = set(published.excluded)
    for name in group.names:
        try:
            group.try_on(name, accept, announcement, published)
            tries.accepted += 1
        except HostileInputError as refusal:
            tries.reasons.append(str(refusal))
            named |= {refusal.party} if refusal.party else set()
    unnamed = float(cheater not in named)
    return Finding(
        control=control,
        outcome=f"nobody stepped on the sum, and {sorted(named) or 'nobody'} was named: an upload is not opened alone; "
        f"sites are left out in turn to find {cheater}; {tries}",
        figure=unnamed,
        unit="spoiled sums whose author was not named, of 1",
        verdict=on_figure(unnamed, above=0),
    )


def _nonsense(group: EncryptedGroup, cheater: str, announcement: bytes, seed: int) -> tuple[bytes, bytes]:
    """An honest header over a ciphertext of random residues, signed by the cheater."""
    header, ciphertext = group.members[cheater].encrypt(group.vectors[cheater])
    body = np.random.default_rng(seed).bytes(len(ciphertext) - HEADER_BYTES)
    # Every residue loses its highest bit, and so lies below the prime.
    residues = np.frombuffer(body, dtype=np.uint8).copy()
    residues[5::6] &= 0x7F
    spoiled = ciphertext[:HEADER_BYTES] + residues.tobytes()
    context = EncryptedAnnouncement.from_bytes(announcement).context
    found = open_envelope(header, EncryptedInput, context=context, roster=group.world.roster)
    forged, _ = seal_envelope(
        replace(found.body, root=message_root(spoiled)),
        context=context,
        sender=cheater,
        previous=found.previous,
        sign=group.world.identities[cheater].sign,
    )
    return forged, spoiled


def bad_uploads(target: Target, seed: int) -> Finding:
    """A ciphertext that is not the signed one, one of another length, another site's, and residues beyond the prime."""
    group = EncryptedGroup(target, count=5, seed=seed)
    control = group.control()
    cheater, other = group.names[seed % 5], group.names[(seed + 1) % 5]
    round_ = group.announce()
    for name in (name for name in group.names if name != cheater):
        group.step(name, round_.announcement, group.before)
        group.upload(round_, name)
    group.step(cheater, round_.announcement, group.before)
    header, ciphertext = group.members[cheater].encrypt(group.vectors[cheater])
    context = EncryptedAnnouncement.from_bytes(round_.announcement).context
    found = open_envelope(header, EncryptedInput, context=context, roster=group.world.roster)

    def signed(data: bytes) -> bytes:
        return seal_envelope(
            replace(found.body, root=message_root(data), length=len(data)),
            context=context,
            sender=cheater,
            previous=found.previous,
            sign=group.world.identities[cheater].sign,
        )[0]

    beyond = ciphertext[:HEADER_BYTES] + b"\xff" * 6 + ciphertext[HEADER_BYTES + 6 :]
    copied = group.ciphertexts[group.last_round, other]
    bad = (
        (header, ciphertext[:-4] + bytes(4)),
        (signed(ciphertext[:-6144]), ciphertext[:-6144]),
        (signed(copied), copied),
        (signed(beyond), beyond),
    )
    named = 0
    for shown, data in bad:
        try:
            round_.add_input(shown, data)
        except HostileInputError as error:
            named += error.party == cheater
    if cheater not in round_.uploaded:
        round_.add_input(header, ciphertext)
    group.before = round_.finish()
    try:
        exact = bool((group.opened(other) == group.world.total(group.names)).all())
    except HostileInputError:
        exact = False
    return Finding(
        control=control,
        outcome=f"{cheater} was named {named} of {len(bad)} times, and the sum is {'exact' if exact else 'wrong'}",
        figure=float(len(bad) - named + (not exact)),
        unit=f"{_UNNAMED}, of {len(bad)}, plus 1 for a wrong sum",
        verdict=on_figure(len(bad) - named + (not exact), above=0),
    )
