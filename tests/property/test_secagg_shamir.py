"""Secret sharing: any threshold of shares gives the secret, one fewer is consistent with every secret."""

import itertools

import pytest
from Crypto.Protocol.SecretSharing import Shamir
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import MisuseError
from privacy.secagg import shamir

secret_bytes = st.binary(min_size=32, max_size=32)


@given(secret=secret_bytes, data=st.data())
def test_any_threshold_of_shares_reconstructs(secret, data):
    count = data.draw(st.integers(1, 7))
    threshold = data.draw(st.integers(1, count))
    shares = shamir.split(secret, threshold=threshold, share_count=count)
    chosen = data.draw(st.permutations(sorted(shares)))[: data.draw(st.integers(threshold, count))]
    assert sorted(shares) == list(range(1, count + 1))
    assert shamir.combine({x: shares[x] for x in chosen}, threshold=threshold) == secret


@given(secret=secret_bytes, other=secret_bytes)
def test_fewer_shares_are_consistent_with_every_secret(secret, other):
    """For any other secret there is a third share that makes two given shares of three reconstruct it.

    Reconstruction is linear over GF(2^128), so this share is found from the weights of the three x coordinates.
    """
    shares = shamir.split(secret, threshold=3, share_count=3)
    unit = {x: shamir.combine({y: _word(1 if y == x else 0) for y in (1, 2, 3)}, threshold=3) for x in (1, 2, 3)}
    known = shamir.combine({1: shares[1], 2: shares[2], 3: bytes(32)}, threshold=3)
    missing = _xor(known, other)
    # The share y with weight * y = missing, halves separately, where weight = unit[3].
    forged = b"".join(_divide(missing[half], unit[3][half]) for half in (slice(0, 16), slice(16, 32)))
    assert shamir.combine({1: shares[1], 2: shares[2], 3: forged}, threshold=3) == other


def test_all_single_pairs_of_a_small_sharing_reconstruct():
    secret = bytes(range(32))
    shares = shamir.split(secret, threshold=2, share_count=5)
    for pair in itertools.combinations(shares, 2):
        assert shamir.combine({x: shares[x] for x in pair}, threshold=2) == secret


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_recombining_equals_pycryptodome(data):
    """For any shares at all, so also for those that no polynomial of a dealer gave."""
    count = data.draw(st.integers(1, 12) | st.just(100))
    small, large = st.integers(1, 100), st.integers(1, 2**128 - 1)
    coordinates = data.draw(st.lists(small | large, min_size=count, max_size=count, unique=True))
    threshold = data.draw(st.integers(1, min(count, 20)))
    recombiner = shamir.Recombiner(coordinates, threshold=threshold)
    for _ in range(2):
        shares = {x: data.draw(st.binary(min_size=32, max_size=32)) for x in coordinates}
        chosen = sorted(coordinates)[:threshold]
        halves = (
            Shamir.combine([(x, shares[x][half]) for x in chosen], ssss=False) for half in (slice(16), slice(16, 32))
        )
        assert recombiner.combine(shares) == b"".join(halves)


def test_a_hundred_holders_reconstruct_many_secrets():
    secrets = [bytes([i]) * 32 for i in range(2)]
    dealt = [shamir.split(secret, threshold=67, share_count=100) for secret in secrets]
    recombiner = shamir.Recombiner(range(34, 101), threshold=67)
    assert [recombiner.combine(shares) for shares in dealt] == secrets


def test_one_changed_share_changes_the_secret():
    shares = shamir.split(bytes(32), threshold=3, share_count=4)
    shares[2] = bytes([shares[2][0] ^ 1]) + shares[2][1:]
    assert shamir.combine(shares, threshold=3) != bytes(32)


def test_two_sharings_of_one_secret_differ():
    first, second = (shamir.split(bytes(32), threshold=2, share_count=2) for _ in range(2))
    assert first[1] != second[1]


@pytest.mark.parametrize(
    ("shares", "threshold"),
    [
        ({1: bytes(32)}, 2),
        ({}, 0),
        ({0: bytes(32), 1: bytes(32)}, 2),
        ({-1: bytes(32), 1: bytes(32)}, 2),
        ({2**128 + 1: bytes(32), 1: bytes(32)}, 2),
        ({1: bytes(31), 2: bytes(32)}, 2),
    ],
)
def test_impossible_shares_are_the_callers_mistake(shares, threshold):
    with pytest.raises(MisuseError):
        shamir.combine(shares, threshold=threshold)


@pytest.mark.parametrize("coordinates", [[1, 1], [1, 2, 2], [0, 1], [1, 2**128], [1]])
def test_impossible_holders_are_the_callers_mistake(coordinates):
    with pytest.raises(MisuseError):
        shamir.Recombiner(coordinates, threshold=2)


def test_a_missing_share_is_the_callers_mistake_and_a_surplus_one_is_ignored():
    shares = shamir.split(bytes(32), threshold=2, share_count=4)
    recombiner = shamir.Recombiner([1, 2, 3], threshold=2)
    assert recombiner.combine(shares) == recombiner.combine({1: shares[1], 2: shares[2]}) == bytes(32)
    with pytest.raises(MisuseError, match=r"coordinates \[2\]"):
        recombiner.combine({1: shares[1], 3: shares[3]})


@pytest.mark.parametrize(("secret", "threshold", "count"), [(bytes(31), 2, 3), (bytes(32), 0, 3), (bytes(32), 4, 3)])
def test_impossible_sharings_are_the_callers_mistake(secret, threshold, count):
    with pytest.raises(MisuseError):
        shamir.split(secret, threshold=threshold, share_count=count)


def _word(value):
    return value.to_bytes(16, "big") * 2


def _xor(left, right):
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def _multiply(left, right):
    """In GF(2^128) with 1 + x + x^2 + x^7 + x^128, most significant bit first, as pycryptodome documents it."""
    a, b, product = int.from_bytes(left, "big"), int.from_bytes(right, "big"), 0
    while b:
        if b & 1:
            product ^= a
        a <<= 1
        if a >> 128:
            a ^= (1 << 128) | 0x87
        b >>= 1
    return product.to_bytes(16, "big")


def _divide(left, right):
    """The quotient: left times right to the power 2^128 - 2."""
    inverse, square = (1).to_bytes(16, "big"), right
    for _ in range(127):
        square = _multiply(square, square)
        inverse = _multiply(inverse, square)
    return _multiply(left, inverse)
