"""Known answers of our own beside the sessions in `secagg/`: a change of any of these needs a new suite.

What one short session does not reach: rounding, uniform numbers, a tree of several leaves, a second vector of a round,
and a round far from the first.
"""

import numpy as np

from privacy.fixed_point import Segment, VectorFormat, encode
from privacy.merkle import leaf_digests, vector_root
from privacy.secagg.key_agreement import ratchet
from privacy.secagg.masks import apply_masks
from privacy.streams import SUITE, Keystream, derive_key, little_endian_bytes

KEY = bytes(range(32))


def test_suite():
    assert SUITE == "secfed-secagg/2 X25519+ML-KEM-768 HKDF-SHA256 AES-256-CTR AES-256-GCM Ed25519"


def test_streams():
    assert (
        derive_key(KEY, label="test", context={"index": 1}).hex()
        == "16b863d29416b893f667be8cf1fa61350e6caa54ced29ba1530e5e85bffc83be"
    )
    assert Keystream(KEY).uniforms(2).tolist() == [0.8149305085444232, 0.5018185892646263]


def test_fixed_point():
    layout = VectorFormat(segments=(Segment(name="delta", length=6, max_abs=2.0),), max_clients=100)
    values = np.array([0.0, 1e-9, -1e-9, 0.123456789, 2.0, -2.0])
    integers = encode(values, vector_format=layout, rounding=Keystream(KEY)).view(np.int32)
    assert integers.tolist() == [0, 0, 0, 1325607, 21474836, -21474836]


def test_tree_of_three_leaves():
    words = np.arange(2 * 2**18 + 1, dtype=np.uint32)
    assert len(leaf_digests(words)) == 3
    assert vector_root(words).hex() == "f8d4ddc685123ba33b84193758456b50de1368425b2cb966aa2c72731a3df55d"


def test_ratchet_over_a_thousand_rounds():
    assert (
        ratchet(KEY, from_round=0, to_round=1000).hex()
        == "d4209d676a820b7e84a0e9ccf16793f06ae888df074468632668d775afe0daf9"
    )


def test_second_vector_of_a_round():
    masked = [
        apply_masks(
            np.arange(8, dtype=np.uint32),
            name="north",
            self_seed=KEY,
            pair_secrets={"east": b"e" * 32, "west": b"w" * 32},
            context=bytes(32),
            vector_index=index,
        )
        for index in (0, 1)
    ]
    assert (
        little_endian_bytes(masked[0]).tobytes().hex()
        == "7641eb068f1588af0a1b221d222b3fe06587c8dd91ead5296a58c9b2cfd6fef8"
    )
    assert (
        little_endian_bytes(masked[1]).tobytes().hex()
        == "13df00e471f0b882c0f1f7c2a041591bf0aed3ece34d18c70e735b096fda612f"
    )
