"""The generator that an attacker supposes: 16 bits of seed, such as a process number or a clock gives.

Kerckhoffs: the attacker knows how bytes follow from a seed, and tries all seeds.
"""

import hashlib

SEED_BITS = 16


class InsecureSeededEntropy:
    """Bytes from SHA-256 over a short seed and a counter: what the attacker supposes that a client uses."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._calls = 0

    def token_bytes(self, count: int) -> bytes:
        """The next bytes; the same seed gives the same ones."""
        self._calls += 1
        return seeded_bytes(self._seed, call=self._calls - 1, count=count)


def seeded_bytes(seed: int, *, call: int, count: int) -> bytes:
    """What `InsecureSeededEntropy` gives at one call."""
    block = hashlib.sha256(b"%d %d" % (seed, call)).digest()
    return (block * (count // len(block) + 1))[:count]
