"""Which patients a step looks at: each one by its own exact coin, independent of all others (Poisson sampling).

Run by sites. Accounting of a subsampled mechanism assumes that every patient takes part with probability q, by itself,
and that nobody else knows who did. So the coins are not rounded, and they come from a keyed stream.

It does not hide who was chosen from whoever knows the key, or who sees how long a step took.
"""

from fractions import Fraction

import numpy as np

from privacy.errors import MisuseError
from privacy.streams import Keystream

_BITS = 64


def poisson_lot(patients: int, sampling_prob: Fraction | float, stream: Keystream) -> tuple[int, ...]:
    """Indices below `patients`, rising, each there with probability exactly `sampling_prob`; often not one of them.

    A float stands for the rational that it is. The key of the stream must be fresh and serve nothing else. An empty lot
    is a step like any other: its sum is zero, and it is released with noise and counted.

    Raises:
        MisuseError: a negative number of patients, or `sampling_prob` is not in (0, 1].
    """
    if patients < 0:
        raise MisuseError(f"patients = {patients} must not be negative")
    if not 0 < sampling_prob <= 1:
        raise MisuseError(f"sampling_prob = {sampling_prob} must lie in (0, 1]")
    if sampling_prob == 1:
        return tuple(range(patients))
    whole, rest = divmod(Fraction(sampling_prob) * 2**_BITS, 1)
    words = stream.words(2 * patients).astype(np.uint64)
    uniform = words[0::2] << np.uint64(32) | words[1::2]
    chosen = uniform < np.uint64(whole)
    # 64 bits that equal those of the probability leave the coin open: the rest of the probability decides it.
    for index in np.flatnonzero(uniform == np.uint64(whole)):
        chosen[index] = _falls_below(rest, stream)
    return tuple(int(index) for index in np.flatnonzero(chosen))


def _falls_below(probability: Fraction, stream: Keystream) -> bool:
    """A coin that is true with exactly this probability, in [0, 1), from as many more bits as settle it."""
    while probability:
        whole, probability = divmod(probability * 2**32, 1)
        word = int(stream.words(1)[0])
        if word != whole:
            return word < whole
    return False
