"""The hash tree over vectors, and the number of threads it may use."""

import hashlib
import os

import numpy as np
import pytest

from privacy import cores, merkle
from privacy.errors import MisuseError

WORDS_PER_LEAF = merkle.LEAF_BYTES // 4


def vector(length, seed=0):
    return np.random.Generator(np.random.PCG64(seed)).integers(0, 2**32, size=length, dtype=np.uint32)


@pytest.mark.parametrize("length", [1, WORDS_PER_LEAF, WORDS_PER_LEAF + 1, 9 * WORDS_PER_LEAF - 1])
def test_leaves_are_tagged_hashes_of_little_endian_mebibytes(length):
    words = vector(length)
    data = words.astype("<u4").tobytes()
    expected = tuple(hashlib.sha256(b"\x00" + data[at : at + 2**20]).digest() for at in range(0, len(data), 2**20))
    assert merkle.leaf_digests(words) == expected


def test_strided_vectors_hash_as_their_copies():
    words = vector(3 * WORDS_PER_LEAF)
    assert merkle.vector_root(words[::2]) == merkle.vector_root(words[::2].copy())


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_roots_do_not_depend_on_the_number_of_threads(monkeypatch, threads):
    words = vector(7 * WORDS_PER_LEAF + 5)
    expected = merkle.merkle_root([merkle.leaf_digests(words[at : at + WORDS_PER_LEAF])[0] for at in _starts(words)])
    monkeypatch.setattr(merkle, "thread_count", lambda: threads)
    assert merkle.vector_root(words) == expected


def test_a_node_is_never_a_leaf():
    """The bytes of an inner node, offered as a vector of their own, have another root than the node."""
    leaves = merkle.leaf_digests(vector(2 * WORDS_PER_LEAF))
    inner = np.frombuffer(leaves[0] + leaves[1], dtype="<u4").astype(np.uint32)
    assert merkle.vector_root(inner) != merkle.merkle_root(leaves)
    tagged = np.frombuffer((b"\x01" + leaves[0] + leaves[1]).ljust(68, b"\x00"), dtype="<u4").astype(np.uint32)
    assert merkle.vector_root(tagged) != merkle.merkle_root(leaves)


def test_leaves_cannot_be_merged_or_swapped():
    leaves = merkle.leaf_digests(vector(3 * WORDS_PER_LEAF))
    root = merkle.merkle_root(leaves)
    assert root != merkle.merkle_root([leaves[1], leaves[0], leaves[2]])
    assert root != merkle.merkle_root([*leaves, leaves[2]])
    assert root != merkle.merkle_root(leaves[:2])


def test_surplus_leaves_differ():
    one, two, three = (bytes([value]) * 32 for value in (1, 2, 3))
    assert merkle.differing_leaves([one, two, three], [one, two, three]) == ()
    assert merkle.differing_leaves([one, two], [one, three, two]) == (1, 2)
    assert merkle.differing_leaves([one, two, three], [one]) == (1, 2)


@pytest.mark.parametrize(
    "words", [np.zeros(0, np.uint32), np.zeros(4, np.int32), np.zeros((2, 2), np.uint32), np.zeros(4)]
)
def test_other_vectors_are_refused(words):
    with pytest.raises(MisuseError, match="uint32 vector"):
        merkle.vector_root(words)


@pytest.mark.parametrize("leaves", [[], [b""], [bytes(32), bytes(31)]])
def test_other_leaves_are_refused(leaves):
    with pytest.raises(MisuseError, match="32 bytes"):
        merkle.merkle_root(leaves)


def test_threads_follow_the_cores_that_the_process_may_use(monkeypatch):
    for allowed, expected in [({5}, 1), ({0, 1}, 2), (set(range(64)), cores.MAX_THREADS)]:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, allowed=allowed: allowed, raising=False)
        assert cores.thread_count() == expected


def _starts(words):
    return range(0, words.size, WORDS_PER_LEAF)
