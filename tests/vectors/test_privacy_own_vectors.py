"""Known answers of our own: a change of any derivation, format or rounding rule shows here and needs a new suite."""

import hashlib

import numpy as np

from privacy.fixed_point import Segment, VectorFormat, encode
from privacy.secagg.key_agreement import confirmation_tag, first_chain_key, pair_secret, ratchet, seal_secret
from privacy.secagg.masks import apply_masks
from privacy.secagg.messages import RoundAnnouncement, session_context
from privacy.secagg.roster import Member, Roster
from privacy.streams import Keystream, derive_key, little_endian_bytes

KEY = bytes(range(32))
ROSTER = Roster(
    consortium="consortium",
    version=1,
    expires=2_000_000_000,
    members=(Member("east", b"\x01" * 32), Member("north", b"\x02" * 32), Member("west", b"\x03" * 32)),
)
ANNOUNCEMENT = RoundAnnouncement(
    session=b"session-session-",
    round_number=3,
    roster_hash=ROSTER.digest,
    model_hash=b"m" * 32,
    plan_hash=b"p" * 32,
    policy_hash=bytes(32),
    invited=("east", "north", "west"),
    threshold=3,
    vector_length=8,
)


def test_streams():
    assert (
        derive_key(KEY, label="test", context={"index": 1}).hex()
        == "5bbf3d4f23899cdb0cf837fdd2c1e7156c520f183784df0f6273bda58b4cb39c"
    )
    assert Keystream(KEY).uniforms(2).tolist() == [0.8149305085444232, 0.5018185892646263]


def test_fixed_point():
    layout = VectorFormat(segments=(Segment(name="delta", length=6, max_abs=2.0),), max_clients=100)
    values = np.array([0.0, 1e-9, -1e-9, 0.123456789, 2.0, -2.0])
    integers = encode(values, vector_format=layout, rounding=Keystream(KEY)).view(np.int32)
    assert integers.tolist() == [0, 0, 0, 1325607, 21474836, -21474836]


def test_contexts():
    assert ROSTER.digest.hex() == "f01919194eebd6580cf9c263107609bfaebd3e697c56320687d26ffef960d647"
    assert (
        session_context(ANNOUNCEMENT.session, ROSTER).hex()
        == "7efb6f863c2bf7c0981ce8bcd060f7e8bc171afa511b5e49db527b6117074ad9"
    )
    assert ANNOUNCEMENT.context.hex() == "e81af3cf5f6f201ebb5cc2c1ab3b4ab7b4fda625d226e586cbdc020d9c09cb8a"
    assert ANNOUNCEMENT.share_context.hex() == "b7e60e3637b4c7402d2b4bcb22c4e8a01d7859842fad408311c86ee77a23f884"
    assert (
        hashlib.sha256(ANNOUNCEMENT.to_bytes()).hexdigest()
        == "e12bb15a6730048b3ff6e13af612c699760afc9783471d74de52f4ae3db68183"
    )


def test_key_schedule():
    session = session_context(ANNOUNCEMENT.session, ROSTER)
    chain = ratchet(first_chain_key(KEY, session=session), from_round=0, to_round=3)
    assert (
        confirmation_tag(KEY, sender="east", recipient="west", session=session).hex()
        == "5f40a122f0ee0778413b0dd9c8d1bb1a092c77327852096b71e69e4991d495da"
    )
    assert chain.hex() == "2026dc408626065fab007d23e0c4e42ff245c36ca6150af18070d74b09b1704c"
    assert (
        pair_secret(chain, session=ANNOUNCEMENT.session, round_number=3).hex()
        == "ad87375855f2dd68ba8c269709ed683b2a7094f6535c7f71ba2cbbf345955744"
    )
    assert (
        seal_secret(chain, session=ANNOUNCEMENT.session, round_number=3).hex()
        == "5b9264d91ca44abf9ee3623520b79ccabe5fcbdc4c9720034536e663107011cb"
    )


def test_masked_vector():
    masked = apply_masks(
        np.arange(8, dtype=np.uint32),
        name="north",
        self_seed=KEY,
        pair_secrets={"east": b"e" * 32, "west": b"w" * 32},
        context=ANNOUNCEMENT.context,
    )
    assert (
        little_endian_bytes(masked).tobytes().hex()
        == "cc0d49565355f658ee83d1a8393578f2fa46ec8bcde4f11dadaa518b281d7b1b"
    )
