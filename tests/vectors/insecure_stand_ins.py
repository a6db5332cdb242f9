"""Predictable replacements for the three places where a client draws random bytes. For test vectors, and nothing else.

- `InsecureSeededEntropy` in place of the operating system: session keys, self seeds, wrap keys, identities.
- `insecure_stand_ins` in place of what two libraries draw themselves and take from no parameter: the ciphertexts of
  ML-KEM-768 (recorded ones are returned again) and the coefficients of the secret sharing (a keyed stream).

Whoever knows the label of a source knows every secret that came from it.
"""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self
from unittest import mock

from Crypto.Protocol import SecretSharing
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey

from privacy.entropy import Entropy
from privacy.secagg import key_agreement


class InsecureSeededEntropy:
    """Draw i (from 1) is SHAKE-256 of "label / i"; `drawn` holds everything handed out."""

    def __init__(self, label: str) -> None:
        self._label = label
        self.drawn: list[bytes] = []

    def token_bytes(self, count: int) -> bytes:
        """The next draw."""
        value = hashlib.shake_256(f"{self._label} / {len(self.drawn) + 1}".encode()).digest(count)
        self.drawn.append(value)
        return value


class InsecureRecordedEntropy:
    """Hands out recorded values in order."""

    def __init__(self, values: Iterable[bytes]) -> None:
        self._values = iter(values)

    def token_bytes(self, count: int) -> bytes:
        """The next recorded value."""
        value = next(self._values)
        if len(value) != count:
            raise ValueError(
                f"the recorded value has {len(value)} bytes, {count} are drawn: the order of draws changed"
            )
        return value


@dataclass(frozen=True)
class Encapsulation:
    """A recorded ML-KEM-768 ciphertext and the secret that it carries."""

    ciphertext: bytes
    shared_secret: bytes


@contextlib.contextmanager
def insecure_stand_ins(
    *, polynomials: Entropy, encapsulations: Mapping[bytes, Encapsulation] | None = None
) -> Iterator[None]:
    """Within this block one client's encapsulations and polynomials are predictable.

    `encapsulations` is by the recipient's public key. Validating that key stays the library's work.
    """
    recorded = encapsulations or {}

    class RecordedPublicKey:
        def __init__(self, data: bytes) -> None:
            self._data = data

        @classmethod
        def from_public_bytes(cls, data: bytes) -> Self:
            MLKEM768PublicKey.from_public_bytes(data)
            return cls(data)

        def encapsulate(self) -> tuple[bytes, bytes]:
            found = recorded[self._data]
            return found.shared_secret, found.ciphertext

    with (
        mock.patch.object(SecretSharing, "rng", polynomials.token_bytes),
        mock.patch.object(key_agreement, "MLKEM768PublicKey", RecordedPublicKey),
    ):
        yield
