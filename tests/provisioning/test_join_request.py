"""A request is signed by both of the keys that it names, and nothing else is read as one."""

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from privacy.cbor import from_cbor, to_cbor
from privacy.errors import HostileInputError
from privacy.secagg.identity import Identity
from secfed.provisioning.join_request import make_join_request, read_join_request

IDENTITY = Identity.generate("ct-a")
NODE_KEY = ec.generate_private_key(ec.SECP384R1())
REQUEST = make_join_request(consortium="abdomen", created=1_790_000_000, identity=IDENTITY, node_key=NODE_KEY)


def test_a_request_says_who_asks_for_what_with_which_keys():
    found = read_join_request(REQUEST)
    assert (found.consortium, found.name, found.created) == ("abdomen", "ct-a", 1_790_000_000)
    assert found.identity_key == IDENTITY.public_key


def test_no_private_half_is_in_it():
    assert IDENTITY.to_bytes() not in REQUEST
    assert NODE_KEY.private_numbers().private_value.to_bytes(48, "big") not in REQUEST


@given(st.integers(0, len(REQUEST) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused(place, mask):
    changed = bytearray(REQUEST)
    changed[place] ^= mask
    try:
        found = read_join_request(bytes(changed))
    except HostileInputError:
        return
    # ECDSA signatures are DER, and some changes there are another signature of the same message.
    assert found == read_join_request(REQUEST)
    assert from_cbor(bytes(changed))[0] == from_cbor(REQUEST)[0]


@given(st.binary(max_size=300))
def test_no_bytes_make_it_raise_anything_else(data):
    with pytest.raises(HostileInputError):
        read_join_request(data)


def test_nobody_asks_in_the_name_of_a_key_that_it_does_not_hold():
    payload, _, node_signature = from_cbor(REQUEST)
    stranger = Identity.generate("ct-a")
    with pytest.raises(HostileInputError, match="not signed by both keys"):
        read_join_request(to_cbor([payload, stranger.sign(payload), node_signature]))
    other = ec.generate_private_key(ec.SECP384R1()).sign(payload, ec.ECDSA(hashes.SHA384()))
    with pytest.raises(HostileInputError, match="not signed by both keys"):
        read_join_request(to_cbor([payload, IDENTITY.sign(payload), other]))


def test_a_node_key_on_another_curve_is_refused():
    small = ec.generate_private_key(ec.SECP256R1())
    request = make_join_request(consortium="abdomen", created=0, identity=IDENTITY, node_key=small)
    with pytest.raises(HostileInputError, match="P-384"):
        read_join_request(request)
