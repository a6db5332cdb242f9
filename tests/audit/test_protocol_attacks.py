"""Attacks on the masked protocol: refused by this project's software, and successful where its defence is taken out."""

import flawed_secagg as flawed
import pytest

from secfed.audit.attacks import (
    cohort_floors,
    collusion,
    corrupt_site,
    differencing,
    framing,
    key_substitution,
    mask_reuse,
    model_inconsistency,
    published_aggregate,
    replay,
    restart,
    second_sum,
    survivor_lists,
    weak_generator,
    wraparound,
)
from secfed.audit.expected import EXPECTED, deviation
from secfed.audit.finding import RECOVERED
from secfed.audit.suite import PROTOCOL
from secfed.audit.target import SECFED

BY_NAME = {attack.name: attack for attack in PROTOCOL}

# Every attack that is refused, a flaw on which it succeeds, and the figure it has there at least (p-values: at most).
SUCCEEDS_ON = {
    "both-lists": (survivor_lists.both_lists, flawed.FORGETFUL, 1.0),
    "two-sets": (survivor_lists.two_survivor_sets, flawed.FORGETFUL, 1.0),
    "smaller-sum": (survivor_lists.smaller_sum, flawed.NO_CONSISTENCY, 1.0),
    "collusion-below-t": (collusion.collusion_below_the_threshold, flawed.LOW_DEGREE, 1.0),
    "collusion-of-one-site": (collusion.one_colluding_site, flawed.NO_SHARING, 1.0),
    "stolen-state": (collusion.stolen_state, flawed.KEEPS_SECRETS, 1.0),
    "key-substitution": (key_substitution.substituted_advertisements, flawed.TRUSTING, 1.0),
    "ciphertext-substitution": (key_substitution.substituted_ciphertexts, flawed.TRUSTING, 4.0),
    "lowered-threshold": (cohort_floors.lowered_threshold, flawed.NO_FLOORS, 1.0),
    "tiny-cohort": (cohort_floors.tiny_cohort, flawed.NO_FLOORS, 1.0),
    "sybil-cohort": (cohort_floors.sybil_cohort, flawed.ROSTER_FROM_AGGREGATOR, 1.0),
    "replayed-messages": (replay.replayed_messages, flawed.NEVER_MOVES_ON, 2.0),
    "restart-from-disk": (replay.restart_from_disk, flawed.STORES_LATE, 1.0),
    "stage-restart": (restart.stage_restart, flawed.FORGETFUL, 1.0),
    "round-restart": (restart.round_restart, flawed.NEVER_MOVES_ON, 1.0),
    "mask-reuse": (mask_reuse.mask_reuse, flawed.SAME_MASKS, 1.0),
    "zero-uploads": (mask_reuse.zero_uploads, flawed.SAME_MASKS, 0.0),
    "narrow-masks": (mask_reuse.narrow_masks, flawed.NARROW_MASKS, 0.0),
    "guessed-seed": (weak_generator.guessed_seed, flawed.SHORT_SEED, 1.0),
    "repeated-secrets": (weak_generator.repeated_secrets, flawed.CONSTANT_SECRETS, 3.0),
    "differencing-same-model": (second_sum.same_model, flawed.ANY_SECOND_SUM, 1.0),
    "differencing-hidden-sum": (second_sum.hidden_sum, flawed.ANY_SECOND_SUM, 1.0),
    "differencing-new-session": (second_sum.new_session, flawed.FORGETS_SUMS, 1.0),
    "differencing-cohort-change": (differencing.changed_model_with_a_floor, flawed.NO_CHANGE_FLOOR, 0.9),
    "model-inconsistency": (model_inconsistency.model_inconsistency, flawed.MODEL_BLIND, 1.0),
    "wraparound": (wraparound.wraparound, flawed.NO_HEADROOM, 2.0**30),
    "bad-share": (corrupt_site.bad_shares, flawed.BLIND_SERVER, 1.0),
    "bad-wrap": (corrupt_site.bad_wraps, flawed.BLIND_SERVER, 1.0),
    "bad-upload": (corrupt_site.bad_uploads, flawed.BLIND_SERVER, 1.0),
    "false-complaint": (corrupt_site.false_complaints, flawed.CREDULOUS_JUDGE, 2.0),
    "forged-evidence": (framing.forged_evidence, flawed.CREDULOUS_JURY, 2.0),
    "published-aggregate": (published_aggregate.published_aggregate, flawed.HASHES_ALONE, 4.0),
}

# These succeed on this project's own masked mode: limits that SECURITY.md states.
LIMITS = {
    "two-sets-beyond-the-bound": 1.0,
    "collusion-of-t-sites": 1.0,
    "two-sites": 1.0,
    "restored-backup": 1.0,
    "differencing-changed-model": 0.9,
    "differencing-many-sums": 0.9,
    "false-update": 0.99,
    "split-consortium": 1.0,
}


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_every_verdict_is_the_expected_one_under_three_seeds(name):
    for seed in (0, 1, 2):
        for mode in ("plain", "masked"):
            row = BY_NAME[name].run(mode, seed)
            assert deviation(row) is None
            assert (row.figure is None) == (row.verdict == "not applicable")
            assert row.control, "an attack without an honest control proves nothing"
            assert "largest error" not in row.control or "largest error 0" in row.control
            assert "not exact" not in row.control
            if row.unit == RECOVERED:
                assert row.figure == (1.0 if row.verdict == "succeeded" else 0.0), "nothing, or everything"


@pytest.mark.parametrize("name", sorted(SUCCEEDS_ON))
def test_every_attack_succeeds_where_its_defence_is_missing(name):
    attack, flaw, figure = SUCCEEDS_ON[name]
    found = flaw.attacked_by(attack)
    assert found.verdict == "succeeded"
    honest_round = "largest error" not in found.control or "largest error 0" in found.control
    assert honest_round, "a flawed implementation still serves honest sites"
    if "p-value" in found.unit:
        assert found.figure < 1e-12
    else:
        assert found.figure >= figure


def test_every_refused_attack_has_a_flaw_and_every_other_is_a_stated_limit():
    verdicts = {name: EXPECTED[name]["masked"] for name in BY_NAME}
    assert {name for name, verdict in verdicts.items() if verdict == "refused"} == set(SUCCEEDS_ON)
    assert {name for name, verdict in verdicts.items() if verdict == "succeeded"} == set(LIMITS)


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_stated_limits_are_as_bad_as_stated(name):
    row = BY_NAME[name].run("masked", 5)
    assert row.verdict == "succeeded"
    assert row.figure >= LIMITS[name]


def test_a_flaw_does_not_outlive_the_attack():
    flawed.SAME_MASKS.attacked_by(mask_reuse.mask_reuse)
    assert mask_reuse.mask_reuse(SECFED, 0).figure == 0.0
