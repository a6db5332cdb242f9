"""Secrets that can be guessed or that repeat: no mask is better than the seed it comes from.

The guess is made by an attacker who knows the generator (Kerckhoffs) and supposes a seed of 16 bits, such as a process
number or a clock gives. One R1 message is enough: it commits to the self seed, and wraps all pair secrets.
"""

from privacy.errors import HostileInputError
from privacy.secagg.envelope import open_envelope
from privacy.secagg.messages import ShareMessage
from privacy.secagg.sealing import commit_secret, open_wrap
from secfed.audit.attacks import encrypted_setup
from secfed.audit.consortium import Consortium, HonestRound
from secfed.audit.finding import Finding, not_applicable, on_figure, protocol_attack, recovered, recovery
from secfed.audit.plain import reads_the_update
from secfed.audit.rogue_round import RogueRound
from secfed.audit.target import Target
from secfed.audit.weak_seed import SEED_BITS, seeded_bytes

_SELF_SEED_CALL, _WRAP_KEY_CALL = 2, 3
"""Which calls of a new client's source give the secrets of its first round: two keys of the session come before."""


def guessed_seed(target: Target, seed: int) -> Finding:
    """Try all 2^16 seeds against the commitment in one site's R1 message."""
    control = Consortium(target, count=4, seed=seed).control()
    world = Consortium(target, count=4, seed=seed)
    victim = world.names[seed % len(world.names)]
    round_ = RogueRound(world, number=1)
    round_.deal()
    round_.upload()
    context = round_.invitation.context
    dealt = open_envelope(round_.shares[victim], ShareMessage, context=context, roster=world.roster).body
    found = None
    for candidate in range(2**SEED_BITS):
        guess = seeded_bytes(candidate, call=_SELF_SEED_CALL, count=32)
        if commit_secret(guess, kind="self seed", owner=victim, context=context) == dealt.seed_commitment:
            found = candidate
            round_.self_seeds[victim] = guess
            _open_wrap(round_, victim, dealt, key=seeded_bytes(candidate, call=_WRAP_KEY_CALL, count=32))
            break
    fraction = recovered(round_.guess(victim), world.vectors[victim])
    return recovery(
        fraction,
        control=control,
        outcome=f"of 2^{SEED_BITS} seeds, {'none gives' if found is None else 'one gives'} what {victim} committed to",
    )


def repeated_secrets(target: Target, seed: int) -> Finding:
    """Open two rounds in which one site drops, and count how many of the opened secrets are different."""
    world = Consortium(target, count=4, seed=seed)
    silent = world.names[seed % len(world.names)]
    rounds = [world.play(1, silent=[silent]), world.play(2, silent=[silent], model=b"n" * 32)]
    survivors = [name for name in world.names if name != silent]
    exact = [bool((played.aggregate.total == world.total(survivors)).all()) for played in rounds]
    secrets = [secret for played in rounds for secret in _opened(world, played)]
    repeated = len(secrets) - len(set(secrets))
    return Finding(
        control=f"{sum(exact)} of 2 rounds without {silent} give the exact sum of the other 3",
        outcome=f"{len(set(secrets))} different secrets among {len(secrets)} opened self seeds and pair secrets",
        figure=float(repeated),
        unit=f"repeated secrets of {len(secrets)}",
        verdict=on_figure(repeated, above=0),
    )


def _open_wrap(round_: RogueRound, victim: str, dealt: ShareMessage, *, key: bytes) -> None:
    try:
        pairs = open_wrap(dealt.wrapped_pair_secrets, wrap_key=key, owner=victim, context=round_.invitation.context)
    except HostileInputError:
        return
    round_.pair_secrets |= {frozenset((victim, peer)): secret for peer, secret in pairs.items()}


def _opened(world: Consortium, played: HonestRound) -> list[bytes]:
    round_ = RogueRound.overhear(world, played.messages)
    return [*round_.opened_seeds().values(), *round_.opened_pairs().values()]


ATTACKS = (
    protocol_attack(
        name="guessed-seed",
        threat="a site's secrets come from a seed that is short enough to try",
        defence="all secrets come from the operating system's entropy",
        masked=guessed_seed,
        plain=reads_the_update,
        encrypted=encrypted_setup.guessed_seed,
    ),
    protocol_attack(
        name="repeated-secrets",
        threat="secrets repeat between sites or rounds",
        defence="fresh self seeds and wrap keys, ratcheted pair keys",
        masked=repeated_secrets,
        plain=not_applicable("plain mode has no secrets"),
        encrypted=encrypted_setup.repeated_keys,
    ),
)
