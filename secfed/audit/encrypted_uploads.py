"""What a small run's sites uploaded in its last round, encrypted by members of an encrypted run and summed.

Made by the attacks on learning: networks are trained once, in the clear, and their uploads then pass through the real
members and a real aggregator of an encrypted run. The integers are those of the run, so what the key holders decrypt is
its sum.
"""

from dataclasses import dataclass, field

import numpy as np

from privacy.streams import Words
from secfed.audit.ciphertexts import read_words, secret_of
from secfed.audit.consortium import added
from secfed.audit.encrypted_group import EncryptedGroup
from secfed.audit.lattice import Polynomial
from secfed.audit.small_run import SmallRun
from secfed.audit.target import SECFED


@dataclass(frozen=True, kw_only=True)
class EncryptedUploads:
    """One round: `total` is what a site decrypts, uint32 of shape (vector_length,); `ciphertexts` are by site.

    `encrypted_total` is the sum as the aggregator has it.
    """

    group: EncryptedGroup = field(repr=False)
    ciphertexts: tuple[bytes, ...] = field(repr=False)
    encrypted_total: bytes = field(repr=False)
    total: Words = field(repr=False)
    exact: bool

    def without_key(self, message: bytes) -> Words:
        """What the aggregator reads of a ciphertext, or of the sum."""
        return read_words(message, length=self.group.length, parameters=self.group.parameters)

    def with_key(self, message: bytes) -> Words:
        """What the aggregator and one colluding site read of it."""
        secret: Polynomial = secret_of(self.group.stolen_key(self.group.names[0]))
        return read_words(message, length=self.group.length, parameters=self.group.parameters, secret=secret)


def encrypt_uploads(run: SmallRun, *, seed: int) -> EncryptedUploads:
    """The uploads of a plain run's last round, summed under a group key of as many sites."""
    uploads = list(run.uploads.values())
    group = EncryptedGroup(SECFED, count=len(uploads), seed=seed, length=uploads[0].size)
    published = group.play(vectors=dict(zip(group.names, uploads, strict=True)))
    total = group.opened(group.names[-1])
    return EncryptedUploads(
        group=group,
        ciphertexts=tuple(group.ciphertexts[1, name] for name in group.names),
        encrypted_total=published.total,
        total=total,
        exact=bool(np.array_equal(total, added(uploads))),
    )
