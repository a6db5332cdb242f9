"""The encrypted sum is the plain sum bit for bit, under dropouts, late uploads and lost states, or there is none."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import TooFewSurvivorsError
from privacy.he.errors import StaleMemberError
from privacy.he.parameters import MAX_SUM
from privacy.he.protocol import run_encrypted_aggregation
from privacy.secagg.threshold import default_threshold

NAMES = ("east", "lake", "north", "south", "vale", "west")
ROUNDS = 3


def rounds_of(names, *, seed):
    """Vectors up to the largest magnitude whose sum over all sites stays in range, extremes among them."""
    rng = np.random.default_rng(seed)
    largest = MAX_SUM // len(names)
    rounds = []
    for _ in range(ROUNDS):
        vectors = {name: rng.integers(-largest, largest + 1, 7, dtype=np.int64) for name in names}
        for vector in vectors.values():
            vector[:2] = largest, -largest
        rounds.append({name: vector.astype(np.int32).view(np.uint32) for name, vector in vectors.items()})
    return rounds


@st.composite
def events(draw, names, *, spare):
    """In each round up to `spare` sites that are silent or late; in one round any sites lose their state but one.

    That one heard the round before: others do not know the newest sums, and can show nobody the way.
    """
    silent, late = {}, {}
    for number in range(1, ROUNDS + 1):
        absent = draw(st.sets(st.sampled_from(names), max_size=spare))
        quiet = {name for name in sorted(absent) if draw(st.booleans())}
        silent[number], late[number] = sorted(quiet), sorted(absent - quiet)
    number = draw(st.integers(1, ROUNDS))
    keeper = draw(st.sampled_from([name for name in names if name not in silent.get(number - 1, ())]))
    lost = draw(st.sets(st.sampled_from([name for name in names if name != keeper])))
    return {"silent": silent, "late": late, "forgetful": {number: sorted(lost)}}


@settings(max_examples=6)
@given(data=st.data(), count=st.integers(2, 6), seed=st.integers(0, 2**16))
def test_encrypted_sums_equal_plain_sums_bit_for_bit(data, count, seed):
    names = NAMES[:count]
    happening = data.draw(events(names, spare=count - default_threshold(count)))
    rounds = rounds_of(names, seed=seed)
    run = run_encrypted_aggregation(rounds, **happening)
    for number, (total, contributors) in enumerate(zip(run.sums, run.contributors, strict=True), start=1):
        absent = {*happening["silent"][number], *happening["late"][number]}
        assert contributors == tuple(name for name in names if name not in absent)
        vectors = rounds[number - 1]
        plain = sum((vectors[name].astype(np.uint64) for name in contributors), np.uint64(0)) % 2**32
        assert np.array_equal(total, plain)
    assert len(run.sums) == ROUNDS
    assert len(set(run.models.values())) == 1


@pytest.mark.parametrize("forgetful", [("east", "lake", "south"), ("lake", "south")])
def test_sites_that_forgot_go_on_only_where_somebody_who_did_not_heard_the_last_round(forgetful):
    names = NAMES[:4]
    happening = {"silent": {2: ["north"]}, "forgetful": {3: forgetful}}
    if "east" in forgetful:
        with pytest.raises(StaleMemberError, match="nobody who kept its state got so far"):
            run_encrypted_aggregation(rounds_of(names, seed=0), **happening)
    else:
        assert len(set(run_encrypted_aggregation(rounds_of(names, seed=0), **happening).models.values())) == 1


@settings(max_examples=4)
@given(data=st.data(), count=st.integers(2, 6))
def test_one_absent_site_too_many_publishes_nothing(data, count):
    names = NAMES[:count]
    missing = count - default_threshold(count) + 1
    absent = sorted(data.draw(st.sets(st.sampled_from(names), min_size=missing, max_size=missing)))
    with pytest.raises(TooFewSurvivorsError, match="sites uploaded on one model"):
        run_encrypted_aggregation(rounds_of(names, seed=0), late={1: absent})
