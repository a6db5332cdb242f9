"""An aggregator that publishes something else than it computed, with hashes that fit what it published.

The auditor has the transcript, the consortium's public key and the sites' receipts, and recomputes the sum. The vectors
span three mebibytes, so that pointing at the right coordinates is more than pointing at the vector.
"""

from dataclasses import replace

import numpy as np

from privacy.he.layout import message_root
from privacy.merkle import leaf_digests, merkle_root
from privacy.secagg.transcript import NO_ENTRY, SUM, Retention, RoundEntry, SessionEntry, encode_entry
from privacy.streams import SUITE, Words
from secfed.audit.ciphertexts import moved
from secfed.audit.consortium import MODEL, Consortium
from secfed.audit.encrypted_group import EncryptedGroup
from secfed.audit.finding import Finding, on_figure, protocol_attack
from secfed.audit.published_encrypted_run import publish as publish_encrypted
from secfed.audit.published_run import PublishedRun
from secfed.audit.target import Target

_WORDS = 3 * 2**18
_BLOCK = 2**18
_MODEL_AFTER = b"a" * 32


def published_aggregate(target: Target, seed: int) -> Finding:
    """Change one coordinate of the sum, one of an upload, who took part, and whether there was a round at all."""
    world = Consortium(target, count=4, seed=seed, length=_WORDS)
    honest = publish(world)
    clean = target.audit(honest)
    place = int(np.random.default_rng(seed).integers(_WORDS))
    first = place // _BLOCK * _BLOCK
    block = f"{first} to {first + _BLOCK - 1}"
    victim = world.names[seed % len(world.names)]
    left_out = replace(honest.messages, headers=honest.messages.headers[:-1])
    # Each lie with what has to stand in a finding about it.
    lies = (
        (honest.with_vector(SUM, _changed(honest, SUM, place)), f"coordinates {block}"),
        (honest.with_vector(victim, _changed(honest, victim, place)), victim),
        (honest.with_messages(left_out), "survivor set"),
        (replace(honest, rounds=()), "not in the transcript"),
    )
    found = [(target.audit(run), expected) for run, expected in lies]
    missed = sum(not any(expected in problem for problem in problems) for problems, expected in found)
    sentence = found[0][0][0] if found[0][0] else "not noticed"
    return Finding(
        control=f"the honest transcript has {len(clean)} problems",
        outcome=f"{len(lies) - missed} of {len(lies)} lies were found; one changed coordinate of the sum: {sentence}",
        figure=float(missed),
        unit=f"lies that the auditor missed or misplaced, of {len(lies)}",
        verdict=on_figure(missed, above=0),
    )


def published_in_plain(target: Target, seed: int) -> Finding:
    """In plain mode nothing is signed: there is no record that the published sum could contradict."""
    world = Consortium(target, count=4, seed=seed, set_up=False)
    total = world.total(world.names)
    changed = total.copy()
    changed[0] += np.uint32(1)
    lies = int(np.count_nonzero(changed != total))
    return Finding(
        control="the sum of 4 sites is exact, and no site signs what it sent",
        outcome="one coordinate of the published sum was changed, and nothing signed contradicts it",
        figure=float(lies),
        unit="lies that the auditor missed or misplaced, of 1",
        verdict=on_figure(lies, above=0),
    )


def published_encrypted(target: Target, seed: int) -> Finding:
    """Publish another root of the sum, another ciphertext, fewer contributors, one upload twice, or one round fewer."""
    group = EncryptedGroup(target, count=4, seed=seed)
    honest = publish_encrypted(group, rounds=2)
    clean = target.audit_encrypted(honest)
    victim, other = group.names[seed % 4], group.names[(seed + 1) % 4]
    last, uploads = len(honest.rounds), honest.uploads
    step = group.parameters.moduli[0] // group.parameters.plain_modulus
    moved_sum, moved_upload = (
        moved(data, step, place=seed, parameters=group.parameters)
        for data in (group.summed((group.last_round, name) for name in group.names), uploads[last, victim])
    )
    # Who is left out of the last sum can have been late; of an earlier one the others have signed who was inside.
    kept = [name for name in group.names if name != victim]
    left_out = honest.with_round(
        1,
        headers=tuple(h for h, name in zip(honest.rounds[0].headers, group.names, strict=True) if name != victim),
        sum_root=message_root(group.summed((1, name) for name in kept)),
    ).with_upload(1, victim, None)
    # Each lie with what has to stand in a finding about it.
    lies = (
        (honest.with_round(last, sum_root=message_root(moved_sum)), "sum"),
        (honest.with_upload(last, victim, moved_upload), victim),
        (honest.with_upload(last, victim, uploads[last, other]), victim),
        (left_out, "contributors"),
        (replace(honest, rounds=honest.rounds[:-1]), "not in the transcript"),
    )
    found = [(target.audit_encrypted(run), expected) for run, expected in lies]
    missed = sum(not any(expected in problem for problem in problems) for problems, expected in found)
    sentence = found[0][0][0] if found[0][0] else "not noticed"
    return Finding(
        control=f"the honest transcript has {len(clean)} problems",
        outcome=f"{len(lies) - missed} of {len(lies)} lies were found; one changed coefficient of the sum: {sentence}",
        figure=float(missed),
        unit=f"lies that the auditor missed or misplaced, of {len(lies)}",
        verdict=on_figure(missed, above=0),
    )


def publish(world: Consortium) -> PublishedRun:
    """Play one round, and publish it as an honest aggregator does."""
    advertised, encapsulated, confirmed = world.setup_messages
    session = SessionEntry(
        suite=SUITE,
        session=world.session,
        roster=world.signed_roster,
        plan=b"{}",
        code_digest="0" * 64,
        advertisements=advertised,
        encapsulations=encapsulated,
        confirmations=confirmed,
        retention=Retention(),
        completed=0,
        model_hash=MODEL,
    )
    _, digest = encode_entry(session, number=0, previous=NO_ENTRY)
    played = world.play(1, previous=digest)
    leaves = leaf_digests(played.aggregate.total)
    completed = RoundEntry(
        messages=played.messages,
        server_round=1,
        sum_root=merkle_root(leaves),
        sum_leaves=leaves,
        upload_leaves={name: leaf_digests(words) for name, words in played.uploads.items()},
        model_after=_MODEL_AFTER,
    )
    return PublishedRun(
        anchor=world.anchor,
        session=session,
        rounds=(completed,),
        vectors={**played.uploads, SUM: played.aggregate.total},
        receipts=played.receipts,
    )


def _changed(run: PublishedRun, owner: str, place: int) -> Words:
    words = run.vectors[owner].copy()
    words[place] += np.uint32(1)
    return words


ATTACKS = (
    protocol_attack(
        name="published-aggregate",
        threat="the aggregator publishes another sum, upload, set of survivors or history than the sites made",
        defence="an offline verifier replays the sum; sites keep receipts",
        masked=published_aggregate,
        plain=published_in_plain,
        encrypted=published_encrypted,
    ),
)
