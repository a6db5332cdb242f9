"""exp(-x) of a rational x between integers, and a coin of exactly that probability.

Run by sites, inside `privacy.discrete_gaussian`. Integer arithmetic only: no rounding mode, no mathematical library and
no processor can change a result. The coin is a comparison of a uniform real with a probability, both known to ever more
bits until the order is certain (Knuth and Yao 1976; Karney 2016 samples normal deviates in this way).

It does not hide how long it ran: a comparison that needs more bits takes longer.
"""

from fractions import Fraction

from privacy.errors import MisuseError
from privacy.streams import Keystream

_WORD_BITS = 32
_GUARD_BITS = 24


def exponential_bounds(exponent: Fraction, *, precision: int) -> tuple[int, int]:
    """Integers (low, high) with low <= 2^precision * exp(-exponent) <= high, at most a few apart.

    Raises:
        MisuseError: a negative exponent, or a precision below 1 bit.
    """
    if exponent < 0 or precision < 1:
        raise MisuseError(f"exponent = {exponent} must be at least 0 and precision = {precision} at least 1")
    if exponent >= precision:
        return 0, 1  # below 2^-precision, since exp(-1) < 1/2; the integers further down would be as long as e^exponent
    halvings = max(0, int(exponent).bit_length())
    bits = precision + _GUARD_BITS + halvings
    one = 1 << bits
    numerator = exponent.numerator << bits
    denominator = exponent.denominator << halvings
    argument_low = numerator // denominator
    argument_high = -(-numerator // denominator)

    # The Taylor series of exp(+argument) has positive terms only. As argument <= 1, all that follows after the second
    # power sums to less than the last term taken.
    low, term, k = one, one, 1
    while term:
        term = (term * argument_low >> bits) // k
        low += term
        k += 1
    high, term, k = one, one, 1
    while term > 1 or k < 3:
        term = -(-(term * argument_high) // (k << bits))
        high += term
        k += 1
    high += term

    for _ in range(halvings):
        low = low * low >> bits
        high = -(-(high * high) >> bits)
    scale = bits + precision
    return (1 << scale) // high, -(-(1 << scale) // low)


def falls_below(scale: Fraction, exponent: Fraction, *, known: int, bits: int, stream: Keystream) -> bool:
    """Whether a uniform U in [0, 1) whose first `bits` bits are `known` lies below scale * exp(-exponent).

    The bits after the known ones come from the stream, 32 at a time and only while they are needed.

    **Guarantees** For `known` uniform on [0, 2^bits) the answer is True with probability exactly
    min(1, scale * exp(-exponent)).
    """
    while True:
        precision = bits + 8
        low, high = exponential_bounds(exponent, precision=precision)
        # U lies in [known, known + 1) / 2^bits.
        if (known + 1) * scale.denominator << (precision - bits) <= scale.numerator * low:
            return True
        if known * scale.denominator << (precision - bits) >= scale.numerator * high:
            return False
        known = known << _WORD_BITS | int(stream.words(1)[0])
        bits += _WORD_BITS
