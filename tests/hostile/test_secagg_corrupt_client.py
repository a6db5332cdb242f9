"""A corrupt member of the roster: its messages are properly signed, and it is named when they contradict each other."""

import dataclasses

import numpy as np
import pytest
from secagg_world import announced, contexts, with_peer

from privacy.errors import HostileInputError, MisuseError, ProvenCheatingError, TooFewSurvivorsError
from privacy.merkle import vector_root
from privacy.secagg import sealing, shamir
from privacy.secagg.messages import (
    KeyAdvertisement,
    KeyConfirmation,
    KeyEncapsulation,
    MaskedInput,
    ShareMessage,
    UnmaskReply,
    session_context,
)
from privacy.secagg.requests import RoundInvitation


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"exchange_key": bytes(32)}, "low order"),
        ({"encapsulation_key": b"\xff" * 1184}, "ML-KEM-768 public key is not valid"),
    ],
)
def test_invalid_public_keys_exclude_their_owner(make_world, change, reason):
    world = make_world(setup=False)
    context = session_context(world.session, world.roster)
    advertised = [client.advertise_keys() for client in world.clients.values()]
    advertised[1] = world.forge(advertised[1], KeyAdvertisement, context, lambda b: dataclasses.replace(b, **change))
    world.clients["a"].encapsulate_keys(advertised)
    assert reason in world.clients["a"].excluded["b"]
    assert list(world.clients["a"].excluded) == ["b"]


def test_wrong_ciphertext_fails_the_key_confirmation_of_that_pair_only(make_world):
    world = make_world(setup=False)
    context = session_context(world.session, world.roster)
    clients = world.clients.values()
    advertised = [client.advertise_keys() for client in clients]
    encapsulated = [client.encapsulate_keys(advertised) for client in clients]

    def flip(body):
        changed = bytes([body.ciphertexts["b"][0] ^ 1]) + body.ciphertexts["b"][1:]
        return dataclasses.replace(body, ciphertexts={**body.ciphertexts, "b": changed})

    forged = world.forge(encapsulated[0], KeyEncapsulation, context, flip)
    shown = [forged, *encapsulated[1:]]
    # The corrupt a signs its S2 so that it follows the S1 that the others saw.
    honest = world.clients["a"].confirm_keys(encapsulated)
    previous = world.digest(forged, KeyEncapsulation, context)
    confirmed = [world.forge(honest, KeyConfirmation, context, lambda body: body, previous=previous)]
    confirmed += [world.clients[name].confirm_keys(shown) for name in "bcd"]
    for name in "bcd":
        world.clients[name].accept_confirmations(confirmed)
    assert "key confirmation failed" in world.clients["b"].excluded["a"]
    assert world.clients["b"].peers == ("c", "d")
    assert world.clients["c"].peers == ("a", "b", "d")


def test_two_clients_without_a_common_key_cost_one_of_them_only(make_world):
    world = make_world(setup=False)
    context = session_context(world.session, world.roster)
    clients = world.clients.values()
    advertised = world.server.collect_advertisements([client.advertise_keys() for client in clients])
    encapsulated = world.server.collect_encapsulations([client.encapsulate_keys(advertised) for client in clients])
    confirmed = [client.confirm_keys(encapsulated) for client in clients]

    def spoil(body):
        return dataclasses.replace(body, tags={**body.tags, "d": bytes(32)})

    forged = world.forge(confirmed[0], KeyConfirmation, context, spoil)
    relayed = world.server.collect_confirmations([forged, *confirmed[1:]])
    for name in "bcd":
        world.clients[name].accept_confirmations(relayed)
    world.clients["a"].accept_confirmations(confirmed)
    assert list(world.clients["d"].excluded) == ["a"]

    round_ = world.server.invite(round_number=1)
    shared = list(world.deal(round_))
    previous = world.digest(forged, KeyConfirmation, context)
    invited = RoundInvitation.from_bytes(round_.invitation).context
    shared[0] = world.forge(shared[0], ShareMessage, invited, previous=previous)
    round_.collect_shares(shared)
    assert round_.cohort == ("a", "b", "c")
    assert "no common key with ['a']" in round_.excluded["d"]


BAD_ROWS = [
    ({"sealed_seed_share": bytes(48)}, "sealed seed share does not open"),
    ({"sealed_wrap_share": bytes(48)}, "sealed wrap share does not open"),
    ({"seed_share_commitment": bytes(32)}, "seed share is not the one that it committed to"),
    ({"wrap_share_commitment": bytes(32)}, "wrap share is not the one that it committed to"),
]


@pytest.mark.parametrize(("change", "reason"), BAD_ROWS)
def test_bad_shares_name_their_dealer_before_anything_is_uploaded(world, change, reason):
    """The holder complains, anyone can judge the complaint, and nothing of this round is opened."""
    round_ = world.begin(corrupt={"b": lambda body: with_peer(body, "a", **change)})
    complaint = world.accept(round_, "a")
    assert round_.add_complaint(complaint) == "b"
    assert reason in round_.guilty["b"]
    world.upload(round_, absent="a")
    with pytest.raises(HostileInputError, match=reason) as caught:
        round_.request_agreement()
    assert caught.value.party == "b"


@pytest.mark.parametrize(("kind", "other"), [("sealed_wrap_share", "sealed_seed_share"), ("sealed_seed_share", "c")])
def test_shares_sealed_as_another_kind_or_for_another_holder_name_their_dealer(world, kind, other):
    def swap(body):
        row = body.peers["c"] if other == "c" else body.peers["a"]
        return with_peer(body, "a", **{kind: getattr(row, kind if other == "c" else other)})

    round_ = world.begin(corrupt={"b": swap})
    assert round_.add_complaint(world.accept(round_, "a")) == "b"
    assert "does not open" in round_.guilty["b"]


CONFLICTS = [
    (lambda body, peer: with_peer(body, peer, pair_commitment=bytes(32)), "another pair or seal secret"),
    (lambda body, peer: with_peer(body, peer, seal_commitment=bytes(32)), "another pair or seal secret"),
    (
        lambda body, peer: dataclasses.replace(body, peers={n: row for n, row in body.peers.items() if n != peer}),
        "dealt no shares to",
    ),
]


@pytest.mark.parametrize(("corrupt", "honest"), ["da", "bc"])
@pytest.mark.parametrize("spoil", [spoil for spoil, _ in CONFLICTS])
def test_conflicting_commitments_of_two_clients_cost_the_later_one_its_place(world, spoil, corrupt, honest):
    """Nobody can tell which of the two is right, so of two equals the later one leaves, were it the honest one."""
    round_ = world.begin(corrupt={corrupt: lambda body: spoil(body, honest)})
    later = max(corrupt, honest)
    assert round_.cohort == tuple(name for name in world.names if name != later)
    assert "has no common key with" in round_.excluded[later]
    world.upload(round_)
    world.agree(round_)
    assert world.finish(round_).total.tolist() == world.total(round_.cohort)


def test_a_client_in_conflict_with_several_leaves_instead_of_them(world):
    """Client a is first in the roster, but it is a whose commitments differ from those of two others."""

    def spoil(body):
        return with_peer(with_peer(body, "c", pair_commitment=bytes(32)), "d", seal_commitment=bytes(32))

    round_ = world.begin(corrupt={"a": spoil})
    assert round_.cohort == ("b", "c", "d")
    assert "has no common key with ['c', 'd']" in round_.excluded["a"]


@pytest.mark.parametrize(("spoil", "reason"), CONFLICTS)
def test_a_client_refuses_a_cohort_with_a_conflict_that_was_relayed_all_the_same(world, spoil, reason):
    round_ = world.server.invite(round_number=1)
    dealt = list(world.deal(round_))
    world.deal_falsely(dealt, round_, "b", lambda body: spoil(body, "a"))
    announcement, client = world.announcement(round_.invitation), world.clients["a"]
    before = client.to_bytes()
    with pytest.raises(HostileInputError, match=reason) as caught:
        client.accept(announcement, dealt)
    assert caught.value.party == "b"
    assert client.to_bytes() == before


def test_shares_that_leave_out_a_third_client_are_refused_by_everybody(world):
    round_ = world.server.invite(round_number=1)
    dealt = list(world.deal(round_))
    world.deal_falsely(
        dealt,
        round_,
        "b",
        lambda body: dataclasses.replace(body, peers={n: row for n, row in body.peers.items() if n != "c"}),
    )
    announcement = world.announcement(round_.invitation)
    for name in "acd":
        with pytest.raises(HostileInputError, match=r"dealt no shares to \['c'\]") as caught:
            world.clients[name].accept(announcement, dealt)
        assert caught.value.party == "b"


def test_shares_of_another_secret_name_their_dealer_when_combined(world):
    """Client b deals well-formed, committed shares, but committed to another self seed than they give."""
    round_ = world.begin(corrupt={"b": lambda body: dataclasses.replace(body, seed_commitment=bytes(32))})
    world.upload(round_)
    world.agree(round_)
    with pytest.raises(ProvenCheatingError, match="do not give the self seed") as caught:
        world.finish(round_)
    assert caught.value.party == "b"
    assert "self seed" in round_.guilty["b"]


def test_shares_of_no_polynomial_name_their_dealer_when_combined(world, monkeypatch):
    """Client b commits to its true seed and to shares that lie on no curve of the threshold's degree."""
    honest = shamir.split

    def scattered(secret, *, threshold, share_count):
        return {x: bytes([x]) * 32 for x in honest(secret, threshold=threshold, share_count=share_count)}

    round_ = world.server.invite(round_number=1)
    dealt = []
    for name in world.names:
        with monkeypatch.context() as patch:
            if name == "b":
                patch.setattr("privacy.secagg.shamir.split", scattered)
            dealt.append(world.clients[name].share(round_.invitation))
    round_.collect_shares(dealt)
    world.announce(round_)
    world.upload(round_)
    world.agree(round_)
    with pytest.raises(ProvenCheatingError, match="do not give the self seed") as caught:
        world.finish(round_)
    assert caught.value.party == "b"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"wrap_commitment": bytes(32)}, "do not give the wrap key"),
        ({"wrapped_pair_secrets": bytes(100)}, "wrapped pair secrets do not open"),
    ],
)
def test_bad_wrap_of_a_dropped_client_names_it(world, change, reason):
    round_ = world.begin(corrupt={"d": lambda body: dataclasses.replace(body, **change)})
    world.upload(round_, absent="d")
    world.agree(round_)
    with pytest.raises(ProvenCheatingError, match=reason) as caught:
        world.finish(round_)
    assert caught.value.party == "d"


@pytest.mark.parametrize("owner", ["a", "d"])
def test_wrap_with_other_pair_secrets_names_its_owner(world, monkeypatch, owner):
    """A client wraps secrets that it did not commit to; the commitments of its peers show the difference."""
    honest = sealing.wrap_pair_secrets

    def corrupt(pair_secrets, *, wrap_key, owner, context, cheat=owner):
        wrong = dict.fromkeys(pair_secrets, bytes(32)) if owner == cheat else pair_secrets
        return honest(wrong, wrap_key=wrap_key, owner=owner, context=context)

    monkeypatch.setattr("privacy.secagg.dealing.wrap_pair_secrets", corrupt)
    round_ = world.begin()
    world.upload(round_, absent=owner)
    world.agree(round_)
    with pytest.raises(ProvenCheatingError, match="wrapped another pair secret") as caught:
        world.finish(round_)
    assert caught.value.party == owner


def spoiled_replies(world, round_, spoil):
    release = round_.request_unmask()
    replies = [world.clients[name].unmask(release) for name in round_.agreed]
    replies[0] = world.forge(replies[0], UnmaskReply, contexts(round_)[1], spoil)
    return replies


SPOILED_REPLIES = [
    (lambda body: dataclasses.replace(body, seed_shares={**body.seed_shares, "b": bytes(32)}), "did not deal"),
    (
        lambda body: dataclasses.replace(body, seed_shares={n: s for n, s in body.seed_shares.items() if n != "b"}),
        "other clients than it was asked for",
    ),
    (lambda body: dataclasses.replace(body, wrap_shares={"b": bytes(32)}), "both kinds of share"),
]


def agreed(world, *, absent=""):
    round_ = world.begin()
    world.upload(round_, absent=absent)
    world.agree(round_)
    return round_


@pytest.mark.parametrize(("spoil", "reason"), SPOILED_REPLIES)
def test_bad_reply_is_named_and_the_sum_still_comes_out(world, spoil, reason):
    round_ = agreed(world)
    result = round_.finish(spoiled_replies(world, round_, spoil))
    assert reason in result.excluded["a"]
    assert result.survivors == world.names
    assert result.total.tolist() == world.total(world.names)


def test_bad_reply_below_the_threshold_unmasks_nothing(world):
    round_ = agreed(world)
    replies = spoiled_replies(world, round_, SPOILED_REPLIES[0][0])
    with pytest.raises(TooFewSurvivorsError, match="2 clients sent valid unmask replies, the threshold is 3"):
        round_.finish(replies[:3])


def test_wrong_uploads_are_refused_and_leave_the_sum_alone(world):
    round_ = world.begin()
    assert world.accept(round_, "a") is None
    header, masked = world.clients["a"].mask(world.vectors["a"])
    for bad, reason in (
        (masked + np.uint32(1), "not the one that the header signs"),
        (masked[:-1], "announced was uint32"),
        (masked.astype(np.uint64), "announced was uint32"),
    ):
        with pytest.raises(HostileInputError, match=reason) as caught:
            round_.add_upload(header, bad)
        assert caught.value.party == "a"
    long, context = np.zeros(9, np.uint32), contexts(round_)[1]
    for vector, body in (
        (long, MaskedInput(root=vector_root(long), length=9)),
        (masked, MaskedInput(root=vector_root(masked), length=9)),
        (long, MaskedInput(root=vector_root(long), length=8)),
    ):
        forged = world.forge(header, MaskedInput, context, lambda _, body=body: body)
        with pytest.raises(HostileInputError, match="announced was uint32"):
            round_.add_upload(forged, vector)
    assert round_.add_upload(header, masked) == "a"
    with pytest.raises(HostileInputError, match="second message of one step"):
        round_.add_upload(header, masked)
    for name in "bcd":
        assert world.accept(round_, name) is None
        round_.add_upload(*world.clients[name].mask(world.vectors[name]))
    world.agree(round_)
    assert world.finish(round_).total.tolist() == world.total(world.names)


def test_aggregator_refuses_messages_that_follow_nothing(make_world):
    """A client that changes its keys between the steps of a setup is named where the chain breaks."""
    world = make_world(setup=False)
    context = session_context(world.session, world.roster)
    clients = world.clients.values()

    def broken(message, body_type):
        return world.forge(message, body_type, context, lambda body: body, previous=b"x" * 32)

    advertised = [client.advertise_keys() for client in clients]
    relayed = world.server.collect_advertisements([broken(advertised[0], KeyAdvertisement), *advertised[1:]])
    assert "does not follow" in world.server.excluded["a"]
    assert list(relayed) == advertised[1:]
    encapsulated = [world.clients[name].encapsulate_keys(relayed) for name in "bcd"]
    relayed = world.server.collect_encapsulations([broken(encapsulated[0], KeyEncapsulation), *encapsulated[1:]])
    assert "does not follow" in world.server.excluded["b"]
    assert list(relayed) == encapsulated[1:]


def test_aggregator_refuses_shares_that_follow_another_confirmation_or_are_too_few(world):
    round_ = world.server.invite(round_number=1)
    shared = list(world.deal(round_))
    context = RoundInvitation.from_bytes(round_.invitation).context
    shared[0] = world.forge(shared[0], ShareMessage, context, previous=b"x" * 32)
    with pytest.raises(TooFewSurvivorsError, match="2 clients shared secrets, the threshold is 3"):
        round_.collect_shares(shared[:3])
    assert "another key confirmation" in round_.excluded["a"]
    with pytest.raises(MisuseError, match="belongs to ANNOUNCING"):
        world.announce(round_)


def test_reply_that_withholds_or_adds_a_share_is_refused(make_world):
    world = make_world(count=5)
    round_ = agreed(world, absent="e")
    release = round_.request_unmask()
    replies = [world.clients[name].unmask(release) for name in "abcd"]
    for wrap_shares in ({}, {"e": bytes(32), "stranger": bytes(32)}):
        forged = world.forge(
            replies[0],
            UnmaskReply,
            contexts(round_)[1],
            lambda body, w=wrap_shares: dataclasses.replace(body, wrap_shares=w),
        )
        with pytest.raises(TooFewSurvivorsError):
            round_.finish([forged, *replies[1:]])
        assert "other clients than it was asked for" in round_.excluded["a"]
    assert round_.finish(replies).total.tolist() == world.total("abcd")


def test_upload_of_a_member_that_shared_no_secrets_is_refused(world):
    round_ = world.begin(absent="d")
    assert world.accept(round_, "a") is None
    header, masked = world.clients["a"].mask(world.vectors["a"])
    foreign = world.forge(header, MaskedInput, contexts(round_)[1], sender="d")
    with pytest.raises(HostileInputError, match="another set of clients") as caught:
        round_.add_upload(foreign, masked)
    assert caught.value.party == "d"
    assert round_.uploaded == ()


def test_replies_about_another_survivor_set_or_by_a_dropped_client_are_not_counted(world):
    round_ = agreed(world, absent="d")
    context, release = contexts(round_)[1], round_.request_unmask()
    replies = [world.clients[name].unmask(release) for name in "abc"]
    by_dropped = world.forge(replies[0], UnmaskReply, context, sender="d")
    replies[0] = world.forge(replies[0], UnmaskReply, context, previous=b"x" * 32)
    with pytest.raises(TooFewSurvivorsError, match="2 clients sent valid unmask replies"):
        round_.finish([*replies, by_dropped])
    assert "another survivor set" in round_.excluded["a"]
    assert "another survivor set" in round_.excluded["d"]


def test_late_upload_is_discarded(world):
    round_ = world.begin()
    world.upload(round_, absent="d")
    assert world.accept(round_, "d") is None
    late = world.clients["d"].mask(world.vectors["d"])
    world.agree(round_)
    for _ in range(2):
        with pytest.raises(HostileInputError, match="after the survivors were fixed") as caught:
            round_.add_upload(*late)
        assert caught.value.party == "d"
    result = world.finish(round_)
    assert (result.survivors, result.dropped) == (("a", "b", "c"), ("d",))
    assert result.total.tolist() == world.total("abc")
    with pytest.raises(HostileInputError, match="after the survivors were fixed"):
        round_.add_upload(*late)
    assert result.total.tolist() == world.total("abc")
    assert announced(round_).round_number == 1


def test_aggregator_names_unknown_and_double_senders_and_goes_on(make_world):
    world = make_world(setup=False)
    advertised = [client.advertise_keys() for client in world.clients.values()]
    twice = world.new_client("a").advertise_keys()
    relayed = world.server.collect_advertisements([b"noise", *advertised, twice, advertised[3][:-1]])
    assert list(relayed) == advertised
    assert set(world.server.excluded) == {"a", "(unknown sender)"}
    assert "second message" in world.server.excluded["a"]


def test_round_without_the_culprit_succeeds_after_a_failed_one(world):
    round_ = world.begin(corrupt={"d": lambda body: with_peer(body, "a", sealed_seed_share=bytes(48))})
    round_.add_complaint(world.accept(round_, "a"))
    world.upload(round_, absent="a")
    with pytest.raises(HostileInputError) as caught:
        round_.request_agreement()
    invited = [name for name in world.names if name != caught.value.party]
    again = world.play(2, model=announced(round_).model_hash, invited=invited)
    assert again.total.tolist() == world.total("abc")
