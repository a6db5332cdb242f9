"""The model of an encrypted run, which the aggregator neither has nor sends: guessed, forged, or moved at its will.

Sites make the initial model from the plan's seed and step on decrypted sums. What the aggregator sees of a model is a
tag; what it relays are sealed snapshots for sites that missed sums.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable

import numpy as np

from privacy.cbor import to_cbor
from privacy.entropy import SYSTEM_ENTROPY
from privacy.errors import HostileInputError, MisuseError
from privacy.he.key_holder import GroupKey
from privacy.he.member import GroupMember
from privacy.he.messages import EncryptedInput, SnapshotHeader, group_context
from privacy.he.model_state import model_tag, seal_snapshot
from privacy.he.parameters import HE_SUITE
from privacy.he.requests import EncryptedAnnouncement
from privacy.secagg.envelope import NO_PREVIOUS, open_envelope, seal_envelope
from privacy.secagg.identity import Identity
from privacy.streams import Words
from secfed.audit.ciphertexts import with_vector_added
from secfed.audit.encrypted_group import INITIAL_MODEL, EncryptedGroup, accept, with_announcement, with_sum
from secfed.audit.finding import Finding, Tries, not_applicable, on_figure, protocol_attack
from secfed.audit.target import Target

_TRAINED = "sites that stand on what the aggregator chose, of 4"
_SURPLUS = 64


def guessed_model(target: Target, seed: int) -> Finding:
    """The aggregator knows the initial model, which follows from the public plan: confirm it by the tags in E1.

    It computes tags under everything that it knows, and compares the tags of two runs that begin on the same model.
    """
    groups = [EncryptedGroup(target, count=4, seed=seed) for _ in range(2)]
    control = groups[0].control()
    groups[1].play()
    tags = [_first_tag(group) for group in groups]
    group = groups[0]
    own = GroupKey.generate(group.parameters)
    known = (
        bytes(32),
        group.run,
        group.server.fingerprint,
        group.world.session,
        group.parameters.digest,
        group.world.roster.digest,
        own.to_bytes(),
    )
    guesses = [model_tag(key, run=group.run, completed=0, model_hash=INITIAL_MODEL) for key in known]
    message = to_cbor([HE_SUITE, "model tag", 0, INITIAL_MODEL])
    guesses += [hmac.digest(key, message, "sha256") for key in known]
    guesses += [INITIAL_MODEL, hashlib.sha256(INITIAL_MODEL).digest(), hashlib.sha256(message).digest()]
    confirmed = sum(hmac.compare_digest(guess, tags[0]) for guess in guesses) + (tags[0] == tags[1])
    holder = group.stolen_key(group.names[0]).to_bytes()
    held = model_tag(holder, run=group.run, completed=0, model_hash=INITIAL_MODEL) == tags[0]
    wrong = model_tag(holder, run=group.run, completed=0, model_hash=b"w" * 32) == tags[0]
    return Finding(
        control=f"{control}; a key holder confirms {'the model' if held and not wrong else 'NOT the model alone'}",
        outcome=f"the right model, tagged under {len(known)} values that the aggregator has: {confirmed} of "
        f"{len(guesses) + 1} comparisons agree",
        figure=float(confirmed),
        unit=f"comparisons that confirm the aggregator's guess, of {len(guesses) + 1}",
        verdict=on_figure(confirmed, above=0),
    )


def _first_tag(group: EncryptedGroup) -> bytes:
    """The model tag in the first site's first upload, as the aggregator reads it."""
    number, name = next(iter(group.headers))
    header = group.headers[number, name]
    if group.before is None:
        raise RuntimeError("no round was played")
    context = EncryptedAnnouncement.from_bytes(group.before.announcement).context
    return open_envelope(header, EncryptedInput, context=context, roster=group.world.roster).body.model_tag


def forged_snapshots(target: Target, seed: int) -> Finding:
    """Show a site snapshots of the aggregator's making, of an earlier round, of another run, and mixed ones.

    What the site adopts is what `GroupMember` lets it adopt; the model inside is hashed by the site itself.
    """
    group = EncryptedGroup(target, count=4, seed=seed)
    control = group.control()
    giver, victim = group.names[0], group.names[-1]
    # The site that gives it has stepped on no sum yet; the victim steps on two before it is shown.
    old = _given(group, giver)
    group.play()
    group.play()
    honest = _given(group, giver)
    fresh = group.twin_of(victim)
    taken = _adopt(fresh, *honest)
    other = EncryptedGroup(target, count=4, seed=seed)
    other.play()
    other.play()
    forgeries = {
        "signed by a key of its own": _made_up(group, giver, sign=Identity.generate(giver).sign),
        "an old one": old,
        "of another run": _given(other, giver),
        "an old one's bytes under a new header": (honest[0], old[1]),
        "changed bytes": (honest[0], honest[1][:-1] + bytes([honest[1][-1] ^ 1])),
        "a changed header": (honest[0][:-1] + bytes([honest[0][-1] ^ 1]), honest[1]),
    }
    tries = Tries()
    adopted = [name for name, forged in forgeries.items() if tries.accepts(_adopt, group.twin_of(victim), *forged)]
    return Finding(
        control=f"{control}; an honest snapshot is {'adopted' if taken else 'refused'}",
        outcome=f"adopted were {adopted or 'none'} of {len(forgeries)}; {tries}",
        figure=float(tries.accepted),
        unit=f"forged or old snapshots that a site adopted, of {tries.total}",
        verdict=on_figure(tries.accepted, above=0),
    )


def _given(group: EncryptedGroup, giver: str) -> tuple[bytes, bytes]:
    return group.members[giver].give_snapshot(group.models[giver])


def _adopt(member: GroupMember, header: bytes, sealed: bytes) -> bool:
    """What a site does with a snapshot: the model inside is its payload here."""
    found = member.read_snapshot(header, sealed)
    member.adopt_snapshot(header, model_hash=found.payload[:32].ljust(32, b"\0"))
    return True


def _made_up(
    group: EncryptedGroup, giver: str, *, sign: Callable[[bytes], bytes], payload: bytes = b"t" * 32
) -> tuple[bytes, bytes]:
    """A snapshot under a key that the aggregator made, ahead of all sites, in a site's name."""
    own = GroupKey.generate(group.parameters).to_bytes()
    completed = max(group.completed.values()) + 1
    tag = model_tag(own, run=group.run, completed=completed, model_hash=payload)
    header, sealed = seal_snapshot(
        payload,
        group_key=own,
        run=group.run,
        completed=completed,
        tag=tag,
        sum_root=secrets.token_bytes(32),
        entropy=SYSTEM_ENTROPY,
    )
    context = group_context(group.run, fingerprint=group.server.fingerprint)
    return _seal(header, context=context, sender=giver, sign=sign), sealed


def _seal(header: SnapshotHeader, *, context: bytes, sender: str, sign: Callable[[bytes], bytes]) -> bytes:
    return seal_envelope(header, context=context, sender=sender, previous=NO_PREVIOUS, sign=sign)[0]


def chosen_weights(target: Target, seed: int) -> Finding:
    """Bring sites to weights of the aggregator's choice: added to a sum, as a sum of their own, or by a snapshot.

    No message of an encrypted run carries a model, so these are all the ways there are. The weights stand for any,
    those of trap-weights among them.
    """
    group = EncryptedGroup(target, count=4, seed=seed)
    control = group.control()
    published = group.play()
    chosen = np.random.default_rng(seed).integers(2**16, size=group.length, dtype=np.uint32)
    shifted = with_vector_added(published.total, chosen, parameters=group.parameters)
    own_key = GroupKey.generate(group.parameters)
    own = own_key.encrypt(chosen, contributor=group.names[0], context=bytes(32))
    header = shifted[: len(shifted) - group.parameters.chunks(group.length) * group.parameters.chunk_bytes]
    sums = {"added to the sum": shifted, "encrypted under its own key": header + own[len(header) :]}
    honest = group.world.total(group.names)
    tries, moved = Tries(), set[str]()
    for forged in (with_sum(published, total) for total in sums.values()):
        announcement = group.announce(before=forged).announcement
        for name in group.names:
            words = tries(group.try_on, name, accept, announcement, forged)
            if words is not None and _moves(words - honest, chosen):
                moved.add(name)
    for name in group.names:
        giver = group.names[0] if name != group.names[0] else group.names[1]
        snapshot = _made_up(group, giver, sign=Identity.generate(giver).sign)
        if tries.accepts(_adopt, group.twin_of(name), *snapshot):
            moved.add(name)
    return Finding(
        control=control,
        outcome=f"{len(moved)} of 4 sites stand on the weights, so that what they train on is their own model; {tries}",
        figure=float(len(moved)),
        unit=_TRAINED,
        verdict=on_figure(len(moved), above=0),
    )


def _moves(found: Words, chosen: Words) -> bool:
    return bool(np.mean(found == chosen) > 0.99)


def chosen_layout(target: Target, seed: int) -> Finding:
    """Announce a longer vector, with room for layers that are not in the plan; no message says more of a layout."""
    group = EncryptedGroup(target, count=4, seed=seed)
    control = group.control()
    announcement = with_announcement(group.announce().announcement, vector_length=group.length + _SURPLUS)
    sent, tries = 0, Tries()
    for name in group.names:
        member = group.twin_of(name)
        if not tries.accepts(accept, member, announcement, group.before):
            continue
        try:
            if member.stage == "ACCEPTED":
                member.record_model(group.models[name])
            # A site's update has the length of its own plan's model.
            member.encrypt(group.vectors[name])
            sent += 1
        except (HostileInputError, MisuseError) as refusal:
            tries.reasons.append(str(refusal))
    return Finding(
        control=control,
        outcome=f"vectors of {group.length + _SURPLUS} entries were announced to sites whose model has {group.length}; "
        f"{sent} uploaded, {len(tries.reasons)} refused: {(tries.reasons or ['nothing'])[0]}",
        figure=float(sent),
        unit="sites, of 4, that uploaded for a layout that is not their plan's",
        verdict=on_figure(sent, above=0),
    )


ATTACKS = (
    protocol_attack(
        name="tag-guessing",
        threat="the aggregator guesses a model and confirms it by the tags that sites sign",
        defence="tags are an HMAC under a key that comes from the group key",
        masked=not_applicable("the aggregator has the model"),
        plain=not_applicable("the aggregator has the model"),
        encrypted=guessed_model,
    ),
    protocol_attack(
        name="snapshot-forgery",
        threat="the aggregator gives a site that missed sums a model of its own, or an old one",
        defence="snapshots are sealed under the group key and signed, never older than the site, and tagged",
        masked=not_applicable("sites take no model from each other"),
        plain=not_applicable("sites take no model from each other"),
        encrypted=forged_snapshots,
    ),
)
