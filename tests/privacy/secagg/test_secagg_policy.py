"""Rosters, identities, floors and the aggregator's own rules."""

import dataclasses

import numpy as np
import pytest

from privacy.errors import HostileInputError, MisuseError, TooFewSurvivorsError
from privacy.secagg.client_state import ClientFloors
from privacy.secagg.identity import Identity
from privacy.secagg.protocol import run_secure_aggregation
from privacy.secagg.roster import Member, Roster
from privacy.secagg.server import SecAggServer

KEYS = {name: Identity.generate(name) for name in ("east", "north", "west")}
ROSTER = Roster(
    consortium="consortium",
    version=1,
    expires=2**40,
    members=tuple(Member(name, identity.public_key) for name, identity in KEYS.items()),
)


def test_roster_counts_members_from_one():
    assert [ROSTER.index(name) for name in ROSTER.names] == [1, 2, 3]
    assert "north" in ROSTER
    assert "south" not in ROSTER
    assert ROSTER.public_key("west") == KEYS["west"].public_key
    with pytest.raises(HostileInputError, match="'south' is not in version 1"):
        ROSTER.index("south")


def test_roster_digest_changes_with_every_field():
    others = [
        dataclasses.replace(ROSTER, consortium="other"),
        dataclasses.replace(ROSTER, version=2),
        dataclasses.replace(ROSTER, expires=1),
        dataclasses.replace(ROSTER, members=ROSTER.members[:2]),
    ]
    assert len({ROSTER.digest, *(other.digest for other in others)}) == 5


def test_identity_survives_storage_and_names_are_checked():
    identity = KEYS["north"]
    again = Identity.from_bytes(identity.to_bytes(), name="north")
    assert again.public_key == identity.public_key
    assert identity.to_bytes().hex() not in repr(identity)
    with pytest.raises(MisuseError, match="32 raw bytes"):
        Identity.from_bytes(b"short", name="north")
    for name in ("", "North", "-north", "n" * 32, "n/../m", "n\n"):
        with pytest.raises(MisuseError, match="must be 1 to 31"):
            Identity.generate(name)


@pytest.mark.parametrize(
    "floors", [{"min_cohort": 1}, {"min_cohort": 2, "min_threshold": 0}, {"min_cohort": 2, "max_vector_length": 0}]
)
def test_floors_that_protect_nothing_are_refused(floors):
    with pytest.raises(MisuseError):
        ClientFloors(**floors)


def test_own_threshold_floor_never_falls_to_half_the_cohort():
    assert ClientFloors(min_cohort=2).threshold_for(10) == 7
    assert ClientFloors(min_cohort=2, min_threshold=6).threshold_for(10) == 6
    assert ClientFloors(min_cohort=2, min_threshold=3).threshold_for(10) == 6
    assert ClientFloors(min_cohort=2, min_threshold=9).threshold_for(10) == 9


def test_cohort_floor_refuses_a_run_of_too_few():
    vectors = {name: np.zeros(2, np.uint32) for name in ("a", "b", "c")}
    with pytest.raises(HostileInputError, match="min_cohort = 4"):
        run_secure_aggregation(vectors, min_cohort=4)


def test_aggregator_calls_out_of_order_are_mistakes():
    server = SecAggServer(roster=ROSTER, session=b"s" * 16)
    assert server.ready == ()
    with pytest.raises(MisuseError, match="complete setup"):
        server.begin_round(round_number=1, model_hash=bytes(32), plan_hash=bytes(32), vector_length=1)
    with pytest.raises(MisuseError, match="awaits ADVERTISEMENTS"):
        server.collect_confirmations([])
    with pytest.raises(TooFewSurvivorsError, match="0 clients sent valid advertisements"):
        server.collect_advertisements([])
    with pytest.raises(MisuseError, match="session has 3 bytes"):
        SecAggServer(roster=ROSTER, session=b"abc")
