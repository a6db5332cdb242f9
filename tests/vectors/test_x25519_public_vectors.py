"""X25519: RFC 7748 through our key agreement, and every point of low order refused."""

import pytest

from privacy.errors import HostileInputError
from privacy.secagg.key_agreement import PairContext, SessionKeys, _exchange, decapsulate_from, encapsulate_to
from privacy.secagg.messages import KeyAdvertisement

PRIME = 2**255 - 19

# The u coordinates of order 1, 2, 4 and 8 on the curve and its twist, and those of their encodings that are not reduced
# or have the bit set that RFC 7748, section 5, masks. Two are roots found by D. J. Bernstein (cr.yp.to/ecdh.html).
LOW_ORDER = (
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    PRIME - 1,
    PRIME,
    PRIME + 1,
)


def keys(scalar: bytes) -> SessionKeys:
    return SessionKeys(exchange=scalar, encapsulation=bytes(64))


def with_exchange_key(u: bytes) -> KeyAdvertisement:
    honest = keys(bytes(32)).advertisement()
    return KeyAdvertisement(exchange_key=u, encapsulation_key=honest.encapsulation_key)


@pytest.mark.parametrize(
    ("scalar", "u", "expected"),
    [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ],
)
def test_exchange_matches_rfc_7748_section_5_2(scalar, u, expected):
    assert _exchange(keys(bytes.fromhex(scalar)), with_exchange_key(bytes.fromhex(u))).hex() == expected


def test_a_thousand_exchanges_match_rfc_7748_section_5_2():
    scalar = u = bytes([9]) + bytes(31)
    advertised = with_exchange_key(u)
    for count in range(1000):
        advertised = KeyAdvertisement(exchange_key=u, encapsulation_key=advertised.encapsulation_key)
        scalar, u = _exchange(keys(scalar), advertised), scalar
        if count == 0:
            assert scalar.hex() == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    assert scalar.hex() == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


def test_session_keys_match_rfc_7748_section_6_1():
    alice = keys(bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"))
    bob = keys(bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
    assert (
        alice.advertisement().exchange_key.hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    )
    assert bob.advertisement().exchange_key.hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert _exchange(alice, bob.advertisement()).hex() == shared
    assert _exchange(bob, alice.advertisement()).hex() == shared


@pytest.mark.parametrize("u", LOW_ORDER)
@pytest.mark.parametrize("masked_bit", [0, 2**255])
def test_points_of_low_order_are_refused(u, masked_bit):
    own = keys(bytes(range(32)))
    peer = with_exchange_key((u + masked_bit).to_bytes(32, "little"))
    context = PairContext(session=bytes(32), first="a", second="b", first_keys=own.advertisement(), second_keys=peer)
    with pytest.raises(HostileInputError, match="low order"):
        encapsulate_to(peer, own=own, context=context)
    with pytest.raises(HostileInputError, match="low order"):
        decapsulate_from(peer, bytes(1088), own=own, context=context)


def test_two_encodings_of_one_point_give_two_pair_keys():
    # RFC 7748 accepts both, so the pair key binds the encoding.
    own = keys(bytes(range(32)))
    nine, masked = with_exchange_key(bytes([9]) + bytes(31)), with_exchange_key(bytes([9]) + bytes(30) + b"\x80")
    assert _exchange(own, nine) == _exchange(own, masked)
    pair_keys = {
        PairContext(session=bytes(32), first="a", second="b", first_keys=own.advertisement(), second_keys=peer).derive(
            exchange_secret=_exchange(own, peer), encapsulated_secret=bytes(32), ciphertext=bytes(1088)
        )
        for peer in (nine, masked)
    }
    assert len(pair_keys) == 2
