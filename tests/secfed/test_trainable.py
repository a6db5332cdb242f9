"""What learns is what was declared, in number and in fact, and nothing else moves."""

import numpy as np
import pytest
import torch
from torch import nn

from privacy.opacus_backend import OpacusHooks
from privacy.patientwise import PatientLoop
from secfed.adapters import CONVOLUTIONS, add_adapters, merge_adapters
from secfed.config import ModelConfig
from secfed.errors import ConfigError
from secfed.model import flatten, initial_model, layout_of
from secfed.trainable import ADAPTER_RANK, choose_trainable

DEMO = ModelConfig(residual_units=0)
SETS = ("all", "decoder", "norm+head", "head", "lora")


def demo_network(config=DEMO):
    return initial_model(config, 9, 0)


def entropy(logits, labels):
    return nn.functional.cross_entropy(logits, labels)


def some_views(config=DEMO, *, views=2):
    generator = torch.Generator().manual_seed(0)
    shape = (32,) * config.dimensions
    return (
        torch.randn(views, 1, *shape, generator=generator),
        torch.randint(9, (views, *shape), generator=generator),
    )


@pytest.mark.parametrize(
    ("trainable", "count"),
    [
        # Counted by hand from the demo's layers: kernels of 3 x 3, channels 16, 32, 64, 128, nine classes.
        ("all", 164_889),
        ("decoder", 192 * 32 * 9 + 3 * 32 + 64 * 16 * 9 + 3 * 16 + 32 * 9 * 9 + 9),
        ("norm+head", 2 * (16 + 32 + 64 + 128 + 32 + 16) + 32 * 9 * 9 + 9),
        ("head", 32 * 9 * 9 + 9),
        (
            "lora",
            4
            * (
                (16 + 9)
                + (32 + 16 * 9)
                + (64 + 32 * 9)
                + (128 + 64 * 9)
                + (192 + 32 * 9)
                + (64 + 16 * 9)
                + (32 + 9 * 9)
            ),
        ),
    ],
)
def test_demo_network_has_so_many_trainable_values(trainable, count):
    model = demo_network()
    chosen = choose_trainable(model, trainable)
    assert chosen.num_params == count
    assert chosen.names == tuple(name for name, value in model.named_parameters() if value.requires_grad)
    assert count == sum(value.numel() for value in model.parameters() if value.requires_grad)


OTHERS = [
    ModelConfig(channels=(4, 6, 8), residual_units=2),
    ModelConfig(channels=(4, 6), residual_units=1, normalisation="group", dimensions=3),
    ModelConfig(architecture="basic_unet", channels=(4, 4, 6, 6, 8)),
    ModelConfig(architecture="basic_unet", channels=(4, 4, 6, 6, 8), dimensions=3, normalisation="group"),
]


@pytest.mark.parametrize("config", OTHERS)
def test_head_is_the_layer_that_gives_the_logits(config):
    model = demo_network(config)
    chosen = choose_trainable(model, "head")
    assert {name.rpartition(".")[2] for name in chosen.names} == {"weight", "bias"}
    images, _ = some_views(config)
    outputs = []
    model.get_submodule(chosen.names[0].rpartition(".")[0]).register_forward_hook(
        lambda module, given, output: outputs.append(output)
    )
    logits = model(images)
    assert outputs[0].shape == logits.shape


@pytest.mark.parametrize("config", OTHERS)
def test_sets_grow_from_the_head_to_all(config):
    found = {
        trainable: set(choose_trainable(demo_network(config), trainable).names)
        for trainable in SETS
        if trainable != "lora"
    }
    assert found["head"] < found["norm+head"] < found["all"]
    assert found["head"] < found["decoder"] < found["all"]
    assert {name for name in found["all"] if ".N." in name} == found["norm+head"] - found["head"]
    encoder = ("model.0.", "model.1.submodule.0.", "conv_0.", "down_")
    assert found["decoder"].isdisjoint(name for name in found["all"] if name.startswith(encoder))


@pytest.mark.parametrize("trainable", SETS)
@pytest.mark.parametrize("config", [DEMO, OTHERS[2]])
def test_frozen_parameters_never_change_and_declared_ones_do(trainable, config):
    model = demo_network(config)
    chosen = choose_trainable(model, trainable)
    images, labels = some_views(config)
    loop = PatientLoop(model, loss=entropy, clip_norm=1.0, example=(images, labels))
    layout = layout_of(model)
    before = flatten(model)
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=1.0)
    for _ in range(3):
        total = loop.sum([(images, labels), (images * 2, labels)]).vector
        assert total.shape == (chosen.num_params,)
        values = [value for value in model.parameters() if value.requires_grad]
        parts = torch.from_numpy(total).float().split([value.numel() for value in values])
        for value, part in zip(values, parts, strict=True):
            value.grad = part.view_as(value)
        optimizer.step()
    after = flatten(model)
    places = chosen.places(layout)
    frozen = np.setdiff1d(np.arange(layout.size), places)
    assert np.array_equal(after[frozen], before[frozen])
    assert (after[places] != before[places]).mean() > 0.9


def test_a_change_of_the_set_is_added_at_its_own_places():
    model = demo_network()
    chosen = choose_trainable(model, "norm+head")
    vector, layout = flatten(model), layout_of(model)
    change = np.arange(1.0, chosen.num_params + 1)
    moved = chosen.add_to(vector, change, layout)
    assert np.array_equal((moved - vector)[chosen.places(layout)] > 0.5, np.ones(chosen.num_params, bool))
    assert np.count_nonzero(moved != vector) == chosen.num_params
    with pytest.raises(ValueError, match="layout"):
        chosen.places(layout_of(demo_network(OTHERS[0])))


@pytest.mark.parametrize("config", [DEMO, *OTHERS])
def test_adapters_start_from_nothing_and_merge_into_the_same_model(config):
    model = demo_network(config)
    layout, images = layout_of(model), some_views(config)[0]
    before, weights = model(images).detach(), flatten(model)
    choose_trainable(model, "lora", seed=3)
    assert torch.allclose(model(images), before, atol=1e-6)
    generator = torch.Generator().manual_seed(1)
    for name, value in model.named_parameters():
        if name.endswith(".up"):
            value.data.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    changed = model(images).detach()
    assert not torch.allclose(changed, before, atol=1e-3)
    merge_adapters(model)
    assert layout_of(model) == layout
    assert torch.allclose(model(images), changed, atol=1e-5)
    moved = np.abs(flatten(model) - weights) > 0
    for spec, place in layout.slices():
        kernel = len(spec.shape) > 1
        assert moved[place].any() == kernel, spec.name


def test_adapters_have_the_declared_rank():
    model = demo_network()
    choose_trainable(model, "lora")
    kernels = {name: value.clone() for name, value in model.named_parameters() if name.endswith("base.weight")}
    for name, value in model.named_parameters():
        if name.endswith(".up"):
            value.data.copy_(torch.linspace(-1, 1, value.numel()).view(value.shape).sin())
    merge_adapters(model)
    for name, kernel in kernels.items():
        change = model.get_parameter(name.replace("base.", "")) - kernel
        assert torch.linalg.matrix_rank(change.flatten(1), rtol=1e-4) <= ADAPTER_RANK


def test_every_site_starts_from_the_same_adapters():
    one, same, other = (demo_network() for _ in range(3))
    for model, seed in ((one, 5), (same, 5), (other, 6)):
        choose_trainable(model, "lora", seed=seed)
    assert np.array_equal(flatten(one), flatten(same))
    assert not np.array_equal(flatten(one), flatten(other))


def test_adapters_are_added_once():
    model = demo_network()
    first = choose_trainable(model, "lora")
    assert choose_trainable(model, "lora") == first
    with pytest.raises(ValueError, match="already"):
        add_adapters(model, rank=2, generator=torch.Generator())


@pytest.mark.parametrize("rank", [0, -1])
def test_rank_below_one_is_refused(rank):
    with pytest.raises(ValueError, match="rank"):
        add_adapters(demo_network(), rank=rank, generator=torch.Generator())


def test_networks_without_the_part_are_refused():
    line = nn.Sequential(nn.Linear(2, 2))
    for trainable in ("decoder", "head", "norm+head"):
        with pytest.raises(ConfigError, match="no such part"):
            choose_trainable(line, trainable)
    with pytest.raises(ValueError, match="no convolution"):
        choose_trainable(line, "lora")
    assert choose_trainable(line, "all").num_params == 6
    assert not isinstance(line[0], CONVOLUTIONS)


def test_both_backends_agree_on_adapters():
    model = demo_network().train()
    choose_trainable(model, "lora")
    views = some_views()
    loop, hooks = (backend(model, loss=entropy, clip_norm=1.0, example=views) for backend in (PatientLoop, OpacusHooks))
    assert np.allclose(hooks.sum([views]).vector, loop.sum([views]).vector, atol=1e-6)
