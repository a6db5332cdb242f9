"""A malicious aggregator: whatever it relays, announces or asks, an honest client refuses and keeps its state."""

import dataclasses
import secrets

import numpy as np
import pytest

from privacy.errors import HostileInputError, MisuseError, TooFewSurvivorsError
from privacy.secagg.client import SecAggClient
from privacy.secagg.envelope import open_envelope, seal_envelope
from privacy.secagg.messages import MaskedInput, RoundAnnouncement, ShareMessage, UnmaskRequest
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
        ({"invited": ("a",), "threshold": 1}, "floor is min_cohort"),
        ({"invited": ("a", "b"), "threshold": 1}, "threshold = 1"),
        ({"invited": ("b", "c", "d"), "threshold": 3}, "do not include 'a'"),
        ({"invited": ("a", "b", "mallory"), "threshold": 3}, "'mallory' is not in"),
        ({"roster_hash": bytes(32)}, "another roster"),
        ({"session": b"another session!"}, "another session"),
        ({"vector_length": 1001}, "exceeds this site's limit"),
        ({"round_number": 5000}, "rounds may be skipped"),
        ({"invited": ("b", "a", "c", "d")}, "not sorted"),
        ({"invited": ("a", "a", "c", "d")}, "named twice"),
        ({"round_number": 0}, "out of range"),
        ({"model_hash": b"short"}, "5 bytes, expected 32"),
    ],
)
def test_announcement_below_a_floor_is_refused(world, changes, reason):
    client = world.clients["a"]
    refuses(client, lambda: client.begin_round(world.announce(**changes)), reason)


def test_cohort_floor_counts_only_confirmed_peers(make_world):
    world = make_world(count=5, min_cohort=5, setup=False)
    advertised = [client.advertise_keys() for client in world.clients.values()]
    encapsulated = [client.encapsulate_keys(advertised) for client in world.clients.values()]
    client = world.clients["a"]
    confirmed = [other.confirm_keys(encapsulated) for other in world.clients.values()]
    client.accept_confirmations(confirmed[:4])
    assert client.peers == ("b", "c", "d")
    refuses(client, lambda: client.begin_round(world.announce()), "4 invited clients", error=TooFewSurvivorsError)


def test_round_is_never_redone(world):
    client = world.clients["a"]
    client.begin_round(world.announce(3))
    for number in (1, 2, 3):
        refuses(client, lambda n=number: client.begin_round(world.announce(n)), "only later rounds")
    client.begin_round(world.announce(4))
    assert client.last_round == 4


def test_second_upload_and_second_unmask_are_refused(world):
    round_ = world.begin()
    shared = round_.collect_shares(world.deal(round_))
    world.upload(round_, shared)
    client = world.clients["a"]
    refuses(client, lambda: client.mask(shared, world.vectors["a"]), "legal in SHARED")
    request = round_.request_unmask()
    client.unmask(request)
    refuses(client, lambda: client.unmask(request), "legal in UPLOADED")


def test_every_step_out_of_order_is_refused(make_world):
    world = make_world(setup=False)
    client = world.clients["a"]
    others = [name for name in world.names if name != "a"]
    announcement, vector = world.announce(), world.vectors["a"]
    steps = {
        "advertise_keys": client.advertise_keys,
        "encapsulate_keys": lambda: client.encapsulate_keys(()),
        "confirm_keys": lambda: client.confirm_keys(()),
        "accept_confirmations": lambda: client.accept_confirmations(()),
        "begin_round": lambda: client.begin_round(announcement),
        "mask": lambda: client.mask((), vector),
        "unmask": lambda: client.unmask(b""),
    }
    seen = set()

    def all_refused(legal: set[str]) -> None:
        seen.add(client.stage)
        for name in steps.keys() - legal:
            refuses(client, steps[name], "this step is legal in")

    all_refused({"advertise_keys"})
    advertised = [client.advertise_keys(), *(world.clients[name].advertise_keys() for name in others)]
    all_refused({"encapsulate_keys"})
    encapsulated = [
        client.encapsulate_keys(advertised),
        *(world.clients[n].encapsulate_keys(advertised) for n in others),
    ]
    all_refused({"confirm_keys"})
    confirmed = [
        client.confirm_keys(encapsulated),
        *(world.clients[name].confirm_keys(encapsulated) for name in others),
    ]
    all_refused({"accept_confirmations"})
    for name in world.names:
        world.clients[name].accept_confirmations(confirmed)
    all_refused({"begin_round"})
    shared = [world.clients[name].begin_round(announcement) for name in world.names]
    all_refused({"mask", "begin_round"})
    headers = [world.clients[name].mask(shared, vector)[0] for name in world.names]
    all_refused({"unmask", "begin_round"})
    client.unmask(UnmaskRequest(context=client.announcement.context, headers=tuple(headers)).to_bytes())
    all_refused({"begin_round"})
    assert len(seen) == 7


def uploaded(world, *, absent=""):
    round_ = world.begin()
    headers = world.upload(round_, round_.collect_shares(world.deal(round_)), absent=absent)
    return round_, headers, RoundAnnouncement.from_bytes(round_.announcement).context


def test_survivor_set_below_the_threshold_is_refused(world):
    _, headers, context = uploaded(world)
    request = UnmaskRequest(context=context, headers=(headers["a"], headers["b"])).to_bytes()
    client = world.clients["a"]
    refuses(client, lambda: client.unmask(request), "2 clients uploaded", error=TooFewSurvivorsError)


def test_survivor_set_without_oneself_is_refused(world):
    _, headers, context = uploaded(world)
    request = UnmaskRequest(context=context, headers=tuple(headers[name] for name in "bcd")).to_bytes()
    client = world.clients["a"]
    refuses(client, lambda: client.unmask(request), "own message is missing")


def test_survivor_named_twice_does_not_count_twice(world):
    _, headers, context = uploaded(world, absent="d")
    request = UnmaskRequest(context=context, headers=(headers["a"], headers["b"], headers["b"])).to_bytes()
    client = world.clients["a"]
    refuses(client, lambda: client.unmask(request), "two messages of one step")


def test_only_one_of_two_survivor_sets_is_answered(world):
    """Both kinds of share for one client would open its upload: an honest client gives one kind, once."""
    round_, headers, context = uploaded(world)
    client = world.clients["a"]
    without_d = UnmaskRequest(context=context, headers=tuple(headers[name] for name in "abc")).to_bytes()
    client.unmask(round_.request_unmask())
    refuses(client, lambda: client.unmask(without_d), "legal in UPLOADED")


def test_survivors_from_another_round_are_refused(world):
    _, old_headers, _ = uploaded(world)
    round_ = world.begin(2)
    headers = world.upload(round_, round_.collect_shares(world.deal(round_)), absent="d")
    context = RoundAnnouncement.from_bytes(round_.announcement).context
    mixed = UnmaskRequest(context=context, headers=(headers["a"], headers["b"], headers["c"], old_headers["d"]))
    client = world.clients["a"]
    error = refuses(client, lambda: client.unmask(mixed.to_bytes()), "another session, round or announcement")
    assert error.party == "d"
    stale = UnmaskRequest(context=b"x" * 32, headers=tuple(headers.values())).to_bytes()
    refuses(client, lambda: client.unmask(stale), "another round or announcement")


def test_shares_of_an_earlier_round_are_refused(world):
    first = world.begin(1)
    old = world.deal(first)
    fresh = world.deal(world.begin(2))
    client = world.clients["a"]
    error = refuses(client, lambda: client.mask((*fresh[:3], old[3]), world.vectors["a"]), "another session, round")
    assert error.party == "d"


def test_cohort_below_the_threshold_or_without_oneself_is_refused(world):
    shared = world.deal(world.begin())
    client = world.clients["a"]
    refuses(client, lambda: client.mask(shared[:2], world.vectors["a"]), "2 clients shared", error=TooFewSurvivorsError)
    refuses(client, lambda: client.mask(shared[1:], world.vectors["a"]), "own message is missing")
    refuses(client, lambda: client.mask((*shared, shared[1]), world.vectors["a"]), "two messages of one step")


def test_two_different_cohorts_are_noticed_before_unmasking(make_world):
    """The aggregator shows one client a smaller U1; the headers disagree, and no share is released."""
    world = make_world(count=5)
    round_ = world.begin()
    shared = world.deal(round_)
    round_.collect_shares(shared)
    context = RoundAnnouncement.from_bytes(round_.announcement).context
    headers = {name: world.clients[name].mask(shared, world.vectors[name])[0] for name in "abcd"}
    headers["e"], masked = world.clients["e"].mask(shared[1:], world.vectors["e"])
    with pytest.raises(HostileInputError, match="another set of clients"):
        round_.add_upload(headers["e"], masked)
    request = UnmaskRequest(context=context, headers=tuple(headers.values())).to_bytes()
    client = world.clients["a"]
    error = refuses(client, lambda: client.unmask(request), "acted on other shares")
    assert error.party == "e"


def test_two_different_models_never_cancel(world):
    """Clients that were announced different models hold different contexts: the sum stays masked (Pasquini 2022)."""
    round_ = world.begin()
    other = world.announce(model_hash=b"x" * 32)
    shared = [world.clients[n].begin_round(other if n == "d" else round_.announcement) for n in world.names]
    relayed = round_.collect_shares(shared)
    header, masked = world.clients["d"].mask(relayed, world.vectors["d"])
    with pytest.raises(HostileInputError, match="another session, round or announcement"):
        round_.add_upload(header, masked)


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


def test_header_of_an_uninvited_member_is_refused(make_world):
    world = make_world(count=5)
    invited = world.names[:4]
    announcement = world.announce(invited=invited, threshold=3)
    context = RoundAnnouncement.from_bytes(announcement).context
    shared = [world.clients[name].begin_round(announcement) for name in invited]
    headers = [world.clients[name].mask(shared, world.vectors[name])[0] for name in invited]
    foreign = world.forge(headers[1], MaskedInput, context, lambda body: body)
    assert foreign == headers[1], "Ed25519 is deterministic, so an unchanged body gives the same bytes"
    found = world.clients["a"]
    # e was not invited, and signs the header of b as its own.
    world.identities["b"], kept = world.identities["e"], world.identities["b"]
    stolen = world.forge(headers[1], MaskedInput, context, lambda body: body)
    world.identities["b"] = kept
    request = UnmaskRequest(context=context, headers=(*headers[:1], stolen, *headers[2:])).to_bytes()
    error = refuses(found, lambda: found.unmask(request), "signature is not by the key")
    assert error.party == "b"


def test_survivor_that_shared_no_secrets_is_refused(world):
    """A colluding member that sat out R1 signs a header as if it had been in U1; nobody holds shares of its mask."""
    round_ = world.begin()
    shared = world.deal(round_)
    relayed = round_.collect_shares(shared[:3])
    headers = world.upload(round_, relayed, absent="d")
    announced = RoundAnnouncement.from_bytes(round_.announcement)
    body = open_envelope(headers["b"], MaskedInput, context=announced.context, roster=world.roster)
    colluding, _ = seal_envelope(
        body.body,
        context=announced.context,
        sender="d",
        previous=body.previous,
        sign=world.identities["d"].sign,
    )
    request = UnmaskRequest(context=announced.context, headers=(*headers.values(), colluding)).to_bytes()
    client = world.clients["a"]
    error = refuses(client, lambda: client.unmask(request), "named a survivor, but it shared no secrets")
    assert error.party == "d"


def test_shares_that_follow_another_key_confirmation_are_refused(world):
    round_ = world.begin()
    shared = list(world.deal(round_))
    context = RoundAnnouncement.from_bytes(round_.announcement).share_context
    shared[1] = world.forge(shared[1], ShareMessage, context, lambda body: body, previous=b"x" * 32)
    client = world.clients["a"]
    error = refuses(client, lambda: client.mask(shared, world.vectors["a"]), "another key confirmation")
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
    announcement = world.announce()
    shared = [client.begin_round(announcement) for client in clients]
    client = world.clients["a"]
    error = refuses(client, lambda: client.mask(shared, world.vectors["a"]), "no confirmed key here")
    assert error.party == "b"
    assert client.mask([shared[0], *shared[2:]], world.vectors["a"])


def test_wrong_vector_is_the_callers_mistake(world):
    shared = world.deal(world.begin())
    client = world.clients["a"]
    for vector in (np.zeros(9, np.uint32), np.zeros(8, np.int64), np.zeros((8, 1), np.uint32)):
        refuses(client, lambda v=vector: client.mask(shared, v), "vector must be uint32", error=MisuseError)
