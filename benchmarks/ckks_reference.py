"""The other side of the comparison: CKKS as tutorials and platforms use TenSEAL, one encrypted vector for every tensor.

Ring degree 8192, primes of 60, 40 and 40 bits, scale 2^40, symmetric keys (the defaults of NVIDIA FLARE's
provisioning), one thread. Updates are serialised to bytes and parsed again, as they cross a network.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tenseal

from benchmarks.stopwatch import Stopwatch

Vector = npt.NDArray[np.float64]

RING_DEGREE = 8192
MODULUS_BITS = [60, 40, 40]
SCALE = 2.0**40


@dataclass(frozen=True, kw_only=True)
class CkksCost:
    """One round of all parties; `watch` has the parts encrypt, serialise, parse, add, decrypt."""

    watch: Stopwatch
    bytes_up: int
    worst_error: float


def measure(vectors: Sequence[Vector], *, sizes: Sequence[int]) -> CkksCost:
    """Every client encrypts its vector tensor by tensor; `sizes` are their entries, which add up to the length."""
    watch = Stopwatch()
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS,
        RING_DEGREE,
        coeff_mod_bit_sizes=MODULUS_BITS,
        encryption_type=tenseal.ENCRYPTION_TYPE.SYMMETRIC,
        n_threads=1,
    )
    context.global_scale = SCALE
    ends = np.cumsum(sizes)[:-1]
    total: list[Any] = []
    bytes_up = 0
    with _quiet():
        for vector in vectors:
            with watch.part("encrypt"):
                encrypted = [tenseal.ckks_vector(context, tensor) for tensor in np.split(vector, ends)]
            with watch.part("serialise"):
                messages = [tensor.serialize() for tensor in encrypted]
            bytes_up = sum(map(len, messages))
            with watch.part("parse"):
                parsed = [tenseal.ckks_vector_from(context, message) for message in messages]
            with watch.part("add"):
                if total:
                    for mine, other in zip(total, parsed, strict=True):
                        mine += other  # noqa: PLW2901 - adds in place
                else:
                    total = parsed
        with watch.part("serialise"):
            messages = [tensor.serialize() for tensor in total]
        with watch.part("parse"):
            parsed = [tenseal.ckks_vector_from(context, message) for message in messages]
        with watch.part("decrypt"):
            found = np.concatenate([tensor.decrypt() for tensor in parsed])
    error = float(np.abs(found - np.sum(vectors, axis=0)).max())
    return CkksCost(watch=watch, bytes_up=bytes_up, worst_error=error)


@contextmanager
def _quiet() -> Iterator[None]:
    """TenSEAL prints a warning from C++ for every vector longer than one ciphertext."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
