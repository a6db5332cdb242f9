"""Layouts, limits and refusals of the fixed-point code."""

import numpy as np
import pytest

from privacy.errors import MisuseError, RangeError
from privacy.fixed_point import Segment, VectorFormat, decode_sum, encode
from privacy.streams import Keystream

LAYOUT = VectorFormat(
    segments=(Segment(name="delta", length=4, max_abs=2.0), Segment(name="weight", length=1, max_abs=1.0)),
    max_clients=4,
)


def encoded(values):
    return encode(np.asarray(values, dtype=np.float64), vector_format=LAYOUT, rounding=Keystream(bytes(32)))


def test_hundred_clients_leave_24_bits():
    layout = VectorFormat(segments=LAYOUT.segments, max_clients=100)
    assert (layout.max_integer, layout.bits) == (21_474_836, 24)


def test_analysis_proves_that_no_sum_wraps():
    for clients, tail in ((1, 0), (7, 12_345), (100, 2**20), (2**20, 5)):
        analysis = VectorFormat(segments=LAYOUT.segments, max_clients=clients, noise_tail=tail).analysis()
        assert analysis.worst_integer + analysis.headroom == 2**31 - 1
        assert analysis.headroom >= 0
        assert analysis.worst_integer == clients * analysis.max_integer + tail
        for row in analysis.rows:
            assert row.worst_sum >= clients * row.max_abs * (1 - 1e-12)


def test_analysis_lines_name_every_segment_and_the_bound():
    lines = LAYOUT.analysis().lines()
    assert [line.split(":")[0] for line in lines] == ["delta", "weight", "largest integer sum"]
    assert "no wraparound" in lines[-1]


def test_segments_lie_one_after_the_other():
    assert LAYOUT.length == 5
    assert LAYOUT.slice_of("delta") == slice(0, 4)
    assert LAYOUT.slice_of("weight") == slice(4, 5)
    with pytest.raises(MisuseError, match="no segment 'bias'"):
        LAYOUT.slice_of("bias")


def test_limits_are_encoded_exactly_and_zero_is_zero():
    integers = encoded([2.0, -2.0, 0.0, -0.0, 1.0]).view(np.int32)
    assert integers.tolist() == [LAYOUT.max_integer, -LAYOUT.max_integer, 0, 0, LAYOUT.max_integer]


class InsecureZeros(Keystream):
    """A rounding stream that rounds up whatever has a fraction."""

    def words(self, count):
        return np.zeros(count, dtype=np.uint32)


def test_limit_holds_where_division_exceeds_it_by_rounding():
    exceeded = 0
    for max_abs in np.linspace(1.0, 2.0, 500).tolist():
        layout = VectorFormat(segments=(Segment(name="delta", length=2, max_abs=max_abs),), max_clients=7)
        exceeded += max_abs / layout.quantum(layout.segments[0]) > layout.max_integer
        integers = encode(np.array([max_abs, -max_abs]), vector_format=layout, rounding=InsecureZeros(bytes(32)))
        assert np.abs(integers.view(np.int32)).max() <= layout.max_integer
    assert exceeded > 0, "no case reached the limit from above, so this test shows nothing"


@pytest.mark.parametrize(
    ("index", "value", "place"),
    [
        (1, np.nan, "segment 'delta', index 1: value nan"),
        (2, np.inf, "segment 'delta', index 2: value inf"),
        (3, -np.inf, "segment 'delta', index 3: value -inf"),
        (0, np.nextafter(2.0, 3.0), "segment 'delta', index 0: value 2.0000000000000004"),
        (4, -1.01, r"segment 'weight', index 0: value -1.01 lies outside ±1"),
    ],
)
def test_values_out_of_range_are_refused_by_name(index, value, place):
    values = np.zeros(5)
    values[index] = value
    with pytest.raises(RangeError, match=place):
        encoded(values)


def test_value_out_of_range_deep_in_a_long_segment_is_found():
    layout = VectorFormat(segments=(Segment(name="delta", length=100_000, max_abs=1.0),), max_clients=2)
    values = np.zeros(100_000)
    values[77_777] = 1.5
    with pytest.raises(RangeError, match="index 77777"):
        encode(values, vector_format=layout, rounding=Keystream(bytes(32)))


def test_blocks_of_a_long_vector_use_one_stream_without_gaps():
    count = 70_000
    layout = VectorFormat(segments=(Segment(name="delta", length=count, max_abs=1.0),), max_clients=100)
    scaled = np.linspace(-1000.0, 1000.0, count)
    values = scaled * layout.quantum(layout.segments[0])
    again = values / layout.quantum(layout.segments[0])
    fraction = again - np.floor(again)
    expected = np.floor(again) + (Keystream(b"k" * 32).words(count) < fraction * 2.0**32)
    found = encode(values, vector_format=layout, rounding=Keystream(b"k" * 32)).view(np.int32)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"max_clients": 0}, MisuseError),
        ({"max_clients": 2**31}, RangeError),
        ({"noise_tail": -1}, RangeError),
        ({"noise_tail": 2**31}, RangeError),
        ({"noise_tail": 2**31 - 2}, RangeError),
        ({"segments": ()}, MisuseError),
        ({"segments": (Segment(name="a", length=0, max_abs=1.0),)}, MisuseError),
        ({"segments": (Segment(name="a", length=1, max_abs=0.0),)}, MisuseError),
        ({"segments": (Segment(name="a", length=1, max_abs=float("inf")),)}, MisuseError),
        ({"segments": (Segment(name="a", length=1, max_abs=1e-307),)}, RangeError),
        ({"segments": (Segment(name="a", length=1, max_abs=1.0),) * 2}, MisuseError),
    ],
)
def test_impossible_formats_are_refused(changes, error):
    with pytest.raises(error):
        VectorFormat(**{"segments": LAYOUT.segments, "max_clients": 4, **changes})


@pytest.mark.parametrize("values", [np.zeros(4), np.zeros((5, 1)), np.zeros(5, dtype=np.float32)])
def test_wrong_shapes_and_types_are_the_callers_mistake(values):
    with pytest.raises(MisuseError, match="values must be float64"):
        encode(values, vector_format=LAYOUT, rounding=Keystream(bytes(32)))
    with pytest.raises(MisuseError, match="total must be uint32"):
        decode_sum(values, vector_format=LAYOUT)
