"""`model.context_slices`: what it asks for, what it is called, and that plans without it are what they always were."""

import hashlib
import json

import numpy as np
import pytest
import torch
from small_federation import config, tree

from secfed.config import MAX_CONTEXT_SLICES, ModelConfig, TrainingPlan, parse_run_config
from secfed.errors import ConfigError
from secfed.experiment.run_folder import load_resolved_config, resolved_toml
from secfed.experiment.start import starting_vector
from secfed.model import build_model, flatten, initial_model
from secfed.network import initial_vector
from secfed.parameters import save_vector

# As the releases wrote it that had no such key; a digest of a plan is over these characters, in the order of the keys.
WITHOUT = (
    '{"architecture":"unet","dimensions":2,"channels":[16,32,64,128],"residual_units":1,"normalisation":"instance",'
    '"dropout_prob":0.0}'
)


def test_without_context_nothing_that_is_written_or_hashed_names_the_key(tmp_path):
    assert ModelConfig().model_dump_json() == ModelConfig(context_slices=0).model_dump_json() == WITHOUT
    plan = TrainingPlan()
    canonical = json.dumps(
        {**plan.model_dump(mode="json"), "model": json.loads(WITHOUT)}, sort_keys=True, separators=(",", ":")
    )
    assert plan.digest() == hashlib.sha256(canonical.encode()).digest()
    run_config = config(tmp_path)
    assert "context_slices" not in resolved_toml(run_config) + run_config.plan().model_dump_json()
    assert config(tmp_path, model={"context_slices": 0}).run_digest() == run_config.run_digest()


def test_plans_differ_by_their_context_in_every_digest():
    plans = [TrainingPlan.model_validate({"model": {"context_slices": count}}) for count in range(3)]
    assert len({plan.digest() for plan in plans}) == len({plan.unprotected_digest() for plan in plans}) == 3


@pytest.mark.parametrize("count", [0, 1, MAX_CONTEXT_SLICES])
def test_a_plan_is_read_back_from_what_is_sent_and_from_a_run_folder(tmp_path, count):
    run_config = config(tmp_path, model={"context_slices": count})
    plan = run_config.plan()
    assert plan.model.context_slices == count
    assert TrainingPlan.model_validate_json(plan.model_dump_json()) == plan
    (tmp_path / "config.toml").write_text(resolved_toml(run_config))
    assert load_resolved_config(tmp_path / "config.toml") == run_config


def test_a_plan_of_a_former_release_is_read_as_one_without_context():
    assert TrainingPlan.model_validate_json(f'{{"model": {WITHOUT}}}') == TrainingPlan()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"context_slices": MAX_CONTEXT_SLICES + 1}, r"model\.context_slices = 9: .* less than or equal to 8"),
        ({"context_slices": -1}, r"model\.context_slices = -1: .* greater than or equal to 0"),
        ({"context_slices": 1.5}, r"model\.context_slices = 1\.5: .* valid integer"),
        ({"context_slices": "two"}, r"model\.context_slices = 'two': .* valid integer"),
        (
            {"context_slices": 2, "dimensions": 3},
            r"context_slices = 2 is for dimensions = 2, .* set context_slices to 0",
        ),
        ({"context_slice": 1}, r"unknown key 'model\.context_slice': did you mean 'context_slices'\?"),
    ],
)
def test_what_cannot_be_is_refused_with_key_value_and_advice(tmp_path, model, words):
    with pytest.raises(ConfigError, match=words):
        config(tmp_path, model=model)


@pytest.mark.parametrize("augmentation", [{"method": "slaug"}, {"method": "mixed", "mix": ["gin", "slaug"]}])
def test_slaug_wants_labels_that_neighbours_do_not_bring(tmp_path, augmentation):
    config(tmp_path, augmentation=augmentation)
    with pytest.raises(ConfigError, match=r"'slaug' .* model\.context_slices = 1 .* use another method, as 'bezier'"):
        config(tmp_path, augmentation=augmentation, model={"context_slices": 1})


@pytest.mark.parametrize(
    ("model", "label"),
    [
        ({}, "unet in 2D"),
        ({"dimensions": 3, "architecture": "basic_unet"}, "basic_unet in 3D"),
        ({"context_slices": 1}, "unet in 2.5D, 1 slice on each side"),
        ({"context_slices": 2}, "unet in 2.5D, 2 slices on each side"),
    ],
)
def test_pages_name_it(model, label):
    assert ModelConfig.model_validate(model).label() == label


@pytest.mark.parametrize(
    "model", [{}, {"residual_units": 1}, {"architecture": "basic_unet", "channels": [4, 4, 6, 6, 8]}], ids=str
)
@pytest.mark.parametrize("count", [1, 3])
def test_a_network_takes_the_slices_as_channels_and_labels_one(model, count):
    settings = ModelConfig.model_validate({"channels": [4, 8], **model, "context_slices": count})
    network = build_model(settings, num_classes=9)
    slices = torch.randn(2, 1 + 2 * count, 32, 32, requires_grad=True)
    logits = network(slices)
    assert logits.shape == (2, 9, 32, 32)
    logits.square().sum().backward()
    assert slices.grad is not None
    assert (slices.grad.abs().amax(dim=(0, 2, 3)) > 0).all()
    with pytest.raises(RuntimeError):
        network(slices[:, 1:])


def test_without_context_the_first_model_is_what_it_was():
    plain, none = (initial_model(ModelConfig(**model), 9, 3) for model in ({}, {"context_slices": 0}))
    np.testing.assert_array_equal(flatten(plain), flatten(none))
    assert next(plain.parameters()).shape[1] == 1


def test_a_model_without_context_does_not_start_one_with_it(tmp_path):
    flat, layout = initial_vector(config(tmp_path), num_classes=9)
    save_vector(tmp_path / "flat.safetensors", flat, layout, metadata={})
    again = tree(tmp_path, start_from=str(tmp_path / "flat.safetensors"))
    np.testing.assert_array_equal(starting_vector(parse_run_config(again))[0], flat)
    again["model"]["context_slices"] = 1
    with pytest.raises(ConfigError, match=r"another architecture than \[model\] describes"):
        starting_vector(parse_run_config(again))
