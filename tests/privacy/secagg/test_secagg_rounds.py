"""Rounds that follow each other: shares dealt a round early, clients that drop at any step and come back."""

import itertools

import numpy as np
import pytest
from secagg_world import ROUND_STEPS, World, announced

from privacy.errors import HostileInputError, TooFewSurvivorsError


@pytest.fixture
def world():
    return World()


def test_shares_for_the_next_round_travel_with_the_unmasking_of_this_one(world):
    """As in a run: in one exchange a client answers R4 and then R1, each in a process of its own."""
    round_ = world.begin(1)
    world.upload(round_)
    for number in (2, 3, 4):
        world.agree(round_)
        release, following = round_.request_unmask(), world.server.invite(round_number=number)
        replies, dealt = [], []
        for name in world.names:
            replies.append(world.restore(name).unmask(release))
            client = world.restore(name)
            assert (client.stage, client.last_round) == ("READY", number - 1)
            dealt.append(client.share(following.invitation))
            assert world.restore(name).stage == "SHARED"
        assert round_.finish(replies).total.tolist() == world.total(world.names)
        following.collect_shares(dealt)
        world.announce(following)
        world.upload(following)
        round_ = following
    world.agree(round_)
    assert world.finish(round_).total.tolist() == world.total(world.names)


def test_sharing_for_the_next_round_before_unmasking_gives_this_one_up(world):
    """An aggregator that asks in the wrong order loses the sum, and the client does not answer it later."""
    round_ = world.begin(1)
    world.upload(round_)
    world.agree(round_)
    release = round_.request_unmask()
    client = world.clients["a"]
    assert client.receipt is not None
    client.share(world.server.invite(round_number=2).invitation)
    assert client.receipt is None
    with pytest.raises(HostileInputError, match="legal in AGREED"):
        client.unmask(release)
    assert client.opened == type(client.opened)()
    result = round_.finish(world.clients[name].unmask(release) for name in "bcd")
    assert result.total.tolist() == world.total(world.names)


@pytest.mark.parametrize("step", ROUND_STEPS)
def test_a_client_that_drops_at_any_step_is_back_in_the_next_round(world, step):
    survivors = world.names if step in ("agree", "unmask") else tuple("abc")
    first = world.play(1, silent={"d": step})
    assert (first.survivors, first.total.tolist()) == (survivors, world.total(survivors))
    assert first.dropped == tuple(name for name in world.names if name not in survivors)
    for name in world.names:
        world.restore(name)
    second = world.play(2)
    assert (second.survivors, second.total.tolist()) == (world.names, world.total(world.names))


@pytest.mark.parametrize("steps", list(itertools.product(ROUND_STEPS, repeat=2)), ids="-".join)
def test_a_round_that_failed_leaves_everybody_able_to_run_the_next_one(world, steps):
    """Two of four are gone at some step, so nothing is opened; all four are there again one round later."""
    with pytest.raises(TooFewSurvivorsError):
        world.play(1, silent=dict(zip("bd", steps, strict=True)))
    assert {client.opened.last_model for client in world.clients.values()} <= {b"", (1).to_bytes(32, "big")}
    assert world.play(2).total.tolist() == world.total(world.names)


def test_a_client_that_missed_many_rounds_has_the_same_pair_keys_as_the_others(world):
    for number in (1, 2, 7):
        assert world.play(number, invited="abc").survivors == tuple("abc")
    assert world.clients["d"].last_round == 0
    assert world.play(8).total.tolist() == world.total(world.names)


def test_a_client_that_shared_for_a_round_which_never_ran_is_not_out_of_step(world):
    for number in (1, 2, 3):
        world.clients["a"].share(world.invitation(number))
    world.clients["b"].share(world.invitation(5))
    with pytest.raises(HostileInputError, match="only later rounds"):
        world.clients["b"].share(world.invitation(4))
    assert world.play(6).total.tolist() == world.total(world.names)


def test_masks_of_rounds_and_clients_are_all_different(world):
    """The same zero vector, round after round: no word repeats more often than chance has it."""
    world.vectors = {name: np.zeros(8, np.uint32) for name in world.names}
    seen = []
    for number in range(1, 7):
        round_ = world.begin(number)
        for name in world.names:
            assert world.accept(round_, name) is None
            header, masked = world.clients[name].mask(world.vectors[name])
            round_.add_upload(header, masked)
            seen += masked.tolist()
        world.agree(round_)
        assert world.finish(round_).total.tolist() == [0] * 8
    assert len(seen) == 192
    # Two equal words among 192 uniform ones have a probability of 4e-6.
    assert len(set(seen)) == 192


def test_receipt_says_what_the_site_agreed_to_and_holds_no_secret(world):
    round_ = world.begin(3)
    headers = world.upload(round_, absent="d")
    assert world.clients["a"].receipt is None
    world.agree(round_)
    client = world.restore("a")
    receipt, about = client.receipt, announced(round_)
    assert (receipt.site, receipt.round_number, receipt.survivors) == ("a", 3, ("a", "b", "c"))
    assert (receipt.session, receipt.context, receipt.model_hash) == (world.session, about.context, about.model_hash)
    assert len({receipt.survivors_digest, *(world.clients[name].receipt.survivors_digest for name in "bc")}) == 1
    assert len({world.clients[name].receipt.header_digest for name in headers}) == 3
    assert type(receipt).from_json(receipt.to_json()) == receipt
    text = repr(receipt.to_json())
    for secret in (*client._state.chain_keys.values(), *client._state.round.seed_shares.values()):
        assert secret.hex() not in text
    world.finish(round_)
    assert world.clients["a"].receipt is None
