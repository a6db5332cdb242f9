"""Exact samples of the discrete Gaussian: the integer noise of differential privacy.

Run by sites. P(x) is proportional to rho(x) = exp(-x^2 / (2 sigma^2)) on all integers (Canonne, Kamath and Steinke,
"The Discrete Gaussian for Differential Privacy", 2020), for any rational sigma. Sampling is by rejection from blocks:

    slot     16 bits choose a slot; block b of 2^shift integers owns W_b of the 2^16 slots, one slot is the tail's
    offset   `shift` bits choose an integer x of the block
    coin     x is kept if a uniform U lies below c rho(x) / W_b, where W_b >= c rho everywhere in the block

so that a candidate is x and kept with probability c rho(x) / 2^(16 + shift), whatever x is: the law is exact. Slots,
weights and offsets are integers. The coin is exact because its comparison is never decided on a rounded number: 32 bits
of U against an integer lower bound over the block settle 9 in 10, float64 with a proven error bound settles all but
about one in 2^40 of the rest, and those are settled in integers with as many bits of U as it takes
(`privacy.exact_exponential`). Beyond the blocks, at 12 sigma, follow more blocks with weights that halve, so the tail
is not cut off.

The floats are products and sums of IEEE doubles, in this order and without library functions, so one key gives one
vector on every machine. Randomness is the keyed stream; its key must be fresh from the operating system and used for
nothing else, because whoever knows it subtracts the noise.

It does not hide its running time, which depends on how many candidates were rejected.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from privacy.errors import MisuseError
from privacy.exact_exponential import exponential_bounds, falls_below
from privacy.streams import Keystream, Words

Integers = npt.NDArray[np.int64]

SMALLEST_SIGMA = Fraction(1, 64)
LARGEST_SIGMA = Fraction(2**28)
"""Within these, differences of squares inside a block fit into int64."""

_SLOT_BITS = 16
_SLOTS = 2**_SLOT_BITS
_REACH = 12
_PRECISION = 96

# Candidates drawn at a time. It is part of the result: another number gives other samples of the same law.
_BATCH = 2**15

# The tail's slot counts only when all 64 further bits are zero.
_TAIL_BITS = 64

# Twenty-two terms of exp(-y) for 0 <= y < 1.6 leave less than 2^-55; three roundings in y, two per step of Horner's
# rule on terms that sum to at most exp(1.6), and those of U and of the block's factor leave less than 2^-44 together.
_COEFFICIENTS = tuple((-1) ** k / math.factorial(k) for k in range(22))
_UNCERTAINTY = 2.0**-40


def discrete_gaussian(count: int, *, sigma: Fraction | float, stream: Keystream) -> Integers:
    """Independent samples, shape (count,); a float sigma stands for exactly the rational that it is.

    The same key gives the same samples, and fewer samples are the first of more. The stream is used up to the end of a
    batch.

    **Guarantees** Exact: for a uniform stream the samples have the stated law, with no statistical distance.

    Raises:
        MisuseError: a negative count, or a sigma that is not within [1/64, 2^28].
    """
    if count < 0:
        raise MisuseError(f"count = {count} must not be negative")
    law = _law(_checked_sigma(sigma))
    result = np.empty(count, dtype=np.int64)
    filled = 0
    while filled < count:
        kept = law.batch(stream)[: count - filled]
        result[filled : filled + kept.size] = kept
        filled += kept.size
    return result


def _checked_sigma(sigma: Fraction | float) -> Fraction:
    if isinstance(sigma, float) and not math.isfinite(sigma):
        raise MisuseError(f"sigma = {sigma} must be finite")
    exact = Fraction(sigma)
    if not SMALLEST_SIGMA <= exact <= LARGEST_SIGMA:
        raise MisuseError(f"sigma = {float(exact):g} must lie in [1/64, 2^28]")
    return exact


@dataclass(frozen=True, kw_only=True)
class _Block:
    """The integers from `start` on. `peak` is the one where rho is largest; `surely` is 2^32 times a bound on coins."""

    start: int
    peak: int
    weight: int
    surely: int
    factor: float


class _Law:
    """The tables of one sigma."""

    def __init__(self, sigma: Fraction) -> None:
        self.double_variance = 2 * sigma * sigma
        # The largest power of two up to sigma / 8; the width is at least sigma / 16, on which the tail relies.
        self.shift = max(0, int(sigma / 8).bit_length() - 1)
        self.width = 1 << self.shift
        per_side = math.ceil(_REACH * sigma / self.width)
        self.reach = per_side * self.width
        edges = [(start, start + self.width - 1) for start in range(-self.reach, self.reach, self.width)]
        peaks = [min(edge, key=abs) for edge in edges]
        bounds = {abs(x): exponential_bounds(self.exponent(x), precision=_PRECISION) for edge in edges for x in edge}
        self.scale = _largest_scale([bounds[abs(peak)][1] for peak in peaks])
        self.blocks = []
        for edge, peak in zip(edges, peaks, strict=True):
            foot = max(edge, key=abs)
            weight = _weight(bounds[abs(peak)][1], self.scale)
            self.blocks.append(
                _Block(
                    start=edge[0],
                    peak=peak,
                    weight=weight,
                    surely=self.scale * bounds[abs(foot)][0] // (weight << (_PRECISION - 32)),
                    factor=float(Fraction(self.scale * bounds[abs(peak)][0], weight << _PRECISION)),
                )
            )
        weights = [block.weight for block in self.blocks]
        self.used_slots = sum(weights)
        self._block_of = np.zeros(_SLOTS, dtype=np.int32)
        self._block_of[: self.used_slots] = np.repeat(np.arange(len(weights), dtype=np.int32), weights)
        surely = np.array([block.surely for block in self.blocks], dtype=np.uint32)
        self._surely = np.zeros(_SLOTS, dtype=np.uint32)
        self._surely[: self.used_slots] = surely[self._block_of[: self.used_slots]]
        self._peak = np.array([block.peak for block in self.blocks], dtype=np.int64)
        self._factor = np.array([block.factor for block in self.blocks])
        self._inverse = float(1 / self.double_variance)

    def exponent(self, x: int) -> Fraction:
        """-ln rho(x)."""
        return x * x / self.double_variance

    def batch(self, stream: Keystream) -> Integers:
        """The samples that a batch of candidates leaves, in order."""
        words = stream.words(4 * _BATCH).reshape(4, _BATCH)
        slots = (words[0] >> np.uint32(32 - _SLOT_BITS)).astype(np.intp)
        kept = words[2] < self._surely[slots]
        x = self._block_of[slots].astype(np.int64)
        x <<= self.shift
        x -= self.reach
        x |= (words[1] & np.uint32(self.width - 1)).astype(np.int64)
        late = np.flatnonzero(~kept)
        # Slots between the blocks' and the tail's belong to nobody.
        inside = late[slots[late] < self.used_slots]
        kept[inside] = self._coins(x[inside], slots[inside], words[2:, inside], stream)
        for i in late[(slots[late] == _SLOTS - 1) & (words[2, late] == 0) & (words[3, late] == 0)]:
            found = self.tail_candidate(stream)
            if found is not None:
                x[i], kept[i] = found, True
        samples: Integers = x[kept]
        return samples

    def _coins(
        self, x: Integers, slots: npt.NDArray[np.intp], uniform: Words, stream: Keystream
    ) -> npt.NDArray[np.bool_]:
        blocks = self._block_of[slots]
        peaks = self._peak[blocks]
        y = ((x - peaks) * (x + peaks)).astype(np.float64) * self._inverse
        chance = np.full(y.size, _COEFFICIENTS[-1])
        for coefficient in _COEFFICIENTS[-2::-1]:
            chance *= y
            chance += coefficient
        chance *= self._factor[blocks]
        chance -= uniform[0] * 2.0**-32 + uniform[1] * 2.0**-64
        kept: npt.NDArray[np.bool_] = chance > 0
        for i in np.flatnonzero(np.abs(chance) <= _UNCERTAINTY):
            kept[i] = falls_below(
                Fraction(self.scale, self.blocks[blocks[i]].weight),
                self.exponent(int(x[i])),
                known=int(uniform[0, i]) << 32 | int(uniform[1, i]),
                bits=64,
                stream=stream,
            )
        return kept

    def tail_candidate(self, stream: Keystream) -> int | None:
        """A candidate at or beyond `reach`, or None where its coin rejects it.

        Tail block m of a side is proposed with probability 2^-(m + 2), so its coin is c rho(x) 2^(66 + m). That is
        below 1: c <= 2^16, and from 12 sigma on, rho is at most exp(-72) and halves at least once per block of sigma /
        16, since exp(-12 / 16) < 1/2.
        """
        m, flips = 0, _Bits(stream)
        while flips.take(1):
            m += 1
        distance = self.reach + m * self.width + flips.take(self.shift)
        x = distance if flips.take(1) else -1 - distance
        scale = Fraction(self.scale << (_TAIL_BITS + 2 + m))
        return x if falls_below(scale, self.exponent(x), known=0, bits=0, stream=stream) else None


class _Bits:
    """Single bits of a stream, for the tail."""

    def __init__(self, stream: Keystream) -> None:
        self._stream = stream

    def take(self, count: int) -> int:
        """An integer of so many uniform bits, at most 32."""
        return int(self._stream.words(1)[0]) >> (32 - count)


def _weight(peak_high: int, scale: int) -> int:
    """Slots that a block needs: above c rho(peak), so that the coin's probability stays below 1."""
    return (scale * peak_high >> _PRECISION) + 1


def _largest_scale(peaks_high: list[int]) -> int:
    """The c with which all blocks and the tail's slot fit into the table."""
    low, high = 1, _SLOTS
    while high - low > 1:
        middle = (low + high) // 2
        if sum(_weight(peak, middle) for peak in peaks_high) < _SLOTS:
            low = middle
        else:
            high = middle
    return low


@lru_cache(maxsize=16)
def _law(sigma: Fraction) -> _Law:
    return _Law(sigma)
