"""Encrypted sums are the plain sums modulo 2^32, for any number of sites, any length and the ends of the range."""

import numpy as np
from he_world import EXACT, decrypted, encrypted_sum, group_key, names
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.he.evaluator import CiphertextSum
from privacy.he.parameters import MAX_SUM

PER_CHUNK = EXACT.values_per_chunk
LENGTHS = st.sampled_from([1, 2, PER_CHUNK - 1, PER_CHUNK, PER_CHUNK + 1, 2 * PER_CHUNK, 2 * PER_CHUNK + 1])


@st.composite
def cohorts(draw):
    """Vectors of 2 to 100 sites whose sum stays within the range, with its ends among the values."""
    clients = draw(st.integers(2, 5) | st.integers(2, 100))
    length = draw(LENGTHS)
    largest = MAX_SUM // clients
    generator = np.random.Generator(np.random.PCG64(draw(st.integers(0, 2**32))))
    ends = np.array([-largest, largest, 0, 1, -1])
    shape = (clients, length)
    if draw(st.booleans()):
        signed = generator.integers(-largest, largest, size=shape, endpoint=True)
    else:
        signed = generator.choice(ends, size=(1 if draw(st.booleans()) else clients, length)) * np.ones(shape)
    return list(signed.astype(np.int32).view(np.uint32))


@settings(max_examples=25)
@given(vectors=cohorts())
def test_encrypted_sum_equals_plain_sum(vectors):
    length, clients = vectors[0].size, len(vectors)
    found = decrypted(encrypted_sum(vectors, key=group_key()), key=group_key(), length=length, contributors=clients)
    assert (found == np.sum(vectors, axis=0, dtype=np.uint32)).all()


@settings(max_examples=10)
@given(vectors=cohorts().filter(lambda vectors: len(vectors) < 10), data=st.data())
def test_any_order_of_additions_gives_the_same_bytes(vectors, data):
    key, length = group_key(), vectors[0].size
    messages = {
        name: key.encrypt(words, contributor=name, context=b"order")
        for name, words in zip(names(len(vectors)), vectors, strict=True)
    }
    totals = set()
    for order in (sorted(messages), data.draw(st.permutations(sorted(messages)))):
        total = CiphertextSum.create(parameters=EXACT, fingerprint=key.fingerprint, length=length)
        for name in order:
            total.add(messages[name], contributor=name)
        assert total.contributors == tuple(sorted(messages))
        totals.add(total.total())
    assert len(totals) == 1
