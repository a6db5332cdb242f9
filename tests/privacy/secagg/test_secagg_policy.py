"""Rosters, identities, floors and the aggregator's own rules."""

import dataclasses

import numpy as np
import pytest

from privacy.errors import HostileInputError, MisuseError, TooFewSurvivorsError
from privacy.secagg.client import SecAggClient
from privacy.secagg.client_state import ClientFloors
from privacy.secagg.identity import Identity
from privacy.secagg.protocol import run_secure_aggregation
from privacy.secagg.requests import RoundAnnouncement, RoundInvitation
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
    "floors",
    [
        {"min_cohort": 1},
        {"min_cohort": 2, "min_threshold": 0},
        {"min_cohort": 2, "max_vector_length": 0},
        {"min_cohort": 2, "min_cohort_change": 0},
    ],
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
        server.invite(round_number=1)
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


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"invited": ("east", "south")}, r"\['south'\] are invited but did not complete"),
        ({"threshold": 4}, "threshold = 4"),
        ({"threshold": 0}, "threshold = 0"),
        ({"round_number": 0}, "round_number = 0 must be above 0"),
    ],
)
def test_aggregator_cannot_invite_to_an_impossible_round(ready_server, changes, reason):
    with pytest.raises(MisuseError, match=reason):
        ready_server[0].invite(**{"round_number": 1, **changes})


def test_round_of_one_client_is_refused(ready_server):
    with pytest.raises(TooFewSurvivorsError, match="1 clients for a round"):
        ready_server[0].invite(round_number=1, invited=("east",))


def test_round_steps_out_of_order_are_mistakes(ready_server):
    server, clients = ready_server
    round_ = server.invite(round_number=1)
    about = {"model_hash": bytes(32), "plan_hash": bytes(32), "vector_length": 2}
    with pytest.raises(MisuseError, match="must be above 1"):
        server.invite(round_number=1)
    for call in (
        lambda: round_.add_upload(b"", np.zeros(2, np.uint32)),
        lambda: round_.add_complaint(b""),
    ):
        with pytest.raises(MisuseError, match="the round is at SHARES: announce it first"):
            call()
    with pytest.raises(MisuseError, match="belongs to ANNOUNCING, but the round is at SHARES"):
        round_.announce(**about)
    with pytest.raises(MisuseError, match="belongs to UPLOADS, but the round is at SHARES"):
        round_.request_agreement()
    round_.collect_shares([client.share(round_.invitation) for client in clients])
    assert round_.cohort == ROSTER.names
    with pytest.raises(MisuseError, match="belongs to SHARES, but the round is at ANNOUNCING"):
        round_.collect_shares([])
    announcement = round_.announce(**about)
    with pytest.raises(MisuseError, match="belongs to ANNOUNCING, but the round is at UPLOADS"):
        round_.announce(**about)
    for call in (round_.request_unmask, lambda: round_.finish([])):
        with pytest.raises(MisuseError, match="belongs to UNMASKING, but the round is at UPLOADS"):
            call()
    with pytest.raises(TooFewSurvivorsError, match="0 clients uploaded, the threshold is 3"):
        round_.request_agreement()
    with pytest.raises(MisuseError, match="belongs to AGREEING, but the round is at UPLOADS"):
        round_.collect_agreements([])
    for client in clients:
        assert client.accept(announcement, round_.shares) is None
        round_.add_upload(*client.mask(np.ones(2, np.uint32)))
    assert round_.uploaded == ROSTER.names
    request = round_.request_agreement()
    with pytest.raises(TooFewSurvivorsError, match="0 survivors agreed"):
        round_.collect_agreements([])
    round_.collect_agreements([client.agree(request) for client in clients])
    assert round_.agreed == ROSTER.names
    release = round_.request_unmask()
    assert round_.finish([client.unmask(release) for client in clients]).total.tolist() == [3, 3]
    with pytest.raises(MisuseError, match="belongs to UNMASKING, but the round is at FINISHED"):
        round_.finish([])


def test_a_round_keeps_every_signed_message_in_the_order_of_names(ready_server):
    server, clients = ready_server
    assert set(map(len, server.setup_messages.values())) == {3}
    round_ = server.invite(round_number=1)
    assert round_.messages.announcement == b""
    shares = [client.share(round_.invitation) for client in clients]
    round_.collect_shares(reversed(shares))
    announcement = round_.announce(model_hash=bytes(32), plan_hash=bytes(32), vector_length=2)
    headers = []
    for client in clients:
        client.accept(announcement, round_.shares)
        header, masked = client.mask(np.ones(2, np.uint32))
        round_.add_upload(header, masked)
        headers.append(header)
    request = round_.request_agreement()
    agreements = [client.agree(request) for client in clients]
    round_.collect_agreements(reversed(agreements))
    release = round_.request_unmask()
    replies = [client.unmask(release) for client in clients]
    round_.finish(reversed(replies))
    kept = round_.messages
    assert (kept.invitation, kept.announcement) == (round_.invitation, announcement)
    assert (list(kept.shares), list(kept.headers)) == (shares, headers)
    assert (list(kept.agreements), list(kept.replies)) == (agreements, replies)
    assert (kept.complaints, kept.evidence) == ((), ())


def test_announcement_in_hand_tells_model_and_plan(ready_server):
    server, clients = ready_server
    assert clients[0].announcement is None
    round_ = server.invite(round_number=1)
    round_.collect_shares([client.share(round_.invitation) for client in clients])
    assert clients[0].announcement is None
    about = {"model_hash": b"m" * 32, "plan_hash": b"p" * 32, "policy_hash": b"q" * 32, "previous": b"t" * 32}
    clients[0].accept(round_.announce(vector_length=2, **about), round_.shares)
    announced = clients[0].announcement
    assert {name: getattr(announced, name) for name in about} == about
    assert (announced.round_number, announced.vector_length) == (1, 2)


INVITED = {
    "session": b"s" * 16,
    "round_number": 1,
    "roster_hash": b"r" * 32,
    "invited": ("east", "north"),
    "threshold": 2,
}
ANNOUNCED = {
    "model_hash": b"m" * 32,
    "plan_hash": b"p" * 32,
    "policy_hash": bytes(32),
    "vector_length": 4,
    "previous": bytes(32),
}


def test_contexts_bind_every_field_that_they_should():
    """Shares may be made before their round's model exists, so the invitation leaves out what the announcement adds."""
    invitation = RoundInvitation(**INVITED)
    announced = RoundAnnouncement(invitation=invitation, **ANNOUNCED)
    fields = {item.name for record in (invitation, announced) for item in dataclasses.fields(record)}
    assert fields == {*INVITED, *ANNOUNCED, "invitation"}
    other_invited = {
        "session": b"t" * 16,
        "round_number": 2,
        "roster_hash": b"q" * 32,
        "invited": ("east", "west"),
        "threshold": 1,
    }
    invitations = [dataclasses.replace(invitation, **{name: value}) for name, value in other_invited.items()]
    assert len({invitation.context, *(other.context for other in invitations)}) == 6
    other_announced = {
        "model_hash": b"n" * 32,
        "plan_hash": b"q" * 32,
        "policy_hash": b"z" * 32,
        "vector_length": 5,
        "previous": b"t" * 32,
    }
    announcements = [
        *(dataclasses.replace(announced, invitation=other) for other in invitations),
        *(dataclasses.replace(announced, **{name: value}) for name, value in other_announced.items()),
    ]
    contexts = {announced.context, *(other.context for other in announcements)}
    assert len(contexts) == 11
    assert not contexts & {invitation.context, *(other.context for other in invitations)}


def test_parsed_requests_are_what_was_written():
    announced = RoundAnnouncement(invitation=RoundInvitation(**INVITED), **ANNOUNCED)
    again = RoundAnnouncement.from_bytes(announced.to_bytes())
    assert (again, again.context, again.invitation.context) == (
        announced,
        announced.context,
        announced.invitation.context,
    )
