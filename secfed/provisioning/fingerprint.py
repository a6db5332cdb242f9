"""A fingerprint that two people compare over the telephone: 128 bits of SHA-256, in groups of four hexadecimal digits.

Run by every party. To find a second key or request with a given fingerprint takes about 2^128 tries; the fingerprint of
something that an adversary made is no promise that it made only one.
"""

import hashlib
import re

_DIGITS = 32


def fingerprint(data: bytes) -> str:
    """Eight groups of four digits, as "3f2a 9c01 ..."."""
    digest = hashlib.sha256(data).hexdigest()[:_DIGITS]
    return " ".join(digest[start : start + 4] for start in range(0, _DIGITS, 4))


def same_fingerprint(data: bytes, told: str) -> bool:
    """Whether what somebody was told is this fingerprint; white space, colons and capitals do not matter."""
    return re.sub(r"[\s:-]", "", told).lower() == fingerprint(data).replace(" ", "")
