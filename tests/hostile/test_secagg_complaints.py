"""Complaints: a client that was dealt bad shares proves it, and one that complains falsely proves that."""

import pytest
from secagg_world import contexts, with_peer

from privacy.errors import HostileInputError
from privacy.secagg import sealing
from privacy.secagg.dealing import open_shares
from privacy.secagg.envelope import open_envelope
from privacy.secagg.messages import Complaint, ShareMessage

BAD_ROWS = {
    "bad seed share": {"sealed_seed_share": bytes(48)},
    "bad wrap share": {"sealed_wrap_share": bytes(48)},
    "another seed share than committed": {"seed_share_commitment": bytes(32)},
    "another wrap share than committed": {"wrap_share_commitment": bytes(32)},
}


def spoiled(world, number=1, *, dealer="b", holder="a", change=None):
    change = BAD_ROWS["bad seed share"] if change is None else change
    return world.begin(number, corrupt={dealer: lambda body: with_peer(body, holder, **change)})


def seal_secret(world, name, peer):
    """What `name` holds between its own R1 and the moment when it accepts what others dealt."""
    return world.clients[name]._state.round.seal_secrets[peer]


def false_complaint(world, round_, *, secret, name="d", dealer="b"):
    """A complaint that the corrupt client signs without a reason."""
    context = contexts(round_)[1]
    client = world.clients["a"]
    if client.stage == "SHARED":
        assert world.accept(round_, "a") is None
    previous = client._state.round.cohort_digest
    return world.sign(Complaint(dealer=dealer, seal_secret=secret), context, sender=name, previous=previous)


@pytest.mark.parametrize("change", BAD_ROWS.values(), ids=BAD_ROWS)
def test_after_a_complaint_a_client_is_ready_and_takes_part_in_the_next_round(world, change):
    round_ = spoiled(world, change=change)
    complaint = world.accept(round_, "a")
    assert round_.add_complaint(complaint) == "b"
    client = world.restore("a")
    assert (client.stage, client.announcement, client.receipt) == ("READY", None, None)
    for step in (lambda: client.mask(world.vectors["a"]), lambda: world.accept(round_, "a")):
        with pytest.raises(HostileInputError, match="this step is legal in"):
            step()
    with pytest.raises(HostileInputError, match="only later rounds"):
        client.share(round_.invitation)
    world.upload(round_, absent="a")
    result = world.play(2, invited="acd")
    assert result.total.tolist() == world.total("acd")


def test_a_complaint_reveals_the_secret_of_one_pair_and_one_round_only(world):
    """It opens what the two sealed to each other in this round; not what either sealed to others, or in the next."""
    round_ = spoiled(world)
    context, _ = contexts(round_)
    dealt = dict(zip(round_.cohort, round_.shares, strict=True))
    bodies = {
        name: open_envelope(data, ShareMessage, context=context, roster=world.roster).body
        for name, data in dealt.items()
    }
    complaint = world.accept(round_, "a")
    found = open_envelope(complaint, Complaint, context=contexts(round_)[1], roster=world.roster)
    secret = found.body.seal_secret
    assert found.body.dealer == "b"
    assert open_shares(bodies["a"], dealer="a", holder="b", seal_secret=secret, context=context)
    for dealer, holder in ("ac", "ca", "bc", "cb", "ad", "da"):
        with pytest.raises(HostileInputError, match="does not open"):
            open_shares(bodies[dealer], dealer=dealer, holder=holder, seal_secret=secret, context=context)
    later = world.server.invite(round_number=2)
    world.deal(later)
    assert secret != seal_secret(world, "a", "b")
    assert secret not in world.clients["a"].to_bytes()


def test_a_guilty_dealer_is_named_and_nothing_is_unmasked(world):
    round_ = spoiled(world)
    complaint = world.accept(round_, "a")
    assert round_.add_complaint(complaint) == "b"
    world.upload(round_, absent="a")
    for _ in range(2):
        with pytest.raises(HostileInputError, match="sealed seed share does not open") as caught:
            round_.request_agreement()
        assert caught.value.party == "b"
    assert round_.messages.complaints == (complaint,)
    assert (set(round_.guilty), set(round_.excluded), round_.agreed) == ({"b"}, {"b"}, ())


def test_two_victims_of_one_dealer_complain_and_the_dealer_is_named_once(make_world):
    world = make_world(count=5)
    row = BAD_ROWS["bad wrap share"]
    round_ = world.begin(corrupt={"b": lambda body: with_peer(with_peer(body, "a", **row), "c", **row)})
    assert [round_.add_complaint(world.accept(round_, name)) for name in "ac"] == ["b", "b"]
    world.upload(round_, absent="ac")
    with pytest.raises(HostileInputError) as caught:
        round_.request_agreement()
    assert caught.value.party == "b"
    assert world.play(2, invited="acde").total.tolist() == world.total("acde")


def test_a_false_complaint_names_who_complains_and_the_round_goes_on(world):
    """The corrupt d opens to everybody what b dealt it: as it was committed to, so that d is the liar."""
    round_ = world.begin()
    complaint = false_complaint(world, round_, secret=seal_secret(world, "d", "b"))
    assert round_.add_complaint(complaint) == "d"
    assert "whose shares are as committed" in round_.guilty["d"]
    world.upload(round_, absent="d")
    world.agree(round_)
    result = world.finish(round_)
    assert result.total.tolist() == world.total("abc")
    assert "whose shares are as committed" in result.excluded["d"]
    assert result.dropped == ()


def test_a_complaint_with_another_secret_than_both_committed_to_names_who_complains(world):
    round_ = world.begin()
    assert round_.add_complaint(false_complaint(world, round_, secret=bytes(32))) == "d"
    assert "another seal secret than it committed to" in round_.guilty["d"]
    world.upload(round_, absent="d")
    world.agree(round_)
    assert world.finish(round_).total.tolist() == world.total("abc")


@pytest.mark.parametrize(("dealer", "reason"), [("d", "dealt it no shares"), ("mallory", "dealt it no shares")])
def test_a_complaint_about_nobody_is_refused(world, dealer, reason):
    round_ = world.begin()
    complaint = false_complaint(world, round_, secret=bytes(32), dealer=dealer)
    with pytest.raises(HostileInputError, match=reason) as caught:
        round_.add_complaint(complaint)
    assert caught.value.party == "d"
    assert (round_.guilty, round_.messages.complaints) == ({}, ())


def test_a_complaint_of_another_round_cohort_or_sender_is_refused(world):
    first = spoiled(world)
    old = world.accept(first, "a")
    first.add_complaint(old)
    world.upload(first, absent="a")
    round_ = world.begin(2)
    with pytest.raises(HostileInputError, match="another session, round or announcement"):
        round_.add_complaint(old)
    genuine = false_complaint(world, round_, secret=bytes(32))
    context = contexts(round_)[1]
    posing = world.forge(genuine, Complaint, context, previous=b"x" * 32)
    with pytest.raises(HostileInputError, match="another set of clients"):
        round_.add_complaint(posing)
    for damaged in (b"", genuine[:-1], round_.shares[0]):
        with pytest.raises(HostileInputError):
            round_.add_complaint(damaged)
    assert (round_.guilty, round_.excluded) == ({}, {})


def test_nobody_uploads_and_complains(world):
    """Whichever comes first counts, so that nobody who is in the sum has a complaint judged, or the reverse."""
    round_ = world.begin()
    uploads = {}
    complaints = {name: false_complaint(world, round_, secret=bytes(32), name=name) for name in "cd"}
    for name in "bcd":
        assert world.accept(round_, name) is None
        uploads[name] = world.clients[name].mask(world.vectors[name])
    round_.add_upload(*uploads["c"])
    assert round_.add_complaint(complaints["d"]) == "d"
    for act in (
        lambda: round_.add_complaint(complaints["c"]),
        lambda: round_.add_upload(*uploads["d"]),
        lambda: round_.add_complaint(complaints["d"]),
    ):
        with pytest.raises(HostileInputError, match="second message of one step"):
            act()
    assert round_.uploaded == ("c",)


def test_a_late_complaint_is_discarded(world):
    """After the survivors are fixed a complaint changes nothing: who complains is a dropout like any other."""
    round_ = spoiled(world, dealer="b", holder="d")
    world.upload(round_, absent="d")
    late = world.accept(round_, "d")
    world.agree(round_)
    with pytest.raises(HostileInputError, match="after the survivors were fixed") as caught:
        round_.add_complaint(late)
    assert caught.value.party == "d"
    result = world.finish(round_)
    assert (result.survivors, result.dropped) == (("a", "b", "c"), ("d",))
    assert result.total.tolist() == world.total("abc")


def test_a_guilty_dealer_that_complains_itself_does_not_end_the_round(make_world):
    """It has uploaded nothing then, and the shares of the others are enough to take its masks out."""
    world = make_world(count=7)
    round_ = spoiled(world, dealer="g", holder="a")
    complaint = world.accept(round_, "a")
    previous = open_envelope(complaint, Complaint, context=contexts(round_)[1], roster=world.roster).previous
    own = Complaint(dealer="b", seal_secret=seal_secret(world, "g", "b"))
    assert round_.add_complaint(complaint) == "g"
    assert round_.add_complaint(world.sign(own, contexts(round_)[1], sender="g", previous=previous)) == "g"
    world.upload(round_, absent="ag")
    world.agree(round_)
    assert world.finish(round_).total.tolist() == world.total("bcdef")


def test_the_seal_secret_of_a_complaint_is_the_one_both_committed_to(world):
    """Without a commitment by both, a client could frame a dealer with a key that opens nothing."""
    round_ = spoiled(world)
    complaint = world.accept(round_, "a")
    context, later = contexts(round_)
    secret = open_envelope(complaint, Complaint, context=later, roster=world.roster).body.seal_secret
    committed = sealing.commit_seal_secret(secret, one="a", other="b", context=context)
    for dealer, holder in ("ab", "ba"):
        data = round_.shares[round_.cohort.index(dealer)]
        row = open_envelope(data, ShareMessage, context=context, roster=world.roster).body.peers[holder]
        assert row.seal_commitment == committed
