"""A site of an encrypted run plays its part over restarts, reruns, missed rounds and new sessions."""

import pickle

import numpy as np
import pytest
from he_group_world import INITIAL, LENGTH, GroupWorld

from privacy.errors import HostileInputError, MisuseError, TooFewSurvivorsError
from privacy.he.errors import StaleMemberError
from privacy.he.member import GroupMember
from privacy.he.member_state import MemberState
from privacy.he.parameters import HeParameters
from privacy.secagg.client_state import ClientFloors


@pytest.fixture(scope="module")
def ready():
    return GroupWorld(count=4)


@pytest.fixture
def world(ready):
    return ready.copy()


@pytest.fixture(scope="module")
def after_one_round(ready):
    world = ready.copy()
    world.play()
    return world


def test_all_sites_confirm_one_key_that_the_first_site_made(world):
    assert {member.fingerprint for member in world.members.values()} == {world.server.fingerprint}
    assert {member.members for member in world.members.values()} == {("a", "b", "c", "d")}
    assert world.server.ready == ("a", "b", "c", "d")


def test_only_the_first_site_is_relayed_no_sealed_key_and_the_others_one(ready):
    world = GroupWorld(count=3, ready=False)
    offers = world.offers()
    world.server.collect_offers(offers.values())
    assert [len(world.server.sealed_keys_for(name)) for name in "abc"] == [0, 1, 1]
    assert offers["b"][1] == offers["c"][1] == b""


def test_without_the_first_site_s_offer_there_is_no_key_and_the_error_says_so():
    world = GroupWorld(count=3, ready=False)
    offers = world.offers("bc")
    relayed = world.server.collect_offers(offers.values())
    for name in "bc":
        with pytest.raises(HostileInputError, match="none of b, c offered a group key"):
            world.members[name].accept_offers(world.channels[name], relayed)


def test_a_step_acts_on_restored_state_as_on_the_live_one(world):
    round_ = world.announce()
    for name in world.names:
        world.restore(name)
        assert world.accept(name, round_.announcement) is None
        world.restore(name)
        world.upload(round_, name)
        assert world.restore(name).stage == "UPLOADED"
    assert round_.finish().contributors == world.names


def test_the_sum_comes_back_for_all_and_rounds_are_counted(after_one_round):
    world = after_one_round.copy()
    _, sums = world.play()
    assert {name: words.tolist() for name, words in sums.items()} == dict.fromkeys("abcd", world.total("abcd"))
    assert {member.completed for member in world.members.values()} == {1}
    assert {member.last_round for member in world.members.values()} == {2}


def test_the_same_announcement_gives_the_same_sum_again_until_something_was_sent(after_one_round):
    world = after_one_round.copy()
    round_, before = world.announce(), world.before
    for _ in range(2):
        words = world.members["a"].accept(round_.announcement, previous=before.previous_round, total=before.total)
        assert words.tolist() == world.total("abcd")
        world.restore("a")
    world.members["a"].record_model(b"m" * 32)
    assert world.accept("a", round_.announcement) is None
    world.members["a"].encrypt(world.vectors["a"])
    with pytest.raises(HostileInputError, match="already past"):
        world.accept("a", round_.announcement)


def test_a_failed_round_runs_again_under_a_later_number_and_steps_on_nothing_twice(after_one_round):
    world = after_one_round.copy()
    failed = world.announce()
    for name in "ab":
        assert world.accept(name, failed.announcement).tolist() == world.total("abcd")
        world.upload(failed, name)
    with pytest.raises(TooFewSurvivorsError, match="2 sites uploaded"):
        failed.finish()
    again = world.announce(server_round=2)
    stepped = {}
    for name in world.names:
        stepped[name] = world.accept(name, again.announcement)
        world.upload(again, name)
    assert stepped["a"] is None
    assert stepped["c"].tolist() == world.total("abcd")
    world.before = again.finish()
    assert world.play()[1]["d"].tolist() == world.total("abcd")
    assert len(set(world.models.values())) == 1


def test_a_site_that_missed_two_sums_takes_part_again_after_a_snapshot(after_one_round):
    world = after_one_round.copy()
    world.play(absent="d")
    round_ = world.announce()
    stored = world.members["d"].to_bytes()
    with pytest.raises(StaleMemberError, match="has completed 0 only"):
        world.accept("d", round_.announcement)
    assert world.members["d"].to_bytes() == stored
    assert world.accept("a", round_.announcement).tolist() == world.total("abc")
    world.adopt("d", *world.snapshot("a"))
    assert world.members["d"].completed == 2
    # The snapshot's giver has stepped on this very sum, so there is nothing left to step on.
    assert world.accept("d", round_.announcement) is None
    for name in "bc":
        world.accept(name, round_.announcement)
    for name in world.names:
        world.upload(round_, name)
    assert round_.finish().contributors == world.names


def test_a_site_that_missed_a_round_catches_up_by_the_announcements_of_the_session(after_one_round):
    world = after_one_round.copy()
    first = world.before
    second, _ = world.play(absent="d")
    round_ = world.announce()
    with pytest.raises(StaleMemberError):
        world.accept("d", round_.announcement)
    assert world.accept("d", second.announcement, before=first).tolist() == world.total("abcd")
    assert world.accept("d", round_.announcement).tolist() == world.total("abc")
    world.upload(round_, "d")


def test_a_site_without_its_state_gets_the_key_from_a_peer_and_its_place_by_a_snapshot(after_one_round):
    world = after_one_round.copy()
    world.play()
    fingerprint = world.server.fingerprint
    # The first site would make a key at the start of a run; here it may not, for it knows that rounds are completed.
    world.members["a"] = world.new_member("a", completed=1)
    world.start_session()
    world.agree_on_key()
    assert world.members["a"].fingerprint == fingerprint == world.server.fingerprint
    assert world.members["a"].standings == dict.fromkeys("abcd", 1)
    round_ = world.announce()
    with pytest.raises(StaleMemberError, match="lost its state after 1 rounds"):
        world.accept("a", round_.announcement)
    with pytest.raises(StaleMemberError, match="lost its state"):
        world.snapshot("a")
    world.adopt("a", *world.snapshot("b"))
    assert world.accept("a", round_.announcement).tolist() == world.total("abcd")
    world.upload(round_, "a")


def test_a_site_that_lost_its_books_too_makes_a_key_that_gives_way_to_the_run_s(after_one_round):
    world = after_one_round.copy()
    world.play()
    world.members["a"] = world.new_member("a")
    world.models["a"] = INITIAL
    world.start_session()
    offers = world.offers()
    assert offers["a"][1] != b""
    relayed = world.server.collect_offers(offers.values())
    assert len(world.server.sealed_keys_for("a")) == 1
    confirmed = world.server.collect_confirmations(
        [
            world.members[name].accept_offers(world.channels[name], relayed, world.server.sealed_keys_for(name))
            for name in world.names
        ]
    )
    for name in world.names:
        world.members[name].accept_confirmations(world.channels[name], confirmed)
    assert world.members["a"].standings == {"a": 0, "b": 1, "c": 1, "d": 1}
    assert len({member.fingerprint for member in world.members.values()}) == 1


def test_a_new_session_gives_up_the_open_round_and_keeps_key_and_place(after_one_round):
    world = after_one_round.copy()
    round_ = world.announce()
    world.accept("a", round_.announcement)
    world.start_session()
    world.agree_on_key()
    again = world.announce(server_round=2)
    assert world.accept("a", again.announcement) is None
    assert world.accept("b", again.announcement).tolist() == world.total("abcd")


def test_an_upload_that_came_too_late_is_withdrawn_and_the_site_goes_on(world):
    round_ = world.announce()
    for name in world.names:
        world.accept(name, round_.announcement)
        header, ciphertext = world.members[name].encrypt(world.vectors[name])
        if name != "d":
            round_.add_input(header, ciphertext)
    world.before = round_.finish()
    with pytest.raises(HostileInputError, match="after the sum was formed"):
        round_.add_input(header, ciphertext)
    following = world.announce()
    with pytest.raises(HostileInputError, match="own upload was left out"):
        world.accept("d", following.announcement)
    world.members["d"].withdraw()
    assert world.accept("d", following.announcement).tolist() == world.total("abc")


def test_the_end_checks_one_model_for_all_and_erases_the_key(after_one_round):
    world = after_one_round.copy()
    end = world.end()
    for name in world.names:
        assert world.accept(name, end.announcement).tolist() == world.total("abcd")
    endings = end.collect([world.members[name].close() for name in world.names])
    key = world.members["a"]._state.group_key
    for name in world.names:
        world.members[name].finish(endings)
    ended = world.members["a"]
    assert ended.stage == "ENDED"
    assert key[:64] not in ended.to_bytes()
    with pytest.raises(HostileInputError, match="but the site is in ENDED"):
        ended.offer(world.channels["a"])


def test_the_end_takes_no_upload_and_a_round_no_last_word(after_one_round):
    world = after_one_round.copy()
    round_ = world.announce()
    world.accept("a", round_.announcement)
    with pytest.raises(HostileInputError, match="the announced step is 'round'"):
        world.members["a"].close()
    end = world.end()
    world.accept("a", end.announcement)
    with pytest.raises(HostileInputError, match="the announced step is 'end'"):
        world.members["a"].encrypt(world.vectors["a"])


def test_vectors_of_another_length_or_type_are_the_callers_mistake(world):
    round_ = world.announce()
    world.accept("a", round_.announcement)
    for wrong in (np.zeros(LENGTH + 1, np.uint32), np.zeros(LENGTH, np.int64)):
        with pytest.raises(MisuseError, match="words must be uint32"):
            world.members["a"].encrypt(wrong)
    assert world.members["a"].stage == "STEPPED"


def test_states_of_others_settings_or_sites_and_damaged_ones_are_the_callers_mistake(world):
    stored = world.members["a"].to_bytes()
    common = {"roster": world.roster, "floors": world.floors}
    with pytest.raises(MisuseError, match="belongs to 'a'"):
        GroupMember.from_bytes(stored, identity=world.identities["b"], parameters=world.parameters, **common)
    with pytest.raises(MisuseError, match="other parameters"):
        GroupMember.from_bytes(
            stored, identity=world.identities["a"], parameters=HeParameters.exact(max_clients=99), **common
        )
    with pytest.raises(MisuseError, match="does not list"):
        GroupMember.from_bytes(
            stored, identity=GroupWorld(count=2, ready=False).identities["a"], parameters=world.parameters, **common
        )
    for damaged in (b"", stored[:-1], stored + b"\0", b"\x80"):
        with pytest.raises(MisuseError, match="stored state"):
            MemberState.from_bytes(damaged)


def test_states_and_members_show_no_secret_and_are_not_pickled(world):
    for secret in (world.members["a"], world.members["a"]._state):
        assert world.members["a"]._state.group_key[:8].hex() not in repr(secret)
        assert "<secret>" in repr(secret)
        with pytest.raises(MisuseError, match="pickled"):
            pickle.dumps(secret)


@pytest.mark.parametrize(("change", "match"), [({"run": b"short"}, "run has 5"), ({"completed": -1}, "completed")])
def test_a_run_without_an_identifier_or_with_odd_counts_is_refused(world, change, match):
    honest = {"run": world.run, "completed": 0, "model_hash": INITIAL, "floors": ClientFloors(min_cohort=2)}
    with pytest.raises(MisuseError, match=match):
        GroupMember.create(
            identity=world.identities["a"], roster=world.roster, parameters=world.parameters, **{**honest, **change}
        )
