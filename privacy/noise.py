"""A site's share of the noise: exact discrete Gaussian integers, added to what it rounded, before masks or encryption.

Run by sites. How much each adds is planned in `privacy.distributed_noise`: with H sites sure to be there, honest and
counted, each adds s = noise_multiplier * clip_norm / sqrt(H), so that one site alone (H = 1) is protected by itself and
many are protected together with as little noise as a trusted centre would add.

The sum is taken modulo 2^32. A share is never cut off and never drawn again because it was large: reducing a sum
modulo 2^32 is a function of the sum, so a noise that wraps costs accuracy in one entry and no privacy, and nothing has
to be added to delta. `plan_noise_tail` leaves so much room that it does not happen.

The key of the stream must be fresh from the operating system, serve one share, and be forgotten: whoever knows it
subtracts the noise. The same sum must not leave twice with different noise unless it is charged twice
(`privacy.ledger`).
"""

import math
from fractions import Fraction

from privacy.discrete_gaussian import Integers, discrete_gaussian
from privacy.distributed_noise import NoiseSplit
from privacy.entropy import SYSTEM_ENTROPY, Entropy
from privacy.errors import MisuseError, RangeError
from privacy.fixed_point import HALF_MODULUS
from privacy.streams import KEY_BYTES, Keystream, Words

TAIL_FAILURE = 2.0**-80
"""The probability, over all entries and rounds that were planned for, that any noise reaches beyond its room."""

_COARSEST_DITHER = 2.0**-31


def noise_stream(entropy: Entropy = SYSTEM_ENTROPY) -> Keystream:
    """A stream for one share of noise, with a fresh key that nothing else knows."""
    return Keystream(entropy.token_bytes(KEY_BYTES))


def share_sigma(split: NoiseSplit) -> Fraction:
    """The parameter of one site's discrete Gaussian, in integer steps: exactly site_noise / quantum.

    Raises:
        MisuseError: the split plans no noise.
    """
    if split.noise_multiplier == 0.0:
        raise MisuseError("noise_multiplier = 0 adds no noise: there is no share to draw, and no guarantee")
    return Fraction(split.site_noise) / Fraction(split.quantum)


def noise_share(split: NoiseSplit, *, stream: Keystream) -> Integers:
    """One site's noise in integer steps, shape (dimension,).

    **Guarantees** Independent entries with exactly the discrete Gaussian's law of parameter `share_sigma`; what the sum
    of H such shares is worth is `privacy.distributed_noise.effective_noise`.

    Raises:
        MisuseError: the split plans no noise, or more than 2^28 steps of it.
    """
    return discrete_gaussian(split.dimension, sigma=share_sigma(split), stream=stream)


def add_share(words: Words, share: Integers) -> Words:
    """The rounded vector with its noise, modulo 2^32; another array.

    Raises:
        MisuseError: not uint32 words and int64 noise of one shape.
    """
    if words.dtype.name != "uint32" or share.dtype.name != "int64" or words.shape != share.shape:
        raise MisuseError(
            f"words must be uint32 and noise int64 of one shape, got {words.dtype} of shape {words.shape} and "
            f"{share.dtype} of shape {share.shape}"
        )
    noisy: Words = words + share.astype("uint32")
    return noisy


def noise_tail(total_sigma: float, *, entries: int, failure: float = TAIL_FAILURE) -> int:
    """What summed noise of parameter `total_sigma` (in steps) stays below in all `entries`, but for `failure`.

    A discrete Gaussian has a moment generating function of at most exp(t^2 sigma^2 / 2) (Canonne, Kamath and Steinke
    2020), so a sum of independent ones has the tail 2 exp(-x^2 / (2 total_sigma^2)), and `entries` of them
    (of all rounds together) at most so many times that. For n sites total_sigma is sqrt(n) times one site's.

    Raises:
        RangeError: a value is not positive and finite, or failure is not below 1.
    """
    if not (0.0 < total_sigma < math.inf and entries >= 1 and 0.0 < failure < 1.0):
        raise RangeError(
            f"total_sigma = {total_sigma}, entries = {entries} and failure = {failure} must be positive and finite, "
            "failure below 1"
        )
    return math.ceil(total_sigma * tail_deviations(entries=entries, failure=failure))


def tail_deviations(*, entries: int, failure: float = TAIL_FAILURE) -> float:
    """The tail in standard deviations: 12.5 for 2^24 entries in 300 rounds. Two roundings are covered."""
    return math.sqrt(2.0 * (math.log(2.0) + math.log(entries) - math.log(failure))) * (1.0 + 2.0**-40)


def plan_noise_tail(
    *, site_noise: float, max_abs: float, sites: int, entries: int, failure: float = TAIL_FAILURE
) -> int:
    """The `noise_tail` of a `VectorFormat` with room for the noise of all sites, whose size is known as a value only.

    Noise in steps depends on the quantum, and the quantum on the room that noise leaves. The largest integer M of a
    client solves sites * M + tail(M) <= 2^31 - 1; what the clients leave is the tail's. `max_abs` is the smallest one
    of the segments that get noise, `site_noise` one site's parameter in the same unit, `entries` those of all rounds.

    Raises:
        RangeError: a value is not positive and finite, or the noise leaves no room for any integer of a client.
    """
    if not (0.0 < site_noise < math.inf and 0.0 < max_abs < math.inf and sites >= 1):
        raise RangeError(
            f"site_noise = {site_noise}, max_abs = {max_abs} and sites = {sites} must be positive and finite"
        )
    steps_per_integer = Fraction(noise_tail(1e6, entries=entries, failure=failure), 10**6) * Fraction(
        site_noise * math.sqrt(sites) * (1.0 + 2.0**-40)
    )
    # One step more covers that a tail in steps is rounded up.
    largest = int((HALF_MODULUS - 2) / (sites + steps_per_integer / Fraction(max_abs)))
    if largest < 1:
        raise RangeError(
            f"site_noise = {site_noise:g} of {sites} sites leaves no integers for values up to max_abs = {max_abs:g}: "
            "less noise, fewer sites or a larger max_abs would do"
        )
    return HALF_MODULUS - 1 - sites * largest


def quantised_sensitivity(clip_norm: float, quantum: float, dimension: int, *, beta: float = 0.0) -> float:
    """How far one patient of contribution at most `clip_norm` moves a stochastically rounded sum, L2, as a value.

    With one dither per entry, whoever is in the sum, two sums that differ by x round to integers that differ by x / g
    rounded up or down, with that mean and independently. Without conditions (beta = 0) that is at most c + g sqrt(d).
    With probability 1 - beta over the dither it is at most the root of c^2 + g^2 d / 4 + sqrt(2 ln(1 / beta)) g (c +
    g sqrt(d) / 2) (Kairouz, Liu and Steinke 2021, conditional rounding); then beta is part of delta once for every step
    (`extra_delta` of `privacy.ledger`). The smaller of both is returned.

    `privacy.fixed_point.encode` draws its dither with 32 bits and divides in float64. The first is covered here;
    the second, and the order in which patients were added up, by the 2^-20 that `privacy.clipped_sum` clips below its
    bound, as long as g sqrt(d) <= c.

    Raises:
        RangeError: a value is not positive and finite, or beta is not in [0, 1).
    """
    if not (0.0 < clip_norm < math.inf and 0.0 < quantum < math.inf and dimension >= 1 and 0.0 <= beta < 1.0):
        raise RangeError(
            f"clip_norm = {clip_norm}, quantum = {quantum} and dimension = {dimension} must be positive and finite, "
            f"beta = {beta} in [0, 1)"
        )
    rounding = quantum * math.sqrt(dimension)
    always = clip_norm + rounding
    if beta == 0.0:
        return always
    # A dither of 32 bits rounds as an exact one would round a value at most so much further away.
    moved = clip_norm + _COARSEST_DITHER * rounding
    square = moved**2 + rounding**2 / 4 + math.sqrt(-2.0 * math.log(beta)) * quantum * (moved + rounding / 2)
    return min(always, math.sqrt(square) * (1.0 + 2.0**-40))
