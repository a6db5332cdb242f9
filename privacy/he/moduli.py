"""The primes of lattice encryption, and the table that says how large their product may be.

Run by every party. The table is the HomomorphicEncryption.org Security Standard (Albrecht et al. 2018, table 1): the
largest modulus, in bits, at which the best known classical attacks on a ternary secret cost 2^128 operations. SEAL
holds the same numbers. The choice of primes is SEAL's (CoeffModulus::Create), repeated here so that a party without
SEAL knows the modulus that it adds under; tests compare the two.

It does not protect against attacks that the table's authors did not know, nor against quantum computers at 128 bits
(the standard's quantum column allows 101 bits at degree 4096).
"""

from functools import lru_cache

from privacy.errors import MisuseError

MAX_MODULUS_BITS = {4096: 109, 8192: 218, 16384: 438, 32768: 881}
"""Ring degree to the largest bits of all primes together, the special prime of the key included."""

# These bases decide primality for all numbers below 3.3e24 (Sorenson and Webster 2017).
_WITNESSES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)


def is_prime(number: int) -> bool:
    """Miller and Rabin's test with bases that decide it for every number below 2^81."""
    if number < 2:
        return False
    for prime in _WITNESSES:
        if number % prime == 0:
            return number == prime
    odd, halvings = number - 1, 0
    while odd % 2 == 0:
        odd, halvings = odd // 2, halvings + 1
    return all(_passes(number, pow(base, odd, number), halvings) for base in _WITNESSES)


@lru_cache
def smallest_batching_prime(ring_degree: int, *, above: int) -> int:
    """The smallest prime above a bound that is 1 modulo 2N, so that N slots exist (the plaintext modulus t)."""
    step = 2 * ring_degree
    candidate = above // step * step + 1
    while candidate <= above or not is_prime(candidate):
        candidate += step
    return candidate


@lru_cache
def coefficient_primes(ring_degree: int, bits: tuple[int, ...]) -> tuple[int, ...]:
    """Primes of these bits, all different, each 1 modulo 2N; the last one is SEAL's special prime.

    Of primes with equal bits the smallest comes first, as SEAL orders them.

    Raises:
        MisuseError: there are not enough such primes.
    """
    found = {size: _largest(ring_degree, size, count=bits.count(size)) for size in set(bits)}
    return tuple(found[size].pop() for size in bits)


def _largest(ring_degree: int, size: int, *, count: int) -> list[int]:
    step = 2 * ring_degree
    primes: list[int] = []
    candidate = (2**size - 1) // step * step + 1
    while len(primes) < count:
        if candidate >= 2**size:
            candidate -= step
        if candidate < 2 ** (size - 1):
            raise MisuseError(f"fewer than {count} primes of {size} bits are 1 modulo {step}")
        if is_prime(candidate):
            primes.append(candidate)
        candidate -= step
    return primes


def _passes(number: int, power: int, halvings: int) -> bool:
    if power in (1, number - 1):
        return True
    for _ in range(halvings - 1):
        power = power * power % number
        if power == number - 1:
            return True
    return False
