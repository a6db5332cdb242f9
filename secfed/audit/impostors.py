"""Clients that the attacker runs under other sites' names, or under invented ones, around a single victim.

Run by the attacker, who has its own keys for every impostor but no other site's key. Whether the victim believes them
is what the attacks on keys and rosters find out.
"""

from collections.abc import Callable, Iterable

import numpy as np

from privacy.errors import HostileInputError
from privacy.secagg.client import SecAggClient
from privacy.secagg.client_state import ClientFloors
from privacy.secagg.identity import Identity
from privacy.secagg.roster import Member, Roster
from secfed.audit.ciphertexts import read_words, secret_of
from secfed.audit.consortium import Consortium
from secfed.audit.encrypted_group import INITIAL_MODEL, EncryptedGroup
from secfed.audit.finding import Tries, recovered
from secfed.audit.rogue_round import RogueRound


def impostor_roster(genuine: Roster, impostors: Iterable[Identity]) -> Roster:
    """The genuine roster with the impostors' keys, under the genuine digest: what impostors verify each other with.

    The digest stands in what all messages are signed under, so the impostors have to use the one the victim uses.
    """
    keys = {identity.name: identity.public_key for identity in impostors}
    members = tuple(Member(member.name, keys.get(member.name, member.public_key)) for member in genuine.members)
    forged = Roster(consortium=genuine.consortium, version=genuine.version, expires=genuine.expires, members=members)
    vars(forged)["digest"] = genuine.digest
    return forged


def surround(world: Consortium, victim: str, *, impostors: Iterable[Identity], roster: Roster) -> None:
    """Put impostors with zero updates in the place of everybody but the victim."""
    for identity in impostors:
        world.identities[identity.name] = identity
        world.clients[identity.name] = SecAggClient.create(
            identity=identity, roster=roster, session=world.session, floors=ClientFloors(min_cohort=2)
        )
        world.vectors[identity.name] = np.zeros_like(world.vectors[victim])
    world.roster = roster


def attack_alone(world: Consortium, victim: str, *, tries: Tries) -> float:
    """Take the victim through a setup and a round among impostors; the fraction of its vector that they recover."""
    others = [name for name in world.clients if name != victim]
    confirmed = _confirm_keys(world, victim, others, tries=tries)
    try:
        tries.accepts(world.clients[victim].accept_confirmations, confirmed)
        round_ = RogueRound(world, number=1, invited=world.clients, colluders=others)
        round_.deal(*others)
        if not (tries.accepts(round_.deal, victim) and tries.accepts(round_.upload)):
            return 0.0
    except HostileInputError:
        return 0.0
    return recovered(round_.guess(victim), world.vectors[victim])


def attack_alone_encrypted(group: EncryptedGroup, victim: str, *, tries: Tries) -> float:
    """The same in an encrypted run, where the impostors offer the group key; they read with it what the victim uploads.

    The impostors are `group.world`'s clients beside the victim; the victim has a member in `group.members`.
    """
    world = group.world
    others = [name for name in world.clients if name != victim]
    confirmed = _confirm_keys(world, victim, others, tries=tries)
    if not tries.accepts(world.clients[victim].accept_confirmations, confirmed):
        return 0.0
    world.setup_messages = ((), (), tuple(confirmed))
    for name in others:
        group.models[name], group.completed[name] = INITIAL_MODEL, 0
        group.members[name] = group.new_member(name)
    try:
        group.server = group.new_server()
        group.agree_on_key((*others, victim))
        round_ = group.announce(invited=world.clients)
        group.step(victim, round_.announcement, None)
        group.upload(round_, victim)
    except HostileInputError as refusal:
        tries.reasons.append(str(refusal))
        return 0.0
    secret = secret_of(group.stolen_key(others[0]))
    ciphertext = group.ciphertexts[group.last_round, victim]
    words = read_words(ciphertext, length=group.length, parameters=group.parameters, secret=secret)
    return recovered(words, group.vectors[victim])


def _confirm_keys(world: Consortium, victim: str, others: list[str], *, tries: Tries) -> list[bytes]:
    """S0 to S2 among impostors and the victim; what they say at the end, and the impostors accept."""
    client = world.clients[victim]

    def relayed(step: Callable[[SecAggClient], bytes]) -> list[bytes]:
        messages = [step(world.clients[name]) for name in others]
        answer = tries(step, client)
        return [*messages, answer] if answer is not None else messages

    advertised = relayed(lambda one: one.advertise_keys())
    encapsulated = relayed(lambda one: one.encapsulate_keys(advertised))
    confirmed = relayed(lambda one: one.confirm_keys(encapsulated))
    for name in others:
        world.clients[name].accept_confirmations(confirmed)
    return confirmed
