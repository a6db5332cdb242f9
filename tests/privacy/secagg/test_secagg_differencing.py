"""Which second sums a client helps to open, by itself and over rounds and sessions of real clients."""

import dataclasses

import pytest
from secagg_world import World, announced

from privacy.cbor import to_cbor
from privacy.errors import HostileInputError, MisuseError, ProvenCheatingError
from privacy.secagg.client_state import ClientFloors
from privacy.secagg.differencing import NOTHING_OPENED, OpenedSums

MODEL, OTHER = b"m" * 32, b"n" * 32
ABCDE = tuple("abcde")


def opened(*sums, min_cohort_change=1):
    """The record after sums given as (model, survivors), each in its own round."""
    record = NOTHING_OPENED
    for number, (model, survivors) in enumerate(sums, start=1):
        record = record.including(
            survivors, model_hash=model, context=bytes([number]) * 32, min_cohort_change=min_cohort_change
        )
    return record


def accepted(record, survivors, *, model=MODEL, convicted="", second_sum="same survivors", min_cohort_change=1):
    try:
        record.check(
            survivors,
            model_hash=model,
            convicted=frozenset(convicted),
            second_sum=second_sum,
            min_cohort_change=min_cohort_change,
        )
    except HostileInputError:
        return False
    return True


@pytest.mark.parametrize(
    ("survivors", "convicted", "expected"),
    [
        ("abcde", "", True),  # the same sum once more says nothing new
        ("edcba", "", True),
        ("abcd", "", False),
        ("abc", "", False),
        ("abcdef", "", False),
        ("abcdf", "", False),
        ("abcd", "e", True),  # what the cheater put in is no honest site's
        ("abc", "de", True),
        ("abc", "e", False),
        ("abcdf", "e", False),
        ("abcdef", "e", False),
        ("abcd", "f", False),
    ],
)
def test_second_sum_over_one_model_is_for_the_same_survivors_or_without_the_convicted(survivors, convicted, expected):
    assert accepted(opened((MODEL, ABCDE)), survivors, convicted=convicted) is expected


def test_second_sum_rule_can_be_switched_off_by_the_site_only():
    assert accepted(opened((MODEL, ABCDE)), "abcd", second_sum="any")
    assert accepted(opened((MODEL, ABCDE)), "abcd", model=OTHER)
    assert accepted(NOTHING_OPENED, "abcd")


def test_an_older_model_is_remembered_and_no_proof_excuses_a_new_sum_over_it():
    """A proof is about the latest round, so a model from before it can only be summed over the same survivors."""
    record = opened((MODEL, ABCDE), (OTHER, ABCDE))
    assert accepted(record, ABCDE)
    assert not accepted(record, "abcd")
    assert not accepted(record, "abcd", convicted="e")
    assert accepted(record, "abcd", model=OTHER, convicted="e")


def test_after_a_rerun_the_smaller_set_is_the_one_to_compare_with():
    record = opened((MODEL, ABCDE), (MODEL, "abcd"))
    assert len(record.records) == 64
    assert accepted(record, "abcd")
    assert not accepted(record, ABCDE)
    assert not accepted(record, "abc", convicted="e")
    assert accepted(record, "abc", convicted="d")


@pytest.mark.parametrize(
    ("survivors", "convicted", "floor", "expected"),
    [
        ("abcde", "", 2, True),
        ("abcd", "", 2, False),
        ("abcdef", "", 2, False),
        ("abcdf", "", 2, True),  # one left and one came: two changes
        ("abc", "", 2, True),
        ("abc", "", 3, False),
        ("abcd", "e", 2, True),
        ("abc", "e", 2, False),
        ("abcdf", "e", 2, False),
        ("abcd", "", 1, True),
    ],
)
def test_survivors_of_any_two_sums_are_the_same_or_differ_by_the_floor(survivors, convicted, floor, expected):
    record = opened((MODEL, ABCDE), min_cohort_change=floor)
    found = accepted(record, survivors, model=OTHER, convicted=convicted, min_cohort_change=floor)
    assert found is expected


def test_floor_on_change_compares_with_every_opened_sum_and_not_only_the_last():
    record = opened((b"1" * 32, "abcdef"), (b"2" * 32, "abcd"), min_cohort_change=2)
    assert accepted(record, "abcdef", model=OTHER, min_cohort_change=2)
    assert not accepted(record, "abcde", model=OTHER, min_cohort_change=2)
    assert accepted(record, "abef", model=OTHER, min_cohort_change=2)
    third = opened((b"1" * 32, "abcdef"), (b"2" * 32, "abcd"), (b"3" * 32, "abef"), min_cohort_change=2)
    assert not accepted(third, "abe", model=OTHER, min_cohort_change=2)


def test_survivor_sets_are_kept_once_and_only_where_they_are_needed():
    assert opened((MODEL, "ab"), (OTHER, "ab")).survivor_sets == ()
    assert opened((MODEL, "ab"), (OTHER, "ab"), min_cohort_change=2).survivor_sets == ("a,b",)


def test_a_proof_counts_for_good_under_the_floor_on_change():
    """Who was proven to cheat leaves every opened set, or no round without it could follow the rerun."""
    record = opened((MODEL, ABCDE), (OTHER, "abcdef"), min_cohort_change=2).without(frozenset("e"))
    assert record.survivor_sets == ("a,b,c,d", "a,b,c,d,f")
    assert (record.last_survivors, record.last_model) == (tuple("abcdef"), OTHER)
    assert opened((MODEL, "abe"), (MODEL, "ab"), min_cohort_change=2).without(frozenset("e")).survivor_sets == ("a,b",)
    assert record.without(frozenset()) == record


def test_the_record_survives_storage_and_damage_is_refused():
    record = opened((MODEL, ABCDE), (OTHER, "abcd"), min_cohort_change=2)
    data = record.to_bytes()
    assert OpenedSums.from_bytes(data) == record
    assert OpenedSums.from_bytes(NOTHING_OPENED.to_bytes()) == NOTHING_OPENED
    for damaged in (b"", data[:-1], data + b"\0", b"\x80", data.replace(b"opened sums", b"opened sumz")):
        with pytest.raises(MisuseError, match="record of opened sums"):
            OpenedSums.from_bytes(damaged)


def refused_by_all(world, round_, *, absent=""):
    world.upload(round_, absent=absent)
    request = round_.request_agreement()
    for name in round_.uploaded:
        client = world.clients[name]
        before = client.to_bytes()
        with pytest.raises(HostileInputError):
            client.agree(request)
        assert client.to_bytes() == before


def test_real_clients_open_one_sum_a_model():
    world = World(count=5)
    assert world.play(1, model=MODEL).survivors == ABCDE
    refused_by_all(world, world.begin(2, model=MODEL), absent="e")
    refused_by_all(world, world.begin(3, model=MODEL, invited="abcd"))
    assert world.play(4, model=MODEL).survivors == ABCDE
    assert world.play(5, model=OTHER, silent={"e": "upload"}).survivors == tuple("abcd")


def test_a_site_that_allows_any_second_sum_says_so_itself():
    world = World(count=5, second_sum="any")
    world.play(1, model=MODEL)
    assert world.play(2, model=MODEL, silent={"e": "upload"}).survivors == tuple("abcd")


def test_real_clients_hold_the_floor_on_change_over_models():
    world = World(count=6, min_cohort_change=2)
    assert world.play(1).survivors == world.names
    refused_by_all(world, world.begin(2), absent="f")
    refused_by_all(world, world.begin(3, invited="abcde"))
    assert world.play(4, invited="abcd").survivors == tuple("abcd")
    refused_by_all(world, world.begin(5, invited="abcde"))
    assert world.play(6).survivors == world.names


def test_rounds_go_on_after_a_rerun_under_the_floor_on_change():
    """Models follow each other with the survivors of the rerun; one more honest site gone is a change of one."""
    world = World(count=6, min_cohort_change=2)
    cheat = {"f": lambda body: dataclasses.replace(body, seed_commitment=bytes(32))}
    failed = world.begin(1, model=MODEL, corrupt=cheat)
    world.upload(failed)
    world.agree(failed)
    with pytest.raises(ProvenCheatingError) as caught:
        world.finish(failed)
    again = world.begin(2, model=MODEL, invited="abcde")
    world.upload(again)
    world.agree(again, evidence=[caught.value.evidence])
    assert world.finish(again).survivors == ABCDE
    assert world.play(3, invited="abcde").survivors == ABCDE
    refused_by_all(world, world.begin(4, invited="abcd"))
    assert world.play(5, invited="abc").survivors == tuple("abc")


def test_a_new_session_remembers_what_was_opened_in_the_last_one():
    """Without it, an aggregator that wants another sum over a model would only have to start again."""
    world = World(count=5)
    world.play(1, model=MODEL)
    record = {name: OpenedSums.from_bytes(world.clients[name].opened.to_bytes()) for name in world.names}
    assert record["a"].last_survivors == ABCDE
    world.start_session(opened=record)
    refused_by_all(world, world.begin(1, model=MODEL, invited="abcd"))
    assert world.play(2, model=MODEL).survivors == ABCDE
    world.start_session()
    assert world.play(1, model=MODEL, invited="abcd").survivors == tuple("abcd"), "forgetting is what the rule forbids"


def test_only_what_was_unmasked_counts():
    """A client that agreed, and never released its shares, opened nothing; the others' record keeps them from it."""
    world = World(count=5)
    round_ = world.begin(1, model=MODEL)
    world.upload(round_)
    world.agree(round_)
    assert world.finish(round_, absent="a").survivors == ABCDE
    assert world.clients["a"].opened == NOTHING_OPENED
    again = world.begin(2, model=MODEL, invited="abcd")
    world.upload(again)
    request = again.request_agreement()
    assert world.clients["a"].agree(request)
    for name in "bcd":
        with pytest.raises(HostileInputError, match="was opened before"):
            world.clients[name].agree(request)
    assert announced(again).model_hash == MODEL


def test_rules_are_settings_of_the_site():
    floors = ClientFloors(min_cohort=2)
    assert (floors.second_sum, floors.min_cohort_change) == ("same survivors", 1)


def test_a_survivor_set_that_is_no_text_is_damage_and_not_read_as_one():
    stored = OpenedSums(survivor_sets=("a,b",)).to_bytes()
    changed = stored.replace(to_cbor("a,b"), to_cbor(b"a,b"))
    assert changed != stored
    with pytest.raises(MisuseError, match="damaged"):
        OpenedSums.from_bytes(changed)
