"""What ciphertexts and decryptions say about updates and keys, to whoever has no key.

Lattice encryption hides a message behind noise. Who learns the noise of a ciphertext solves linear equations for the
key: an exact scheme takes the noise away before anyone sees a result, an approximate one (CKKS) leaves it inside what
it decrypts. Source: Li and Micciancio, "On the Security of Homomorphic Encryption on Approximate Numbers", EUROCRYPT
2021.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from privacy.errors import HostileInputError
from privacy.he.library import SealKey
from privacy.he.parameters import HeParameters
from privacy.streams import Words
from secfed.audit.ciphertexts import low_words, subtracted
from secfed.audit.encrypted_group import EncryptedGroup
from secfed.audit.finding import Finding, not_applicable, on_figure, protocol_attack
from secfed.audit.lattice import (
    Polynomial,
    Reals,
    Ring,
    bfv_plaintext,
    bfv_read,
    bfv_scaled,
    ckks_real_slots,
    ckks_symmetric_part,
    ring,
)
from secfed.audit.target import Target
from secfed.audit.uniformity import LEVEL, p_value

_SITES = 4
_ZEROS = 4096
# Updates in hundredths: the size of a weight's change, in the units that the usual scale of 2^40 is meant for.
_LARGEST = 100

Slots = npt.NDArray[np.int64]
Decrypt = Callable[["_KnownSum", SealKey, HeParameters], Reals]


@dataclass(frozen=True, kw_only=True)
class _KnownSum:
    """A ciphertext that the attacker holds, modulo the first prime, in the order of SEAL; all residues for a holder."""

    c0: Polynomial = field(repr=False)
    c1: Polynomial = field(repr=False)
    residues: npt.NDArray[np.uint64] = field(repr=False)


def decryption_leak(target: Target, seed: int) -> Finding:
    """Solve for the key from two sums and what the holders made of them, for each setting that this project has.

    The control is the same attack at the parameters of tutorials and other platforms, where decrypted sums leave the
    holders as the library gave them.
    """
    del target
    common = HeParameters.common_ckks(max_clients=_SITES)
    coefficients, opens = _attack(common, seed, decrypt=_raw)
    if coefficients < 1 or not opens:
        raise RuntimeError("the control failed: the key was not recovered from raw decryptions")
    settings = {
        "BFV, exact": HeParameters.exact(max_clients=_SITES),
        "CKKS, rounded": HeParameters.approximate(max_clients=_SITES),
        "CKKS at the usual parameters, rounded": common,
    }
    found = {name: _attack(parameters, seed, decrypt=_by_the_holder) for name, parameters in settings.items()}
    worst = max(fraction for fraction, _ in found.values())
    opened = sum(opens for _, opens in found.values())
    by_setting = ", ".join(f"{fraction:.2%} on {name}" for name, (fraction, _) in found.items())
    return Finding(
        control=f"CKKS at 8192, (60, 40, 40), scale 2^40, two raw decryptions: {coefficients:.0%} of the key's "
        f"{common.ring_degree} coefficients, and a fresh ciphertext {'opens' if opens else 'does not open'}",
        outcome=f"{by_setting}, given two sums and the slots that privacy.he decrypts; {opened} of {len(settings)} "
        "open a fresh ciphertext",
        figure=max(worst, float(opened)),
        unit="fraction of the key's coefficients recovered; 1 where the result opens a fresh ciphertext",
        verdict=on_figure(max(worst, float(opened)), above=0.01),
    )


def _attack(parameters: HeParameters, seed: int, *, decrypt: Decrypt) -> tuple[float, bool]:
    """The fraction of the key's coefficients recovered, and whether the result opens another ciphertext."""
    key = SealKey.generate(parameters)
    generator = np.random.default_rng(seed)
    field_ = ring(parameters.moduli[0], parameters.ring_degree)
    largest = _LARGEST
    sums = [_sum(key, parameters, generator, largest=largest) for _ in range(2)]
    seen = [decrypt(known, key, parameters) for known in sums]
    guess = _solve_bfv(field_, sums[0], seen[0], parameters) if parameters.scheme == "BFV" else None
    if guess is None:
        guess = _solve_ckks(field_, sums, seen, scale=2.0**parameters.scale_bits)
    truth = field_.coefficients(key.residues()[0].astype(object))
    fresh = generator.integers(-largest, largest, size=parameters.slots)
    return float(np.mean(guess == truth)), _opens(field_, guess, key, fresh, parameters)


def _sum(key: SealKey, parameters: HeParameters, generator: np.random.Generator, *, largest: int) -> _KnownSum:
    """The sum of one ciphertext per site."""
    primes = np.array(2 * parameters.moduli, dtype=np.uint64)[:, None]
    total = np.zeros((2 * len(parameters.moduli), parameters.ring_degree), dtype=np.uint64)
    for _ in range(_SITES):
        slots = generator.integers(-largest, largest, size=parameters.slots)
        total = (total + np.concatenate(key.encrypt(slots))) % primes
    c0, c1 = (total[place].astype(object) for place in (0, len(parameters.moduli)))
    return _KnownSum(c0=c0, c1=c1, residues=total)


def _by_the_holder(known: _KnownSum, key: SealKey, parameters: HeParameters) -> Reals:
    """What this project's holders make of a ciphertext."""
    del parameters
    return key.decrypt(known.residues).astype(np.float64)


def _raw(known: _KnownSum, key: SealKey, parameters: HeParameters) -> Reals:
    """What a CKKS library gives: the plaintext's slots in double precision, with the noise inside."""
    field_ = ring(parameters.moduli[0], parameters.ring_degree)
    secret = key.residues()[0].astype(object)
    plaintext = field_.coefficients((known.c0 + known.c1 * secret) % field_.prime)
    return ckks_real_slots(plaintext, scale=2.0**parameters.scale_bits)


def _solve_ckks(field_: Ring, sums: Sequence[_KnownSum], seen: Sequence[Reals], *, scale: float) -> Polynomial:
    """Only real parts of slots are seen, so a decryption gives m(X) + m(1/X): two of them give every value of the key.

    In SEAL's order the value at the inverse of a root stands at the mirrored place.
    """
    (a, a_mirrored, x), (b, b_mirrored, y) = (
        (
            known.c1,
            known.c1[::-1],
            (field_.values(ckks_symmetric_part(slots, scale=scale)) - known.c0 - known.c0[::-1]) % field_.prime,
        )
        for known, slots in zip(sums, seen, strict=True)
    )
    determinant = (a * b_mirrored - b * a_mirrored) % field_.prime
    values = field_.quotients((x * b_mirrored - y * a_mirrored) % field_.prime, determinant)
    return field_.coefficients(values)


def _solve_bfv(field_: Ring, known: _KnownSum, seen: Reals, parameters: HeParameters) -> Polynomial:
    """The key, if the sum had no noise: c1 s = round(q m / t) - c0."""
    plaintext = bfv_plaintext(seen.astype(np.int64).astype(object), parameters=parameters)
    right = (bfv_scaled(plaintext, parameters=parameters) - known.c0) % field_.prime
    values = field_.quotients(field_.values(right), field_.values(known.c1))
    return field_.coefficients(values)


def _opens(field_: Ring, guess: Polynomial, key: SealKey, slots: Slots, parameters: HeParameters) -> bool:
    """Whether the guess decrypts a ciphertext that the attacker knows nothing about."""
    residues = [part[0].astype(object) for part in key.encrypt(slots)]
    c0, c1 = residues[0], residues[len(parameters.moduli)]
    if parameters.scheme == "BFV":
        return bool((bfv_read(c0, c1, guess, parameters=parameters) == slots).all())
    plaintext = field_.coefficients((c0 + c1 * field_.values(guess)) % field_.prime)
    found = ckks_real_slots(plaintext, scale=2.0**parameters.scale_bits)
    return bool((np.rint(found) == slots).all())


def zero_uploads(target: Target, seed: int) -> Finding:
    """All sites encrypt zeros in two rounds: ciphertexts and all differences of two have to look like noise."""
    group = EncryptedGroup(target, count=4, seed=seed, length=_ZEROS)
    zeros = {name: np.zeros(_ZEROS, dtype=np.uint32) for name in group.names}
    sums = []
    for _ in range(2):
        group.play(vectors=zeros)
        sums.append(int(np.abs(group.opened(group.names[0]).view(np.int32)).max()))
    messages, parameters = list(group.ciphertexts.values()), group.parameters
    tested = [low_words(message, parameters=parameters) for message in messages]
    tested += [
        low_words(subtracted(one, other, parameters=parameters), parameters=parameters)
        for place, one in enumerate(messages)
        for other in messages[:place]
    ]
    smallest = min(p_value(words) for words in tested)
    plain = p_value(group.vectors[group.names[0]])
    return Finding(
        control=f"both sums of zeros are {sums[0]} and {sums[1]}; the test gives p = {plain:.1g} for an update in the "
        "clear",
        outcome=f"{len(tested)} ciphertexts and differences, tested over bytes and over bits",
        figure=smallest,
        unit=f"smallest p-value; below {LEVEL:g} is not noise",
        verdict="succeeded" if smallest < LEVEL else "refused",
    )


def visible_updates(target: Target, seed: int) -> Finding:
    """Look at the ciphertexts of real updates for what encryption leaves visible."""
    group = EncryptedGroup(target, count=4, seed=seed, length=_ZEROS)
    control = group.control()
    tested = [low_words(message, parameters=group.parameters) for message in group.ciphertexts.values()]
    smallest = min(p_value(words) for words in tested)
    plain = p_value(group.vectors[group.names[0]])
    return Finding(
        control=f"{control}; the test gives p = {plain:.1g} for an update in the clear",
        outcome=f"{len(tested)} ciphertexts of {tested[0].size} residues, tested over bytes and over bits",
        figure=smallest,
        unit=f"smallest p-value; below {LEVEL:g} is not noise",
        verdict="succeeded" if smallest < LEVEL else "refused",
    )


def wraparound_of_sums(target: Target, seed: int) -> Finding:
    """All sites send the largest value, the smallest, or either at random, in every coordinate, and encrypt it."""
    worst = 0.0
    for number in range(3):
        group = EncryptedGroup(target, count=5, seed=seed)
        world = group.world
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(len(group.names), group.length))
        values = (np.ones_like(signs), -np.ones_like(signs), signs)[number]
        vectors = {name: world.encode(row, label=name) for name, row in zip(group.names, values, strict=True)}
        group.play(vectors=vectors)
        expected = values.sum(axis=0) * world.vector_format.max_integer
        try:
            total: Words = group.opened(group.names[0])
        except HostileInputError:
            # A sum beyond the format is refused by sites, which is better than a wrong one and still no sum.
            worst = 2.0**32
            continue
        worst = max(worst, float(np.abs(total.view(np.int32) - expected).max()))
    return Finding(
        control=world.vector_format.analysis().lines()[-1],
        outcome=f"largest error at the extremes {worst:g} quanta; the plaintext modulus is "
        f"{group.parameters.plain_modulus}",
        figure=worst,
        unit="largest error of a sum in quanta",
        verdict=on_figure(worst, above=0),
    )


ATTACKS = (
    protocol_attack(
        name="ckks-decryption-leak",
        threat="whoever is shown decryptions of known sums solves for the key",
        defence="exact encryption; where CKKS is used, results are rounded before anyone sees them",
        masked=not_applicable("nothing is decrypted; a sum of masked integers has no noise"),
        plain=not_applicable("plain mode has no key"),
        encrypted=decryption_leak,
    ),
)
