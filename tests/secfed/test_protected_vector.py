"""The one vector that leaves a site: slots come back, weights follow the rule, the sum is a weighted mean."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import RangeError
from privacy.fixed_point import decode_sum, encode
from privacy.streams import Keystream
from secfed.config import TrainingPlan
from secfed.federation_config import FederationConfig
from secfed.modality_sets import with_sets
from secfed.parameters import ParameterLayout, TensorSpec
from secfed.protected_vector import (
    BUFFER_LIMIT,
    METRIC_LIMITS,
    ModelUpdate,
    example_weight,
    pack,
    unpack_sum,
    vector_format,
)

PLAN = TrainingPlan()
KINDS = {"parameter": 4, "buffer": 3, "moment": 8}


def layout(*kinds):
    return ParameterLayout(tuple(TensorSpec(kind, (KINDS[kind],), kind) for kind in kinds))


LAYOUTS = [layout("parameter"), layout("parameter", "buffer"), layout("parameter", "buffer", "moment")]


def update(found, *, weight=0.5, seed=0, validation=None, loss=1.5):
    rng = np.random.default_rng(seed)
    return ModelUpdate(
        delta=rng.normal(size=found.num_parameters),
        buffer_delta=rng.normal(size=found.num_buffers),
        moments=rng.normal(size=found.num_moments),
        weight=weight,
        train_loss=loss,
        validation=validation or {},
    )


@pytest.mark.parametrize("found", LAYOUTS, ids=["parameters", "buffers", "moments"])
def test_the_sum_of_packed_updates_is_the_weighted_mean(found):
    slots = vector_format(found, PLAN, cohort_size=3)
    updates = [update(found, weight=w, seed=i, loss=i + 1) for i, w in enumerate((0.2, 0.5, 1.0))]
    average = unpack_sum(sum(pack(one, slots=slots) for one in updates), slots=slots)
    weights = np.array([0.2, 0.5, 1.0])
    for name in ("delta", "buffer_delta", "moments"):
        expected = np.average([getattr(one, name) for one in updates], axis=0, weights=weights)
        np.testing.assert_allclose(getattr(average, name), expected, rtol=1e-12)
    assert average.total_weight == pytest.approx(1.7)
    assert average.metrics == {"train_loss": pytest.approx(np.average([1, 2, 3], weights=weights))}


def test_validation_scores_are_means_over_cases_and_not_over_sites():
    slots = vector_format(LAYOUTS[0], PLAN, cohort_size=2)
    one = update(LAYOUTS[0], validation={"validation_dice_ct": 0.5, "validation_cases_ct": 1.0})
    many = update(LAYOUTS[0], validation={"validation_dice_ct": 2.7, "validation_cases_ct": 3.0})
    metrics = unpack_sum(pack(one, slots=slots) + pack(many, slots=slots), slots=slots).metrics
    assert metrics["validation_dice_ct"] == pytest.approx(0.8)
    assert "validation_dice_mr" not in metrics


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=5))
def test_the_mean_survives_the_fixed_point_code(examples):
    slots = vector_format(LAYOUTS[1], PLAN, cohort_size=5)
    updates = [
        update(LAYOUTS[1], weight=example_weight(count, PLAN.federation), seed=i) for i, count in enumerate(examples)
    ]
    total = np.zeros(slots.length, np.uint32)
    for one in updates:
        total += encode(pack(one, slots=slots), vector_format=slots, rounding=Keystream(bytes(32)))
    average = unpack_sum(decode_sum(total, vector_format=slots), slots=slots)
    weights = [one.weight for one in updates]
    quantum = PLAN.federation.clip_norm / slots.max_integer
    expected = np.average([one.delta for one in updates], axis=0, weights=weights)
    np.testing.assert_allclose(average.delta, expected, atol=4 * len(examples) * quantum / sum(weights))


def test_weights_follow_the_configured_rule():
    for weighting, expected in (("examples", 0.25), ("sqrt_examples", 0.5), ("uniform", 1.0)):
        federation = FederationConfig(weighting=weighting, example_cap=40)
        assert example_weight(10, federation) == expected
        assert example_weight(40, federation) == example_weight(4000, federation) == 1.0


@pytest.mark.parametrize("examples", [0, -1])
def test_a_site_without_examples_has_no_weight(examples):
    with pytest.raises(ValueError, match="at least 1"):
        example_weight(examples, FederationConfig())


@given(st.integers(1, 10**9), st.sampled_from(["examples", "sqrt_examples", "uniform"]), st.integers(1, 10**6))
def test_every_weight_fits_its_slot(examples, weighting, cap):
    assert 0 < example_weight(examples, FederationConfig(weighting=weighting, example_cap=cap)) <= 1


@pytest.mark.parametrize("total", [0.0, -1.0, math.nan])
def test_a_sum_without_weight_is_refused(total):
    slots = vector_format(LAYOUTS[0], PLAN, cohort_size=2)
    values = np.zeros(slots.length)
    values[slots.slice_of("weight")] = total
    with pytest.raises(ValueError, match="positive weight"):
        unpack_sum(values, slots=slots)


def test_a_loss_beyond_its_slot_is_clamped_and_a_delta_beyond_its_bound_is_refused():
    slots = vector_format(LAYOUTS[0], PLAN, cohort_size=2)
    packed = pack(update(LAYOUTS[0], weight=1.0, loss=1e9), slots=slots)
    assert packed[slots.slice_of("train_loss")][0] == METRIC_LIMITS["train_loss"]
    packed[0] = PLAN.federation.clip_norm * 1.01
    with pytest.raises(RangeError, match="delta"):
        encode(packed, vector_format=slots, rounding=Keystream(bytes(32)))


def test_no_cohort_can_make_the_sum_wrap():
    for size in (2, 5, 100, 1000):
        analysis = vector_format(LAYOUTS[2], PLAN, cohort_size=size).analysis()
        assert analysis.headroom >= 0
        assert {row.name for row in analysis.rows} == {"delta", "buffers", "moments", "weight", *METRIC_LIMITS}


SETS = with_sets(
    LAYOUTS[2],
    (TensorSpec("scale", (2,), "parameter"), TensorSpec("mean", (1,), "buffer"), TensorSpec("root", (2,), "moment")),
)


def of_modality(modality, *, weight, seed):
    own = np.random.default_rng(100 + seed).normal(size=5)
    return replace(update(SETS, weight=weight, seed=seed), sets={modality: own})


def test_a_set_is_the_weighted_mean_over_the_sites_of_its_modality_alone():
    slots = vector_format(SETS, PLAN, cohort_size=4)
    sites = [("CT", 0.2), ("CT", 1.0), ("MR", 0.5), ("MR", 0.25)]
    updates = [of_modality(modality, weight=weight, seed=i) for i, (modality, weight) in enumerate(sites)]
    total = np.zeros(slots.length, np.uint32)
    for one in updates:
        total += encode(pack(one, slots=slots), vector_format=slots, rounding=Keystream(bytes(32)))
    average = unpack_sum(decode_sum(total, vector_format=slots), slots=slots)
    for modality, chosen in (("CT", updates[:2]), ("MR", updates[2:])):
        expected = np.average([one.sets[modality] for one in chosen], axis=0, weights=[one.weight for one in chosen])
        np.testing.assert_allclose(average.sets[modality][[0, 1, 3, 4]], expected[[0, 1, 3, 4]], atol=1e-6)
        # The statistic's quantum is that of the much larger range of statistics.
        assert average.sets[modality][2] == pytest.approx(expected[2], abs=1e-3)
    everybody = np.average([one.delta for one in updates], axis=0, weights=[one.weight for one in updates])
    np.testing.assert_allclose(average.delta, everybody, atol=1e-6)
    assert average.total_weight == pytest.approx(1.95, abs=1e-6)


def test_a_modality_without_a_survivor_has_no_mean_and_a_negative_weight_is_refused():
    slots = vector_format(SETS, PLAN, cohort_size=2)
    packed = pack(of_modality("MR", weight=0.5, seed=0), slots=slots)
    assert set(unpack_sum(packed, slots=slots).sets) == {"MR"}
    assert not packed[slots.slice_of("delta_ct")].any()
    packed[slots.slice_of("weight_ct")] = -0.1
    with pytest.raises(ValueError, match=r"weight of CT is -0\.1"):
        unpack_sum(packed, slots=slots)


def test_the_range_of_a_set_is_that_of_what_it_holds():
    analysis = vector_format(SETS, PLAN, cohort_size=100).analysis()
    rows = {row.name: (row.length, row.max_abs) for row in analysis.rows}
    for modality in ("ct", "mr"):
        assert rows[f"delta_{modality}"] == (2, PLAN.federation.clip_norm)
        assert rows[f"buffers_{modality}"] == (1, BUFFER_LIMIT)
        assert rows[f"moments_{modality}"] == (2, PLAN.training.gradient_clip_norm)
        assert rows[f"weight_{modality}"] == (1, 1.0)
    assert rows["delta"] == (4, PLAN.federation.clip_norm)
    assert analysis.headroom >= 0


def test_without_sets_the_vector_is_what_it_was():
    assert [segment.name for segment in vector_format(LAYOUTS[2], PLAN, cohort_size=2).segments] == [
        *("delta", "buffers", "moments", "weight"),
        *METRIC_LIMITS,
    ]
