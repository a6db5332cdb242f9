"""How the sites of an encrypted run come to one group key, and what an aggregator or a site can do about it.

The setup S0 to S2 is that of secure aggregation; on its channels the key goes from site to site (G0, G1). Whoever puts
a key of its own in its place reads every upload.
"""

import hashlib
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privacy.entropy import SYSTEM_ENTROPY
from privacy.errors import HostileInputError
from privacy.he.distribution import SealedKey, seal_for_peers
from privacy.he.key_holder import GroupKey
from privacy.he.member_state import MemberState
from privacy.he.messages import GroupKeyOffer, setup_context
from privacy.he.seal import open_group_key
from privacy.secagg.client_state import ClientFloors
from privacy.secagg.envelope import open_envelope, seal_envelope
from privacy.secagg.identity import Identity
from privacy.secagg.messages import session_context
from privacy.secagg.roster import Member, Roster, generate_consortium_key, sign_roster
from privacy.streams import KEY_BYTES
from secfed.audit.ciphertexts import read_words, secret_of
from secfed.audit.encrypted_group import EncryptedGroup, accept, with_announcement
from secfed.audit.finding import Finding, Tries, not_applicable, on_figure, protocol_attack, recovered, recovery
from secfed.audit.impostors import attack_alone_encrypted, impostor_roster, surround
from secfed.audit.target import Target
from secfed.audit.weak_seed import SEED_BITS, seeded_bytes

_UNNAMED = "cheats whose author was not named"


def substituted_advertisements(target: Target, seed: int) -> Finding:
    """The aggregator plays all peers of one site, with keys of its own under their names, and deals it a group key."""
    control = EncryptedGroup(target, count=5, seed=seed).control()
    group = EncryptedGroup(target, count=5, seed=seed, ready=False)
    victim, others = group.names[-1], group.names[:-1]
    impostors = [Identity.generate(name) for name in others]
    surround(group.world, victim, impostors=impostors, roster=impostor_roster(group.world.roster, impostors))
    tries = Tries()
    fraction = attack_alone_encrypted(group, victim, tries=tries)
    named = sorted(group.world.clients[victim].excluded)
    return recovery(
        fraction,
        control=control,
        outcome=f"{victim} refused the keys of {len(named)} of {len(others)} peers by name; {tries}",
    )


def sybil_group(target: Target, seed: int) -> Finding:
    """Four invented sites, first in an announcement, then in a roster that the aggregator signed."""
    group = EncryptedGroup(target, count=5, seed=seed, floors=ClientFloors(min_cohort=5))
    control = group.control()
    invented = [Identity.generate(f"clinic-{number}") for number in range(1, 5)]
    victim, tries = group.names[-1], Tries()
    invited = tuple(sorted([victim, *(identity.name for identity in invented)]))
    announcement = with_announcement(group.announce().announcement, invited=invited)
    tries.accepts(group.try_on, victim, accept, announcement, group.before)

    fresh = EncryptedGroup(target, count=5, seed=seed, ready=False)
    identity = fresh.world.identities[victim]
    members = [Member(one.name, one.public_key) for one in (*invented, identity)]
    roster = Roster(consortium="consortium", version=2, expires=2**40, members=tuple(members))
    fresh.world.signed_roster = sign_roster(roster, generate_consortium_key())
    fraction = 0.0
    client = tries(fresh.world.new_client, victim)
    if client is not None:
        fresh.world.clients = {victim: client}
        surround(fresh.world, victim, impostors=invented, roster=roster)
        fresh.members = {victim: fresh.new_member(victim)}
        fraction = attack_alone_encrypted(fresh, victim, tries=tries)
    return recovery(
        fraction,
        control=f"{control}, min_cohort = 5",
        outcome=f"four invented sites around {victim}; {tries}",
    )


def two_keys(target: Target, seed: int) -> Finding:
    """Five sites, min_cohort = 3: relay the offers in two groups, with the sealed key of each group's own choice.

    The second group has no dealer of its own, so it is also shown the offer of another run, a sealed key with other
    bytes, and a key that the aggregator made.
    """
    floors = ClientFloors(min_cohort=3)
    control = EncryptedGroup(target, count=5, seed=seed, floors=floors).control()
    tries, groups = Tries(), 0
    for size in (2, 3):
        group = _without_key(target, seed, floors)
        held = sum(relay_within(group, half, tries) for half in (group.names[:size], group.names[size:]))
        groups = max(groups, held)
    other = EncryptedGroup(target, count=5, seed=seed, floors=floors)
    foreign = list(other.server.setup_messages[GroupKeyOffer.KIND])
    for shown in ("another run's offer", "changed bytes", "another sealed key"):
        group = _without_key(target, seed, floors)
        offers = {name: group.members[name].offer(group.channels(name)) for name in group.names}
        genuine = offers[group.names[0]][1]
        own = AESGCM(secrets.token_bytes(32)).encrypt(bytes(12), GroupKey.generate(group.parameters).to_bytes(), None)
        sealed = {"another run's offer": genuine, "changed bytes": genuine[:-1] + b"\0", "another sealed key": own}
        relayed = [message for message, _ in offers.values()]
        if shown == "another run's offer":
            relayed[0] = foreign[0]
        for name in group.names[1:]:
            tries.accepts(group.members[name].accept_offers, group.channels(name), relayed, [sealed[shown]])
    figure = max(0, groups - 1) + tries.accepted
    return Finding(
        control=f"{control}, min_cohort = 3",
        outcome=f"at most {groups} of 2 groups came to a key; {tries}",
        figure=float(figure),
        unit="groups beside the first that came to a key, plus substituted keys that a site took",
        verdict=on_figure(figure, above=0),
    )


def _without_key(target: Target, seed: int, floors: ClientFloors) -> EncryptedGroup:
    """Sites with confirmed pair keys and no group key yet."""
    group = EncryptedGroup(target, count=5, seed=seed, floors=floors, ready=False)
    group.world.set_up()
    group.server = group.new_server()
    return group


def relay_within(group: EncryptedGroup, names: Sequence[str], tries: Tries) -> bool:
    """G0 and G1 among some of the sites; whether they hold a key at the end."""
    group.server = group.new_server()
    try:
        group.agree_on_key(names)
    except HostileInputError as refusal:
        tries.reasons.append(str(refusal))
    return all(group.members[name].stage == "READY" for name in names)


def bad_wraps(target: Target, seed: int) -> Finding:
    """The dealer wraps bytes that do not open, seals another key than it names, or sends another key than it signs."""
    control = EncryptedGroup(target, count=5, seed=seed).control()
    named = 0
    cheats: tuple[Callable[[EncryptedGroup, bytes], tuple[bytes, bytes]], ...] = (_bad_wrap, _another_key, _other_bytes)
    for cheat in cheats:
        group = _without_key(target, seed, ClientFloors(min_cohort=2))
        dealer, victim = group.names[0], group.names[1 + seed % 4]
        offers = {name: group.members[name].offer(group.channels(name)) for name in group.names}
        offers[dealer] = cheat(group, offers[dealer][0])
        relayed = group.server.collect_offers(offers.values())
        if dealer in group.server.excluded:
            named += set(group.server.excluded) == {dealer}
            continue
        try:
            group.members[victim].accept_offers(group.channels(victim), relayed, [offers[dealer][1]])
        except HostileInputError as error:
            named += error.party == dealer
    return Finding(
        control=control,
        outcome=f"the dealer, and nobody else, was named for {named} of {len(cheats)} cheats, and nobody took its key",
        figure=float(len(cheats) - named),
        unit=f"{_UNNAMED}, of {len(cheats)}",
        verdict=on_figure(len(cheats) - named, above=0),
    )


def _bad_wrap(group: EncryptedGroup, message: bytes) -> tuple[bytes, bytes]:
    key = GroupKey.generate(group.parameters)
    dealt = _dealt(group, key)
    wraps = {peer: secrets.token_bytes(len(wrap)) for peer, wrap in dealt.wraps.items()}
    return _signed(group, message, key, SealedKey(sealed=dealt.sealed, wraps=wraps))


def _another_key(group: EncryptedGroup, message: bytes) -> tuple[bytes, bytes]:
    return _signed(
        group, message, GroupKey.generate(group.parameters), _dealt(group, GroupKey.generate(group.parameters))
    )


def _other_bytes(group: EncryptedGroup, message: bytes) -> tuple[bytes, bytes]:
    key = GroupKey.generate(group.parameters)
    return _signed(group, message, key, _dealt(group, key))[0], _dealt(group, key).sealed


def _dealt(group: EncryptedGroup, key: GroupKey) -> SealedKey:
    return seal_for_peers(key, channels=group.channels(group.names[0]), entropy=SYSTEM_ENTROPY)


def _signed(group: EncryptedGroup, message: bytes, key: GroupKey, dealt: SealedKey) -> tuple[bytes, bytes]:
    """The dealer's G0 with another sealed key, in its own name."""
    dealer = group.names[0]
    context = setup_context(group.run, session_context=session_context(group.world.session, group.world.roster))
    found = open_envelope(message, GroupKeyOffer, context=context, roster=group.world.roster)
    body = replace(
        found.body,
        fingerprint=key.fingerprint,
        sealed_key=hashlib.sha256(dealt.sealed).digest(),
        wraps=dealt.wraps,
    )
    sign = group.world.identities[dealer].sign
    return seal_envelope(body, context=context, sender=dealer, previous=found.previous, sign=sign)[0], dealt.sealed


def guessed_seed(target: Target, seed: int) -> Finding:
    """Try all 2^16 seeds for the 32 bytes that the group key was sealed under; G0 passes through the attacker."""
    control = EncryptedGroup(target, count=4, seed=seed).control()
    group = _without_key(target, seed, ClientFloors(min_cohort=2))
    dealer, victim = group.names[0], group.names[seed % len(group.names)]
    message, sealed = group.members[dealer].offer(group.channels(dealer))
    context = setup_context(group.run, session_context=session_context(group.world.session, group.world.roster))
    fingerprint = open_envelope(message, GroupKeyOffer, context=context, roster=group.world.roster).body.fingerprint
    stolen = None
    for candidate in range(2**SEED_BITS):
        try:
            stolen = open_group_key(
                sealed,
                pair_key=seeded_bytes(candidate, call=0, count=KEY_BYTES),
                session=group.world.session,
                dealer=dealer,
                holder=dealer,
                parameters=group.parameters,
                fingerprint=fingerprint,
            )
            break
        except HostileInputError:
            continue
    offers = {name: group.members[name].offer(group.channels(name)) for name in group.names[1:]}
    relayed = group.server.collect_offers([(message, sealed), *offers.values()])
    confirmed = group.server.collect_confirmations(
        [
            group.members[name].accept_offers(group.channels(name), relayed, group.server.sealed_keys_for(name))
            for name in group.names
        ]
    )
    for name in group.names:
        group.members[name].accept_confirmations(group.channels(name), confirmed)
    group.play()
    words = read_words(
        group.ciphertexts[group.last_round, victim],
        length=group.length,
        parameters=group.parameters,
        secret=None if stolen is None else secret_of(stolen),
    )
    return recovery(
        recovered(words, group.vectors[victim]),
        control=control,
        outcome=f"of 2^{SEED_BITS} seeds, {'none opens' if stolen is None else 'one opens'} the group key that "
        f"{dealer} dealt",
    )


def repeated_keys(target: Target, seed: int) -> Finding:
    """Three runs of the same sites, and two candidates of one site: compare what is inside their group keys."""
    groups = [EncryptedGroup(target, count=4, seed=seed) for _ in range(3)]
    control = groups[0].control()
    keys = [key for group in groups for key in _secrets_of(group)]
    repeated = len(keys) - len(set(keys))
    return Finding(
        control=control,
        outcome=f"{len(set(keys))} different secrets among {len(keys)}, of 3 runs",
        figure=float(repeated),
        unit=f"repeated secrets of {len(keys)}",
        verdict=on_figure(repeated, above=0),
    )


def _secrets_of(group: EncryptedGroup) -> Iterable[bytes]:
    """The fingerprint, the secret's own bytes, and the digest of the sealed key of a run."""
    key = group.stolen_key(group.names[0])
    yield key.fingerprint
    yield secret_of(key).astype("<i1").tobytes()
    yield MemberState.from_bytes(group.members[group.names[0]].to_bytes()).offers_digest


ATTACKS = (
    protocol_attack(
        name="two-group-keys",
        threat="the aggregator splits the sites at G0, or puts another group key in the place of the sealed one",
        defence="offers and sealed keys are signed; a key needs the larger of min_cohort and a threshold of sites",
        masked=not_applicable("there is no group key"),
        plain=not_applicable("there is no key"),
        encrypted=two_keys,
    ),
)
