"""Old messages, shown again: in a later round, or to a site whose process was restarted from what it had stored.

Every message is signed under the digest of its round, and the client's stored state only moves forward.
"""

from privacy.secagg.requests import UnmaskRequest
from secfed.audit.attacks import encrypted_rounds
from secfed.audit.consortium import Consortium
from secfed.audit.finding import (
    DIFFERENCE,
    Finding,
    Tries,
    not_applicable,
    on_figure,
    protocol_attack,
    recovered,
    recovery,
)
from secfed.audit.plain import reads_the_update
from secfed.audit.rogue_round import RogueRound, context_of
from secfed.audit.target import Target


def replayed_messages(target: Target, seed: int) -> Finding:
    """Play round 1, then show every one of its messages to one site at every step of round 2."""
    world = Consortium(target, count=4, seed=seed)
    victim, others = world.names[-1], world.names[:-1]
    client, tries = world.clients[victim], Tries()
    old, new = RogueRound(world, number=1), RogueRound(world, number=2)
    old.deal()
    old.upload()
    old_agreements = {name: old.agree(name, world.names) for name in world.names}
    for name in world.names:
        old.unmask(name, old_agreements.values())
    old_request = UnmaskRequest(context=context_of(old.headers[victim]), agreements=tuple(old_agreements.values()))

    again = tries(client.share, old.invitation.to_bytes())
    if again is not None:
        # Where round 1 begins again, the others' old shares may still be good.
        shares = {**old.shares, victim: again}
        tries.accepts(client.accept, old.announcement(), list(shares.values()))
    new.deal()
    tries.accepts(client.accept, old.announcement(), list(old.shares.values()))
    for name in others:
        shares = {**new.shares, name: old.shares[name]}
        tries.accepts(client.accept, new.announcement(), list(shares.values()))
    new.upload()
    old_agreement = old.agreement_request(victim, world.names)
    tries(world.clients[victim].agree, old_agreement)
    world.restart(victim)
    tries(world.clients[victim].agree, old_agreement)
    for name in others:
        mixed = RogueRound(world, number=2)
        mixed.headers = {**new.headers, name: old.headers[name]}
        tries(world.clients[victim].agree, mixed.agreement_request(victim, world.names))
    agreements = {name: new.agree(name, world.names) for name in world.names}
    tries(world.clients[victim].unmask, old_request.to_bytes())
    world.restart(victim)
    tries(world.clients[victim].unmask, old_request.to_bytes())
    for name in others:
        found = {**agreements, name: old_agreements[name]}
        tries.accepts(new.unmask, victim, found.values())
    if world.clients[victim].stage == "AGREED":
        new.unmask(victim, agreements.values())
    return Finding(
        control="all messages of both rounds are accepted in their own round",
        outcome=str(tries),
        figure=float(tries.accepted),
        unit=f"replayed messages accepted of {tries.total}",
        verdict=on_figure(tries.accepted, above=0),
    )


def restart_from_disk(target: Target, seed: int) -> Finding:
    """Kill the site's process after its upload, and ask the new one for another update in the same round."""
    world = Consortium(target, count=4, seed=seed)
    control = world.control()
    victim = world.names[-1]
    round_ = RogueRound(world, number=2)
    round_.deal()
    round_.upload()
    first = round_.uploads[victim].copy()
    world.restart(victim)
    changed = world.encode(world.values[victim] / 2, label="changed")
    tries = Tries()
    tries.accepts(round_.accept, victim)
    answer = tries(world.clients[victim].mask, changed)
    second = round_.uploads[world.names[0]] if answer is None else answer[1]
    fraction = recovered(first - second, world.vectors[victim] - changed)
    return recovery(
        fraction,
        control=control,
        outcome=f"after the restart, {tries}",
        unit=DIFFERENCE,
    )


def restored_backup(target: Target, seed: int) -> Finding:
    """Put back a copy of the site's storage that was made before its upload, and ask for another upload."""
    world = Consortium(target, count=4, seed=seed)
    control = world.control()
    victim = world.names[-1]
    round_ = RogueRound(world, number=2)
    round_.deal()
    round_.accept(victim)
    backup = world.clients[victim].to_bytes()
    _, first = world.clients[victim].mask(world.vectors[victim])
    world.clients[victim] = world.target.client.from_bytes(
        backup, identity=world.identities[victim], roster=world.roster
    )
    changed = world.encode(world.values[victim] / 2, label="changed")
    _, second = world.clients[victim].mask(changed)
    fraction = recovered(first - second, world.vectors[victim] - changed)
    return recovery(
        fraction,
        control=control,
        outcome=f"{victim} went on from an older copy of its state, and masked two updates alike",
        unit=DIFFERENCE,
    )


ATTACKS = (
    protocol_attack(
        name="replayed-messages",
        threat="the aggregator shows messages and shares of an earlier round, also after a restart",
        defence="every message is signed under its round's digest; the state only moves forward",
        masked=replayed_messages,
        plain=not_applicable("plain mode has no protocol messages to replay; sites refuse repeated requests"),
        encrypted=encrypted_rounds.replayed_messages,
    ),
    protocol_attack(
        name="restart-from-disk",
        threat="a site that was killed after its upload is asked to upload again",
        defence="the upload stands in the stored state before it is sent",
        masked=restart_from_disk,
        plain=reads_the_update,
        encrypted=encrypted_rounds.second_upload_after_a_restart,
    ),
    protocol_attack(
        name="restored-backup",
        threat="a site's storage is set back to before its upload, and it is asked to upload again",
        defence="none in the protocol: a site must never restore its protocol state from a backup or a snapshot",
        masked=restored_backup,
        plain=reads_the_update,
        encrypted=encrypted_rounds.restored_backup,
    ),
)
