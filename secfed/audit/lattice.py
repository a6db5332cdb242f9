"""The rings of lattice encryption, as an attacker computes in them: from public bytes, papers and Python's integers.

Run by the attacker, so nothing here loads an encryption library or asks for a key. Residues come in the order in which
SEAL keeps them: BFV ciphertexts by coefficient, CKKS ciphertexts and keys by value at the odd powers of a root, bit
reversed. Sources: Fan and Vercauteren 2012; Cheon et al. 2017; Longa and Naehrig 2016 for the transform.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from privacy.he.layout import HEADER_BYTES, unpack
from privacy.he.parameters import HeParameters

Polynomial: TypeAlias = npt.NDArray[Any]
"""Python integers, shape (degree,): products of 60-bit residues exceed every fixed width."""

Reals: TypeAlias = npt.NDArray[np.float64]

_GENERATOR = 3
"""Its powers are the exponents of the slots, in both schemes (SEAL, native/src/seal/batchencoder.cpp)."""


@dataclass(frozen=True)
class Ring:
    """Polynomials modulo X^degree + 1 and a prime that is 1 modulo 2 degree."""

    prime: int
    degree: int

    @cached_property
    def root(self) -> int:
        """The smallest number of order 2 degree."""
        order = 2 * self.degree
        powers = (pow(base, (self.prime - 1) // order, self.prime) for base in range(2, self.prime))
        root = next(power for power in powers if pow(power, self.degree, self.prime) == self.prime - 1)
        square, least, power = root * root % self.prime, root, root
        for _ in range(self.degree - 1):
            power = power * square % self.prime
            least = min(least, power)
        return least

    @cached_property
    def _powers(self) -> Polynomial:
        powers = [1]
        for _ in range(self.degree - 1):
            powers.append(powers[-1] * self.root % self.prime)
        return np.array(powers, dtype=object)[bit_reversal(self.degree)]

    @cached_property
    def _inverse_powers(self) -> Polynomial:
        return np.array([pow(int(power), -1, self.prime) for power in self._powers], dtype=object)

    def values(self, coefficients: Polynomial) -> Polynomial:
        """A polynomial's values in SEAL's order."""
        found = coefficients.astype(object) % self.prime
        blocks = 1
        while blocks < self.degree:
            pairs = found.reshape(blocks, 2, -1)
            left, right = pairs[:, 0], pairs[:, 1] * self._powers[blocks : 2 * blocks, None]
            found = (np.stack([left + right, left - right], axis=1) % self.prime).reshape(-1)
            blocks *= 2
        return found

    def coefficients(self, values: Polynomial) -> Polynomial:
        """The reverse of `values`; representatives of smallest magnitude."""
        found = values.astype(object)
        blocks = self.degree // 2
        while blocks:
            pairs = found.reshape(blocks, 2, -1)
            left, right = pairs[:, 0], pairs[:, 1]
            difference = (left - right) * self._inverse_powers[blocks : 2 * blocks, None]
            found = (np.stack([left + right, difference], axis=1) % self.prime).reshape(-1)
            blocks //= 2
        return self.centred(found * pow(self.degree, -1, self.prime))

    def product(self, one: Polynomial, other: Polynomial) -> Polynomial:
        """The product of two polynomials, both and the result by coefficient."""
        return self.coefficients(self.values(one) * self.values(other) % self.prime)

    def quotients(self, numbers: Polynomial, divisors: Polynomial) -> Polynomial:
        """Value by value; zero where the divisor is zero."""
        pairs = zip(numbers.tolist(), divisors.tolist(), strict=True)
        found = [number * pow(by, -1, self.prime) % self.prime if by % self.prime else 0 for number, by in pairs]
        return np.array(found, dtype=object)

    def centred(self, values: Polynomial) -> Polynomial:
        """Representatives of smallest magnitude."""
        reduced = values % self.prime
        return np.where(reduced > self.prime // 2, reduced - self.prime, reduced)


@lru_cache
def ring(prime: int, degree: int) -> Ring:
    """The ring; its roots are found once per process."""
    return Ring(prime, degree)


def bit_reversal(size: int) -> npt.NDArray[np.int64]:
    """Where each index goes when its bits are read backwards."""
    order = np.zeros(1, dtype=np.int64)
    while order.size < size:
        order = np.concatenate([2 * order, 2 * order + 1])
    return order


def chunk(message: bytes, *, parameters: HeParameters, number: int = 0) -> list[Polynomial]:
    """c0 and then c1 of one ciphertext of a message, each modulo the first prime."""
    start = HEADER_BYTES + number * parameters.chunk_bytes
    residues = unpack(memoryview(message)[start : start + parameters.chunk_bytes], parameters=parameters)
    return [residues[place][0].astype(object) for place in (0, len(parameters.moduli))]


def bfv_slots(plaintext: Polynomial, *, parameters: HeParameters) -> Polynomial:
    """The numbers that a BFV plaintext packs, of smallest magnitude."""
    plain = ring(parameters.plain_modulus, parameters.ring_degree)
    return plain.centred(plain.values(plaintext)[_slot_places(parameters.ring_degree)])


def bfv_plaintext(slots: Polynomial, *, parameters: HeParameters) -> Polynomial:
    """The BFV plaintext that packs `slots`, modulo t."""
    plain = ring(parameters.plain_modulus, parameters.ring_degree)
    values = np.zeros(parameters.ring_degree, dtype=object)
    values[_slot_places(parameters.ring_degree)] = slots
    return plain.coefficients(values % plain.prime) % plain.prime


def bfv_scaled(plaintext: Polynomial, *, parameters: HeParameters) -> Polynomial:
    """What encryption adds to a mask for a plaintext: round(q m / t)."""
    (prime,), plain = parameters.moduli, parameters.plain_modulus
    return (prime * plaintext + (plain + 1) // 2) // plain


def bfv_read(c0: Polynomial, c1: Polynomial, secret: Polynomial | None, *, parameters: HeParameters) -> Polynomial:
    """The slots of a BFV ciphertext under a secret of this many coefficients; without one, what c0 alone says."""
    (prime,), plain = parameters.moduli, parameters.plain_modulus
    rest = 0 if secret is None else ring(prime, parameters.ring_degree).product(c1, secret)
    phase = (c0 + rest) % prime
    return bfv_slots((2 * plain * phase + prime) // (2 * prime) % plain, parameters=parameters)


def ckks_real_slots(coefficients: Polynomial, *, scale: float) -> Reals:
    """The real parts of a CKKS plaintext's slots in double precision, as libraries decode them."""
    degree = coefficients.size
    turned = coefficients.astype(np.float64) * np.exp(1j * np.pi * np.arange(degree) / degree)
    at_odd_powers = np.fft.ifft(turned) * degree
    return np.ascontiguousarray(at_odd_powers[_exponents(degree) // 2].real / scale)


def ckks_symmetric_part(real_slots: Reals, *, scale: float) -> Polynomial:
    """m(X) + m(1/X) of the plaintext with these real parts, rounded to integers."""
    degree = 2 * real_slots.size
    values = np.zeros(degree)
    exponents = _exponents(degree)
    values[exponents // 2] = values[(2 * degree - exponents) // 2] = real_slots
    turned = np.fft.fft(values) / degree * np.exp(-1j * np.pi * np.arange(degree) / degree)
    return np.array([round(value) for value in (2 * scale * turned.real).tolist()], dtype=object)


def _exponents(degree: int) -> npt.NDArray[np.int64]:
    """The odd exponent of the root for each slot of the first half."""
    return np.array([pow(_GENERATOR, slot, 2 * degree) for slot in range(degree // 2)], dtype=np.int64)


@lru_cache
def _slot_places(degree: int) -> npt.NDArray[np.int64]:
    """Where each BFV slot stands among a polynomial's values in SEAL's order."""
    first = _exponents(degree)
    exponents = np.concatenate([first, 2 * degree - first])
    places: npt.NDArray[np.int64] = bit_reversal(degree)[exponents // 2]
    return places
