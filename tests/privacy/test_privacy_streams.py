"""Key derivation and keystreams."""

import pickle

import numpy as np
import pytest
from Crypto.Cipher import AES

from privacy import streams
from privacy.cbor import from_cbor, to_cbor
from privacy.errors import MisuseError
from privacy.streams import Keystream, add_streams, derive_key

KEY = bytes(range(32))


def reference_words(key, count):
    """Counter mode by hand: AES of 0, 1, 2 and so on, big-endian counters, little-endian words."""
    cipher = AES.new(key, AES.MODE_ECB)
    blocks = b"".join(cipher.encrypt(counter.to_bytes(16, "big")) for counter in range(-(-count // 4)))
    return np.frombuffer(blocks, dtype="<u4")[:count]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 65_536, 65_537, 200_001])
def test_words_are_counter_mode_by_hand(count):
    assert np.array_equal(Keystream(KEY).words(count), reference_words(KEY, count))


def test_calls_continue_where_the_last_one_stopped():
    stream, expected = Keystream(KEY), reference_words(KEY, 200_000)
    parts = [stream.words(5), stream.words(0), stream.words(70_000), stream.words(3)]
    accumulator = np.zeros(100_000, dtype=np.uint32)
    stream.add_to(accumulator, sign=1)
    assert np.array_equal(np.concatenate([*parts, accumulator]), expected[: 70_008 + 100_000])


def test_adding_and_subtracting_a_stream_restores_the_vector():
    vector = np.arange(150_000, dtype=np.uint32)
    accumulator = vector.copy()
    Keystream(KEY).add_to(accumulator, sign=1)
    assert np.array_equal(accumulator, vector + reference_words(KEY, 150_000))
    Keystream(KEY).add_to(accumulator, sign=-1)
    assert np.array_equal(accumulator, vector)


def test_several_streams_at_once_are_the_same_as_one_after_the_other():
    keys = [bytes([i]) * 32 for i in range(5)]
    together, apart = (np.arange(70_001, dtype=np.uint32) for _ in range(2))
    add_streams(together, [(Keystream(key), 1 if i % 2 else -1) for i, key in enumerate(keys)])
    for i, key in enumerate(keys):
        Keystream(key).add_to(apart, sign=1 if i % 2 else -1)
    assert np.array_equal(together, apart)


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("consumed", [0, 5, 40_000])
def test_masking_does_not_depend_on_the_number_of_threads(monkeypatch, threads, consumed):
    """Whole counts, counts that a thread enters halfway, and a last range that is shorter than the others."""
    monkeypatch.setattr(streams, "thread_count", lambda: threads)
    first, second = Keystream(KEY), Keystream(bytes(32))
    first.words(consumed)
    length = 4 * streams._RANGE_WORDS + 12_347
    accumulator = np.full(length, 7, dtype=np.uint32)
    add_streams(accumulator, [(first, 1), (second, -1)])
    monkeypatch.setattr(streams, "thread_count", lambda: 1)
    in_order = [Keystream(KEY), Keystream(bytes(32))]
    in_order[0].words(consumed)
    assert np.array_equal(accumulator, np.uint32(7) + in_order[0].words(length) - in_order[1].words(length))
    assert np.array_equal(first.words(9), in_order[0].words(9)), "the stream continues behind what was added"
    assert np.array_equal(second.words(9), in_order[1].words(9))


def test_uniforms_take_53_bits_of_two_words_each():
    words = reference_words(KEY, 20).astype(object)
    expected = [((int(words[2 * i + 1]) << 21) | (int(words[2 * i]) >> 11)) / 2**53 for i in range(10)]
    assert Keystream(KEY).uniforms(10).tolist() == expected


def test_every_part_of_a_derivation_separates_keys():
    base = {"round": 1, "name": "north"}
    keys = {
        derive_key(KEY, label="mask", context=base),
        derive_key(KEY, label="seal", context=base),
        derive_key(KEY, label="mask", context={"round": 2, "name": "north"}),
        derive_key(KEY, label="mask", context={"round": "1", "name": "north"}),
        derive_key(KEY, label="mask", context={"round": 1, "name": b"north"}),
        derive_key(KEY, label="mask", context={"round": 1}),
        derive_key(bytes(32), label="mask", context=base),
    }
    assert len(keys) == 7
    assert derive_key(KEY, label="mask", context={"name": "north", "round": 1}) in keys


@pytest.mark.parametrize(
    ("secret", "label", "context"), [(bytes(15), "mask", {"a": 1}), (KEY, "", {"a": 1}), (KEY, "mask", {})]
)
def test_unbound_derivations_are_refused(secret, label, context):
    with pytest.raises(MisuseError):
        derive_key(secret, label=label, context=context)


def test_keystream_hides_and_keeps_its_key():
    stream = Keystream(KEY)
    assert repr(stream) == str(stream) == "Keystream(<secret>)"
    with pytest.raises(MisuseError, match="cannot be pickled"):
        pickle.dumps(stream)
    with pytest.raises(MisuseError, match="32 are needed"):
        Keystream(bytes(16))


@pytest.mark.parametrize("accumulator", [np.zeros(4), np.zeros((2, 2), np.uint32), np.zeros(8, np.uint32)[::2]])
def test_other_accumulators_are_refused(accumulator):
    with pytest.raises(MisuseError, match="contiguous uint32"):
        Keystream(KEY).add_to(accumulator, sign=1)


def test_encoding_round_trips_its_closed_set():
    value = {"b": [0, 23, 24, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**64 - 1], "a": b"\x00", "long": "é" * 300}
    assert from_cbor(to_cbor(value)) == value
    assert to_cbor({"bb": 1, "a": 2}) == to_cbor({"a": 2, "bb": 1})


@pytest.mark.parametrize("value", [-1, 2**64, 1.5, None, True, {1: 2}, [object()], np.uint32(1)])
def test_encoding_refuses_everything_else(value):
    with pytest.raises(MisuseError):
        to_cbor(value)
