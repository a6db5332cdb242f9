"""What a federation is called in reports, and which combinations mean nothing."""

import pytest
from small_federation import config, tree

from secfed.config import TrainingPlan, parse_run_config
from secfed.errors import ConfigError
from secfed.federation_config import FederationConfig


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        ({}, "fedavg"),
        ({"server_learning_rate": 0.5}, "fedavg (rate 0.5)"),
        ({"server_optimizer": "fedavgm", "server_momentum": 0.9}, "fedavgm (momentum 0.9)"),
        ({"proximal_mu": 0.01}, "fedprox (mu 0.01)"),
        (
            {"server_optimizer": "fedadam", "server_momentum": 0.9, "server_learning_rate": 0.01},
            "fedadam (rate 0.01, momentum 0.9, second 0.99, adaptivity 0.001)",
        ),
        (
            {"server_optimizer": "fedavgm", "server_momentum": 0.9, "proximal_mu": 1},
            "fedavgm (momentum 0.9, mu 1)",
        ),
    ],
    ids=str,
)
def test_a_method_is_named_with_what_makes_it_that_method(settings, label):
    assert FederationConfig(**settings).label() == label


@pytest.mark.parametrize(
    ("kind", "whose", "label"),
    [
        ("instance", "shared", "instance"),
        ("batch", "shared", "batch, averaged"),
        ("batch", "fedbn", "batch, FedBN"),
        ("batch", "silobn", "batch, SiloBN"),
        ("instance", "fednorm", "instance, FedNorm"),
        ("group", "fedbn", "group, FedBN"),
    ],
)
def test_normalisation_is_named_by_its_layers_and_by_whose_they_are(kind, whose, label):
    plan = TrainingPlan.model_validate({"model": {"normalisation": kind}, "federation": {"normalisation": whose}})
    assert plan.normalisation_label() == label


@pytest.mark.parametrize("kind", ["instance", "group"])
def test_silobn_without_statistics_is_refused(scans, kind):
    with pytest.raises(ConfigError, match="has none: set it to 'batch'"):
        config(scans, model={"normalisation": kind}, federation={"normalisation": "silobn"})


@pytest.mark.parametrize("mode", ["masked", "encrypted"])
def test_a_modality_that_one_site_alone_holds_has_no_protected_set(scans, mode):
    lonely = tree(scans, federation={"normalisation": "fednorm"}, protection={"mode": mode})
    lonely["sites"] = lonely["sites"][:3]
    with pytest.raises(ConfigError, match="one site alone holds MR"):
        parse_run_config(lonely)
    for other in ({"protection": {"mode": "plain"}}, {"federation": {"normalisation": "fedbn"}}):
        parse_run_config({**lonely, **other})


@pytest.mark.parametrize("mode", ["clip_only", "local", "distributed", "silo"])
@pytest.mark.parametrize("whose", ["fedbn", "fednorm"])
def test_layers_that_are_not_everybody_s_are_refused_with_privacy_per_patient(scans, mode, whose):
    training = {"optimizer_state": "reset"}
    noise = {} if mode == "clip_only" else {"noise_multiplier": 1.0, "delta": 1e-5}
    weighting = "uniform" if mode == "silo" else "examples"
    with pytest.raises(ConfigError, match="one model is accounted for"):
        config(
            scans,
            training=training,
            federation={"normalisation": whose, "weighting": weighting, "min_cohort": 4},
            privacy={"mode": mode, **noise},
        )
