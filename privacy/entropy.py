"""Where fresh secrets come from: the operating system, and nothing else outside of tests.

Run by clients. Entropy is a parameter so that published test vectors can be reproduced; whoever passes another source
than `SystemEntropy` protects nothing, and such a class is to be named `Insecure...`. ML-KEM encapsulation and the
polynomials of the secret sharing draw from their libraries, which take no source.
"""

import secrets
from typing import Protocol


class Entropy(Protocol):
    """A source of uniform bytes."""

    def token_bytes(self, count: int) -> bytes:
        """`count` bytes that nobody can predict."""
        ...


class SystemEntropy:
    """The operating system's generator."""

    def token_bytes(self, count: int) -> bytes:
        """`count` bytes from os.urandom."""
        return secrets.token_bytes(count)


SYSTEM_ENTROPY = SystemEntropy()
