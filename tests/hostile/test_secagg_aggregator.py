"""A malicious aggregator up to the upload: whatever it relays or announces, an honest client refuses it unchanged."""

import dataclasses
import secrets

import numpy as np
import pytest
from secagg_world import announced

from privacy.errors import HostileInputError, MisuseError, TooFewSurvivorsError
from privacy.secagg.client import SecAggClient
from privacy.secagg.messages import ShareMessage
from privacy.secagg.requests import AgreementRequest, RoundAnnouncement, UnmaskRequest
from privacy.secagg.roster import Member


def refuses(client: SecAggClient, act, match: str, *, error: type[Exception] = HostileInputError) -> Exception:
    before = client.to_bytes()
    with pytest.raises(error, match=match) as caught:
        act()
    assert client.to_bytes() == before, "a refused message must not change the state"
    return caught.value


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"threshold": 2}, "threshold = 2"),
        ({"threshold": 5}, "threshold = 5"),
        ({"threshold": 0}, "threshold"),
        ({"invited": ("a",), "threshold": 1}, "floor is min_cohort"),
        ({"invited": ("a", "b"), "threshold": 1}, "threshold = 1"),
        ({"invited": ("b", "c", "d"), "threshold": 3}, "do not include 'a'"),
        ({"invited": ("a", "b", "mallory"), "threshold": 3}, "'mallory' is not in"),
        ({"roster_hash": bytes(32)}, "another roster"),
        ({"session": b"another session!"}, "another session"),
        ({"round_number": 5000}, "rounds may be skipped"),
        ({"invited": ("b", "a", "c", "d")}, "not sorted"),
        ({"invited": ("a", "a", "c", "d")}, "named twice"),
        ({"round_number": 0}, "out of range"),
        ({"roster_hash": b"short"}, "5 bytes, expected 32"),
    ],
)
def test_invitation_below_a_floor_is_refused(world, changes, reason):
    client = world.clients["a"]
    refuses(client, lambda: client.share(world.invitation(**changes)), reason)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"vector_length": 1001}, "exceeds this site's limit of 1000"),
        ({"vector_length": 2**31 + 1}, "out of range"),
        ({"vector_length": 0}, "out of range"),
        ({"model_hash": b"short"}, "5 bytes, expected 32"),
        ({"previous": b""}, "0 bytes, expected 32"),
    ],
)
def test_announcement_below_a_floor_is_refused(world, changes, reason):
    """What an invitation could lower is in the test above."""
    round_ = world.server.invite(round_number=1)
    shared = world.deal(round_)
    client = world.clients["a"]
    refuses(client, lambda: client.accept(world.announcement(round_.invitation, **changes), shared), reason)
    assert client.accept(world.announcement(round_.invitation), shared) is None


@pytest.mark.parametrize(
    "changes",
    [{"threshold": 4}, {"round_number": 2}, {"invited": ("a", "b", "c"), "threshold": 3}, {"session": b"s" * 32}],
)
def test_announcement_of_another_invitation_is_refused(world, changes):
    """Shares were dealt for one invitation: whoever announces another one could lower its threshold afterwards."""
    shared = world.deal(world.server.invite(round_number=1))
    client = world.clients["a"]
    other = world.announcement(world.invitation(**changes))
    refuses(client, lambda: client.accept(other, shared), "not the one that this client shared secrets for")
    assert client.announcement is None


def test_cohort_floor_counts_only_confirmed_peers(make_world):
    world = make_world(count=5, min_cohort=5, setup=False)
    advertised = [client.advertise_keys() for client in world.clients.values()]
    encapsulated = [client.encapsulate_keys(advertised) for client in world.clients.values()]
    client = world.clients["a"]
    confirmed = [other.confirm_keys(encapsulated) for other in world.clients.values()]
    client.accept_confirmations(confirmed[:4])
    assert client.peers == ("b", "c", "d")
    refuses(client, lambda: client.share(world.invitation()), "4 invited clients", error=TooFewSurvivorsError)


def test_round_is_never_redone(world):
    client = world.clients["a"]
    first = client.share(world.invitation(3))
    for number in (1, 2):
        refuses(client, lambda n=number: client.share(world.invitation(n)), "only later rounds")
    other = world.invitation(3, threshold=4)
    refuses(client, lambda: client.share(other), "only later rounds")
    before = client.to_bytes()
    assert client.share(world.invitation(3)) == first, "the answer may have been lost, so the same bytes are sent again"
    assert client.to_bytes() == before
    client.share(world.invitation(4))
    assert client.last_round == 4
    refuses(client, lambda: client.share(world.invitation(3)), "only later rounds")


def test_shares_are_repeated_only_until_they_are_used(world):
    """From the moment a client has accepted what was dealt, its invitation is past like any other."""
    round_ = world.begin()
    client = world.clients["a"]
    assert client.share(round_.invitation) == round_.shares[0]
    assert world.accept(round_, "a") is None
    refuses(client, lambda: client.share(round_.invitation), "only later rounds")
    world.restore("a").mask(world.vectors["a"])
    client = world.clients["a"]
    refuses(client, lambda: client.share(round_.invitation), "only later rounds")


def test_second_upload_and_second_unmask_are_refused(world):
    round_ = world.begin()
    world.upload(round_)
    client = world.clients["a"]
    refuses(client, lambda: client.mask(world.vectors["a"]), "legal in ACCEPTED")
    refuses(client, lambda: world.accept(round_, "a"), "legal in SHARED")
    world.agree(round_)
    release = round_.request_unmask()
    client.unmask(release)
    refuses(client, lambda: client.unmask(release), "legal in AGREED")


def test_every_step_out_of_order_is_refused(make_world):
    world = make_world(setup=False)
    client = world.clients["a"]
    others = [world.clients[name] for name in world.names if name != "a"]
    invitation, vector = world.invitation(), world.vectors["a"]
    announcement = world.announcement(invitation)
    steps = {
        "advertise_keys": client.advertise_keys,
        "encapsulate_keys": lambda: client.encapsulate_keys(()),
        "confirm_keys": lambda: client.confirm_keys(()),
        "accept_confirmations": lambda: client.accept_confirmations(()),
        "share": lambda: client.share(invitation),
        "accept": lambda: client.accept(announcement, ()),
        "mask": lambda: client.mask(vector),
        "agree": lambda: client.agree(b""),
        "unmask": lambda: client.unmask(b""),
    }
    seen = set()

    def all_refused(legal: set[str]) -> None:
        seen.add(client.stage)
        for name in steps.keys() - legal:
            refuses(client, steps[name], "this step is legal in")

    all_refused({"advertise_keys"})
    advertised = [client.advertise_keys(), *(other.advertise_keys() for other in others)]
    all_refused({"encapsulate_keys"})
    encapsulated = [client.encapsulate_keys(advertised), *(other.encapsulate_keys(advertised) for other in others)]
    all_refused({"confirm_keys"})
    confirmed = [client.confirm_keys(encapsulated), *(other.confirm_keys(encapsulated) for other in others)]
    all_refused({"accept_confirmations"})
    for each in (client, *others):
        each.accept_confirmations(confirmed)
    all_refused({"share"})
    shared = [each.share(invitation) for each in (client, *others)]
    all_refused({"accept", "share"})
    for each in (client, *others):
        assert each.accept(announcement, shared) is None
    all_refused({"mask", "share"})
    context = RoundAnnouncement.from_bytes(announcement).context
    headers = tuple(each.mask(vector)[0] for each in (client, *others))
    all_refused({"agree", "share"})
    request = AgreementRequest(context=context, headers=headers).to_bytes()
    agreements = tuple(each.agree(request) for each in (client, *others))
    all_refused({"unmask", "share"})
    client.unmask(UnmaskRequest(context=context, agreements=agreements).to_bytes())
    all_refused({"share"})
    assert len(seen) == 9


def test_shares_of_an_earlier_round_are_refused(world):
    old = world.deal(world.server.invite(round_number=1))
    round_ = world.server.invite(round_number=2)
    fresh = world.deal(round_)
    client, announcement = world.clients["a"], world.announcement(round_.invitation)
    mixed = (*fresh[:3], old[3])
    error = refuses(client, lambda: client.accept(announcement, mixed), "another session, round")
    assert error.party == "d"


def test_cohort_below_the_threshold_or_without_oneself_is_refused(world):
    round_ = world.server.invite(round_number=1)
    shared, announcement = world.deal(round_), world.announcement(round_.invitation)
    client = world.clients["a"]
    for shown, reason, error in (
        (shared[:2], "2 clients shared", TooFewSurvivorsError),
        (shared[1:], "own message is missing", HostileInputError),
        ((*shared, shared[1]), "two messages of one step", HostileInputError),
    ):
        refuses(client, lambda shown=shown: client.accept(announcement, shown), reason, error=error)


def test_two_different_cohorts_are_noticed_before_unmasking(make_world):
    """The aggregator shows one client a smaller U1; the headers disagree, and nobody agrees to such survivors."""
    world = make_world(count=5)
    round_ = world.begin()
    announcement, shared = round_.messages.announcement, round_.shares
    for name in "abcd":
        assert world.accept(round_, name) is None
    assert world.clients["e"].accept(announcement, shared[1:]) is None
    uploads = {name: world.clients[name].mask(world.vectors[name]) for name in world.names}
    with pytest.raises(HostileInputError, match="another set of clients"):
        round_.add_upload(*uploads["e"])
    headers = tuple(header for header, _ in uploads.values())
    request = AgreementRequest(context=announced(round_).context, headers=headers).to_bytes()
    for name in "abcd":
        client = world.clients[name]
        error = refuses(client, lambda client=client: client.agree(request), "acted on other shares")
        assert error.party == "e"
    refuses(world.clients["e"], lambda: world.clients["e"].agree(request), "shared no secrets|acted on other shares")


def test_two_different_models_never_cancel(world):
    """Clients that were announced different models hold different contexts: the sum stays masked (Pasquini 2022)."""
    round_ = world.begin()
    other = world.announcement(round_.invitation, model_hash=b"x" * 32)
    headers = world.upload(round_, absent="d")
    client = world.clients["d"]
    assert client.accept(other, round_.shares) is None
    header, masked = client.mask(world.vectors["d"])
    with pytest.raises(HostileInputError, match="another session, round or announcement"):
        round_.add_upload(header, masked)
    # An aggregator that does not care asks all the same: neither side signs a set with the other in it.
    shown = (*headers.values(), header)
    for name, context in (("a", announced(round_).context), ("d", RoundAnnouncement.from_bytes(other).context)):
        request = AgreementRequest(context=context, headers=shown).to_bytes()
        refuses(world.clients[name], lambda n=name, r=request: world.clients[n].agree(r), "another session, round")


def test_one_set_of_shares_masks_differently_under_two_announcements(world):
    """Shares come before the announcement, so two announcements can be tried on one set of them: no mask repeats."""
    round_ = world.begin()
    client, stored = world.clients["a"], world.clients["a"].to_bytes()
    uploads = []
    for model in (b"x" * 32, b"y" * 32):
        client = SecAggClient.from_bytes(stored, identity=world.identities["a"], roster=world.roster)
        client.accept(world.announcement(round_.invitation, model_hash=model), round_.shares)
        uploads.append(client.mask(np.zeros(8, np.uint32))[1])
    assert np.count_nonzero(uploads[0] - uploads[1]) >= 7


def test_substituted_key_is_refused_and_named(make_world):
    """The aggregator cannot sign for b, so an advertisement that is not b's own excludes b."""
    world = make_world(setup=False)
    outsider = make_world(setup=False)
    advertised = [client.advertise_keys() for client in world.clients.values()]
    advertised[1] = outsider.clients["b"].advertise_keys()
    world.clients["a"].encapsulate_keys(advertised)
    assert list(world.clients["a"].excluded) == ["b"]


def test_setup_message_of_another_session_is_refused_and_named(make_world):
    world = make_world(setup=False)
    advertised = [client.advertise_keys() for client in world.clients.values()]
    advertised[2] = world.new_client("c", session=secrets.token_bytes(32)).advertise_keys()
    world.clients["a"].encapsulate_keys(advertised)
    assert list(world.clients["a"].excluded) == ["c"]


def test_genuine_messages_of_two_key_sets_do_not_mix(make_world):
    """The aggregator makes a start twice and relays one of each: both are signed, but the second follows another S0."""
    world = make_world(setup=False)
    advertised = [client.advertise_keys() for client in world.clients.values()]
    encapsulated = [client.encapsulate_keys(advertised) for client in world.clients.values()]
    twin = world.new_client("a")
    twin_advertised = [twin.advertise_keys(), *advertised[1:]]
    swapped = [twin.encapsulate_keys(twin_advertised), *encapsulated[1:]]
    world.clients["b"].confirm_keys(swapped)
    assert list(world.clients["b"].excluded) == ["a"]


def test_own_setup_message_must_come_back_unchanged(make_world):
    world = make_world(setup=False)
    advertised = [client.advertise_keys() for client in world.clients.values()]
    client = world.clients["a"]
    refuses(client, lambda: client.encapsulate_keys(advertised[1:]), "own message is missing")
    twin = world.new_client("a").advertise_keys()
    refuses(client, lambda: client.encapsulate_keys([twin, *advertised[1:]]), "own message is missing or was changed")
    refuses(client, lambda: client.encapsulate_keys([*advertised, advertised[1]]), "two messages of one step")
    damaged = advertised[0][:-1] + bytes([advertised[0][-1] ^ 1])
    refuses(client, lambda: client.encapsulate_keys([*advertised, damaged]), "signature is not by the key")


def test_member_of_another_roster_is_refused(world):
    stranger = world.identities["d"]
    small = dataclasses.replace(world.roster, members=world.roster.members[:3])
    with pytest.raises(MisuseError, match="does not list 'd'"):
        SecAggClient.create(identity=stranger, roster=small, session=world.session, floors=world.floors)
    other_key = dataclasses.replace(world.roster, members=(*world.roster.members[:3], Member("d", b"\x07" * 32)))
    with pytest.raises(MisuseError, match="with this identity's key"):
        SecAggClient.create(identity=stranger, roster=other_key, session=world.session, floors=world.floors)
    with pytest.raises(MisuseError, match="another roster"):
        SecAggClient.from_bytes(
            world.clients["a"].to_bytes(),
            identity=world.identities["a"],
            roster=dataclasses.replace(world.roster, version=2),
        )


def test_shares_that_follow_another_key_confirmation_are_refused(world):
    round_ = world.server.invite(round_number=1)
    shared, announcement = list(world.deal(round_)), world.announcement(round_.invitation)
    context = RoundAnnouncement.from_bytes(announcement).invitation.context
    shared[1] = world.forge(shared[1], ShareMessage, context, previous=b"x" * 32)
    client = world.clients["a"]
    error = refuses(client, lambda: client.accept(announcement, shared), "another key confirmation")
    assert error.party == "b"


def test_peer_without_a_confirmed_key_is_refused_in_the_cohort(make_world):
    """The aggregator hid b's confirmation from a, and puts b into U1 all the same."""
    world = make_world(setup=False)
    clients = world.clients.values()
    advertised = [client.advertise_keys() for client in clients]
    encapsulated = [client.encapsulate_keys(advertised) for client in clients]
    confirmed = [client.confirm_keys(encapsulated) for client in clients]
    world.clients["a"].accept_confirmations([confirmed[0], *confirmed[2:]])
    for name in "bcd":
        world.clients[name].accept_confirmations(confirmed)
    invitation = world.invitation()
    announcement = world.announcement(invitation)
    shared = [client.share(invitation) for client in clients]
    client = world.clients["a"]
    error = refuses(client, lambda: client.accept(announcement, shared), "no confirmed key here")
    assert error.party == "b"
    assert client.accept(announcement, [shared[0], *shared[2:]]) is None


def test_uninvited_member_in_the_cohort_is_refused(make_world):
    world = make_world(count=5)
    invitation = world.invitation(invited=tuple("abcd"), threshold=3)
    shared = [world.clients[name].share(invitation) for name in "abcd"]
    announcement = world.announcement(invitation)
    context = RoundAnnouncement.from_bytes(announcement).invitation.context
    by_stranger = world.forge(shared[1], ShareMessage, context, sender="e")
    client = world.clients["a"]
    error = refuses(client, lambda: client.accept(announcement, (*shared, by_stranger)), "was not invited")
    assert error.party == "e"


def test_wrong_vector_is_the_callers_mistake(world):
    round_ = world.begin()
    world.accept(round_, "a")
    client = world.clients["a"]
    for vector in (np.zeros(9, np.uint32), np.zeros(8, np.int64), np.zeros((8, 1), np.uint32)):
        refuses(client, lambda v=vector: client.mask(v), "vector must be uint32", error=MisuseError)
    assert client.mask(world.vectors["a"])
