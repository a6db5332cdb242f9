"""Whether 32-bit words look like noise: two chi-square tests that the plain encoding of an update fails.

A uniform mask over the full modulus makes the masked words exactly uniform, so their p-values are uniform too. Bytes
alone would miss a symmetric encoding, so neighbouring bits are compared as well.
"""

import numpy as np
from scipy import stats

from privacy.streams import Words

LEVEL = 1e-8
"""Below this p-value words count as not uniform; a false alarm is one test in a hundred million."""


def p_value(words: Words) -> float:
    """The smaller p-value of the two tests; words of shape (length,), at least a thousand."""
    return min(_bytes(words), _bits(words))


def _bytes(words: Words) -> float:
    """Over the 256 values of all bytes."""
    return float(stats.chisquare(np.bincount(words.view(np.uint8), minlength=256)).pvalue)


def _bits(words: Words) -> float:
    """Over how often each bit differs from the next higher one, and the highest from zero.

    Counting ones alone would miss an encoding that is symmetric about zero, where every bit is as often 0 as 1.
    """
    differences = words ^ (words >> np.uint32(1))
    ones = np.array([np.count_nonzero(differences & np.uint32(1 << bit)) for bit in range(32)])
    z = (ones - words.size / 2) / np.sqrt(words.size / 4)
    return float(stats.chi2.sf(np.sum(z**2), df=32))
