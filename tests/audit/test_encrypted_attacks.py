"""Attacks on encrypted runs: refused by this project's software, and successful where its defence is taken out."""

import flawed_encryption as flawed
import flawed_secagg
import numpy as np
import pytest

from privacy.he.library import SealKey
from privacy.he.parameters import HeParameters
from secfed.audit.attacks import (
    encrypted_holders,
    encrypted_model,
    encrypted_noise,
    encrypted_rounds,
    encrypted_setup,
    encrypted_sums,
    encrypted_views,
    key_substitution,
    parameter_downgrade,
    published_aggregate,
)
from secfed.audit.expected import EXPECTED, deviation
from secfed.audit.finding import RECOVERED
from secfed.audit.suite import PROTOCOL
from secfed.audit.target import SECFED

BY_NAME = {attack.name: attack for attack in PROTOCOL}

# Every attack that is refused, a flaw on which it succeeds, and the figure it has there at least (p-values: at most).
SUCCEEDS_ON = {
    "two-sets": (encrypted_views.two_histories, flawed_secagg.NO_FLOORS, 1.0),
    "smaller-sum": (encrypted_rounds.smaller_sum, flawed.BLIND, 10.0),
    "key-substitution": (encrypted_setup.substituted_advertisements, flawed_secagg.TRUSTING, 1.0),
    "ciphertext-substitution": (
        key_substitution.substituted_ciphertexts_before_a_group_key,
        flawed_secagg.TRUSTING,
        4.0,
    ),
    "lowered-threshold": (encrypted_rounds.lowered_minimum, flawed_secagg.NO_FLOORS, 10.0),
    "tiny-cohort": (encrypted_rounds.tiny_group, flawed_secagg.NO_FLOORS, 4.0),
    "sybil-cohort": (encrypted_setup.sybil_group, flawed_secagg.ROSTER_FROM_AGGREGATOR, 1.0),
    "replayed-messages": (encrypted_rounds.replayed_messages, flawed.ANY_ROUND, 1.0),
    "restart-from-disk": (encrypted_rounds.second_upload_after_a_restart, flawed.STORES_LATE, 1.0),
    "restored-backup": (encrypted_rounds.restored_backup, flawed.ONE_NOISE, 1.0),
    "stage-restart": (encrypted_rounds.second_upload, flawed.FORGETFUL, 1.0),
    "round-restart": (encrypted_rounds.same_number_again, flawed.ANY_ROUND, 8.0),
    "mask-reuse": (encrypted_rounds.equal_updates, flawed.ONE_NOISE, 1.0),
    "zero-uploads": (encrypted_noise.zero_uploads, flawed.ONE_NOISE, 0.0),
    "narrow-masks": (encrypted_noise.visible_updates, flawed.NO_NOISE, 0.0),
    "guessed-seed": (encrypted_setup.guessed_seed, flawed_secagg.SHORT_SEED, 1.0),
    "repeated-secrets": (encrypted_setup.repeated_keys, flawed.CONSTANT_KEY, 4.0),
    "differencing-same-model": (encrypted_views.second_sum_of_a_round, flawed.GOES_BACK, 4.0),
    "differencing-new-session": (encrypted_views.second_sum_in_a_new_session, flawed.GOES_BACK, 4.0),
    "model-inconsistency": (encrypted_views.different_models, flawed.BLIND, 5.0),
    "wraparound": (encrypted_noise.wraparound_of_sums, flawed_secagg.NO_HEADROOM, 2.0**30),
    "bad-wrap": (encrypted_setup.bad_wraps, flawed.OPENS_ANYTHING, 2.0),
    "bad-upload": (encrypted_holders.bad_uploads, flawed.BLIND_SERVER, 4.0),
    "published-aggregate": (published_aggregate.published_encrypted, flawed.HASHES_ALONE, 4.0),
    "two-group-keys": (encrypted_setup.two_keys, flawed.ANY_KEY, 8.0),
    "parameter-downgrade": (parameter_downgrade.weaker_parameters, flawed.ANY_PARAMETERS, 8.0),
    "false-sum": (encrypted_sums.false_sums, flawed.NO_CHECK_SLOTS, 12.0),
    "false-history": (encrypted_sums.false_histories, flawed.BELIEVES_ALL, 5.0),
    "key-reaction": (encrypted_sums.key_reactions, flawed.ENDLESS_TRIES, 9.0),
    "ckks-decryption-leak": (encrypted_noise.decryption_leak, flawed.RAW_DECRYPTIONS, 1.0),
    "tag-guessing": (encrypted_model.guessed_model, flawed.PUBLIC_TAGS, 1.0),
    "snapshot-forgery": (encrypted_model.forged_snapshots, flawed.ANY_SNAPSHOT, 1.0),
}

# These succeed on this project's own encrypted mode: limits that SECURITY.md states.
LIMITS = {
    "two-sets-beyond-the-bound": 1.0,
    "collusion-below-t": 1.0,
    "collusion-of-t-sites": 1.0,
    "collusion-of-one-site": 1.0,
    "stolen-state": 1.0,
    "two-sites": 1.0,
    "differencing-changed-model": 0.9,
    "differencing-cohort-change": 0.9,
    "differencing-many-sums": 0.9,
    "false-update": 0.99,
    "spoiled-sum": 1.0,
    "split-consortium": 1.0,
}


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_every_verdict_on_an_encrypted_run_is_the_expected_one(name):
    row = BY_NAME[name].run("encrypted", sorted(BY_NAME).index(name) % 3)
    assert deviation(row) is None
    assert (row.figure is None) == (row.verdict == "not applicable")
    assert row.control, "an attack without an honest control proves nothing"
    assert "largest error" not in row.control or "largest error 0" in row.control
    assert "not exact" not in row.control
    if row.unit == RECOVERED:
        assert row.figure == (1.0 if row.verdict == "succeeded" else 0.0), "nothing, or everything"
    if row.verdict == "succeeded":
        assert row.figure >= LIMITS[name]


@pytest.mark.parametrize("name", sorted(SUCCEEDS_ON))
def test_every_attack_on_an_encrypted_run_succeeds_where_its_defence_is_missing(name):
    attack, flaw, figure = SUCCEEDS_ON[name]
    found = flaw.attacked_by(attack)
    assert found.verdict == "succeeded"
    honest_round = "largest error" not in found.control or "largest error 0" in found.control
    assert honest_round, "a flawed implementation still serves honest sites"
    if "p-value" in found.unit:
        assert found.figure < 1e-12
    else:
        assert found.figure >= figure


def test_every_refused_attack_on_an_encrypted_run_has_a_flaw_and_every_other_is_a_stated_limit():
    verdicts = {name: EXPECTED[name]["encrypted"] for name in BY_NAME}
    assert {name for name, verdict in verdicts.items() if verdict == "refused"} == set(SUCCEEDS_ON)
    assert {name for name, verdict in verdicts.items() if verdict == "succeeded"} == set(LIMITS)


@pytest.mark.parametrize(
    ("attack", "flaw"),
    [
        (encrypted_model.chosen_weights, flawed.NO_CHECK_SLOTS),
        (encrypted_model.chosen_layout, flawed.ANY_LENGTH),
    ],
    ids=["weights", "layout"],
)
def test_an_aggregator_brings_no_model_of_its_own_to_sites_that_check(attack, flaw):
    assert attack(SECFED, 0).figure == 0.0
    assert flaw.attacked_by(attack).figure == 4.0


def test_raw_ckks_decryptions_give_the_key_away_and_this_projects_do_not():
    row = BY_NAME["ckks-decryption-leak"].run("encrypted", 4)
    assert "100% of the key's 8192 coefficients, and a fresh ciphertext opens" in row.control
    assert row.outcome.count("0.00% on") == 3
    assert "0 of 3 open a fresh ciphertext" in row.outcome
    assert row.figure == 0.0


def test_one_key_holder_opens_every_upload_under_encryption_and_none_under_masks():
    row = {mode: BY_NAME["collusion-of-one-site"].run(mode, 4) for mode in ("masked", "encrypted")}
    assert (row["masked"].figure, row["encrypted"].figure) == (0.0, 1.0)
    assert "read 6 of 6 other sites' updates in full" in row["encrypted"].outcome
    assert "without the key 0% of any update is read" in row["encrypted"].control


def test_the_key_reaction_attack_meets_sums_at_the_edge_of_what_decrypts():
    """The pushed sums fail for the noise alone: a little less, and they decrypt."""
    found = encrypted_sums.key_reactions(SECFED, 3)
    assert found.figure == 8.0
    group = encrypted_sums.EncryptedGroup(SECFED, count=4, seed=3)
    published = group.play()
    edge = group.parameters.moduli[0] // (2 * group.parameters.plain_modulus)
    # Four sites: the noise is at most 4 x 21.5.
    close = encrypted_sums.moved(published.total, edge - 90, place=0, parameters=group.parameters)
    forged = encrypted_sums.with_sum(published, close)
    words = encrypted_sums.accept(group.members[group.names[0]], group.announce(before=forged).announcement, forged)
    np.testing.assert_array_equal(words, group.world.total(group.names))


def test_a_flaw_of_encryption_does_not_outlive_the_attack():
    flawed.NO_CHECK_SLOTS.attacked_by(encrypted_sums.false_sums)
    assert encrypted_sums.false_sums(SECFED, 0).figure == 0.0
    key = SealKey.generate(HeParameters.approximate(max_clients=2))
    assert key.decrypt(np.concatenate(key.encrypt(np.zeros(2048, dtype=np.int64)))).dtype == np.int64
