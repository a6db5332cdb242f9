"""Fixed point: every legal vector survives the round trip to one quantum, and every sum stays below the modulus."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from privacy.clipping import clip_by_l2_norm
from privacy.fixed_point import Segment, VectorFormat, decode_sum, encode
from privacy.streams import Keystream

unit_vectors = hnp.arrays(np.float64, st.integers(1, 50), elements=st.floats(-1, 1))
keys = st.binary(min_size=32, max_size=32)


def layout_of(size, max_abs, clients, noise_tail=0):
    return VectorFormat(
        segments=(Segment(name="delta", length=size, max_abs=max_abs),), max_clients=clients, noise_tail=noise_tail
    )


@given(vector=unit_vectors, max_abs=st.floats(1e-6, 1e6), clients=st.integers(1, 1000), key=keys)
def test_round_trip_errs_by_less_than_one_quantum(vector, max_abs, clients, key):
    layout = layout_of(vector.size, max_abs, clients)
    values = vector * max_abs
    back = decode_sum(encode(values, vector_format=layout, rounding=Keystream(key)), vector_format=layout)
    assert np.all(np.abs(back - values) <= layout.quantum(layout.segments[0]) * (1 + 1e-9) + 1e-15 * max_abs)


@given(vector=unit_vectors, clients=st.integers(1, 1000), tail=st.integers(0, 2**30), key=keys)
def test_integers_never_exceed_the_limit_and_sums_never_wrap(vector, clients, tail, key):
    layout = layout_of(vector.size, 3.0, clients, tail)
    integers = encode(vector * 3.0, vector_format=layout, rounding=Keystream(key)).view(np.int32).astype(np.int64)
    assert np.abs(integers).max() <= layout.max_integer
    assert clients * np.abs(integers).max() + tail < 2**31


@given(vector=unit_vectors, clients=st.integers(2, 20), key=keys)
def test_decoded_sum_of_encodings_is_the_sum_of_decoded_encodings(vector, clients, key):
    layout = layout_of(vector.size, 1.0, clients)
    stream = Keystream(key)
    encodings = [encode(vector, vector_format=layout, rounding=stream) for _ in range(clients)]
    total = np.zeros(vector.size, dtype=np.uint32)
    for integers in encodings:
        total += integers
    exact = sum(integers.view(np.int32).astype(np.int64) for integers in encodings)
    assert np.array_equal(total.view(np.int32), exact)
    assert np.array_equal(
        decode_sum(total, vector_format=layout), exact.astype(np.float64) * layout.quantum(layout.segments[0])
    )


any_float = st.floats(allow_nan=False, allow_infinity=False, width=64)


@given(
    vector=hnp.arrays(np.float64, st.integers(0, 40), elements=any_float),
    bound=st.floats(1e-150, 1e300),
)
def test_clipped_norm_never_exceeds_the_bound(vector, bound):
    clipped = clip_by_l2_norm(vector, bound=bound)
    scale = max(1.0, float(np.abs(clipped.values).max(initial=0.0)))
    assert float(np.linalg.norm(clipped.values / scale)) <= bound / scale
    again = clip_by_l2_norm(clipped.values, bound=bound)
    assert np.array_equal(again.values, clipped.values)


@given(vector=hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(-1e3, 1e3)), bound=st.floats(1e-3, 1e5))
def test_clipping_keeps_direction_and_short_vectors(vector, bound):
    clipped = clip_by_l2_norm(vector, bound=bound)
    norm = math.hypot(*vector)
    if norm < bound * (1 - 1e-12):
        assert np.array_equal(clipped.values, vector)
    else:
        assert np.allclose(clipped.values, vector * (bound / norm), rtol=1e-9, atol=0)
    assert math.isclose(clipped.norm_before, norm, rel_tol=1e-12)
