"""The sum of encrypted vectors, as the aggregator and any auditor form it: additions modulo public primes, and no key.

Run by the aggregator. A ciphertext of BFV or CKKS is two polynomials, and the sum of ciphertexts is the sum of their
coefficients modulo each prime (Fan and Vercauteren 2012, section 4, Add), so this needs no encryption library: no
foreign parser ever reads bytes from outside on the aggregator's machine. Memory is one accumulator and the incoming
message, both as they travel; an auditor who adds the same messages in any order gets the same bytes.

It does not protect the sum against an aggregator that adds something else: the key holders' check slots do.
"""

from typing import Self

import numpy as np

from privacy.errors import HostileInputError, MisuseError
from privacy.he.layout import HEADER_BYTES, Envelope, blocks, pack, unpack
from privacy.he.parameters import HeParameters


class CiphertextSum:
    """The running sum of one round; what is refused leaves it as it was."""

    def __init__(self, envelope: Envelope) -> None:
        self._envelope = envelope
        self._sum: bytearray | None = None
        self._contributors: list[str] = []

    @classmethod
    def create(cls, *, parameters: HeParameters, fingerprint: bytes, length: int) -> Self:
        """An empty sum of vectors of shape (length,) under one group key.

        Raises:
            MisuseError: a fingerprint that has not 32 bytes, or a length below 1.
        """
        return cls(Envelope(parameters=parameters, fingerprint=fingerprint, length=length))

    @property
    def contributors(self) -> tuple[str, ...]:
        """Whose vectors are inside, in the order of their names."""
        return tuple(sorted(self._contributors))

    def add(self, data: bytes, *, contributor: str) -> None:
        """Check a site's message from beginning to end, then add it.

        Raises:
            HostileInputError: not a message of this round's shape and key, a second one of the same site, or more sites
                than the parameters allow for; the sum is unchanged and `party` names the site.
        """
        parameters = self._envelope.parameters
        if contributor in self._contributors:
            raise HostileInputError("sent a second encrypted vector", party=contributor)
        if len(self._contributors) >= parameters.max_clients:
            raise HostileInputError(f"comes after the {parameters.max_clients} that may be added", party=contributor)
        try:
            body = self._envelope.open(data, contributors=1)
        except HostileInputError as error:
            raise HostileInputError(error.reason, party=contributor) from error
        if self._sum is None:
            self._sum = bytearray(data)
        else:
            into = memoryview(self._sum)[HEADER_BYTES:]
            for target, addend in zip(
                blocks(into, parameters=parameters), blocks(body, parameters=parameters), strict=True
            ):
                _add_block(target, addend, parameters=parameters)
        self._contributors.append(contributor)

    def total(self) -> bytes:
        """The message for the key holders, which counts the vectors inside; sign its root with the contributors' names.

        Raises:
            MisuseError: fewer than two vectors: their sum would be a single site's update.
        """
        if self._sum is None or len(self._contributors) < 2:
            raise MisuseError(f"{len(self._contributors)} vectors are inside; a sum has at least 2")
        self._sum[:HEADER_BYTES] = self._envelope.header(contributors=len(self._contributors))
        return bytes(self._sum)


def _add_block(target: memoryview, addend: memoryview, *, parameters: HeParameters) -> None:
    residues = unpack(target, parameters=parameters)
    for mine, other, prime in zip(residues, unpack(addend, parameters=parameters), 2 * parameters.moduli, strict=True):
        # Both are below a prime of at most 60 bits; below the prime the difference wraps and is the larger one.
        np.add(mine, other, out=mine)
        np.minimum(mine, mine - np.uint64(prime), out=mine)
    pack(residues, target, parameters=parameters)
