"""The whole encrypted protocol: plain sums under dropouts, lost states and late uploads, or nothing at all."""

import numpy as np
import pytest

from privacy.errors import HostileInputError, MisuseError, TooFewSurvivorsError
from privacy.he.errors import GroupKeyLostError
from privacy.he.protocol import run_encrypted_aggregation

LENGTH = 5


def rounds_of(count, *, names="abcd", length=LENGTH, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {name: rng.integers(-(2**28), 2**28, length, dtype=np.int32).view(np.uint32) for name in names}
        for _ in range(count)
    ]


def plain_sum(vectors, names):
    return sum((vectors[name].astype(np.uint64) for name in names), np.uint64(0)) % 2**32


def check(run, rounds, contributors):
    assert ["".join(names) for names in run.contributors] == contributors
    assert len(run.sums) == len(rounds)
    for total, vectors, names in zip(run.sums, rounds, contributors, strict=True):
        assert np.array_equal(total, plain_sum(vectors, names))
    assert len(set(run.models.values())) == 1


def test_encrypted_sums_equal_plain_sums_and_all_sites_end_on_one_model():
    rounds = rounds_of(3)
    check(run_encrypted_aggregation(rounds), rounds, ["abcd", "abcd", "abcd"])


def test_silent_late_and_forgetful_sites_leave_exact_sums_and_end_on_the_model_of_all():
    rounds = rounds_of(4)
    run = run_encrypted_aggregation(rounds, silent={2: ["b"]}, late={3: ["c"]}, forgetful={3: ["a"], 4: ["d"]})
    check(run, rounds, ["abcd", "acd", "abd", "abcd"])


def test_all_but_one_may_forget_the_key_and_nobody_notices_in_the_sums():
    rounds = rounds_of(2, names="abc")
    check(run_encrypted_aggregation(rounds, forgetful={2: ["a", "b"]}), rounds, ["abc", "abc"])


def test_a_key_that_everybody_forgot_before_the_first_round_is_made_anew():
    rounds = rounds_of(1, names="abc")
    check(run_encrypted_aggregation(rounds, forgetful={1: ["a", "b", "c"]}), rounds, ["abc"])


def test_a_key_that_everybody_forgot_later_is_lost_and_the_error_says_so():
    # Round 3 starts: sites stepped on the first sum, and the second one waits under a key that nobody has.
    with pytest.raises(GroupKeyLostError, match="the group key of this run is lost: a, b, c completed up to 1 rounds"):
        run_encrypted_aggregation(rounds_of(3, names="abc"), forgetful={3: ["a", "b", "c"]})


def test_fewer_uploads_than_the_minimum_publish_nothing():
    with pytest.raises(TooFewSurvivorsError, match="2 sites uploaded on one model, at least 3"):
        run_encrypted_aggregation(rounds_of(1), silent={1: ["b"]}, late={1: ["a"]})


def test_a_floor_on_cohorts_above_the_sites_at_hand_starts_nothing():
    with pytest.raises(TooFewSurvivorsError, match="at least 5"):
        run_encrypted_aggregation(rounds_of(1), min_cohort=5)


def test_vectors_longer_than_one_ciphertext_are_summed_throughout():
    rounds = rounds_of(1, names="ab", length=9000)
    check(run_encrypted_aggregation(rounds), rounds, ["ab"])


@pytest.mark.parametrize(
    "rounds", [[], [{"a": np.zeros(1, np.uint32), "b": np.zeros(2, np.uint32)}]], ids=["no", "odd"]
)
def test_rounds_without_vectors_of_one_length_are_the_callers_mistake(rounds):
    with pytest.raises(MisuseError, match="round"):
        run_encrypted_aggregation(rounds)


def test_a_sum_under_a_key_that_all_forgot_before_stepping_on_it_is_refused_under_the_new_one():
    with pytest.raises(HostileInputError, match="another group key than this site holds"):
        run_encrypted_aggregation(rounds_of(2, names="ab"), forgetful={2: ["a", "b"]})
