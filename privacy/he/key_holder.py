"""The group key of a run and what its holders do with it: encrypt a client's integers, decrypt a sum.

Run by sites alone. One site generates the key, seals it to each peer (`privacy.he.seal`), and all compare
fingerprints; it lives for one run. Encryption is symmetric under a ternary secret (no public key exists that anybody
could encrypt with), randomised by SEAL's generator, and packs the whole vector: chunks of `values_per_chunk` entries
each, the last one filled up with zeros. Check slots bind every chunk to its contributor, round and place.

It does not protect one holder from another: whoever holds the key and sees a single ciphertext reads it. An aggregator
must collude with no site; masking (`privacy.secagg`) has no such need, but shows its aggregator the sum. Nor does it
protect the sum from a holder that encrypts nonsense, or integers beyond the format: they wrap modulo t, as under masks
modulo 2^32.
"""

import hashlib
import secrets
from collections.abc import Sequence
from typing import NoReturn, Self

import numpy as np

from privacy.cbor import from_cbor, to_cbor
from privacy.errors import HostileInputError, MisuseError, RangeError
from privacy.he.checks import Integers, RoundChecks
from privacy.he.layout import HEADER_BYTES, Envelope, Residues, blocks, pack, unpack
from privacy.he.library import SealKey
from privacy.he.moduli import coefficient_primes
from privacy.he.parameters import CHECK_SLOTS, HE_SUITE, MAX_SUM, HeParameters
from privacy.streams import KEY_BYTES, Words


class GroupKey:
    """The secret key and the secret of the check slots, under fixed parameters."""

    def __init__(self, *, parameters: HeParameters, seal_key: SealKey, check_secret: bytes) -> None:
        self.parameters = parameters
        self._seal_key, self._check_secret = seal_key, check_secret
        self.fingerprint = hashlib.sha256(to_cbor([HE_SUITE, "group key", self.to_bytes()])).digest()

    @classmethod
    def generate(cls, parameters: HeParameters) -> Self:
        """A new key; both halves come from the operating system's entropy, the ternary one through SEAL."""
        return cls(
            parameters=parameters,
            seal_key=SealKey.generate(parameters),
            check_secret=secrets.token_bytes(KEY_BYTES),
        )

    def to_bytes(self) -> bytes:
        """The private bytes, 64 KiB at degree 4096, for a sealed message or a file that only the site can read."""
        return to_cbor(
            {
                "check": self._check_secret,
                "parameters": self.parameters.digest,
                "secret": self._seal_key.residues().astype("<u8").tobytes(),
                "suite": HE_SUITE,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, *, parameters: HeParameters) -> Self:
        """The key of `to_bytes`. Compare its `fingerprint` with that of the other holders before use.

        Raises:
            HostileInputError: malformed, made for other parameters, or with residues that no key has.
        """
        fields = from_cbor(data)
        if not isinstance(fields, dict) or set(fields) != {"check", "parameters", "secret", "suite"}:
            raise HostileInputError("these bytes are no group key")
        check, digest, secret = fields["check"], fields["parameters"], fields["secret"]
        if fields["suite"] != HE_SUITE or digest != parameters.digest:
            raise HostileInputError("the group key was made for other parameters")
        shape = (len(parameters.modulus_bits), parameters.ring_degree)
        if not isinstance(check, bytes) or len(check) != KEY_BYTES:
            raise HostileInputError("the group key's check secret has the wrong type or size")
        if not isinstance(secret, bytes) or len(secret) != 8 * shape[0] * shape[1]:
            raise HostileInputError("the group key's secret has the wrong type or size")
        residues = np.frombuffer(secret, dtype="<u8").astype(np.uint64).reshape(shape)
        primes = np.array(coefficient_primes(parameters.ring_degree, parameters.modulus_bits), dtype=np.uint64)
        if not (residues < primes[:, None]).all() or not residues.any():
            raise HostileInputError("the group key holds a residue that no key has")
        return cls(parameters=parameters, seal_key=SealKey.from_residues(residues, parameters), check_secret=check)

    def encrypt(self, words: Words, *, contributor: str, context: bytes) -> bytes:
        """The message for the aggregator, which names the key but not the contributor: sign its root.

        `words` are two's complement of shape (length,); `context` names session and round.

        Raises:
            MisuseError: not a uint32 vector, or an empty context.
            RangeError: an entry is -2^31, which no sum may reach.
        """
        if words.dtype != np.uint32 or words.ndim != 1 or words.size == 0:
            raise MisuseError(f"words must be a uint32 vector of length 1 or more, got {words.dtype} of {words.shape}")
        signed = words.view(np.int32)
        if int(signed.min()) < -MAX_SUM:
            raise RangeError(f"an entry is -2^31; entries lie within ±{MAX_SUM}")
        parameters = self.parameters
        envelope = Envelope(parameters=parameters, fingerprint=self.fingerprint, length=words.size)
        checks = RoundChecks(self._check_secret, parameters=parameters, context=context)
        pads = checks.pads(contributor, chunks=parameters.chunks(words.size))
        message = bytearray(envelope.message_bytes)
        message[:HEADER_BYTES] = envelope.header(contributors=1)
        body = memoryview(message)[HEADER_BYTES:]
        slots = np.zeros(parameters.slots, dtype=np.int64)
        for chunk, pad in enumerate(pads):
            part = signed[chunk * parameters.values_per_chunk :][: parameters.values_per_chunk]
            slots[: part.size] = part
            slots[part.size :] = 0
            slots[-CHECK_SLOTS:] = checks.tags(slots[:-CHECK_SLOTS], pad)
            start = chunk * parameters.chunk_bytes
            pack(self._seal_key.encrypt(slots), body[start : start + parameters.chunk_bytes], parameters=parameters)
        return bytes(message)

    def decrypt_sum(
        self, data: bytes, *, length: int, contributors: Sequence[str], context: bytes, max_abs: int = MAX_SUM
    ) -> Words:
        """The exact sum of the contributors' vectors, two's complement of shape (length,).

        `max_abs` is the largest magnitude that so many contributors can reach, from the vector format.

        Raises:
            HostileInputError: the bytes have not this round's shape and key; or what is inside is not the sum of
                exactly these contributors' vectors, or lies outside ±max_abs. No value of such a sum is given out.
            MisuseError: fewer than two contributors, a repeated one, too many, or a max_abs beyond the format's.
        """
        parameters = self.parameters
        if not 2 <= len(contributors) <= parameters.max_clients or len(set(contributors)) != len(contributors):
            raise MisuseError(
                f"contributors must be 2 to {parameters.max_clients} different names, got {sorted(contributors)}"
            )
        if not 1 <= max_abs <= MAX_SUM:
            raise MisuseError(f"max_abs = {max_abs} must lie in [1, {MAX_SUM}]")
        envelope = Envelope(parameters=parameters, fingerprint=self.fingerprint, length=length)
        body = envelope.open(data, contributors=len(contributors))
        checks = RoundChecks(self._check_secret, parameters=parameters, context=context)
        chunks = parameters.chunks(length)
        pads = np.zeros((chunks, CHECK_SLOTS), dtype=np.int64)
        for name in contributors:
            pads += checks.pads(name, chunks=chunks)
        result = np.zeros(chunks * parameters.values_per_chunk, dtype=np.int32)
        chunk = 0
        for block in blocks(body, parameters=parameters):
            for residues in np.stack(unpack(block, parameters=parameters), axis=1):
                values = self._open_chunk(residues, checks=checks, pad=pads[chunk], max_abs=max_abs)
                result[chunk * values.size :][: values.size] = values
                chunk += 1
        if result[length:].any():
            raise HostileInputError("the sum holds values beyond its length")
        return result[:length].view(np.uint32)

    def _open_chunk(self, residues: Residues, *, checks: RoundChecks, pad: Integers, max_abs: int) -> Integers:
        slots = self._seal_key.decrypt(residues)
        values = slots[:-CHECK_SLOTS]
        # The range first: tags are computed without overflow for values within it only.
        if int(values.max()) > max_abs or int(values.min()) < -max_abs:
            raise _wrong_sum()
        if not np.array_equal(checks.tags(values, pad), slots[-CHECK_SLOTS:]):
            raise _wrong_sum()
        return values

    def __repr__(self) -> str:
        return f"GroupKey(fingerprint={self.fingerprint.hex()}, <secret>)"

    def __reduce__(self) -> NoReturn:
        raise MisuseError("a GroupKey cannot be pickled: it is secret; use to_bytes and a private file")


def _wrong_sum() -> HostileInputError:
    """One message for every cause, so that whoever sent the bytes learns nothing from it."""
    return HostileInputError(
        "what decrypts is not the sum of these contributors' vectors: another key, another round, other contributors, "
        "or a changed ciphertext"
    )
