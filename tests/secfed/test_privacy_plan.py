"""What a plan's privacy settings come to, and every setting that is refused before any patient is touched."""

import math

import pytest

from privacy.accounting import spend
from secfed.config import TrainingPlan, parse_run_config
from secfed.errors import ConfigError
from secfed.parameters import ParameterLayout, TensorSpec
from secfed.privacy_config import PrivacyConfig
from secfed.privacy_plan import noise_split, priced, round_cost, run_cost
from secfed.protected_vector import sensitivity, vector_format

PARAMETERS = 5000
LAYOUT = ParameterLayout((TensorSpec("weight", (PARAMETERS,), "parameter"),))
NOISY = {"mode": "distributed", "noise_multiplier": 1.0, "delta": 1e-5}


def tree(**tables):
    """A run of ten sites as it stands in a file; tables are merged into what a distributed run needs."""
    base = {
        "training": {"optimizer_state": "reset", "patch_size": [16, 16]},
        "model": {"channels": [4, 8]},
        "federation": {"rounds": 20, "min_cohort": 10, "example_cap": 50},
        "privacy": dict(NOISY),
        "sites": [
            {"name": f"site-{i}", "modality": "CT", "phantom": {"protocol": "ct", "train": 5}} for i in range(10)
        ],
    }
    for name, value in tables.items():
        base[name] = {**base.get(name, {}), **value} if isinstance(value, dict) else value
    return base


def plan(**tables) -> TrainingPlan:
    return parse_run_config(tree(**tables)).plan()


def cost(given, *, sites=10):
    return round_cost(given, vector_format(LAYOUT, given, cohort_size=sites), dimension=PARAMETERS)


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"model": {"normalisation": "batch"}}, r"model.normalisation = 'batch' mixes patients"),
        ({"federation": {"validate_every": 1}}, r"federation.validate_every = 1 would release scores"),
        ({"training": {"optimizer_state": "keep"}}, r"training.optimizer_state = 'keep'.*set it to 'reset'"),
        ({"federation": {"weighting": "uniform"}}, r"federation.weighting = 'uniform'.*set it to 'examples'"),
        ({"privacy": {"mode": "silo"}}, r"federation.weighting = 'examples'.*set it to 'uniform'"),
        (
            {
                "privacy": {"mode": "silo"},
                "federation": {"weighting": "uniform"},
                "training": {"optimizer_state": "average"},
            },
            r"'average' would release moments",
        ),
        ({"privacy": {"mode": "local"}, "training": {"passes_per_round": 1.0}}, r"passes_per_round = 1.*counts steps"),
        ({"privacy": {"noise_multiplier": -1.0}}, r"privacy.noise_multiplier = -1.0"),
        ({"privacy": {"noise_multiplier": math.nan}}, r"privacy.noise_multiplier = nan"),
        ({"privacy": {"noise_multiplier": math.inf}}, r"privacy.noise_multiplier = inf"),
        ({"privacy": {"noise_multiplier": None, "epsilon": 0.0}}, r"privacy.epsilon = 0.0"),
        ({"privacy": {"noise_multiplier": None, "epsilon": math.nan}}, r"privacy.epsilon = nan"),
        ({"privacy": {"noise_multiplier": None, "epsilon": math.inf}}, r"privacy.epsilon = inf"),
        ({"privacy": {"epsilon": 1.0}}, r"exactly one of noise_multiplier and epsilon"),
        ({"privacy": {"noise_multiplier": None}}, r"exactly one of noise_multiplier and epsilon"),
        ({"privacy": {"delta": None}}, r"give delta, or patients"),
        ({"privacy": {"delta": math.nan}}, r"privacy.delta = nan"),
        ({"privacy": {"delta": 1.0}}, r"privacy.delta = 1.0"),
        ({"privacy": {"sampling_prob": 0.0}}, r"privacy.sampling_prob = 0.0"),
        ({"privacy": {"clip_norm": math.inf}}, r"privacy.clip_norm = inf"),
        ({"privacy": {"mode": "clip_only"}}, r"adds no noise, so noise_multiplier would mean nothing"),
        ({"privacy": {"mode": "off"}}, r"adds no noise"),
        ({"privacy": {"max_dropouts": 9, "max_colluders": 1}, "federation": {"min_cohort": 1}}, r"leave none of 10"),
        ({"federation": {"min_cohort": 9}}, r"min_cohort = 9: the noise .* needs 10 of 10 sites"),
        ({"augmentation": {"method": "mixup"}}, r"augmentation.method = 'mixup'"),
        ({"privacy": {"trainable": "everything"}}, r"privacy.trainable = 'everything'"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:40],
)
def test_a_setting_that_breaks_the_guarantee_is_refused_by_name(tables, words):
    with pytest.raises(ConfigError, match=words):
        parse_run_config(tree(**tables))


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"privacy": {"noise_multiplier": None, "epsilon": 1e-9, "delta": 1e-10}}, "out of reach"),
        ({"privacy": {"noise_multiplier": 9e8}, "federation": {"example_cap": 1}}, "leaves no integers"),
        ({"privacy": {"noise_multiplier": 1e-6}, "federation": {"example_cap": 10**6}}, "too few for sums"),
        ({"privacy": {"delta": 1e-12}}, "delta = 1e-12"),
        ({"privacy": {"delta": None, "patients": 10**10}}, "delta = 1e-11"),
    ],
    ids=["no-noise-is-enough", "too-much-noise", "too-little-noise", "tiny-delta", "too-many-patients"],
)
def test_numbers_that_no_noise_can_meet_are_a_configuration_error(tables, words):
    with pytest.raises(ConfigError, match=words):
        priced(plan(**tables), LAYOUT, dimension=PARAMETERS, sites=10)


@pytest.mark.parametrize("mode", ["distributed", "silo", "local"])
def test_a_target_is_met_from_below_and_not_by_much(mode):
    tables = {"federation": {"weighting": "uniform"}} if mode == "silo" else {}
    asked = plan(privacy={"mode": mode, "noise_multiplier": None, "epsilon": 8.0}, **tables)
    resolved, found = priced(asked, LAYOUT, dimension=PARAMETERS, sites=10)
    assert resolved.privacy.epsilon is None
    assert 7.9 < found.epsilon <= 8.0
    # Every site computes the same from what was agreed.
    slots = vector_format(LAYOUT, resolved, cohort_size=10)
    assert run_cost(resolved, slots, dimension=PARAMETERS).epsilon == found.epsilon


def test_without_dropouts_and_colluders_shares_cost_what_a_trusted_centre_would():
    found = cost(plan())
    assert (found.sampling_prob, found.steps) == (0.5, 1)
    assert found.noise_multiplier == pytest.approx(1.0, rel=1e-4)
    assert found.noise_multiplier < 1.0, "rounding costs a little, and is counted"


def test_each_share_grows_with_those_who_may_be_missing_or_tell():
    plain = plan(privacy={"max_dropouts": 2, "max_colluders": 1}, federation={"min_cohort": 8})
    split = noise_split(plain, vector_format(LAYOUT, plain, cohort_size=10), dimension=PARAMETERS)
    assert split.site_noise == pytest.approx(sensitivity(plain) / math.sqrt(7))
    # Of the fewest survivors, 8, all but the colluder count.
    assert cost(plain).noise_multiplier == pytest.approx(1.0, rel=1e-4)


def test_a_silo_s_patients_pay_for_turning_the_whole_update_round():
    silo = plan(privacy={"mode": "silo"}, federation={"weighting": "uniform"})
    found = cost(silo)
    assert found.noise_multiplier == pytest.approx(0.5, rel=1e-3)
    assert found.sampling_prob == 1.0


@pytest.mark.parametrize(
    ("protection", "dropouts", "colluders", "alone"),
    [
        ("masked", 0, 0, False),
        ("masked", 2, 1, False),
        ("encrypted", 0, 0, False),
        ("encrypted", 2, 0, True),
        ("encrypted", 0, 2, True),
        ("plain", 0, 0, True),
    ],
)
def test_who_may_be_read_alone_pays_for_its_own_share_only(protection, dropouts, colluders, alone):
    given = plan(
        protection={"mode": protection},
        privacy={"max_dropouts": dropouts, "max_colluders": colluders},
        federation={"min_cohort": 10 - dropouts},
    )
    expected = 1 / math.sqrt(10 - dropouts - colluders) if alone else 1.0
    assert cost(given).noise_multiplier == pytest.approx(expected, rel=1e-3)


def test_a_colluder_in_an_encrypted_run_reads_every_site_alone():
    given = {"privacy": {"max_colluders": 1}, "federation": {"min_cohort": 10}}
    assert cost(plan(**given, protection={"mode": "masked"})).noise_multiplier == pytest.approx(1.0, rel=1e-3)
    assert cost(plan(**given, protection={"mode": "encrypted"})).noise_multiplier == pytest.approx(1 / 3, rel=1e-3)


def test_local_noise_is_counted_for_every_step_and_for_no_other_site():
    local = plan(privacy={"mode": "local"}, training={"steps_per_round": 7}, protection={"mode": "plain"})
    found = cost(local)
    assert found.steps == 7
    assert found.noise_multiplier == pytest.approx(1.0, rel=1e-3)
    # Noise of thousands of clip norms is drawn in coarser steps, and still counted.
    strong = plan(privacy={"mode": "local", "noise_multiplier": 5000.0})
    assert cost(strong).noise_multiplier == pytest.approx(5000.0, rel=5e-3)
    split = noise_split(strong, vector_format(LAYOUT, strong, cohort_size=10), dimension=PARAMETERS)
    assert split.site_noise / split.quantum <= 2**28


def test_the_whole_run_is_all_of_its_rounds():
    given = plan()
    slots = vector_format(LAYOUT, given, cohort_size=10)
    found = run_cost(given, slots, dimension=PARAMETERS)
    assert found.epsilon == spend([cost(given)] * 20, delta=1e-5).epsilon
    assert (found.unit, found.relation, found.delta) == ("patient", "zero-out", 1e-5)


def test_delta_follows_the_number_of_patients():
    def resolved(**keys):
        return PrivacyConfig(mode="local", noise_multiplier=1.0, **keys).resolved_delta

    assert resolved(patients=100) == 1e-5
    assert resolved(patients=100_000) == 1e-6
    assert resolved(patients=100_000, delta=3e-6) == 3e-6
    assert PrivacyConfig().resolved_delta == 0.0


def test_a_guarantee_leaves_no_slot_for_scores():
    names = {
        mode: {s.name for s in vector_format(LAYOUT, p, cohort_size=10).segments}
        for mode, p in (
            ("distributed", plan()),
            ("clip_only", plan(privacy={"mode": "clip_only", "noise_multiplier": None, "delta": None})),
        )
    }
    assert names["distributed"] == {"delta", "weight"}
    assert {"train_loss", "validation_dice_ct"} < names["clip_only"]
