"""Whether encrypted sums come out right, how large ciphertexts are, and how long they take on THIS machine.

Run by whoever plans a run. Range and noise come from `privacy.he.parameters`, as every party of the run computes them;
times from about a second of the real code, on at most a few dozen ciphertexts. Messages consist of whole ciphertexts,
so sizes and times are scaled by their number. Memory is what the protocol holds at once, counted in messages; the
transport and training come on top.

It says nothing about who holds the key: with encryption, that is every site.
"""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from privacy.errors import RangeError
from privacy.he.evaluator import CiphertextSum
from privacy.he.key_holder import GroupKey
from privacy.he.moduli import MAX_MODULUS_BITS
from privacy.he.parameters import HeParameters
from secfed.config import TrainingPlan
from secfed.errors import ConfigError
from secfed.parameters import ParameterLayout
from secfed.protected_vector import encryption_parameters, message_bytes, vector_format

_SECONDS = 0.3
_MOST_CIPHERTEXTS = 64
_AGGREGATOR_MESSAGES = 4
"""The running sum, its copy that is published, the upload that is being added, and the sum of the round before."""
_SITE_MESSAGES = 3
"""The sum before, and the upload twice: while it is put together, and as bytes."""


@dataclass(frozen=True, kw_only=True)
class Encryption:
    """The ciphertexts of one upload of `entries` integers, and of a sum of `sites` of them; sizes in bytes.

    `most_sites` is how many uploads add up without fail. `entry_bytes` is what one entry of the vector costs.
    """

    parameters: HeParameters
    sites: int
    entries: int
    largest_sum: int

    @property
    def exact(self) -> bool:
        """Whether sums are exact by their numbers alone, and not but for a negligible chance."""
        return self.parameters.scheme == "BFV"

    @property
    def ciphertexts(self) -> int:
        """Of one upload, and of one sum."""
        return self.parameters.chunks(self.entries)

    @property
    def message_bytes(self) -> int:
        """One upload, or one sum, on the wire."""
        return message_bytes(self.parameters, self.entries)

    @property
    def entry_bytes(self) -> float:
        """What one entry of the vector costs."""
        return self.message_bytes / self.entries

    @property
    def most_sites(self) -> int:
        """So many uploads add up without fail under these parameters."""
        return self.parameters.most_additions

    @property
    def aggregator_memory_bytes(self) -> int:
        """What the aggregator's addition holds at once, at most."""
        return _AGGREGATOR_MESSAGES * self.message_bytes

    @property
    def site_memory_bytes(self) -> int:
        """What a site's protection holds at once, at most: messages, and the vector of 32-bit integers."""
        return _SITE_MESSAGES * self.message_bytes + 4 * self.entries

    def lines(self) -> tuple[str, ...]:
        """Why the sums come out right, in sentences."""
        parameters, reached = self.parameters, f"No sum wraps: {self.sites} sites reach at most {self.largest_sum}"
        if self.exact:
            plain = parameters.plain_modulus
            room = f"{reached}, and the plaintext modulus {plain} holds ±{plain // 2}."
            noise = (
                "Decryption cannot fail: a worst case and no tail bound. The noise of a sum of n ciphertexts is at "
                f"most 21.5 n in every coefficient, and these parameters decrypt exactly up to n = {self.most_sites:,}."
            )
        else:
            room = f"{reached}, and the modulus holds more than ±2^31 at scale 2^{parameters.scale_bits}."
            deviations = 20 * 3.3 * math.sqrt(parameters.ring_degree * self.sites) / 2**parameters.scale_bits
            noise = (
                f"Sums are rounded to integers: 20 standard deviations of the noise are {deviations:.2g}, and below "
                "0.5 the integer is right but for a chance below 2^-280 a slot. CKKS is for comparison: decryptions "
                "that are shown unrounded can give away the key."
            )
        security = (
            f"Ring degree {parameters.ring_degree}, {sum(parameters.modulus_bits)} bits of modulus; 128 bits of "
            f"security allow {MAX_MODULUS_BITS[parameters.ring_degree]}."
        )
        return room, noise, security

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        parameters = self.parameters
        return {
            "scheme": parameters.scheme.lower(),
            "exact": self.exact,
            "ring_degree": parameters.ring_degree,
            "modulus_bits": list(parameters.modulus_bits),
            "plain_modulus": parameters.plain_modulus or None,
            "scale_bits": parameters.scale_bits or None,
            "largest_sum": self.largest_sum,
            "sites": self.sites,
            "most_sites": self.most_sites,
            "ciphertexts": self.ciphertexts,
            "ciphertext_bytes": parameters.chunk_bytes,
            "entries_per_ciphertext": parameters.values_per_chunk,
            "message_bytes": self.message_bytes,
            "bytes_per_entry": self.entry_bytes,
            "aggregator_memory_bytes": self.aggregator_memory_bytes,
            "site_memory_bytes": self.site_memory_bytes,
            "lines": list(self.lines()),
        }


@dataclass(frozen=True, kw_only=True)
class EncryptionTime:
    """Seconds of one round: a site encrypts and decrypts, the aggregator checks and adds every upload.

    `add_seconds` is for one upload. A part was measured where there are many ciphertexts, and scaled by their number.
    """

    ciphertexts: int
    measured_ciphertexts: int
    sites: int
    encrypt_seconds: float
    decrypt_seconds: float
    add_seconds: float

    @property
    def aggregator_seconds(self) -> float:
        """All uploads of a round."""
        return self.sites * self.add_seconds

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {**asdict(self), "aggregator_seconds": self.aggregator_seconds}


def encryption_of(layout: ParameterLayout, plan: TrainingPlan, *, sites: int) -> Encryption:
    """The encryption of a plan with so many sites.

    Raises:
        ConfigError: the scheme does not add up so many uploads without error.
    """
    slots = vector_format(layout, plan, cohort_size=sites)
    try:
        parameters = encryption_parameters(slots, plan.protection)
    except RangeError as error:
        raise ConfigError(f"protection.scheme = '{plan.protection.scheme}' with {sites} sites: {error}") from error
    analysis = slots.analysis()
    return Encryption(parameters=parameters, sites=sites, entries=slots.length, largest_sum=analysis.worst_integer)


def time_encryption(found: Encryption) -> EncryptionTime:
    """Encrypt, add and decrypt a few ciphertexts, again and again; of each the median pass counts."""
    parameters = found.parameters
    measured = min(found.ciphertexts, _MOST_CIPHERTEXTS)
    length = measured * parameters.values_per_chunk
    key = GroupKey.generate(parameters)
    words = np.arange(length, dtype=np.uint32)

    def encrypt(contributor: str) -> bytes:
        return key.encrypt(words, contributor=contributor, context=b"preflight")

    uploads = {name: encrypt(name) for name in ("a", "b")}
    total = CiphertextSum.create(parameters=parameters, fingerprint=key.fingerprint, length=length)
    for name, upload in uploads.items():
        total.add(upload, contributor=name)
    summed = total.total()

    def add(contributor: str) -> None:
        # The first upload of a sum is checked and copied; every later one is added, too.
        one = CiphertextSum.create(parameters=parameters, fingerprint=key.fingerprint, length=length)
        one.add(uploads["a"], contributor="a")
        one.add(uploads[contributor], contributor=contributor)

    def decrypt(_: str) -> None:
        key.decrypt_sum(summed, length=length, contributors=sorted(uploads), context=b"preflight")

    scale = found.ciphertexts / measured
    return EncryptionTime(
        ciphertexts=found.ciphertexts,
        measured_ciphertexts=measured,
        sites=found.sites,
        encrypt_seconds=scale * _median_seconds(encrypt),
        decrypt_seconds=scale * _median_seconds(decrypt),
        add_seconds=scale * _median_seconds(add) / 2,
    )


def _median_seconds(act: Callable[[str], object]) -> float:
    passes: list[float] = []
    while sum(passes) < _SECONDS:
        started = time.perf_counter()
        act("b")
        passes.append(time.perf_counter() - started)
    return statistics.median(passes)
