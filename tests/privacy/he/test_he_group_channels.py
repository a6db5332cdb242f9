"""Channels for another purpose: equal at both ends, different everywhere else, and nothing to do with masks."""

import pickle

import pytest
from secagg_world import World

from privacy.errors import HostileInputError, MisuseError

NAMES = "abc"


@pytest.fixture(scope="module")
def ready():
    return World(count=3)


def test_both_ends_of_a_channel_hold_equal_keys_for_each_direction(ready):
    channels = {name: ready.clients[name].channels("test") for name in NAMES}
    for one in NAMES:
        assert set(channels[one].peers) == set(NAMES) - {one}
        for other in channels[one].peers:
            mine, theirs = channels[one].peers[other], channels[other].peers[one]
            assert (mine.sending, mine.receiving) == (theirs.receiving, theirs.sending)
            assert mine.confirmation == channels[other].confirmation


def test_no_two_channel_keys_of_a_session_are_equal_and_none_is_a_chain_key(ready):
    found = [
        key
        for purpose in ("one", "two")
        for name in NAMES
        for channel in ready.clients[name].channels(purpose).peers.values()
        for key in (channel.sending, channel.receiving)
    ]
    # Each of 2 purposes, 3 pairs and 2 directions has its key, and each key stands at two ends.
    assert len(set(found)) == 12
    assert len(found) == 24
    assert not set(found) & {key for client in ready.clients.values() for key in client._state.chain_keys.values()}


def test_another_session_has_other_keys_and_digests():
    world = World(count=2)
    first = world.clients["a"].channels("test")
    world.start_session()
    second = world.clients["a"].channels("test")
    assert first.session != second.session
    assert first.peers["b"].sending != second.peers["b"].sending
    assert first.confirmation != second.confirmation


def test_taking_channels_changes_nothing_and_rounds_go_on():
    world = World(count=3)
    before = {name: client.to_bytes() for name, client in world.clients.items()}
    for client in world.clients.values():
        client.channels("test")
    assert before == {name: client.to_bytes() for name, client in world.clients.items()}
    assert world.play().total.tolist() == world.total(world.names)
    first = {name: client.channels("test").peers for name, client in world.clients.items()}
    assert first["a"]["b"].sending == first["b"]["a"].receiving


def test_channels_of_a_later_round_are_others():
    world = World(count=2)
    before = world.clients["a"].channels("test").peers["b"].sending
    world.play()
    assert world.clients["a"].channels("test").peers["b"].sending != before


def test_channels_are_legal_in_ready_only():
    world = World(count=2, setup=False)
    client = world.clients["a"]
    with pytest.raises(HostileInputError, match="legal in READY"):
        client.channels("test")
    world.set_up()
    round_ = world.server.invite(round_number=1)
    client.share(round_.invitation)
    with pytest.raises(HostileInputError, match="SHARED"):
        client.channels("test")


def test_a_channel_names_its_purpose_and_shows_no_secret(ready):
    with pytest.raises(MisuseError, match="purpose"):
        ready.clients["a"].channels("")
    channels = ready.clients["a"].channels("test")
    assert channels.peers["b"].sending.hex() not in repr(channels)
    assert repr(channels.peers["b"].sending) not in repr(channels)
    with pytest.raises(MisuseError, match="pickled"):
        pickle.dumps(channels.peers["b"])
