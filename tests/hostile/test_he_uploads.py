"""Encrypted vectors from hostile sites: refused before any arithmetic, and the sum of the others is unharmed."""

import struct

import numpy as np
import pytest
from he_world import CONTEXT, EXACT, decrypted, encrypted_sum, group_key, names, random_words, with_more_clients
from hostile_bytes import damaged, hostile
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import HostileInputError, MisuseError
from privacy.he.evaluator import CiphertextSum
from privacy.he.key_holder import GroupKey
from privacy.he.layout import HEADER_BYTES, message_root
from privacy.he.parameters import HeParameters
from privacy.he.seal import open_group_key, seal_group_key

LENGTH = 10
WORDS = [random_words(LENGTH, max_abs=1000, seed=seed) for seed in range(3)]
PRIME = EXACT.moduli[0]


def message(which=0, *, key=None, words=None, name=None):
    chosen = WORDS[which] if words is None else words
    return (key or group_key()).encrypt(chosen, contributor=name or names(3)[which], context=CONTEXT)


def empty_sum(parameters=EXACT):
    return CiphertextSum.create(parameters=parameters, fingerprint=group_key().fingerprint, length=LENGTH)


def with_residue(data, index, value):
    start = HEADER_BYTES + 6 * index
    return data[:start] + value.to_bytes(6, "little") + data[start + 6 :]


BAD = {
    "empty": (lambda: b"", "a message has 0 bytes"),
    "header only": (lambda: message()[:HEADER_BYTES], "a message has 88 bytes"),
    "truncated": (lambda: message()[:-1], "a message has 49239 bytes"),
    "oversized": (lambda: message() + b"\0", "a message has 49241 bytes"),
    "a chunk too many": (lambda: message() + message()[HEADER_BYTES:], "a message has 98392 bytes"),
    "a longer vector": (lambda: message(words=np.ones(5000, dtype=np.uint32)), "a message has 98392 bytes"),
    "another length in as many chunks": (lambda: message(words=np.ones(11, dtype=np.uint32)), "says length 11"),
    "another key": (lambda: message(key=group_key(EXACT, 1)), "names another group key"),
    "other parameters": (lambda: message(key=group_key(HeParameters.exact(max_clients=99))), "under other parameters"),
    "a sum of two": (lambda: encrypted_sum(WORDS[:2], key=group_key()), "holds 2 vectors, expected 1"),
    "another mark": (lambda: b"x" + message()[1:], "does not start as"),
    "a residue at the prime": (lambda: with_residue(message(), 8191, PRIME), "not below its prime"),
    "all bits set": (lambda: with_residue(message(), 0, 2**48 - 1), "not below its prime"),
    "a bytearray": (lambda: bytearray(message()), "expected bytes, got bytearray"),
    "text": (lambda: "message", "expected bytes, got str"),
}


@pytest.mark.parametrize("bad,reason", BAD.values(), ids=BAD.keys())
def test_a_bad_upload_is_refused_and_the_round_goes_on(bad, reason):
    total = empty_sum()
    total.add(message(0), contributor="site-000")
    with pytest.raises(HostileInputError, match=reason) as caught:
        total.add(bad(), contributor="site-002")
    assert caught.value.party == "site-002"
    assert total.contributors == ("site-000",)
    total.add(message(1), contributor="site-001")
    found = decrypted(total.total(), key=group_key(), length=LENGTH, contributors=2)
    assert (found == WORDS[0] + WORDS[1]).all()


def test_a_bad_first_upload_leaves_the_sum_empty():
    total = empty_sum()
    with pytest.raises(HostileInputError, match="not below its prime"):
        total.add(with_residue(message(), 5, PRIME), contributor="site-000")
    with pytest.raises(MisuseError, match="0 vectors"):
        total.total()


def test_the_largest_residue_is_accepted():
    empty_sum().add(with_residue(message(), 0, PRIME - 1), contributor="site-000")


def test_nobody_is_added_twice_and_no_more_than_agreed():
    few = with_more_clients(EXACT, 2)
    key = group_key(few)
    total = CiphertextSum.create(parameters=few, fingerprint=key.fingerprint, length=LENGTH)
    total.add(message(0, key=key), contributor="site-000")
    with pytest.raises(HostileInputError, match="second encrypted vector"):
        total.add(message(0, key=key), contributor="site-000")
    with pytest.raises(MisuseError, match="at least 2"):
        total.total()
    total.add(message(1, key=key), contributor="site-001")
    with pytest.raises(HostileInputError, match="after the 2 that may be added"):
        total.add(message(2, key=key), contributor="site-002")


@settings(max_examples=40)
@given(data=st.data())
def test_damaged_uploads_never_become_a_wrong_sum(data):
    """The aggregator or the key holders refuse them, unless no more than noise changed and the sum is right."""
    bad = data.draw(damaged(message()))
    total = empty_sum()
    total.add(message(1), contributor="site-001")
    try:
        total.add(bad, contributor="site-000")
    except HostileInputError:
        assert total.contributors == ("site-001",)
        return
    try:
        found = decrypted(total.total(), key=group_key(), length=LENGTH, contributors=2)
    except HostileInputError as error:
        assert "not the sum of these" in error.reason
    else:
        assert (found == WORDS[0] + WORDS[1]).all()


def test_a_damaged_high_bit_is_refused_by_the_key_holders():
    bad = bytearray(message())
    bad[HEADER_BYTES + 6 * 100 + 5] ^= 0x40
    total = empty_sum()
    total.add(message(1), contributor="site-001")
    total.add(bytes(bad), contributor="site-000")
    with pytest.raises(HostileInputError, match="not the sum of these"):
        decrypted(total.total(), key=group_key(), length=LENGTH, contributors=2)


@given(data=st.data())
def test_damaged_parameters_are_refused(data):
    bad = data.draw(hostile(EXACT.to_bytes()))
    try:
        found = HeParameters.from_bytes(bad, floor=EXACT)
    except HostileInputError:
        return
    assert found.to_bytes() == bad
    found.require_at_least(EXACT)


@pytest.mark.parametrize(
    "weaker,reason",
    [
        (HeParameters.approximate(max_clients=100), "scheme is CKKS, asked is BFV"),
        (HeParameters.approximate(max_clients=100), "plain_modulus is 0"),
        (HeParameters.exact(max_clients=99), "max_clients is 99, asked is 100"),
        (HeParameters.exact(max_clients=2000), r"modulus_bits is \(54, 55\), asked is \(48, 49\)"),
    ],
    ids=["scheme", "plaintext modulus", "fewer clients", "more modulus"],
)
def test_a_downgrade_is_refused(weaker, reason):
    with pytest.raises(HostileInputError, match=reason):
        HeParameters.from_bytes(weaker.to_bytes(), floor=EXACT)


def test_a_smaller_ring_or_scale_is_refused():
    floor = HeParameters.common_ckks(max_clients=100)
    with pytest.raises(HostileInputError, match=r"ring_degree is 4096.*scale_bits is 20"):
        HeParameters.from_bytes(HeParameters.approximate(max_clients=100).to_bytes(), floor=floor)


@pytest.mark.parametrize("bits", [(55, 55), (54, 56), (60, 60)])
def test_parameters_beyond_the_security_table_are_refused(bits):
    from privacy.cbor import from_cbor, to_cbor

    offer = to_cbor({**from_cbor(EXACT.to_bytes()), "modulus_bits": bits})
    with pytest.raises(HostileInputError, match="128 bits of security allow 109"):
        HeParameters.from_bytes(offer, floor=EXACT)


@settings(max_examples=40)
@given(data=st.data())
def test_damaged_group_keys_are_refused_or_have_another_fingerprint(data):
    bad = data.draw(damaged(group_key().to_bytes()))
    try:
        found = GroupKey.from_bytes(bad, parameters=EXACT)
    except HostileInputError:
        return
    assert found.fingerprint != group_key().fingerprint


@settings(max_examples=30)
@given(data=st.data())
def test_damaged_seals_do_not_open(data):
    facts = {"pair_key": bytes(range(32)), "session": bytes(32), "dealer": "site-a", "holder": "site-b"}
    bad = data.draw(damaged(seal_group_key(group_key(), **facts)))
    with pytest.raises(HostileInputError):
        open_group_key(bad, **facts, parameters=EXACT, fingerprint=group_key().fingerprint)


@pytest.mark.parametrize(
    "secret", [bytes(2 * 8 * 4096), b"\xff" * (2 * 8 * 4096), struct.pack("<Q", PRIME) * 8192, bytes(5)], ids=len
)
def test_group_keys_without_a_secret_or_beyond_their_primes_are_refused(secret):
    from privacy.cbor import from_cbor, to_cbor

    fields = {**from_cbor(group_key().to_bytes()), "secret": secret}
    with pytest.raises(HostileInputError, match=r"secret|residue"):
        GroupKey.from_bytes(to_cbor(fields), parameters=EXACT)


@pytest.mark.parametrize("data", [b"", bytes(88), bytes(91)], ids=len)
def test_no_root_is_taken_of_what_is_no_message(data):
    with pytest.raises(HostileInputError, match="no encrypted vector"):
        message_root(data)
