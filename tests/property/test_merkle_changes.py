"""Any changed word changes the root and names its leaf; the root is the recursion that RFC 9162 gives."""

import hashlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy import merkle

WORDS_PER_LEAF = merkle.LEAF_BYTES // 4


@settings(max_examples=25, deadline=None)
@given(
    length=st.integers(1, 5 * WORDS_PER_LEAF),
    position=st.floats(0, 1, exclude_max=True),
    mask=st.integers(1, 2**32 - 1),
)
def test_a_changed_word_changes_the_root_and_names_its_leaf(length, position, mask):
    words = np.arange(length, dtype=np.uint32)
    changed, index = words.copy(), int(position * length)
    changed[index] ^= np.uint32(mask)
    before, after = merkle.leaf_digests(words), merkle.leaf_digests(changed)
    assert merkle.merkle_root(before) != merkle.merkle_root(after)
    assert merkle.differing_leaves(before, after) == (index // WORDS_PER_LEAF,)


@given(leaves=st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=70))
def test_the_root_is_the_recursion_of_rfc_9162(leaves):
    assert merkle.merkle_root(leaves) == recursive_root(leaves)


def recursive_root(leaves):
    """RFC 9162, section 2.1.1: split at the largest power of two below the count."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + recursive_root(leaves[:split]) + recursive_root(leaves[split:])).digest()
