"""Normalisation layers are found by their type, whatever they are called."""

import numpy as np
import pytest
import torch
from torch import nn

from secfed.config import ModelConfig
from secfed.errors import ConfigError
from secfed.modality_sets import file_for, mean_of, network_of, positions_of, set_positions, with_sets
from secfed.model import build_model, flatten, initial_model, layout_of, load_flat, state_layout
from secfed.normalisation import LAYERS, own_tensors
from secfed.parameters import ParameterLayout, TensorSpec


class OddNames(nn.Module):
    """A convolution called "bn" and normalisation layers with no name that would tell."""

    def __init__(self):
        super().__init__()
        self.bn = nn.Conv2d(1, 4, 3)
        self.calm = nn.BatchNorm2d(4)
        self.inner = nn.ModuleDict({"norm": nn.Linear(4, 4), "x": nn.InstanceNorm2d(4, affine=True)})
        self.last = nn.GroupNorm(2, 4)
        self.bare = nn.InstanceNorm2d(4)


def names(specs):
    return [spec.name for spec in specs]


def test_layers_are_found_by_type_and_not_by_name():
    model = OddNames()
    layout = layout_of(model)
    affine = [f"{layer}.{value}" for layer in ("calm", "inner.x", "last") for value in ("weight", "bias")]
    statistics = ["calm.running_mean", "calm.running_var"]
    assert names(own_tensors(model, layout, "fedbn")) == affine + statistics
    assert names(own_tensors(model, layout, "fednorm")) == affine + statistics
    assert names(own_tensors(model, layout, "silobn")) == statistics
    assert own_tensors(model, layout, "shared") == ()


@pytest.mark.parametrize("normalisation", ["instance", "group", "batch"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_every_normalisation_layer_of_our_networks_is_found(normalisation, dimensions):
    model = build_model(ModelConfig(dimensions=dimensions, normalisation=normalisation), num_classes=9)
    own = set(names(own_tensors(model, layout_of(model), "fedbn")))
    there = [module for module in model.modules() if "Norm" in type(module).__name__]
    assert there
    assert all(isinstance(module, LAYERS) for module in there)
    ours = {id(value) for module in there for value in [*module.parameters(), *module.buffers()]}
    everything = [*model.named_parameters(), *model.named_buffers()]
    assert own == {name for name, value in everything if id(value) in ours and value.is_floating_point()}
    assert 0 < len(own) < len(everything)


def test_moments_go_with_the_layer_they_are_of():
    model = OddNames()
    layout = state_layout(model, "average")
    own = names(own_tensors(model, layout, "fedbn"))
    assert "optimizer.first_moment.calm.weight" in own
    assert "optimizer.root_second_moment.inner.x.bias" in own
    assert not any(name.endswith("bn.weight") for name in own)
    assert names(own_tensors(model, layout, "silobn")) == ["calm.running_mean", "calm.running_var"]


@pytest.mark.parametrize("rule", ["fedbn", "silobn", "fednorm"])
def test_a_network_without_such_layers_is_refused_and_not_silently_shared(rule):
    model = nn.Sequential(nn.Conv2d(1, 2, 3))
    with pytest.raises(ConfigError, match="the model has no such values"):
        own_tensors(model, layout_of(model), rule)


def test_a_variance_that_was_rounded_below_zero_is_zero_in_the_network():
    model = nn.Sequential(nn.BatchNorm2d(2))
    layout = layout_of(model)
    load_flat(model, np.array([1, 1, 0, 0, 0, 0, -1e-5, 2], np.float32), layout)
    np.testing.assert_array_equal(model[0].running_var.numpy(), [0, 2])
    assert torch.isfinite(model.eval()(torch.ones(1, 2, 1, 1))).all()


BASE = ParameterLayout(
    (
        TensorSpec("conv", (3,), "parameter"),
        TensorSpec("scale", (2,), "parameter"),
        TensorSpec("variance", (1,), "buffer"),
        TensorSpec("optimizer.first_moment.conv", (3,), "moment"),
        TensorSpec("optimizer.first_moment.scale", (2,), "moment"),
    )
)
OWN = tuple(spec for spec in BASE.tensors if "scale" in spec.name or spec.name == "variance")


def test_sets_stand_behind_the_network_and_count_as_no_part_of_it():
    layout = with_sets(BASE, OWN)
    assert (layout.num_parameters, layout.num_buffers, layout.num_moments) == (5, 1, 5)
    assert (layout.model_size, layout.shared_size, layout.size) == (6, 11, 21)
    assert layout.modalities == ("CT", "MR")
    assert (layout.set_of("CT"), layout.set_of("MR")) == (slice(11, 16), slice(16, 21))
    assert layout.shared_layout() == BASE
    assert names(layout.model_layout().tensors) == ["conv", "scale", "variance"]
    assert [layout.count(kind, "MR") for kind in ("parameter", "buffer", "moment")] == [2, 1, 2]
    assert ParameterLayout.from_json(layout.to_json()) == layout
    assert layout.digest() != BASE.digest()
    with pytest.raises(ValueError, match="no tensors of CT"):
        BASE.set_of("CT")


def test_a_set_takes_the_place_of_the_layers_it_is_of():
    layout = with_sets(BASE, OWN)
    vector = np.arange(21, dtype=np.float32)
    np.testing.assert_array_equal(set_positions(layout), [3, 4, 5, 9, 10])
    np.testing.assert_array_equal(network_of(vector, layout, ("CT",)), [0, 1, 2, 11, 12, 13, 6, 7, 8, 14, 15])
    np.testing.assert_array_equal(network_of(vector, layout, ("CT", "MR"))[3:6], [13.5, 14.5, 15.5])
    np.testing.assert_array_equal(vector, np.arange(21))
    np.testing.assert_array_equal(positions_of(layout, {"variance"}), [5])


def test_the_mean_of_one_set_is_that_set_bit_for_bit():
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    np.testing.assert_array_equal(mean_of([values]), values)


def test_a_tensor_of_a_modality_may_not_stand_among_everybody_s():
    with pytest.raises(ValueError, match="of no modality before"):
        ParameterLayout((TensorSpec("a", (1,), "parameter", "CT"), TensorSpec("b", (1,), "parameter")))
    with pytest.raises(ValueError, match="modality must be one of"):
        TensorSpec("a", (1,), "parameter", "PET")
    with pytest.raises(ValueError, match="not a parameter layout"):
        ParameterLayout.from_json('[["a", [1], "parameter", "CT", "more"]]')


def test_without_fednorm_the_layout_and_its_hash_are_what_they_were():
    model = initial_model(ModelConfig(channels=(4, 8)), 9, 0)
    plain = state_layout(model, "average")
    for rule in ("shared", "fedbn"):
        assert state_layout(model, "average", rule).digest() == plain.digest()
    assert state_layout(model, "average", "fednorm").shared_layout() == plain
    assert len(flatten(model)) == plain.model_size


def test_model_files_are_named_by_modality():
    assert file_for("model.safetensors", "CT") == "model-ct.safetensors"
    assert file_for("model.safetensors", None) == "model.safetensors"
