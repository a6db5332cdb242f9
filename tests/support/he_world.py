"""Sites that share a group key, made once per process, and a decryption written from the papers alone."""

from dataclasses import replace
from functools import cache

import numpy as np

from privacy.he.evaluator import CiphertextSum
from privacy.he.key_holder import GroupKey
from privacy.he.layout import HEADER_BYTES, unpack
from privacy.he.moduli import coefficient_primes
from privacy.he.parameters import HeParameters

CONTEXT = b"session 1, round 1"
EXACT = HeParameters.exact(max_clients=100)
APPROXIMATE = HeParameters.approximate(max_clients=100)
COMMON = HeParameters.common_ckks(max_clients=100)


@cache
def group_key(parameters=EXACT, which=0):
    """The same key for the same arguments; `which` tells keys apart."""
    return GroupKey.generate(parameters)


def names(count):
    return [f"site-{index:03d}" for index in range(count)]


def random_words(length, *, max_abs, seed=0):
    generator = np.random.Generator(np.random.PCG64(seed))
    return generator.integers(-max_abs, max_abs, size=length, endpoint=True).astype(np.int32).view(np.uint32)


def encrypted_sum(vectors, *, key, context=CONTEXT):
    """Each site's message, added by an aggregator that has no key."""
    total = CiphertextSum.create(parameters=key.parameters, fingerprint=key.fingerprint, length=vectors[0].size)
    for name, words in zip(names(len(vectors)), vectors, strict=True):
        total.add(key.encrypt(words, contributor=name, context=context), contributor=name)
    return total.total()


def decrypted(message, *, key, length, contributors, context=CONTEXT, **limits):
    return key.decrypt_sum(message, length=length, contributors=names(contributors), context=context, **limits)


def residues_of(message, *, parameters):
    """Shape (chunks, 2 * primes, ring degree)."""
    return np.stack(unpack(memoryview(message)[HEADER_BYTES:], parameters=parameters), axis=1)


def with_header_of(message, *, key, length, contributors):
    """The chunks of one message behind an honest header: what an aggregator can always forge."""
    from privacy.he.layout import Envelope

    envelope = Envelope(parameters=key.parameters, fingerprint=key.fingerprint, length=length)
    return envelope.header(contributors=contributors) + message[HEADER_BYTES:]


def with_more_clients(parameters, count):
    return replace(parameters, max_clients=count)


def smallest_primitive_root(prime, order):
    """The smallest number whose powers have exactly this order, a power of two, modulo the prime."""
    root = next(
        power
        for base in range(2, 100)
        if pow(power := pow(base, (prime - 1) // order, prime), order // 2, prime) == prime - 1
    )
    square, least, power = root * root % prime, root, root
    for _ in range(order // 2 - 1):
        power = power * square % prime
        least = min(least, power)
    return least


def bit_reversed(number, bits):
    return int(f"{number:0{bits}b}"[::-1], 2)


def secret_polynomial(key):
    """The ternary coefficients, by an inverse number-theoretic transform of SEAL's residues modulo the first prime."""
    degree = key.parameters.ring_degree
    prime = coefficient_primes(degree, key.parameters.modulus_bits)[0]
    root = pow(smallest_primitive_root(prime, 2 * degree), -1, prime)
    powers = [pow(root, bit_reversed(index, degree.bit_length() - 1), prime) for index in range(degree)]
    values = key._seal_key.residues()[0].astype(object)
    half = degree // 2
    while half:
        pairs = values.reshape(half, 2, -1)
        left, right = pairs[:, 0], pairs[:, 1]
        factors = np.array(powers[half : 2 * half], dtype=object)[:, None]
        values = np.stack([(left + right) % prime, (left - right) * factors % prime], axis=1).reshape(-1)
        half //= 2
    values = values * pow(degree, -1, prime) % prime
    return np.where(values > prime // 2, values - prime, values).astype(np.int64)


def negacyclic_product(large, ternary):
    """Exact integers: the product modulo X^N + 1 of residues below 2^48 and a ternary polynomial."""
    degree = ternary.size
    spectrum = np.fft.rfft(ternary.astype(np.float64), 2 * degree)
    total = np.zeros(degree, dtype=np.int64)
    for shift in (0, 16, 32):
        limb = ((large >> np.uint64(shift)) & np.uint64(0xFFFF)).astype(np.float64)
        product = np.rint(np.fft.irfft(np.fft.rfft(limb, 2 * degree) * spectrum, 2 * degree)).astype(np.int64)
        total += (product[:degree] - product[degree:]) << shift
    return total


def plain_and_noise(residues, *, key):
    """The plaintext modulo t and the noise in units of one, both by coefficient; residues of one BFV chunk."""
    prime, plain = key.parameters.moduli[0], key.parameters.plain_modulus
    product = negacyclic_product(residues[1], secret_polynomial(key))
    phase = (residues[0].astype(object) + product.astype(object)) % prime
    scaled = plain * phase
    message = (2 * scaled + prime) // (2 * prime)
    return message % plain, ((scaled - message * prime) / plain).astype(np.float64)


def slot(coefficients, index, *, parameters):
    """Slot `index` of the first half: the plaintext at the root to the power 3^index, modulo t."""
    plain, degree = parameters.plain_modulus, parameters.ring_degree
    point = pow(smallest_primitive_root(plain, 2 * degree), pow(3, index, 2 * degree), plain)
    value = 0
    for coefficient in reversed(coefficients.tolist()):
        value = (value * point + coefficient) % plain
    return value - plain if value > plain // 2 else value
