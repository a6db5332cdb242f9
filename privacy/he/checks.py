"""Check slots: a linear authenticator inside the encryption, so that key holders know whose sum they decrypted.

Computed by the key holders alone. Encryption by itself is malleable: whoever holds a ciphertext can add to what is
inside without any key. So the last `CHECK_SLOTS` slots of every BFV chunk hold, modulo the prime t,

    tag_k = (sum over j of weight_kj x_j) + pad_k(contributor, chunk)

with secret weights, uniform in [0, 2^32) and fresh for every round context, and a pad for every contributor and chunk:
a linearly homomorphic MAC (Agrawal and Boneh, "Homomorphic MACs", ACNS 2009) with pads by name. Tags add as values do.

**Guarantees (BFV)** Against whoever lacks the group key: a chunk whose values differ from the sum over the named
contributors, each once, in this context and at this place, passes with probability at most 2^-32 for every tag, so
2^-128 for all four: t is a prime above 2^32, so at most one value of a weight makes a given error invisible. This
covers a wrong key, ciphertexts under another key, and ciphertexts that were changed, added to, swapped, repeated, left
out or kept from another round.

For CKKS, which has no modulus to count by, the slots hold the pads alone, 20 bits each and 80 in all. They detect wrong
keys, contributors, rounds and places, but not a change that spares these slots.

It does not protect against a key holder: all of them know the weights. Nor does a bad sum tell whose vector was bad.
A holder who lets the aggregator know that a check failed tells it up to one bit about the key: after a failure, make a
new key instead of asking again.
"""

from typing import NoReturn

import numpy as np
import numpy.typing as npt

from privacy.errors import MisuseError
from privacy.he.parameters import CHECK_SLOTS, HE_SUITE, HeParameters
from privacy.streams import Keystream, derive_key

Integers = npt.NDArray[np.int64]

_CKKS_PAD_BITS = 20
_HALF_WORD = 16


class RoundChecks:
    """The weights and pads of one round context."""

    def __init__(self, secret: bytes, *, parameters: HeParameters, context: bytes) -> None:
        if not context:
            raise MisuseError("context must name session and round, it is empty")
        self._secret, self._parameters, self._context = secret, parameters, context
        shape = (CHECK_SLOTS, parameters.values_per_chunk)
        weights = self._stream("he check weights", "all").words(shape[0] * shape[1]).reshape(shape)
        # 16 bits times 31 bits, summed over 2^15 slots at most, stay below 2^63.
        self._low = (weights & np.uint32(2**_HALF_WORD - 1)).astype(np.int64)
        self._high = (weights >> np.uint32(_HALF_WORD)).astype(np.int64)

    def pads(self, contributor: str, *, chunks: int) -> Integers:
        """The contributor's pads, shape (chunks, CHECK_SLOTS)."""
        words = self._stream("he check pads", contributor).words(chunks * CHECK_SLOTS).reshape(chunks, CHECK_SLOTS)
        if self._parameters.scheme == "CKKS":
            words >>= np.uint32(32 - _CKKS_PAD_BITS)
        return words.astype(np.int64)

    def tags(self, values: Integers, pads: Integers) -> Integers:
        """What the check slots of one chunk hold, shape (CHECK_SLOTS,).

        `values` have shape (values_per_chunk,) and lie within ±2^31. BFV tags are the representatives of smallest
        magnitude, as decryption gives them.
        """
        if self._parameters.scheme == "CKKS":
            return pads
        prime = self._parameters.plain_modulus
        high = (self._high @ values) % prime
        tags = ((high << _HALF_WORD) + self._low @ values + pads) % prime
        return np.where(tags > prime // 2, tags - prime, tags)

    def __repr__(self) -> str:
        return "RoundChecks(<secret>)"

    def __reduce__(self) -> NoReturn:
        raise MisuseError("RoundChecks cannot be pickled: they are secret")

    def _stream(self, label: str, contributor: str) -> Keystream:
        facts: dict[str, bytes | int | str] = {
            "suite": HE_SUITE,
            "parameters": self._parameters.digest,
            "context": self._context,
            "contributor": contributor,
        }
        return Keystream(derive_key(self._secret, label=label, context=facts))
