"""Secret sharing of 32-byte secrets (Shamir 1979): any `threshold` shares give the secret, fewer give nothing.

Run by clients (`split`) and by the aggregator (`Recombiner`, `combine`). The field is GF(2^128) with the polynomial
x^128 + x^7 + x^2 + x + 1, that of pycryptodome, so a secret is shared as two independent halves. Dealing is
pycryptodome's. Recombining is our own, because there every secret of a round has the same holders: their Lagrange
coefficients are computed once, and a secret then costs one product per holder.

It does not detect a wrong share: the protocol commits to every share for that. Recombining does not run in constant
time: at that point the shares have been revealed.
"""

from collections.abc import Mapping, Sequence

from Crypto.Protocol.SecretSharing import Shamir

from privacy.errors import MisuseError

SECRET_BYTES = 32
SHARE_BYTES = 32
_HALF = 16


def split(secret: bytes, *, threshold: int, share_count: int) -> dict[int, bytes]:
    """Shares of 32 bytes for the x coordinates 1 to `share_count`.

    Raises:
        MisuseError: the secret has not 32 bytes, or not 1 <= threshold <= share_count.
    """
    if len(secret) != SECRET_BYTES:
        raise MisuseError(f"secret has {len(secret)} bytes, {SECRET_BYTES} are needed")
    if not 1 <= threshold <= share_count:
        raise MisuseError(f"threshold = {threshold} must lie between 1 and share_count = {share_count}")
    low = Shamir.split(threshold, share_count, secret[:_HALF], ssss=False)
    high = Shamir.split(threshold, share_count, secret[_HALF:], ssss=False)
    return {x: low_share + high_share for (x, low_share), (_, high_share) in zip(low, high, strict=True)}


class Recombiner:
    """Recombines many secrets that were dealt to the same holders.

    Of more than `threshold` x coordinates the lowest are used.

    Raises:
        MisuseError: fewer than `threshold` coordinates, one that repeats, or one outside 1 to 2^128 - 1.
    """

    def __init__(self, coordinates: Sequence[int], *, threshold: int) -> None:
        if threshold < 1 or len(coordinates) < threshold:
            raise MisuseError(
                f"{len(coordinates)} shares are fewer than threshold = {threshold}, or the threshold is below 1"
            )
        if len(set(coordinates)) != len(coordinates) or any(not 1 <= x < 2**128 for x in coordinates):
            raise MisuseError(f"x coordinates {sorted(coordinates)} must differ and be at least 1: at 0 is the secret")
        self._coefficients = _lagrange_at_zero(sorted(coordinates)[:threshold])

    def combine(self, shares: Mapping[int, bytes]) -> bytes:
        """The secret from shares by x coordinate; those of coordinates that are not used are ignored.

        Raises:
            MisuseError: a coordinate in use has no share, or a share has not 32 bytes.
        """
        if any(len(share) != SHARE_BYTES for share in shares.values()):
            raise MisuseError(f"every share must have {SHARE_BYTES} bytes")
        missing = sorted(set(self._coefficients) - set(shares))
        if missing:
            raise MisuseError(f"there is no share for the x coordinates {missing}")
        low = high = 0
        for x, coefficient in self._coefficients.items():
            low ^= coefficient * _spread(int.from_bytes(shares[x][:_HALF], "big")) & _SLOTS
            high ^= coefficient * _spread(int.from_bytes(shares[x][_HALF:], "big")) & _SLOTS
        return _gather(low).to_bytes(_HALF, "big") + _gather(high).to_bytes(_HALF, "big")


def combine(shares: Mapping[int, bytes], *, threshold: int) -> bytes:
    """The secret from shares by x coordinate; of more than `threshold` shares the lowest coordinates are used.

    Raises:
        MisuseError: fewer than `threshold` shares, a coordinate below 1, or a share that has not 32 bytes.
    """
    return Recombiner(tuple(shares), threshold=threshold).combine(shares)


# Arithmetic in GF(2^128). An element is an int whose bit i is the coefficient of x^i. "Spread" puts each bit into a
# byte of its own; then the product of integers counts, in each byte, the pairs of bits that meet there (128 at most, so
# no byte overflows), and the lowest bits of these counts are the carry-less product: Python's fast multiplication does
# the work of 128 shifts.
_SLOTS = int.from_bytes(b"\x01" * 255, "big")
_ASCII_ZEROS = int.from_bytes(b"0" * 255, "big")


def _spread(element: int) -> int:
    # The digits 0 and 1 differ in the lowest bit of their ASCII codes.
    return int.from_bytes(f"{element:b}".encode("ascii"), "big") & _SLOTS


def _gather(slots: int) -> int:
    """The element that a spread product stands for, reduced by x^128 = x^7 + x^2 + x + 1."""
    product = int((slots | _ASCII_ZEROS).to_bytes(255, "big").decode("ascii"), 2)
    for _ in range(2):
        overflow = product >> 128
        product = (product & (2**128 - 1)) ^ overflow ^ (overflow << 1) ^ (overflow << 2) ^ (overflow << 7)
    return product


def _multiply(left: int, right: int) -> int:
    return _gather(_spread(left) * _spread(right) & _SLOTS)


def _invert(element: int) -> int:
    """The power 2^128 - 2, which is the inverse of everything but zero."""
    inverse, square = 1, element
    for _ in range(127):
        square = _multiply(square, square)
        inverse = _multiply(inverse, square)
    return inverse


def _lagrange_at_zero(coordinates: Sequence[int]) -> dict[int, int]:
    """By coordinate, the spread product of x_m / (x_m - x) over the other coordinates x_m; here minus is plus."""
    all_of_them = 1
    for x in coordinates:
        all_of_them = _multiply(all_of_them, x)
    coefficients = {}
    for x in coordinates:
        denominator = x
        for other in coordinates:
            if other != x:
                denominator = _multiply(denominator, x ^ other)
        coefficients[x] = _spread(_multiply(all_of_them, _invert(denominator)))
    return coefficients
