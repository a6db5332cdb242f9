"""Real vectors as integers modulo 2^32, so that a sum over clients is exact and masks can hide every bit.

Run by clients (`encode`) and by the aggregator on the sum (`decode_sum`). A value of a segment is a multiple of the
segment's quantum, max_abs / max_integer; max_integer is chosen so that the sum over all clients, plus the tail of any
integer noise, stays below 2^31 in magnitude and cannot wrap. Rounding is stochastic: the expectation of the integer is
the scaled value (to 2^-32 of a quantum), so that errors average out over clients instead of adding up.

It does not protect: the integers ARE the values. Masking or encryption comes after.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from privacy.errors import MisuseError, RangeError
from privacy.streams import Keystream, Words

HALF_MODULUS = 2**31
_BLOCK = 2**15  # entries rounded at a time: the temporaries stay in the cache


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A named run of entries with one range: `length` values, each within [-max_abs, max_abs]."""

    name: str
    length: int
    max_abs: float


@dataclass(frozen=True, kw_only=True)
class SegmentRange:
    """One row of the range analysis; `worst_sum` is the largest |sum| over clients, in the segment's own unit."""

    name: str
    length: int
    max_abs: float
    quantum: float
    bits: int
    worst_sum: float


@dataclass(frozen=True, kw_only=True)
class RangeAnalysis:
    """Why no sum can wrap: `worst_integer` = max_clients * max_integer + noise_tail, `headroom` = 2^31 - 1 - that."""

    rows: tuple[SegmentRange, ...]
    max_clients: int
    max_integer: int
    noise_tail: int
    worst_integer: int
    headroom: int

    def lines(self) -> list[str]:
        """For people: one line per segment, then the bound."""
        lines = [
            f"{row.name}: {row.length} values within ±{row.max_abs:g}, quantum {row.quantum:.3g} ({row.bits} bits), "
            f"|sum| up to {row.worst_sum:g}"
            for row in self.rows
        ]
        lines.append(
            f"largest integer sum: {self.max_clients} clients x {self.max_integer} + noise tail {self.noise_tail} "
            f"= {self.worst_integer}, which is {self.headroom} below the limit 2^31 - 1: no wraparound"
        )
        return lines


@dataclass(frozen=True, kw_only=True)
class VectorFormat:
    """The layout and the range that all clients of a round share.

    `noise_tail` is the largest magnitude that integer noise, summed over all clients, is allowed for.

    Raises:
        MisuseError: no segment, a repeated name, a length below 1, a max_abs that is not positive and finite.
        RangeError: the modulus leaves no integer for a client, or a quantum would be too small for a float64.
    """

    segments: tuple[Segment, ...]
    max_clients: int
    noise_tail: int = 0

    def __post_init__(self) -> None:
        if self.max_clients < 1:
            raise MisuseError(f"max_clients = {self.max_clients} must be at least 1")
        if not 0 <= self.noise_tail < HALF_MODULUS:
            raise RangeError(f"noise_tail = {self.noise_tail} must lie in [0, 2^31)")
        if self.max_integer < 1:
            raise RangeError(
                f"max_clients = {self.max_clients} and noise_tail = {self.noise_tail} leave no integer below 2^31: "
                f"lower either so that (2^31 - 1 - noise_tail) / max_clients is at least 1"
            )
        names = [segment.name for segment in self.segments]
        if not names or len(set(names)) != len(names):
            raise MisuseError(f"segments must have different names and not be empty, got {names}")
        for segment in self.segments:
            if segment.length < 1:
                raise MisuseError(f"segment '{segment.name}': length = {segment.length} must be at least 1")
            if not (math.isfinite(segment.max_abs) and segment.max_abs > 0):
                raise MisuseError(f"segment '{segment.name}': max_abs = {segment.max_abs} must be positive and finite")
            if self.quantum(segment) < np.finfo(np.float64).tiny:
                raise RangeError(
                    f"segment '{segment.name}': max_abs = {segment.max_abs} is too small for a float64 quantum"
                )

    @property
    def length(self) -> int:
        """Entries of the whole vector."""
        return sum(segment.length for segment in self.segments)

    @property
    def max_integer(self) -> int:
        """The largest magnitude that one client may send."""
        return (HALF_MODULUS - 1 - self.noise_tail) // self.max_clients

    @property
    def bits(self) -> int:
        """Whole bits of magnitude, floor(log2(max_integer)): 24 for 100 clients without noise."""
        return self.max_integer.bit_length() - 1

    def quantum(self, segment: Segment) -> float:
        """The value of one integer step, in the segment's unit."""
        return segment.max_abs / self.max_integer

    def slice_of(self, name: str) -> slice:
        """Where a segment lies in the vector.

        Raises:
            MisuseError: there is no segment of that name.
        """
        start = 0
        for segment in self.segments:
            if segment.name == name:
                return slice(start, start + segment.length)
            start += segment.length
        raise MisuseError(f"no segment '{name}', there are {[segment.name for segment in self.segments]}")

    def analysis(self) -> RangeAnalysis:
        """The bound that every sum obeys, in integers and in the segments' units."""
        worst = self.max_clients * self.max_integer + self.noise_tail
        rows = tuple(
            SegmentRange(
                name=segment.name,
                length=segment.length,
                max_abs=segment.max_abs,
                quantum=self.quantum(segment),
                bits=self.bits,
                worst_sum=worst * self.quantum(segment),
            )
            for segment in self.segments
        )
        return RangeAnalysis(
            rows=rows,
            max_clients=self.max_clients,
            max_integer=self.max_integer,
            noise_tail=self.noise_tail,
            worst_integer=worst,
            headroom=HALF_MODULUS - 1 - worst,
        )


def encode(values: npt.NDArray[np.float64], *, vector_format: VectorFormat, rounding: Keystream) -> Words:
    """Integers modulo 2^32 (two's complement), shape (length,).

    The stream gives one word per entry: an entry rounds up when its word is below 2^32 times its fraction.

    **Guarantees** Every result, read as a signed integer, lies within ±max_integer; its expectation over the stream
    differs from value / quantum by less than 2^-32, except for the clamp of values within rounding of the limit.

    Raises:
        MisuseError: not a float64 vector of the format's length.
        RangeError: an entry is NaN, infinite or beyond its segment's max_abs. Nothing is clipped silently.
    """
    if values.dtype != np.float64 or values.shape != (vector_format.length,):
        raise MisuseError(
            f"values must be float64 of shape ({vector_format.length},), got {values.dtype} of shape {values.shape}"
        )
    limit = float(vector_format.max_integer)
    result = np.empty(vector_format.length, dtype=np.int32)
    for segment in vector_format.segments:
        where = vector_format.slice_of(segment.name)
        quantum = vector_format.quantum(segment)
        for start in range(where.start, where.stop, _BLOCK):
            part = slice(start, min(start + _BLOCK, where.stop))
            # NaN propagates through min and max and fails the comparison.
            if not (values[part].max() <= segment.max_abs and values[part].min() >= -segment.max_abs):
                raise _range_error(values[part], segment, first_index=start - where.start)
            scaled = values[part] / quantum
            # Division can exceed the limit by one unit in the last place.
            np.clip(scaled, -limit, limit, out=scaled)
            whole = np.floor(scaled)
            np.subtract(scaled, whole, out=scaled)
            np.multiply(scaled, 2.0**32, out=scaled)
            np.add(whole, rounding.words(scaled.size) < scaled, out=whole)
            result[part] = whole
    return result.view(np.uint32)


def decode_sum(total: Words, *, vector_format: VectorFormat) -> npt.NDArray[np.float64]:
    """The sum over clients in the segments' units, shape (length,); exact for up to max_clients encoded vectors.

    Raises:
        MisuseError: not a uint32 vector of the format's length.
    """
    if total.dtype != np.uint32 or total.shape != (vector_format.length,):
        raise MisuseError(
            f"total must be uint32 of shape ({vector_format.length},), got {total.dtype} of shape {total.shape}"
        )
    result = total.view(np.int32).astype(np.float64)
    for segment in vector_format.segments:
        result[vector_format.slice_of(segment.name)] *= vector_format.quantum(segment)
    return result


def _range_error(part: npt.NDArray[np.float64], segment: Segment, *, first_index: int) -> RangeError:
    offset = int(np.flatnonzero(~(np.abs(part) <= segment.max_abs))[0])
    return RangeError(
        f"segment '{segment.name}', index {first_index + offset}: value {part[offset]} lies outside "
        f"±{segment.max_abs:g} (max_abs); clip the vector or raise the segment's max_abs"
    )
