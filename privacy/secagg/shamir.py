"""Secret sharing of 32-byte secrets (Shamir 1979): any `threshold` shares give the secret, fewer give nothing.

Run by clients (`split`) and by the aggregator (`combine`). The field is GF(2^128), from pycryptodome, so a secret is
shared as two independent halves. It does not detect a wrong share: the protocol commits to every share for that.
"""

from collections.abc import Mapping

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


def combine(shares: Mapping[int, bytes], *, threshold: int) -> bytes:
    """The secret from shares by x coordinate; of more than `threshold` shares the lowest coordinates are used.

    Raises:
        MisuseError: fewer than `threshold` shares, a coordinate below 1, or a share that has not 32 bytes.
    """
    if threshold < 1 or len(shares) < threshold:
        raise MisuseError(f"{len(shares)} shares are fewer than threshold = {threshold}, or the threshold is below 1")
    if any(not 1 <= x < 2**128 for x in shares):
        raise MisuseError(f"x coordinates {sorted(shares)} must all be at least 1: the value at 0 is the secret")
    if any(len(share) != SHARE_BYTES for share in shares.values()):
        raise MisuseError(f"every share must have {SHARE_BYTES} bytes")
    chosen = [(x, shares[x]) for x in sorted(shares)[:threshold]]
    low: bytes = Shamir.combine([(x, share[:_HALF]) for x, share in chosen], ssss=False)
    high: bytes = Shamir.combine([(x, share[_HALF:]) for x, share in chosen], ssss=False)
    return low + high
