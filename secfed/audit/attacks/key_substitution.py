"""An aggregator that puts its own keys in the place of the sites' keys: the man in the middle of every pair.

It relays all messages, so whatever is not signed by a key from the consortium's roster is its to change. In S0 it
replaces public keys, in S1 ciphertexts; a colluding site may also sign a ciphertext that its peer cannot use.
"""

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey

from privacy.secagg.envelope import open_envelope, seal_envelope
from privacy.secagg.identity import Identity
from privacy.secagg.messages import KeyAdvertisement, KeyConfirmation, KeyEncapsulation
from secfed.audit.attacks import encrypted_setup
from secfed.audit.consortium import Consortium
from secfed.audit.encrypted_group import EncryptedGroup
from secfed.audit.finding import Finding, Tries, not_applicable, on_figure, protocol_attack, recovery
from secfed.audit.impostors import attack_alone, impostor_roster, surround
from secfed.audit.plain import reads_the_update
from secfed.audit.rogue_round import context_of
from secfed.audit.target import Target


def substituted_advertisements(target: Target, seed: int) -> Finding:
    """The aggregator plays all peers of one site, with keys of its own under their names."""
    control = Consortium(target, count=5, seed=seed).control()
    world = Consortium(target, count=5, seed=seed, set_up=False)
    victim, others = world.names[-1], world.names[:-1]
    impostors = [Identity.generate(name) for name in others]
    surround(world, victim, impostors=impostors, roster=impostor_roster(world.roster, impostors))
    tries = Tries()
    fraction = attack_alone(world, victim, tries=tries)
    named = sorted(world.clients[victim].excluded)
    return recovery(
        fraction,
        control=control,
        outcome=f"{victim} refused the keys of {len(named)} of {len(others)} peers by name; {tries}",
    )


def substituted_ciphertexts(target: Target, seed: int) -> Finding:
    """Three ciphertexts are replaced by the aggregator, a fourth by the site that sends it."""
    return _substituted(target, seed, control=Consortium(target, count=5, seed=seed).control())


def substituted_ciphertexts_before_a_group_key(target: Target, seed: int) -> Finding:
    """The same setup comes before a group key, which travels under these pair keys."""
    return _substituted(target, seed, control=EncryptedGroup(target, count=5, seed=seed).control())


def _substituted(target: Target, seed: int, *, control: str) -> Finding:
    world = Consortium(target, count=5, seed=seed, set_up=False)
    victim, others = world.names[-1], world.names[:-1]
    colluder = others[seed % len(others)]
    advertised = [client.advertise_keys() for client in world.clients.values()]
    genuine = {name: client.encapsulate_keys(advertised) for name, client in world.clients.items()}
    context = context_of(advertised[0])
    victim_keys = open_envelope(advertised[-1], KeyAdvertisement, context=context, roster=world.roster).body
    shown, confirmed = dict(genuine), []
    for name in others:
        # The colluder signs for itself; the aggregator has no key of the others.
        signer = world.identities[name] if name == colluder else Identity.generate(name)
        message = open_envelope(genuine[name], KeyEncapsulation, context=context, roster=world.roster)
        _, ciphertext = MLKEM768PublicKey.from_public_bytes(victim_keys.encapsulation_key).encapsulate()
        shown[name], digest = seal_envelope(
            KeyEncapsulation(ciphertexts={**message.body.ciphertexts, victim: ciphertext}),
            context=context,
            sender=name,
            previous=message.previous,
            sign=signer.sign,
        )
        confirmation = world.clients[name].confirm_keys(list(genuine.values()))
        tags = open_envelope(confirmation, KeyConfirmation, context=context, roster=world.roster).body
        confirmed.append(seal_envelope(tags, context=context, sender=name, previous=digest, sign=signer.sign)[0])
    client, tries = world.clients[victim], Tries()
    answer = tries(client.confirm_keys, list(shown.values()))
    confirmed += [] if answer is None else [answer]
    tries.accepts(client.accept_confirmations, confirmed)
    accepted, named = set(client.peers), set(client.excluded)
    return Finding(
        control=f"{control}, with all 4 peers",
        outcome=f"{victim} goes on with {len(accepted)} of its 4 peers and names {len(named)}; "
        f"{colluder}, which signed its own: {client.excluded.get(colluder, 'not noticed')}",
        figure=float(len(accepted)),
        unit="peers accepted of 4 whose ciphertext was replaced",
        verdict=on_figure(len(accepted), above=0),
    )


ATTACKS = (
    protocol_attack(
        name="key-substitution",
        threat="the aggregator replaces all public keys by its own (S0)",
        defence="keys are signed by identities from the consortium's roster",
        masked=substituted_advertisements,
        plain=reads_the_update,
        encrypted=encrypted_setup.substituted_advertisements,
    ),
    protocol_attack(
        name="ciphertext-substitution",
        threat="the aggregator, or a colluding site, replaces ML-KEM ciphertexts (S1)",
        defence="signatures, and key confirmation by tag (S2)",
        masked=substituted_ciphertexts,
        plain=not_applicable("plain mode has no keys to substitute"),
        encrypted=substituted_ciphertexts_before_a_group_key,
    ),
)
