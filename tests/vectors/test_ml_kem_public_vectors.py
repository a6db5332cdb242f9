"""ML-KEM-768 (FIPS 203): published keys and ciphertexts through our key agreement, implicit rejection included."""

import hashlib
import json
from pathlib import Path

import pytest

from privacy.errors import HostileInputError
from privacy.secagg.key_agreement import (
    PairContext,
    SessionKeys,
    _exchange,
    confirmation_tag,
    decapsulate_from,
    encapsulate_to,
)
from privacy.secagg.messages import KeyAdvertisement

VECTORS = json.loads((Path(__file__).parent / "public" / "ml_kem_768.json").read_text())["vectors"]
FIRST = SessionKeys(exchange=bytes(range(32)), encapsulation=bytes(range(64)))


@pytest.fixture(params=VECTORS, ids=lambda vector: f"count {vector['count']}")
def vector(request):
    return {name: value if name == "count" else bytes.fromhex(value) for name, value in request.param.items()}


def second(vector):
    return SessionKeys(exchange=bytes(range(1, 33)), encapsulation=vector["d"] + vector["z"])


def context_of(own):
    return PairContext(
        session=bytes(32),
        first="a",
        second="b",
        first_keys=FIRST.advertisement(),
        second_keys=own.advertisement(),
    )


def expected_key(own, secret, ciphertext):
    """The pair key, were `secret` what the ciphertext carries."""
    exchanged = _exchange(own, FIRST.advertisement())
    return context_of(own).derive(exchange_secret=exchanged, encapsulated_secret=secret, ciphertext=ciphertext)


def decapsulated_key(own, ciphertext):
    return decapsulate_from(FIRST.advertisement(), ciphertext, own=own, context=context_of(own))


def test_the_seed_gives_the_published_public_key(vector):
    public_key = second(vector).advertisement().encapsulation_key
    assert hashlib.sha256(public_key).digest() == vector["public_key_sha256"]


def test_the_ciphertext_gives_the_published_secret(vector):
    own, ciphertext = second(vector), vector["ciphertext"]
    assert decapsulated_key(own, ciphertext) == expected_key(own, vector["shared_secret"], ciphertext)


def test_another_ciphertext_is_rejected_implicitly_with_the_published_secret(vector):
    own, ciphertext = second(vector), vector["rejected_ciphertext"]
    assert decapsulated_key(own, ciphertext) == expected_key(own, vector["rejected_shared_secret"], ciphertext)


@pytest.mark.parametrize("place", [0, 543, 959, 960, 1087])
def test_a_changed_ciphertext_ends_in_another_confirmation_tag(place):
    own = second({name: bytes.fromhex(VECTORS[0][name]) for name in ("d", "z")})
    key, ciphertext = encapsulate_to(own.advertisement(), own=FIRST, context=context_of(own))
    assert decapsulated_key(own, ciphertext) == key
    changed = ciphertext[:place] + bytes([ciphertext[place] ^ 1]) + ciphertext[place + 1 :]
    tags = {
        confirmation_tag(found, sender="b", recipient="a", session=bytes(32))
        for found in (key, decapsulated_key(own, changed))
    }
    assert len(tags) == 2


@pytest.mark.parametrize("size", [0, 1, 1087, 1089, 1568])
def test_ciphertexts_of_another_length_are_refused(vector, size):
    ciphertext = (vector["ciphertext"] * 2)[:size]
    with pytest.raises(HostileInputError, match="ciphertext is not valid"):
        decapsulated_key(second(vector), ciphertext)


@pytest.mark.parametrize("size", [0, 800, 1183, 1185, 1568])
def test_public_keys_of_another_length_are_refused(vector, size):
    honest = second(vector).advertisement()
    peer = KeyAdvertisement(exchange_key=honest.exchange_key, encapsulation_key=(honest.encapsulation_key * 2)[:size])
    with pytest.raises(HostileInputError, match="public key is not valid"):
        encapsulate_to(peer, own=FIRST, context=context_of(second(vector)))


@pytest.mark.parametrize("coefficient", [3329, 4095])
@pytest.mark.parametrize("place", [0, 3 * 383])
def test_public_keys_with_a_coefficient_of_q_or_more_are_refused(vector, coefficient, place):
    # FIPS 203, section 7.2: the modulus check. Two coefficients of 12 bits stand in three bytes, little-endian.
    honest = second(vector).advertisement()
    encoded = honest.encapsulation_key
    group = (int.from_bytes(encoded[place : place + 3], "little") & ~0xFFF) | coefficient
    changed = encoded[:place] + group.to_bytes(3, "little") + encoded[place + 3 :]
    peer = KeyAdvertisement(exchange_key=honest.exchange_key, encapsulation_key=changed)
    with pytest.raises(HostileInputError, match="public key is not valid"):
        encapsulate_to(peer, own=FIRST, context=context_of(second(vector)))
