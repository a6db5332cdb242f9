"""A corrupt member of the roster: its messages are properly signed, and it is named when they contradict each other."""

import dataclasses
import hashlib

import numpy as np
import pytest

from privacy.errors import HostileInputError, TooFewSurvivorsError
from privacy.secagg import sealing
from privacy.secagg.envelope import open_envelope, seal_envelope
from privacy.secagg.messages import (
    KeyAdvertisement,
    KeyConfirmation,
    KeyEncapsulation,
    MaskedInput,
    RoundAnnouncement,
    ShareMessage,
    UnmaskReply,
    session_context,
)
from privacy.streams import little_endian_bytes


def contexts(round_):
    announced = RoundAnnouncement.from_bytes(round_.announcement)
    return announced.share_context, announced.context


def with_peer(body, peer, **changes):
    row = dataclasses.replace(body.peers[peer], **changes)
    return dataclasses.replace(body, peers={**body.peers, peer: row})


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

    round_ = world.begin()
    shared = list(world.deal(round_))
    previous = world.digest(forged, KeyConfirmation, context)
    shared[0] = world.forge(shared[0], ShareMessage, contexts(round_)[0], lambda body: body, previous=previous)
    assert len(round_.collect_shares(shared)) == 3
    assert "no confirmed keys" in round_.excluded["d"]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda body: with_peer(body, "a", pair_commitment=bytes(32)), "another pair secret"),
        (lambda body: with_peer(body, "a", sealed_seed_share=bytes(48)), "sealed seed share does not open"),
        (lambda body: with_peer(body, "a", sealed_wrap_share=bytes(48)), "sealed wrap share does not open"),
        (
            lambda body: with_peer(body, "a", sealed_wrap_share=body.peers["a"].sealed_seed_share),
            "sealed wrap share does not open",
        ),
        (
            lambda body: with_peer(body, "a", sealed_seed_share=body.peers["c"].sealed_seed_share),
            "sealed seed share does not open",
        ),
        (lambda body: with_peer(body, "a", seed_share_commitment=bytes(32)), "not the one that it committed to"),
        (
            lambda body: dataclasses.replace(body, peers={n: row for n, row in body.peers.items() if n != "c"}),
            r"dealt no shares to \['c'\]",
        ),
    ],
)
def test_bad_shares_name_their_dealer_before_anything_is_uploaded(world, spoil, reason):
    round_ = world.begin()
    shared = list(world.deal(round_))
    shared[1] = world.forge(shared[1], ShareMessage, contexts(round_)[0], spoil)
    client = world.clients["a"]
    before = client.to_bytes()
    with pytest.raises(HostileInputError, match=reason) as caught:
        client.mask(shared, world.vectors["a"])
    assert caught.value.party == "b"
    assert client.to_bytes() == before


def test_shares_of_another_secret_name_their_dealer_when_combined(world):
    """Client b deals well-formed, committed shares, but committed to another self seed than they give."""
    round_ = world.begin()
    shared = list(world.deal(round_))

    def spoil(body):
        return dataclasses.replace(body, seed_commitment=bytes(32))

    forged = world.forge(shared[1], ShareMessage, contexts(round_)[0], spoil)
    corrupt = world.clients["b"]
    # The corrupt client acts on its own forged message as if it had sent it.
    digest = world.digest(forged, ShareMessage, contexts(round_)[0])
    corrupt._state = dataclasses.replace(
        corrupt._state, round=dataclasses.replace(corrupt._state.round, own_shares_digest=digest)
    )
    world.upload(round_, round_.collect_shares([shared[0], forged, *shared[2:]]))
    with pytest.raises(HostileInputError, match="do not give the self seed") as caught:
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
    round_ = world.begin()
    shared = list(world.deal(round_))
    shared[3] = world.forge(
        shared[3], ShareMessage, contexts(round_)[0], lambda body: dataclasses.replace(body, **change)
    )
    world.upload(round_, round_.collect_shares(shared), absent="d")
    with pytest.raises(HostileInputError, match=reason) as caught:
        world.finish(round_, absent="d")
    assert caught.value.party == "d"


def test_wrap_with_other_pair_secrets_names_its_owner(world, monkeypatch):
    """Client d wraps secrets that it did not commit to; the commitments of its peers show the difference."""
    honest = sealing.wrap_pair_secrets

    def corrupt(pair_secrets, *, wrap_key, owner, context):
        wrong = dict.fromkeys(pair_secrets, bytes(32)) if owner == "d" else pair_secrets
        return honest(wrong, wrap_key=wrap_key, owner=owner, context=context)

    monkeypatch.setattr("privacy.secagg.dealing.wrap_pair_secrets", corrupt)
    round_ = world.begin()
    world.upload(round_, round_.collect_shares(world.deal(round_)), absent="d")
    with pytest.raises(HostileInputError, match="wrapped another pair secret") as caught:
        world.finish(round_, absent="d")
    assert caught.value.party == "d"


def spoiled_replies(world, round_, spoil):
    request = round_.request_unmask()
    replies = [world.clients[name].unmask(request) for name in world.names]
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


@pytest.mark.parametrize(("spoil", "reason"), SPOILED_REPLIES)
def test_bad_reply_is_named_and_the_sum_still_comes_out(world, spoil, reason):
    round_ = world.begin()
    world.upload(round_, round_.collect_shares(world.deal(round_)))
    result = round_.finish(spoiled_replies(world, round_, spoil))
    assert reason in result.excluded["a"]
    assert result.survivors == world.names
    assert result.total.tolist() == world.total(world.names)


def test_bad_reply_below_the_threshold_unmasks_nothing(world):
    round_ = world.begin()
    world.upload(round_, round_.collect_shares(world.deal(round_)))
    replies = spoiled_replies(world, round_, SPOILED_REPLIES[0][0])
    with pytest.raises(TooFewSurvivorsError, match="2 clients sent valid unmask replies, the threshold is 3"):
        round_.finish(replies[:3])


def test_wrong_uploads_are_refused_and_leave_the_sum_alone(world):
    round_ = world.begin()
    shared = round_.collect_shares(world.deal(round_))
    header, masked = world.clients["a"].mask(shared, world.vectors["a"])
    for bad, reason in (
        (masked + np.uint32(1), "not the one that the header signs"),
        (masked[:-1], "announced was uint32"),
        (masked.astype(np.uint64), "announced was uint32"),
    ):
        with pytest.raises(HostileInputError, match=reason) as caught:
            round_.add_upload(header, bad)
        assert caught.value.party == "a"
    long = np.zeros(9, np.uint32)
    forged = world.forge(
        header,
        MaskedInput,
        contexts(round_)[1],
        lambda _: MaskedInput(vector_digest=hashlib.sha256(little_endian_bytes(long)).digest(), length=9),
    )
    with pytest.raises(HostileInputError, match="announced was uint32"):
        round_.add_upload(forged, long)
    assert round_.add_upload(header, masked) == "a"
    with pytest.raises(HostileInputError, match="second message of one step"):
        round_.add_upload(header, masked)
    for name in "bcd":
        round_.add_upload(*world.clients[name].mask(shared, world.vectors[name]))
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
    round_ = world.begin()
    shared = list(world.deal(round_))
    shared[0] = world.forge(shared[0], ShareMessage, contexts(round_)[0], lambda body: body, previous=b"x" * 32)
    with pytest.raises(TooFewSurvivorsError, match="2 clients shared secrets, the threshold is 3"):
        round_.collect_shares(shared[:3])
    assert "another key confirmation" in round_.excluded["a"]


def test_reply_that_withholds_or_adds_a_share_is_refused(make_world):
    world = make_world(count=5)
    round_ = world.begin()
    world.upload(round_, round_.collect_shares(world.deal(round_)), absent="e")
    request = round_.request_unmask()
    replies = [world.clients[name].unmask(request) for name in "abcd"]
    context = contexts(round_)[1]
    for wrap_shares in ({}, {"e": bytes(32), "stranger": bytes(32)}):
        forged = world.forge(
            replies[0], UnmaskReply, context, lambda body, w=wrap_shares: dataclasses.replace(body, wrap_shares=w)
        )
        with pytest.raises(TooFewSurvivorsError):
            round_.finish([forged, *replies[1:]])
        assert "other clients than it was asked for" in round_.excluded["a"]
    assert round_.finish(replies).total.tolist() == world.total("abcd")


def test_upload_of_a_member_that_shared_no_secrets_is_refused(world):
    round_ = world.begin()
    relayed = round_.collect_shares(world.deal(round_)[:3])
    header, masked = world.clients["a"].mask(relayed, world.vectors["a"])
    context = contexts(round_)[1]
    admitted = open_envelope(header, MaskedInput, context=context, roster=world.roster)
    sign = world.identities["d"].sign
    foreign, _ = seal_envelope(admitted.body, context=context, sender="d", previous=admitted.previous, sign=sign)
    with pytest.raises(HostileInputError, match="another set of clients") as caught:
        round_.add_upload(foreign, masked)
    assert caught.value.party == "d"
    assert round_.uploaded == ()


def test_replies_about_another_survivor_set_or_by_a_dropped_client_are_not_counted(world):
    round_ = world.begin()
    world.upload(round_, round_.collect_shares(world.deal(round_)), absent="d")
    context, request = contexts(round_)[1], round_.request_unmask()
    replies = [world.clients[name].unmask(request) for name in "abc"]
    admitted = open_envelope(replies[0], UnmaskReply, context=context, roster=world.roster)
    sign = world.identities["d"].sign
    by_dropped, _ = seal_envelope(admitted.body, context=context, sender="d", previous=admitted.previous, sign=sign)
    replies[0] = world.forge(replies[0], UnmaskReply, context, lambda body: body, previous=b"x" * 32)
    with pytest.raises(TooFewSurvivorsError, match="2 clients sent valid unmask replies"):
        round_.finish([*replies, by_dropped])
    assert "another survivor set" in round_.excluded["a"]
    assert "another survivor set" in round_.excluded["d"]


def test_late_upload_is_discarded(world):
    round_ = world.begin()
    shared = round_.collect_shares(world.deal(round_))
    world.upload(round_, shared, absent="d")
    late = world.clients["d"].mask(shared, world.vectors["d"])
    request = round_.request_unmask()
    with pytest.raises(HostileInputError, match="after the survivors were fixed") as caught:
        round_.add_upload(*late)
    assert caught.value.party == "d"
    result = round_.finish(world.clients[name].unmask(request) for name in "abc")
    assert (result.survivors, result.dropped) == (("a", "b", "c"), ("d",))
    assert result.total.tolist() == world.total("abc")


def test_aggregator_names_unknown_and_double_senders_and_goes_on(make_world):
    world = make_world(setup=False)
    advertised = [client.advertise_keys() for client in world.clients.values()]
    twice = world.new_client("a").advertise_keys()
    relayed = world.server.collect_advertisements([b"noise", *advertised, twice, advertised[3][:-1]])
    assert list(relayed) == advertised
    assert set(world.server.excluded) == {"a", "(unknown sender)"}
    assert "second message" in world.server.excluded["a"]


def test_round_without_the_culprit_succeeds_after_a_failed_one(world):
    round_ = world.begin(1)
    shared = list(world.deal(round_))
    shared[3] = world.forge(
        shared[3], ShareMessage, contexts(round_)[0], lambda body: with_peer(body, "a", pair_commitment=bytes(32))
    )
    with pytest.raises(HostileInputError) as caught:
        world.clients["a"].mask(round_.collect_shares(shared), world.vectors["a"])
    invited = [name for name in world.names if name != caught.value.party]
    again = world.server.begin_round(
        round_number=2, model_hash=b"m" * 32, plan_hash=b"p" * 32, vector_length=8, invited=invited
    )
    relayed = again.collect_shares(world.clients[name].begin_round(again.announcement) for name in invited)
    for name in invited:
        again.add_upload(*world.clients[name].mask(relayed, world.vectors[name]))
    request = again.request_unmask()
    result = again.finish(world.clients[name].unmask(request) for name in invited)
    assert result.total.tolist() == world.total("abc")
