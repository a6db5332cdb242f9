"""What all parties of an encrypted run agree on: scheme, ring, moduli, and how many vectors may be added.

Read by every party; sites compare the digest and sign it, the aggregator adds under it. The integers are those of
`privacy.fixed_point`: over up to `max_clients` clients no sum exceeds 2^31 - 1 in magnitude, noise included.

**BFV (Brakerski 2012; Fan and Vercauteren 2012), the default, is exact.** The plaintext modulus t is the smallest prime
above 2^32 that is 1 modulo 2N: t / 2 exceeds every |sum|, so the sum modulo t is the sum, and masked, plain and
encrypted runs give the same integers.

**Why decryption never fails.** A fresh ciphertext under the secret key s has c0 + c1 s = round(q m / t) + e modulo q.
SEAL draws every coefficient of e from a centred binomial distribution of 42 bits, so |e| <= 21 always (its other
sampler, a Gaussian of 3.2, is cut at 19.2), and it rounds by at most 1/2. Adding n ciphertexts adds these errors: the
noise is then at most 21.5 n in every coefficient, whatever was drawn. Rounding t / q times it finds the sum exactly
while 21.5 n t < q / 2, that is 43 n t < q. The parameters demand 44 `max_clients` t <= q; the spare covers the
approximate base conversion inside SEAL, which errs by less than 2^-50. So this is a worst case and no tail bound: the
probability of failure is zero for ciphertexts made by honest software. The analysis holds for additions only, and
nothing here multiplies.

**Why 48 bits.** 44 x 1024 x 2^32 < 2^48: one prime of 48 bits serves every roster, and a coefficient travels as 6
bytes. Above 1024 clients the prime has 54 bits. TenSEAL demands a second, special prime, which no ciphertext uses; the
table counts it all the same.

**CKKS (Cheon et al. 2017) is approximate** and here for comparison. There are no multiplicative levels, decryptions are
rounded to integers before anyone uses them, and they stay with the key holder: an aggregator or outsider who is shown
unrounded decryptions can recover the key (Li and Micciancio 2021). The noise of a sum in a slot has a standard
deviation of about 3.3 sqrt(N n) / scale; 20 of these must stay below 1/2, a tail below 2^-280 per slot.

It does not protect one key holder's updates from another who colludes with the aggregator.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Literal, Self, TypeAlias, get_args

from privacy.cbor import from_cbor, to_cbor
from privacy.errors import HostileInputError, MisuseError, RangeError
from privacy.fixed_point import HALF_MODULUS, VectorFormat
from privacy.he.moduli import MAX_MODULUS_BITS, coefficient_primes, is_prime, smallest_batching_prime

Scheme: TypeAlias = Literal["BFV", "CKKS"]

HE_SUITE = "secfed-he/1"
"""Stands in every digest and derivation; a change of algorithm or format changes it."""

MAX_SUM = HALF_MODULUS - 1
"""No sum of encoded vectors is larger in magnitude (`privacy.fixed_point`)."""

CHECK_SLOTS = 4
"""Slots of every chunk that authenticate the others (`privacy.he.checks`)."""

MAX_CKKS_CLIENTS = 1024
_MAX_CLIENTS = 2**16
_FRESH_NOISE_SPAN = 44
_PRIME_BITS = (20, 60)
_MAX_BYTES = 512
_FIELDS = ("max_clients", "modulus_bits", "plain_modulus", "ring_degree", "scale_bits", "scheme", "suite")


@dataclass(frozen=True, kw_only=True)
class HeParameters:
    """One setting; `modulus_bits` ends with the special prime, `plain_modulus` is 0 for CKKS, `scale_bits` 0 for BFV.

    Raises:
        MisuseError: a value of the wrong kind, or a modulus beyond the table for 128 bits of security.
        RangeError: sums of `max_clients` vectors could come out wrong.
    """

    scheme: Scheme
    ring_degree: int
    modulus_bits: tuple[int, ...]
    plain_modulus: int
    scale_bits: int
    max_clients: int

    def __post_init__(self) -> None:
        self._require_security()
        if not 2 <= self.max_clients <= _MAX_CLIENTS:
            raise RangeError(f"max_clients = {self.max_clients} must lie in [2, {_MAX_CLIENTS}]")
        if self.scheme == "BFV":
            self._require_exact_sums()
        else:
            self._require_sums_that_round()

    @classmethod
    def exact(cls, *, max_clients: int) -> Self:
        """BFV for this many clients: the smallest messages of which every sum is exact.

        Raises:
            RangeError: too many clients, or fewer than 2.
        """
        modulus_bits = (48, 49) if max_clients <= 1024 else (54, 55)
        return cls(
            scheme="BFV",
            ring_degree=4096,
            modulus_bits=modulus_bits,
            plain_modulus=smallest_batching_prime(4096, above=2 * HALF_MODULUS),
            scale_bits=0,
            max_clients=max_clients,
        )

    @classmethod
    def for_format(cls, vector_format: VectorFormat) -> Self:
        """BFV for the vectors of a run, whose format bounds every sum."""
        return cls.exact(max_clients=max(2, vector_format.max_clients))

    @classmethod
    def approximate(cls, *, max_clients: int) -> Self:
        """CKKS without levels, whose sums round to the right integers."""
        return cls(
            scheme="CKKS",
            ring_degree=4096,
            modulus_bits=(54, 55),
            plain_modulus=0,
            scale_bits=20,
            max_clients=max_clients,
        )

    @classmethod
    def common_ckks(cls, *, max_clients: int) -> Self:
        """The CKKS setting of tutorials and other platforms, for comparison: 8192, (60, 40, 40), scale 2^40."""
        return cls(
            scheme="CKKS",
            ring_degree=8192,
            modulus_bits=(60, 40, 40),
            plain_modulus=0,
            scale_bits=40,
            max_clients=max_clients,
        )

    @property
    def moduli(self) -> tuple[int, ...]:
        """The primes that ciphertexts are added under, the special one left out."""
        return coefficient_primes(self.ring_degree, self.modulus_bits)[:-1]

    @property
    def residue_bytes(self) -> tuple[int, ...]:
        """Bytes of one coefficient, by prime."""
        return tuple(-(-bits // 8) for bits in self.modulus_bits[:-1])

    @property
    def slots(self) -> int:
        """Numbers in one ciphertext."""
        return self.ring_degree if self.scheme == "BFV" else self.ring_degree // 2

    @property
    def values_per_chunk(self) -> int:
        """Entries of the vector in one ciphertext."""
        return self.slots - CHECK_SLOTS

    @property
    def chunk_bytes(self) -> int:
        """One ciphertext: two polynomials, each coefficient modulo every prime."""
        return 2 * self.ring_degree * sum(self.residue_bytes)

    @property
    def most_additions(self) -> int:
        """So many ciphertexts can be added and still decrypt: in BFV by the worst case above, in CKKS by the limit."""
        if self.scheme == "CKKS":
            return MAX_CKKS_CLIENTS
        return math.prod(self.moduli) // (_FRESH_NOISE_SPAN * self.plain_modulus)

    def chunks(self, length: int) -> int:
        """Ciphertexts of a vector of shape (length,).

        Raises:
            MisuseError: the length is below 1.
        """
        if length < 1:
            raise MisuseError(f"length = {length} must be at least 1")
        return -(-length // self.values_per_chunk)

    def to_bytes(self) -> bytes:
        """The one encoding, for a signed plan."""
        return to_cbor(
            {
                "max_clients": self.max_clients,
                "modulus_bits": self.modulus_bits,
                "plain_modulus": self.plain_modulus,
                "ring_degree": self.ring_degree,
                "scale_bits": self.scale_bits,
                "scheme": self.scheme,
                "suite": HE_SUITE,
            }
        )

    @property
    def digest(self) -> bytes:
        """32 bytes that name these parameters in headers, seals and signatures."""
        return hashlib.sha256(self.to_bytes()).digest()

    @classmethod
    def from_bytes(cls, data: bytes, *, floor: "HeParameters") -> Self:
        """Parse an offer from another party that must be at least as strong as `floor`.

        Raises:
            HostileInputError: malformed, insecure, not exact, or weaker than the floor in any respect.
        """
        fields = from_cbor(data, max_bytes=_MAX_BYTES)
        if not isinstance(fields, dict) or tuple(sorted(fields)) != _FIELDS:
            raise HostileInputError(f"expected exactly the fields {list(_FIELDS)}")
        suite, scheme, bits = fields["suite"], fields["scheme"], fields["modulus_bits"]
        numbers = [fields[name] for name in ("ring_degree", "plain_modulus", "scale_bits", "max_clients")]
        if suite != HE_SUITE or scheme not in get_args(Scheme):
            raise HostileInputError(f"suite or scheme is not one of {HE_SUITE} with {get_args(Scheme)}")
        if not isinstance(bits, list) or not all(isinstance(number, int) for number in [*bits, *numbers]):
            raise HostileInputError("a field of the parameters is no integer")
        degree, plain, scale, clients = numbers
        try:
            found = cls(
                scheme=scheme,
                ring_degree=degree,
                modulus_bits=tuple(bits),
                plain_modulus=plain,
                scale_bits=scale,
                max_clients=clients,
            )
        except MisuseError as error:
            raise HostileInputError(f"these parameters are refused: {error}") from error
        found.require_at_least(floor)
        return found

    def require_at_least(self, floor: "HeParameters") -> None:
        """Refuse a downgrade: what a site's policy or the agreed plan asks for is a floor in every respect.

        Raises:
            HostileInputError: another scheme, a smaller ring, more modulus per ring degree, a smaller plaintext modulus
                or scale, or fewer clients.
        """
        weaker = [
            f"{name} is {mine}, asked is {asked}"
            for name, mine, asked, weak in (
                ("scheme", self.scheme, floor.scheme, self.scheme != floor.scheme),
                ("ring_degree", self.ring_degree, floor.ring_degree, self.ring_degree < floor.ring_degree),
                ("modulus_bits", self.modulus_bits, floor.modulus_bits, self._density > floor._density),
                ("plain_modulus", self.plain_modulus, floor.plain_modulus, self.plain_modulus < floor.plain_modulus),
                ("scale_bits", self.scale_bits, floor.scale_bits, self.scale_bits < floor.scale_bits),
                ("max_clients", self.max_clients, floor.max_clients, self.max_clients < floor.max_clients),
            )
            if weak
        ]
        if weaker:
            raise HostileInputError(f"parameters weaker than asked: {'; '.join(weaker)}")

    @property
    def _density(self) -> float:
        """Modulus bits per ring degree: at equal ring degree, the more the weaker."""
        return sum(self.modulus_bits) / self.ring_degree

    def _require_security(self) -> None:
        if self.scheme not in get_args(Scheme):
            raise MisuseError(f"scheme = {self.scheme!r} must be one of {get_args(Scheme)}")
        limit = MAX_MODULUS_BITS.get(self.ring_degree)
        if limit is None:
            raise MisuseError(f"ring_degree = {self.ring_degree} must be one of {sorted(MAX_MODULUS_BITS)}")
        low, high = _PRIME_BITS
        if len(self.modulus_bits) < 2 or not all(low <= bits <= high for bits in self.modulus_bits):
            raise MisuseError(f"modulus_bits = {self.modulus_bits} must be two or more numbers within [{low}, {high}]")
        if sum(self.modulus_bits) > limit:
            raise MisuseError(
                f"modulus_bits = {self.modulus_bits} are {sum(self.modulus_bits)} bits; 128 bits of security allow "
                f"{limit} at ring degree {self.ring_degree}"
            )

    def _require_exact_sums(self) -> None:
        plain = self.plain_modulus
        if self.scale_bits != 0:
            raise MisuseError(f"scale_bits = {self.scale_bits} must be 0 for BFV")
        if not 2 * HALF_MODULUS < plain < 2**40 or plain % (2 * self.ring_degree) != 1 or not is_prime(plain):
            raise RangeError(
                f"plain_modulus = {plain} must be a prime above 2^32 and below 2^40 that is 1 modulo "
                f"{2 * self.ring_degree}: else sums up to 2^31 - 1 wrap or do not pack"
            )
        if self.max_clients > self.most_additions:
            raise RangeError(
                f"max_clients = {self.max_clients} is more than the {self.most_additions} additions that "
                f"modulus_bits = {self.modulus_bits} decrypt without fail; lower it or raise the modulus"
            )

    def _require_sums_that_round(self) -> None:
        if self.plain_modulus != 0:
            raise MisuseError(f"plain_modulus = {self.plain_modulus} must be 0 for CKKS")
        if self.max_clients > MAX_CKKS_CLIENTS:
            raise RangeError(f"max_clients = {self.max_clients} must be at most {MAX_CKKS_CLIENTS} for CKKS")
        scale = 2**self.scale_bits if self.scale_bits <= _PRIME_BITS[1] else 0
        noise = 20 * 3.3 * math.sqrt(self.ring_degree * self.max_clients)
        if not noise < scale / 2:
            raise RangeError(f"scale_bits = {self.scale_bits} leaves noise of {noise:.0f} / 2^{self.scale_bits}")
        if HALF_MODULUS * scale * 4 > math.prod(self.moduli):
            raise RangeError(f"scale_bits = {self.scale_bits} and sums up to 2^31 exceed modulus_bits")
