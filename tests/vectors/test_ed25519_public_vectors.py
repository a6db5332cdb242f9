"""Ed25519: RFC 8032 through our identities and envelopes, and signatures that only resemble valid ones refused."""

import pytest

from privacy.cbor import to_cbor
from privacy.errors import HostileInputError
from privacy.secagg.envelope import NO_PREVIOUS, open_envelope, seal_envelope
from privacy.secagg.identity import Identity
from privacy.secagg.messages import SurvivorAgreement
from privacy.secagg.roster import Member, Roster, generate_consortium_key, sign_roster, verify_roster

GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493
CONTEXT = bytes(32)

# Section 7.1, tests 1, 2 and 3: private key, public key, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555"
            "fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        (
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
            "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
        ),
    ),
]
NORTH = Identity.from_bytes(bytes.fromhex(RFC_8032[0][0]), name="north")
WEST = Identity.from_bytes(bytes.fromhex(RFC_8032[1][0]), name="west")
ROSTER = Roster(
    consortium="consortium",
    version=1,
    expires=2**40,
    members=(Member("north", NORTH.public_key), Member("west", WEST.public_key)),
)


@pytest.mark.parametrize(("private_key", "public_key", "message", "signature"), RFC_8032)
def test_an_identity_signs_as_published(private_key, public_key, message, signature):
    identity = Identity.from_bytes(bytes.fromhex(private_key), name="north")
    assert identity.public_key.hex() == public_key
    assert identity.sign(bytes.fromhex(message)).hex() == signature


def honest_parts():
    signed = []

    def sign(data):
        signed.append(data)
        return NORTH.sign(data)

    body = SurvivorAgreement(survivors=("north", "west"))
    message, _ = seal_envelope(body, context=CONTEXT, sender="north", previous=NO_PREVIOUS, sign=sign)
    assert open_envelope(message, SurvivorAgreement, context=CONTEXT, roster=ROSTER).sender == "north"
    return signed[0], NORTH.sign(signed[0])


def scalar(signature):
    return int.from_bytes(signature[32:], "little")


DEFECTS = {
    "S + L": lambda data, s: s[:32] + (scalar(s) + GROUP_ORDER).to_bytes(32, "little"),
    "S + 7 L": lambda data, s: s[:32] + (scalar(s) + 7 * GROUP_ORDER).to_bytes(32, "little"),
    "L - S": lambda data, s: s[:32] + (GROUP_ORDER - scalar(s)).to_bytes(32, "little"),
    "S = 0": lambda data, s: s[:32] + bytes(32),
    "S = L": lambda data, s: s[:32] + GROUP_ORDER.to_bytes(32, "little"),
    "S of all ones": lambda data, s: s[:32] + b"\xff" * 32,
    "neutral R and S = 0": lambda data, s: b"\x01" + bytes(63),
    "R of order 2": lambda data, s: b"\xec" + b"\xff" * 30 + b"\x7f" + s[32:],
    "R not on the curve": lambda data, s: b"\x02" + bytes(31) + s[32:],
    "sign bit of R": lambda data, s: s[:31] + bytes([s[31] ^ 0x80]) + s[32:],
    "all zeros": lambda data, s: bytes(64),
    "halves swapped": lambda data, s: s[32:] + s[:32],
    "empty": lambda data, s: b"",
    "63 bytes": lambda data, s: s[:63],
    "65 bytes": lambda data, s: s + b"\x00",
    "by another member": lambda data, s: WEST.sign(data),
    "of another message": lambda data, s: NORTH.sign(data + b"\x00"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_an_envelope_with_such_a_signature_is_refused(defect):
    signed_part, signature = honest_parts()
    bad = DEFECTS[defect](signed_part, signature)
    with pytest.raises(HostileInputError, match="not by the key in the roster") as caught:
        open_envelope(to_cbor([signed_part, bad]), SurvivorAgreement, context=CONTEXT, roster=ROSTER)
    assert caught.value.party == "north"


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_roster_with_such_a_signature_is_refused(defect):
    payload = ROSTER._payload()
    signed = sign_roster(ROSTER, NORTH._private_key)
    assert verify_roster(signed, anchor=NORTH.public_key, now=0) == ROSTER
    bad = DEFECTS[defect](payload, NORTH.sign(payload))
    with pytest.raises(HostileInputError, match="not signed by the consortium's key"):
        verify_roster(to_cbor([payload, bad]), anchor=NORTH.public_key, now=0)


@pytest.mark.parametrize("anchor", [b"", bytes(31), bytes(33), b"\x02" + bytes(31)])
def test_an_anchor_that_is_no_public_key_verifies_nothing(anchor):
    signed = sign_roster(ROSTER, generate_consortium_key())
    with pytest.raises(HostileInputError, match="not signed by the consortium's key"):
        verify_roster(signed, anchor=anchor, now=0)
