"""Rosters, identities, floors and the aggregator's own rules."""

import dataclasses

import numpy as np
import pytest

from privacy.errors import HostileInputError, MisuseError, TooFewSurvivorsError
from privacy.secagg.client import SecAggClient
from privacy.secagg.client_state import ClientFloors
from privacy.secagg.identity import Identity
from privacy.secagg.messages import RoundAnnouncement
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


@pytest.fixture
def ready_server():
    """A server whose setup three real clients completed, and these clients."""
    session = b"s" * 16
    server = SecAggServer(roster=ROSTER, session=session)
    floors = ClientFloors(min_cohort=2)
    clients = [
        SecAggClient.create(identity=identity, roster=ROSTER, session=session, floors=floors)
        for identity in KEYS.values()
    ]
    advertised = server.collect_advertisements([client.advertise_keys() for client in clients])
    encapsulated = server.collect_encapsulations([client.encapsulate_keys(advertised) for client in clients])
    confirmed = server.collect_confirmations([client.confirm_keys(encapsulated) for client in clients])
    for client in clients:
        client.accept_confirmations(confirmed)
    return server, clients


def begin(server, **changes):
    settings = {"round_number": 1, "model_hash": bytes(32), "plan_hash": bytes(32), "vector_length": 2, **changes}
    return server.begin_round(**settings)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"invited": ("east", "south")}, r"\['south'\] are invited but did not complete"),
        ({"threshold": 4}, "threshold = 4"),
        ({"threshold": 0}, "threshold = 0"),
        ({"round_number": 0}, "round_number = 0 must be above 0"),
    ],
)
def test_aggregator_cannot_announce_an_impossible_round(ready_server, changes, reason):
    with pytest.raises(MisuseError, match=reason):
        begin(ready_server[0], **changes)


def test_round_of_one_client_is_refused(ready_server):
    with pytest.raises(TooFewSurvivorsError, match="1 clients for a round"):
        begin(ready_server[0], invited=("east",))


def test_round_steps_out_of_order_are_mistakes(ready_server):
    server, clients = ready_server
    round_ = begin(server)
    with pytest.raises(MisuseError, match="must be above 1"):
        begin(server)
    with pytest.raises(MisuseError, match="add_upload comes after collect_shares"):
        round_.add_upload(b"", np.zeros(2, np.uint32))
    with pytest.raises(MisuseError, match="belongs to UPLOADS, but the round is at SHARES"):
        round_.request_unmask()
    relayed = round_.collect_shares([client.begin_round(round_.announcement) for client in clients])
    assert round_.cohort == ROSTER.names
    with pytest.raises(MisuseError, match="belongs to UNMASKING, but the round is at UPLOADS"):
        round_.finish([])
    with pytest.raises(TooFewSurvivorsError, match="0 clients uploaded, the threshold is 3"):
        round_.request_unmask()
    for client in clients:
        round_.add_upload(*client.mask(relayed, np.ones(2, np.uint32)))
    assert round_.uploaded == ROSTER.names
    request = round_.request_unmask()
    assert round_.finish([client.unmask(request) for client in clients]).total.tolist() == [3, 3]
    with pytest.raises(MisuseError, match="belongs to UNMASKING, but the round is at FINISHED"):
        round_.finish([])


def test_announcement_in_hand_tells_model_and_plan(ready_server):
    server, clients = ready_server
    assert clients[0].announcement is None
    clients[0].begin_round(begin(server, model_hash=b"m" * 32, plan_hash=b"p" * 32).announcement)
    announced = clients[0].announcement
    assert (announced.model_hash, announced.plan_hash) == (b"m" * 32, b"p" * 32)


def test_contexts_bind_every_field_that_they_should():
    """Shares may be made before their round's model exists, so their context leaves out model, plan, policy, length."""
    base = RoundAnnouncement(
        session=b"s" * 16,
        round_number=1,
        roster_hash=b"r" * 32,
        model_hash=b"m" * 32,
        plan_hash=b"p" * 32,
        policy_hash=bytes(32),
        invited=("east", "north"),
        threshold=2,
        vector_length=4,
    )
    changes = {
        "session": b"t" * 16,
        "round_number": 2,
        "roster_hash": b"q" * 32,
        "invited": ("east", "west"),
        "threshold": 1,
        "model_hash": b"n" * 32,
        "plan_hash": b"q" * 32,
        "policy_hash": b"z" * 32,
        "vector_length": 5,
    }
    assert set(changes) == {field.name for field in dataclasses.fields(base)}
    others = {name: dataclasses.replace(base, **{name: value}) for name, value in changes.items()}
    assert len({base.context, *(other.context for other in others.values())}) == 10
    shared = {name for name, other in others.items() if other.share_context == base.share_context}
    assert shared == {"model_hash", "plan_hash", "policy_hash", "vector_length"}
