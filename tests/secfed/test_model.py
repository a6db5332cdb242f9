"""The network: every configuration constructs and trains, and one vector holds all of it."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from secfed.config import ModelConfig
from secfed.errors import ConfigError
from secfed.model import build_model, flatten, grid_factor, initial_model, layout_of, load_flat


@pytest.mark.parametrize(
    ("architecture", "dimensions", "normalisation", "residual_units"),
    [
        case
        for case in itertools.product(("unet", "basic_unet"), (2, 3), ("instance", "group", "batch"), (0, 2))
        if case[0] == "unet" or case[3] == 0
    ],
)
def test_every_combination_constructs_and_trains(architecture, dimensions, normalisation, residual_units):
    # Channel counts that eight does not divide, and nine classes in the last layer.
    channels = (6, 10, 12) if architecture == "unet" else (4, 6, 6, 10, 12)
    config = ModelConfig(
        architecture=architecture,
        dimensions=dimensions,
        channels=channels,
        normalisation=normalisation,
        residual_units=residual_units,
        dropout_prob=0.1,
    )
    model = build_model(config, num_classes=9)
    length = grid_factor(config) * (2 if architecture == "unet" else 1)
    images = torch.randn(2, 1, *[length] * dimensions)
    logits = model(images)
    assert logits.shape == (2, 9, *images.shape[2:])
    logits.square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert not any(getattr(module, "inplace", False) for module in model.modules())
    assert not any(isinstance(module, nn.InstanceNorm2d | nn.InstanceNorm3d) for module in model.modules())


@pytest.mark.parametrize("dimensions", [2, 3])
def test_instance_normalisation_is_that_of_monai(dimensions):
    from monai.networks.nets import UNet

    theirs = UNet(
        spatial_dims=dimensions,
        in_channels=1,
        out_channels=9,
        channels=(6, 10),
        strides=(2,),
        num_res_units=1,
        act=("leakyrelu", {"negative_slope": 0.1}),
        norm=("instance", {"affine": True}),
    )
    ours = build_model(ModelConfig(channels=(6, 10), dimensions=dimensions), num_classes=9)
    ours.load_state_dict(theirs.state_dict())
    images = 3 + torch.randn(2, 1, *[8] * dimensions)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)


def test_group_normalisation_has_at_most_eight_groups():
    model = build_model(ModelConfig(channels=(6, 20, 32), normalisation="group"), num_classes=9)
    groups = {m.num_channels: m.num_groups for m in model.modules() if isinstance(m, nn.GroupNorm)}
    assert groups == {6: 6, 20: 5, 32: 8, 9: 3}


@pytest.mark.parametrize("channels", [(8, 16, 32, 64), (8, 8, 16, 16, 32, 8)])
def test_basic_unet_says_how_many_levels_it_has(channels):
    with pytest.raises(ConfigError, match=r"model.channels = .* exactly 5 levels"):
        build_model(ModelConfig(architecture="basic_unet", channels=channels), num_classes=9)


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(channels=(4, 8, 8)),
        ModelConfig(architecture="basic_unet", channels=(4, 4, 4, 4, 4)),
        ModelConfig(channels=(4, 8), dimensions=3),
    ],
)
def test_the_grid_factor_is_the_smallest_that_works(config):
    model = build_model(config, num_classes=2)
    length = grid_factor(config) * 2
    assert model(torch.zeros(1, 1, *[length] * config.dimensions)).shape[2:] == (length,) * config.dimensions
    if config.architecture == "unet":
        odd = (length + 1,) * config.dimensions
        try:
            assert model(torch.zeros(1, 1, *odd)).shape[2:] != odd
        except RuntimeError as error:
            assert "Sizes of tensors must match" in str(error)


def test_the_seed_decides_the_initial_model():
    config = ModelConfig(channels=(4, 8))
    first = flatten(initial_model(config, 9, seed=3))
    torch.rand(5)
    np.testing.assert_array_equal(first, flatten(initial_model(config, 9, seed=3)))
    assert not np.array_equal(first, flatten(initial_model(config, 9, seed=4)))


def test_the_initial_model_leaves_the_global_generator_as_it_was():
    before = torch.get_rng_state()
    initial_model(ModelConfig(channels=(4, 8)), 9, seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_parameters_come_first_and_counters_are_left_out():
    layout = layout_of(build_model(ModelConfig(channels=(4, 8), normalisation="batch"), num_classes=9))
    kinds = [spec.kind for spec in layout.tensors]
    assert kinds == sorted(kinds, key=["parameter", "buffer"].index)
    assert {spec.name.rpartition(".")[2] for spec in layout.tensors if spec.kind == "buffer"} == {
        "running_mean",
        "running_var",
    }
    assert layout.num_buffers > 0


@pytest.mark.parametrize("normalisation", ["instance", "batch"])
def test_a_flat_vector_carries_the_whole_model(normalisation):
    config = ModelConfig(channels=(4, 8), normalisation=normalisation)
    one, two = initial_model(config, 9, seed=1), initial_model(config, 9, seed=2)
    images = torch.randn(4, 1, 8, 8)
    one.train()(images)
    two = two.to(memory_format=torch.channels_last)
    load_flat(two, flatten(one), layout_of(one))
    torch.testing.assert_close(one.eval()(images), two.eval()(images))
    np.testing.assert_array_equal(flatten(one), flatten(two))


def test_flatten_is_a_copy_in_the_order_of_the_layout():
    model = initial_model(ModelConfig(channels=(4, 8)), 9, seed=1)
    vector = flatten(model)
    for spec, place in layout_of(model).slices():
        expected = model.get_parameter(spec.name).detach().numpy()
        np.testing.assert_array_equal(vector[place].reshape(spec.shape), expected)
    vector[:] = 0
    assert flatten(model).any()


def test_a_read_only_vector_can_be_loaded():
    model = initial_model(ModelConfig(channels=(4, 8)), 9, seed=1)
    vector = flatten(model) + 1
    vector.flags.writeable = False
    load_flat(model, vector, layout_of(model))
    np.testing.assert_array_equal(flatten(model), vector)


def test_a_vector_of_another_model_is_refused():
    model = initial_model(ModelConfig(channels=(4, 8)), 9, seed=1)
    other = initial_model(ModelConfig(channels=(4, 6)), 9, seed=1)
    with pytest.raises(ValueError, match="not this model's"):
        load_flat(model, flatten(other), layout_of(other))
    with pytest.raises(ValueError, match="must be float32 of shape"):
        load_flat(model, flatten(other), layout_of(model))
