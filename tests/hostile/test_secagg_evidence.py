"""Evidence convicts whoever dealt false shares or wrapped false secrets, and nobody else, whatever is put into it."""

import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_world import announced, contexts, with_peer

from privacy.errors import HostileInputError, ProvenCheatingError
from privacy.secagg import sealing
from privacy.secagg.blame import Evidence, convict, convicted_in
from privacy.secagg.envelope import open_envelope
from privacy.secagg.messages import ShareMessage, UnmaskReply
from privacy.secagg.roster import Member

FALSE_SEED = {"seed_commitment": bytes(32)}
FALSE_WRAP = [{"wrap_commitment": bytes(32)}, {"wrapped_pair_secrets": bytes(100)}]


def failed(world, *, name, change, absent="", number=1, model=None):
    """A round that failed because `name` dealt falsely, and the error that the aggregator raised."""
    round_ = world.begin(number, model=model, corrupt={name: lambda body: dataclasses.replace(body, **change)})
    world.upload(round_, absent=absent)
    world.agree(round_)
    with pytest.raises(ProvenCheatingError) as caught:
        world.finish(round_)
    assert caught.value.party == name
    return round_, caught.value


@pytest.mark.parametrize("change", [FALSE_SEED, *FALSE_WRAP])
def test_evidence_convicts_the_dealer_before_everybody(world, change):
    absent = "" if change is FALSE_SEED else "d"
    round_, error = failed(world, name="d", change=change, absent=absent)
    found = convict(error.evidence, roster=world.roster)
    assert (found.party, found.context) == ("d", announced(round_).context)
    evidence = Evidence.from_bytes(error.evidence)
    assert evidence.to_bytes() == error.evidence
    threshold = announced(round_).invitation.threshold
    for replies in itertools.combinations(evidence.replies, threshold):
        fewer = dataclasses.replace(evidence, replies=replies)
        assert convict(fewer.to_bytes(), roster=world.roster).party == "d"
        with pytest.raises(HostileInputError, match="2 replies for one kind of share, 3 are needed"):
            convict(dataclasses.replace(evidence, replies=replies[:-1]).to_bytes(), roster=world.roster)


def test_a_wrap_that_cheats_a_dropped_client_does_no_harm_and_convicts_all_the_same(make_world, monkeypatch):
    """What two dropped clients have in common is in no upload, so the sum comes out; the proof needs no failure."""
    honest = sealing.wrap_pair_secrets

    def corrupt(pair_secrets, *, wrap_key, owner, context):
        wrong = {**pair_secrets, "e": bytes(32)} if owner == "d" else pair_secrets
        return honest(wrong, wrap_key=wrap_key, owner=owner, context=context)

    monkeypatch.setattr("privacy.secagg.dealing.wrap_pair_secrets", corrupt)
    world = make_world(count=7)
    round_ = world.begin()
    world.upload(round_, absent="de")
    world.agree(round_)
    assert world.finish(round_).total.tolist() == world.total("abcfg")
    kept = round_.messages
    evidence = Evidence(announcement=kept.announcement, shares=kept.shares[3], replies=kept.replies)
    found = convict(evidence.to_bytes(), roster=world.roster)
    assert found.party == "d"
    assert "another pair secret with e" in found.reason


class HonestRound:
    """Everything that was signed in a full round and in one where d dropped, and what pieces evidence is made of."""

    def __init__(self, world):
        self.world = world
        self.rounds = []
        for number, absent in ((1, ""), (2, "d")):
            round_ = world.begin(number)
            world.upload(round_, absent=absent)
            world.agree(round_)
            world.finish(round_)
            self.rounds.append(round_)
        self.announcements = [round_.messages.announcement for round_ in self.rounds]
        self.shares = [message for round_ in self.rounds for message in round_.messages.shares]
        self.replies = [message for round_ in self.rounds for message in round_.messages.replies]

    def contexts(self, index):
        return contexts(self.rounds[index])


@pytest.fixture(scope="module")
def honest(make_world):
    return HonestRound(make_world(count=5))


@settings(max_examples=150)
@given(data=st.data())
def test_no_mixture_of_honest_messages_convicts_anybody(honest, data):
    """Messages of both rounds in any number and order, beside any announcement."""
    evidence = Evidence(
        announcement=data.draw(st.sampled_from(honest.announcements)),
        shares=data.draw(st.sampled_from(honest.shares)),
        replies=tuple(data.draw(st.lists(st.sampled_from(honest.replies), max_size=12))),
    )
    with pytest.raises(HostileInputError):
        convict(evidence.to_bytes(), roster=honest.world.roster)


@settings(max_examples=100)
@given(data=st.data())
def test_tampered_replies_never_convict_an_honest_dealer(honest, data):
    """Four of the holders, one more than may collude with anybody, answer whatever they like and sign it."""
    index = data.draw(st.sampled_from([0, 1]))
    round_, world = honest.rounds[index], honest.world
    _, context = honest.contexts(index)
    replies = dict(zip(round_.agreed, round_.messages.replies, strict=True))
    dealers = [name for name in world.names if name != "a"]
    dealt = dict(zip(round_.cohort, round_.messages.shares, strict=True))
    for name in data.draw(st.lists(st.sampled_from(sorted(replies)), min_size=1, max_size=4, unique=True)):
        dealer = data.draw(st.sampled_from(dealers))
        action = data.draw(st.sampled_from(["other", "swap", "withhold", "both"]))

        def change(body, dealer=dealer, action=action):
            seed, wrap = dict(body.seed_shares), dict(body.wrap_shares)
            if action == "other":
                (seed if dealer in seed else wrap)[dealer] = data.draw(st.binary(min_size=32, max_size=32))
            elif action == "swap":
                source, target = (seed, wrap) if dealer in seed else (wrap, seed)
                target[dealer] = source.pop(dealer)
            elif action == "withhold":
                seed.pop(dealer, None)
                wrap.pop(dealer, None)
            else:
                seed[dealer] = wrap[dealer] = bytes(32)
            return UnmaskReply(seed_shares=seed, wrap_shares=wrap)

        replies[name] = world.forge(replies[name], UnmaskReply, context, change)
    for dealer in dealers:
        evidence = Evidence(
            announcement=round_.messages.announcement, shares=dealt[dealer], replies=tuple(replies.values())
        )
        with pytest.raises(HostileInputError):
            convict(evidence.to_bytes(), roster=world.roster)


@pytest.mark.parametrize("changes", [{"threshold": 3}, {"threshold": 5}, {"invited": tuple("abcd"), "threshold": 3}])
def test_shares_do_not_count_under_an_invitation_that_their_dealer_did_not_answer(honest, changes):
    """With another threshold honest shares would give another secret; the dealer's signature binds the invitation."""
    world, round_ = honest.world, honest.rounds[0]
    announcement = world.announcement(world.invitation(1, **changes))
    evidence = Evidence(announcement=announcement, shares=honest.shares[0], replies=round_.messages.replies)
    with pytest.raises(HostileInputError, match="another session, round or announcement"):
        convict(evidence.to_bytes(), roster=world.roster)


def test_evidence_of_another_roster_version_convicts_nobody(honest):
    """Members are numbered by the roster: read with another one, honest shares stand at other coordinates."""
    world, round_ = honest.world, honest.rounds[0]
    newcomer = Member("aa", world.identities["a"].sign(b"")[:32])
    grown = dataclasses.replace(
        world.roster, version=2, members=(world.roster.members[0], newcomer, *world.roster.members[1:])
    )
    assert grown.index("b") != world.roster.index("b")
    for shares in round_.messages.shares:
        evidence = Evidence(
            announcement=round_.messages.announcement, shares=shares, replies=round_.messages.replies
        ).to_bytes()
        with pytest.raises(HostileInputError):
            convict(evidence, roster=grown)


def test_evidence_with_an_impossible_threshold_is_refused_like_any_other(honest):
    """Two corrupt members sign all that it takes, under an invitation that no honest client would answer."""
    world, round_ = honest.world, honest.rounds[0]
    before = announced(round_)
    invitation = dataclasses.replace(before.invitation, threshold=0)
    announcement = dataclasses.replace(before, invitation=invitation)
    shares, reply = round_.messages.shares[0], round_.messages.replies[1]
    invited, context = contexts(round_)
    dealt = open_envelope(shares, ShareMessage, context=invited, roster=world.roster).body
    given = open_envelope(reply, UnmaskReply, context=context, roster=world.roster).body
    share = given.seed_shares["a"]
    words = {"kind": "seed share", "dealer": "a", "holder": "b", "context": invitation.context}
    dealt = with_peer(dealt, "b", seed_share_commitment=sealing.commit_share(share, **words))
    evidence = Evidence(
        announcement=announcement.to_bytes(),
        shares=world.sign(dealt, invitation.context, sender="a", previous=bytes(32)),
        replies=(world.sign(given, announcement.context, sender="b", previous=bytes(32)),),
    )
    with pytest.raises(HostileInputError):
        convict(evidence.to_bytes(), roster=world.roster)


def test_one_piece_of_evidence_that_proves_nothing_spoils_the_others(honest, make_world):
    """Clients accept no heap in which somebody else has to find the proof."""
    world = make_world()
    round_, error = failed(world, name="d", change=FALSE_SEED)
    context = announced(round_).context
    assert convicted_in([error.evidence], context=context, roster=world.roster) == {"d"}
    assert convicted_in([error.evidence], context=bytes(32), roster=world.roster) == frozenset()
    for junk in (b"", error.evidence[:-1]):
        with pytest.raises(HostileInputError):
            convicted_in([error.evidence, junk], context=context, roster=world.roster)


def test_a_round_is_run_again_without_the_convicted(make_world):
    """All but the cheater: their signatures, and then the sum. The proof stays with the round for the transcript."""
    world = make_world(count=6)
    failed_round, error = failed(world, name="d", change=FALSE_SEED)
    model = announced(failed_round).model_hash
    round_ = world.begin(2, model=model, invited="abcef")
    world.upload(round_)
    world.agree(round_, evidence=[error.evidence])
    assert world.finish(round_).total.tolist() == world.total("abcef")
    assert round_.messages.evidence == (error.evidence,)


@pytest.mark.parametrize("case", ["no proof", "one more is gone", "proof of another round", "proof against another"])
def test_a_rerun_that_would_single_out_an_honest_client_is_refused(make_world, case):
    world = make_world(count=6)
    earlier, old_error = failed(world, name="d", change=FALSE_SEED, number=1)
    cheater = "e" if case == "proof against another" else "d"
    failed_round, error = failed(world, name=cheater, change=FALSE_SEED, number=2)
    evidence = {"no proof": [], "proof of another round": [old_error.evidence]}.get(case, [error.evidence])
    round_ = world.begin(3, model=announced(failed_round).model_hash, invited="abcef")
    world.upload(round_, absent="f" if case == "one more is gone" else "")
    request = round_.request_agreement(evidence)
    for name in round_.uploaded:
        client = world.clients[name]
        before = client.to_bytes()
        with pytest.raises(HostileInputError, match="was opened before, for other survivors"):
            client.agree(request)
        assert client.to_bytes() == before
    assert announced(earlier).model_hash != announced(failed_round).model_hash


def test_a_forged_proof_in_a_rerun_is_refused(world):
    """The aggregator makes up a conviction from the honest messages of the round that it wants to see once more."""
    round_ = world.begin()
    world.upload(round_)
    world.agree(round_)
    world.finish(round_)
    kept = round_.messages
    made_up = Evidence(announcement=kept.announcement, shares=kept.shares[3], replies=kept.replies).to_bytes()
    again = world.begin(2, model=announced(round_).model_hash, invited="abc")
    world.upload(again)
    client, request = world.clients["a"], again.request_agreement([made_up])
    before = client.to_bytes()
    with pytest.raises(HostileInputError, match="its messages agree with each other"):
        client.agree(request)
    assert client.to_bytes() == before


def test_a_cheater_is_convicted_in_the_next_session_too(make_world):
    """The record of opened sums goes on into a new session, and so does what a proof excuses."""
    world = make_world(count=5)
    failed_round, error = failed(world, name="d", change=FALSE_SEED)
    model = announced(failed_round).model_hash
    for evidence, accepted in (([], False), ([error.evidence], True)):
        world.start_session(opened={name: world.clients[name].opened for name in world.names})
        round_ = world.begin(1, model=model, invited="abce")
        world.upload(round_)
        request = round_.request_agreement(evidence)
        if accepted:
            round_.collect_agreements([world.clients[name].agree(request) for name in "abce"])
            assert world.finish(round_).total.tolist() == world.total("abce")
            continue
        for name in "abce":
            with pytest.raises(HostileInputError, match="was opened before"):
                world.clients[name].agree(request)
