"""Keys under which anybody can sign are refused wherever a key is vouched for."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from privacy.cbor import to_cbor
from privacy.errors import HostileInputError, MisuseError
from privacy.secagg.identity import Identity
from privacy.secagg.roster import Member, Roster, require_public_key, verify_roster

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
NEUTRAL = (1).to_bytes(32, "little")


def doubled(point):
    """Twice a point of the curve -x^2 + y^2 = 1 + d x^2 y^2 (RFC 8032, section 5.1.4)."""
    x, y = point
    t = D * x * x * y * y % P
    return 2 * x * y * pow(1 + t, -1, P) % P, (y * y + x * x) * pow(1 - t, -1, P) % P


def order_divides_eight(y):
    x_squared = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(x_squared, (P + 3) // 8, P)
    if (x * x - x_squared) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if (x * x - x_squared) % P:
        return False
    return doubled(doubled(doubled((x, y % P)))) == (0, 1)


EIGHTH = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
SMALL = [0, 1, P - 1, P, P + 1, EIGHTH, P - EIGHTH]


@pytest.mark.parametrize("sign", [0, 0x80])
@pytest.mark.parametrize("y", SMALL)
def test_keys_of_small_order_are_refused_in_rosters_and_as_anchors(y, sign):
    key = y.to_bytes(32, "little")
    key = key[:31] + bytes([key[31] | sign])
    assert order_divides_eight(y)
    honest = Member("a", Identity.generate("a").public_key)
    with pytest.raises(MisuseError, match="the public key of b is a point of small order"):
        Roster(consortium="c", version=1, expires=2**40, members=(honest, Member("b", key)))
    with pytest.raises(
        HostileInputError,
        match="not signed by the consortium's key: the public key of the anchor is a point of small order",
    ):
        verify_roster(to_cbor([b"payload", bytes(64)]), anchor=key, now=0)


def test_without_the_refusal_anybody_could_sign_for_such_a_key():
    Ed25519PublicKey.from_public_bytes(NEUTRAL).verify(NEUTRAL + bytes(32), b"whatever one likes")


def test_ordinary_keys_pass_and_their_points_have_a_large_order():
    for _ in range(50):
        key = Identity.generate("a").public_key
        require_public_key(key, owner="a")
        assert not order_divides_eight(int.from_bytes(key, "little") & (2**255 - 1))
