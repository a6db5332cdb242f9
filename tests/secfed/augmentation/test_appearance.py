"""What holds for every method, and what `[augmentation]` adds: mixtures, dark air, and views that must agree."""

import contextlib
import dataclasses
import typing
from pathlib import Path

import numpy as np
import pytest
import torch

from clients.local_steps import adamw, run_steps
from clients.loss import consistency_loss
from secfed.augmentation.appearance import appearance, keep_air, views
from secfed.augmentation.bezier import apply_bezier, apply_slaug, draw_bezier_parameters, draw_slaug_parameters
from secfed.augmentation.fourier import apply_fourier, draw_apr_parameters, draw_fda_parameters
from secfed.augmentation.gin import gin
from secfed.augmentation.nnunet import apply_nnunet, draw_nnunet_parameters
from secfed.augmentation.piecewise import apply_piecewise, draw_piecewise_parameters
from secfed.augmentation.randconv import apply_randconv, draw_randconv_parameters
from secfed.augmentation_config import AppearanceMethod, AugmentationConfig, GinConfig, SimpleMethod
from secfed.config import TrainingPlan
from secfed.data.cases import Modality
from secfed.data.preprocessing import PreparedCase
from secfed.data.sampling import PatchSampler
from secfed.model import initial_model

METHODS = typing.get_args(AppearanceMethod)
SIMPLE = typing.get_args(SimpleMethod)
CHANGING = [method for method in METHODS if method != "none"]
DRAWS = {
    "nnunet": (draw_nnunet_parameters, apply_nnunet),
    "randconv": (draw_randconv_parameters, apply_randconv),
    "fda": (draw_fda_parameters, apply_fourier),
    "apr": (draw_apr_parameters, apply_fourier),
    "bezier": (draw_bezier_parameters, apply_bezier),
    "slaug": (draw_slaug_parameters, apply_slaug),
    "piecewise": (draw_piecewise_parameters, apply_piecewise),
}


def config_of(method, *, probability=None, **more):
    if probability is not None:
        names = ("gin", "piecewise") if method == "mixed" else ("gin",) if method == "gin_ipa" else (method,)
        more |= {name: {"probability": probability} for name in names}
    return AugmentationConfig.model_validate({"method": method, **more})


def changed(augmented, images):
    return (augmented != images).flatten(1).any(dim=1)


@pytest.fixture
def augment(make_generator):
    def call(images, labels, *, config, seed=0):
        return appearance(images, labels, config=config, generator=make_generator(seed))

    return call


@pytest.mark.parametrize("shape", [(8, 1, 12, 15), (3, 2, 9, 8), (3, 1, 6, 7, 8)], ids=["2D", "two channels", "3D"])
@pytest.mark.parametrize("method", CHANGING)
@pytest.mark.parametrize("air", [False, True], ids=["", "keep_air"])
def test_every_method_changes_images_of_every_shape_and_leaves_its_input(
    make_images, make_labels, augment, method, shape, air
):
    images, labels = make_images(shape), make_labels((shape[0], *shape[2:]))
    before = images.clone()
    augmented = augment(images, labels, config=config_of(method, keep_air=air))
    assert augmented.shape == images.shape
    assert bool(augmented.isfinite().all())
    assert changed(augmented, images).any()
    assert torch.equal(images, before)


@pytest.mark.parametrize("method", CHANGING)
def test_every_image_gets_its_own_draw(make_images, make_labels, augment, method):
    images, labels = make_images((1, 1, 12, 15)).expand(40, 1, 12, 15), make_labels((1, 12, 15)).expand(40, 12, 15)
    augmented = augment(images, labels, config=config_of(method))
    if method in ("fda", "apr"):  # whose partner is the image itself, here
        torch.testing.assert_close(augmented, images)
    else:
        different = {tuple(image.flatten().tolist()) for image in augmented}
        assert len(different) >= (20 if method == "nnunet" else 40)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("method", CHANGING)
def test_dtypes_are_kept_and_half_precision_is_computed_in_full(make_images, make_labels, augment, method, dtype):
    images, labels = make_images(dtype=dtype), make_labels()
    augmented = augment(images, labels, config=config_of(method))
    assert augmented.dtype == dtype
    if dtype != torch.float64 and method != "gin_ipa":  # whose two copies are rounded before they are blended
        full = augment(images.float(), labels, config=config_of(method))
        torch.testing.assert_close(augmented, full.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("method", CHANGING)
def test_autocast_changes_nothing_and_no_gradient_is_kept(make_images, make_labels, augment, method):
    images, labels = make_images().requires_grad_(), make_labels()
    plain = augment(images, labels, config=config_of(method, keep_air=True))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(augment(images, labels, config=config_of(method, keep_air=True)), plain)
    assert not plain.requires_grad


@pytest.mark.parametrize("method", CHANGING)
def test_the_generator_decides_everything(make_images, make_labels, augment, method):
    images, labels = make_images(), make_labels()
    first = augment(images, labels, config=config_of(method), seed=5)
    torch.rand(7)
    assert torch.equal(first, augment(images, labels, config=config_of(method), seed=5))
    assert not torch.equal(first, augment(images, labels, config=config_of(method), seed=6))


@pytest.mark.parametrize("air", [False, True], ids=["", "keep_air"])
@pytest.mark.parametrize("method", CHANGING)
def test_images_that_are_not_chosen_come_back_bit_for_bit(make_images, make_labels, augment, method, air):
    images, labels = make_images((200, 1, 6, 8)), make_labels((200, 6, 8))
    always = changed(augment(images, labels, config=config_of(method, probability=1.0, keep_air=air)), images)
    often = changed(augment(images, labels, config=config_of(method, probability=0.3, keep_air=air)), images)
    never = changed(augment(images, labels, config=config_of(method, probability=0.0, keep_air=air)), images)
    # nnU-Net leaves some images alone of itself, and a square of no width in FDA changes but the mean.
    expected = 0.3 * float(always.double().mean())
    assert float(always.double().mean()) > (0.6 if method == "nnunet" else 0.99)
    assert abs(float(often.double().mean()) - expected) < 4 * (0.25 / 200) ** 0.5
    assert not never.any()


@pytest.mark.parametrize("value", [0.0, 3.0, -1e4], ids=["zero", "three", "large"])
@pytest.mark.parametrize("air", [False, True], ids=["", "keep_air"])
@pytest.mark.parametrize("method", CHANGING)
def test_constant_images_stay_finite(make_labels, augment, method, air, value):
    images = torch.full((8, 1, 12, 15), value)
    augmented = augment(images, make_labels((8, 12, 15)), config=config_of(method, keep_air=air))
    assert bool(augmented.isfinite().all())


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_may_hold_one_image_or_none(make_images, make_labels, make_generator, method, count):
    images, labels = make_images((count, 1, 12, 15)), make_labels((count, 12, 15))
    config = config_of(method, keep_air=True)
    first, partner = views(images, labels, config=config, generator=make_generator())
    assert first.shape == images.shape
    assert bool(first.isfinite().all())
    assert partner is None or partner.shape == images.shape


@pytest.mark.parametrize("method", CHANGING)
def test_a_generator_on_another_device_and_other_shapes_are_refused(make_labels, augment, method):
    labels = make_labels()
    with pytest.raises(ValueError, match=r"generator lives on cpu, but the images on meta"):
        augment(torch.empty(4, 1, 12, 15, device="meta"), labels, config=config_of(method))
    for wrong in (torch.zeros(4, 4), torch.zeros(4, 1, 12, 15, dtype=torch.int32)):
        with pytest.raises(ValueError, match="must be floating"):
            augment(wrong, labels, config=config_of(method))


@pytest.mark.parametrize("shape", [(3, 2, 9, 8), (3, 1, 6, 7, 8)], ids=["2D", "3D"])
@pytest.mark.parametrize("method", sorted(DRAWS))
def test_a_device_is_never_waited_for(make_images, make_labels, make_generator, monkeypatch, method, shape):
    # A tensor on "meta" has no values: whatever would ask the device for one raises. It has no autocast either.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    draw, apply = DRAWS[method]
    images, labels = make_images(shape), make_labels((shape[0], *shape[2:]))
    drawn = draw(images, config=getattr(AugmentationConfig(), method), generator=make_generator())
    remote = dataclasses.replace(
        drawn,
        **{
            field.name: value.to("meta")
            for field in dataclasses.fields(drawn)
            if isinstance(value := getattr(drawn, field.name), torch.Tensor)
        },
    )
    inputs = (images.to("meta"), labels.to("meta")) if method == "slaug" else (images.to("meta"),)
    augmented = apply(*inputs, remote)
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(augmented.sum() > 0)
    assert (augmented.device.type, augmented.shape) == ("meta", images.shape)
    assert keep_air(augmented, images.to("meta")).shape == images.shape


def test_plain_gin_is_what_it_always_was(make_images, make_labels, make_generator):
    # The frozen figures of earlier runs rest on this: the same draws in the same order, and none besides.
    images, labels, config = make_images(), make_labels(), AugmentationConfig()
    ours, theirs = make_generator(3), make_generator(3)
    for _ in range(3):
        first, partner = views(images, labels, config=config, generator=ours)
        assert partner is None
        assert torch.equal(first, gin(images, config=GinConfig(), generator=theirs))
    assert torch.equal(ours.get_state(), theirs.get_state())


def test_without_augmentation_images_are_what_they_are_and_nothing_is_drawn(make_images, make_labels, make_generator):
    images, generator = make_images(), make_generator()
    before = generator.get_state()
    first, partner = views(images, make_labels(), config=config_of("none", keep_air=True), generator=generator)
    assert partner is None
    assert torch.equal(first, images)
    assert torch.equal(generator.get_state(), before)


# --- mixtures


def test_a_mixture_gives_every_image_one_of_its_methods_equally_often(make_images, make_labels, make_generator):
    images, labels = make_images((300, 1, 6, 8)), make_labels((300, 6, 8))
    config = config_of("mixed", mix=["gin", "piecewise", "bezier"])
    augmented = appearance(images, labels, config=config, generator=make_generator())
    generator = make_generator()
    drawn = torch.randint(3, (300,), generator=generator)
    single = [
        appearance(images, labels, config=config_of(method), generator=generator)
        for method in ("gin", "piecewise", "bezier")
    ]
    expected = torch.stack(single)[drawn, torch.arange(300)]
    assert torch.equal(augmented, expected)
    assert bool((torch.bincount(drawn) > 70).all())


def test_every_simple_method_may_be_mixed(make_images, make_labels, augment):
    images, labels = make_images((40, 1, 6, 8)), make_labels((40, 6, 8))
    augmented = augment(images, labels, config=config_of("mixed", mix=list(SIMPLE)))
    assert int(changed(augmented, images).sum()) > 30


# --- air


def phantom_slice(generator):
    """Air around a body of three tissues, none of which lies in the lowest 6 % of the range."""
    image = torch.full((1, 20, 20), -2.0)
    image[:, 4:16, 4:16] = torch.tensor([-0.5, 0.2, 1.0])[torch.randint(3, (1, 12, 12), generator=generator)]
    image += 0.01 * torch.randn(1, 20, 20, generator=generator)
    return image


@pytest.mark.parametrize("method", ["gin", "gin_ipa", "piecewise", "bezier", "slaug", "mixed"])
def test_air_becomes_as_dark_as_the_darkest_tissue_and_moments_are_kept(make_generator, make_labels, augment, method):
    generator = make_generator(4)
    images = torch.stack([phantom_slice(generator) for _ in range(32)])
    labels = make_labels((32, 20, 20))
    plain = augment(images, labels, config=config_of(method))
    dark = augment(images, labels, config=config_of(method, keep_air=True))
    air = torch.ones(20, 20, dtype=torch.bool)
    air[4:16, 4:16] = False
    brighter = 0
    for image, without, found in zip(images[:, 0], plain[:, 0], dark[:, 0], strict=True):
        torch.testing.assert_close(torch.stack(torch.std_mean(found)), torch.stack(torch.std_mean(image)))
        assert float(found[air].max() - found[air].min()) < 1e-5
        torch.testing.assert_close(found[air].max(), found[~air].min())
        # Tissue is what the method made of it, but for one scale and shift.
        body, other = without[~air], found[~air]
        torch.testing.assert_close(
            (body - body.mean()) / body.std(), (other - other.mean()) / other.std(), rtol=1e-3, atol=1e-3
        )
        brighter += bool(without[air].mean() > without[~air].min())
    # The control: left alone, these methods do make air brighter than some tissue.
    assert brighter > 3


def test_what_counts_as_air_is_the_lowest_six_percent_of_the_range_of_the_input(make_generator):
    images = torch.linspace(0, 1, 101, dtype=torch.float64).reshape(1, 1, 1, 101)
    found = keep_air(-images, images)
    air = found == found[..., 0:1]
    # -images is darkest at the end; the six voxels from 0 to 0.05 (and 0.06, by rounding, or not) become like it.
    assert air[0, 0, 0, :6].all()
    assert not air[0, 0, 0, 7:100].any()
    assert bool(air[0, 0, 0, 100])


# --- views


@pytest.mark.parametrize("method", [method for method in CHANGING if method != "gin_ipa"])
def test_the_partner_is_an_independent_draw_or_the_clean_image(make_images, make_labels, make_generator, method):
    images, labels = make_images((16, 1, 12, 15)), make_labels((16, 12, 15))
    config = config_of(method, consistency={"weight": 2.0})
    first, partner = views(images, labels, config=config, generator=make_generator())
    alone = appearance(images, labels, config=config_of(method), generator=make_generator())
    assert torch.equal(first, alone)
    assert changed(first, partner).any()
    clean = config_of(method, consistency={"weight": 2.0, "other": "clean"})
    first, partner = views(images, labels, config=clean, generator=make_generator())
    assert torch.equal(first, alone)
    assert torch.equal(partner, images)


def test_gin_ipa_makes_its_own_pair_and_one_view_of_it_without_consistency(make_images, make_labels, make_generator):
    images, labels = make_images(), make_labels()
    first, partner = views(images, labels, config=config_of("gin_ipa"), generator=make_generator())
    assert changed(first, partner).all()
    single = config_of("gin_ipa", consistency={"weight": 0.0})
    alone, nobody = views(images, labels, config=single, generator=make_generator())
    assert torch.equal(alone, first)
    assert nobody is None
    aired, other = views(images, labels, config=config_of("gin_ipa", keep_air=True), generator=make_generator())
    assert torch.equal(aired, keep_air(first, images))
    assert torch.equal(other, keep_air(partner, images))


# --- names and settings


@pytest.mark.parametrize(
    ("tables", "label", "weight"),
    [
        ({}, "gin", 0.0),
        ({"method": "none"}, "none", 0.0),
        ({"method": "gin_ipa"}, "gin_ipa", 10.0),
        ({"method": "gin_ipa", "consistency": {"weight": 10.0}}, "gin_ipa", 10.0),
        ({"method": "gin_ipa", "consistency": {"weight": 0.0}}, "gin_ipa (consistency 0)", 0.0),
        ({"method": "gin_ipa", "ipa": {"spacing": 0.5}}, "gin_ipa (spacing 0.5)", 10.0),
        ({"consistency": {"weight": 10.0}}, "gin (consistency 10 with augmented)", 10.0),
        ({"consistency": {"weight": 0.0}}, "gin", 0.0),
        ({"keep_air": True, "gin": {"width": 8}}, "gin (width 8, air dark)", 0.0),
        ({"method": "mixed"}, "gin+piecewise", 0.0),
        (
            {"method": "mixed", "piecewise": {"knots": 5}, "consistency": {"weight": 1.0, "other": "clean"}},
            "gin+piecewise (piecewise knots 5, consistency 1 with clean)",
            1.0,
        ),
    ],
    ids=str,
)
def test_the_label_says_what_was_done(tables, label, weight):
    config = AugmentationConfig.model_validate(tables)
    assert config.label() == label
    assert config.consistency_weight == weight


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"method": "none", "consistency": {"weight": 1.0}}, "both views are one"),
        ({"method": "gin_ipa", "consistency": {"other": "clean"}}, "makes its own pair"),
        ({"method": "mixed", "mix": ["gin"]}, "at least two methods"),
        ({"fda": {"smallest": 0.2, "largest": 0.1}}, "must not exceed"),
        ({"randconv": {"kernel_sizes": [2]}}, "must be odd"),
        ({"piecewise": {"knots": 1}}, "greater than or equal to 2"),
        ({"ipa": {"spacing": 0.0}}, "greater than 0"),
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(tables, words):
    with pytest.raises(ValueError, match=words):
        AugmentationConfig.model_validate(tables)


# --- training


class Recording(torch.nn.Module):
    """A network that keeps what it was given and what it gave."""

    def __init__(self, network):
        super().__init__()
        self.network, self.calls = network, []

    def forward(self, images):
        logits = self.network(images)
        self.calls.append((images.detach().clone(), logits.detach().clone()))
        return logits


def trained(tables, *, dimensions=2, steps=2):
    rng = np.random.default_rng(0)
    patch = [8, 16, 16][-dimensions:]
    case = PreparedCase(
        patient="one",
        modality=Modality.CT,
        image=rng.normal(size=(8, 16, 16)).astype(np.float32),
        label=rng.integers(0, 4, (8, 16, 16)).astype(np.uint8),
        spacing_mm=(5.0, 5.0, 5.0),
        source=Path("one"),
    )
    plan = TrainingPlan.model_validate(
        {
            "model": {"channels": [4, 8], "residual_units": 0, "dimensions": dimensions},
            "training": {"patch_size": patch, "batch_size": 4, "learning_rate": 0.01},
            "augmentation": tables,
        }
    )
    network = Recording(initial_model(plan.model, 4, 1)).train()
    start = [parameter.detach().clone() for parameter in network.parameters()]
    losses = run_steps(
        network,
        adamw(network, plan.training),
        plan=plan,
        samplers=(PatchSampler((case,), patch_size=plan.training.patch_size, foreground_prob=0.0),),
        samples=[4 * steps],
        steps=steps,
        server_round=1,
        sampling=np.random.default_rng(1),
        augmentation_seed=2,
        device=torch.device("cpu"),
        on_step=None,
    )
    moved = any(not torch.equal(a, b) for a, b in zip(start, network.parameters(), strict=True))
    return losses, moved, network.calls


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_training_with_every_method_runs_and_moves_the_weights(method, dimensions):
    losses, moved, calls = trained({"method": method, "keep_air": True}, dimensions=dimensions)
    assert np.isfinite(losses).all()
    assert moved
    # Both views in one pass, and only where there are two.
    assert [len(images) for images, _ in calls] == [8 if method == "gin_ipa" else 4] * 2


def test_the_loss_is_segmentation_of_the_first_view_plus_the_weighted_disagreement():
    plain, _, calls = trained({"method": "gin"}, steps=1)
    # In a network with instance normalisation, what the partner is changes nothing for the first view.
    for weight in (1.0, 10.0):
        agreeing, _, both = trained({"method": "gin", "consistency": {"weight": weight}}, steps=1)
        torch.testing.assert_close(both[0][0][:4], calls[0][0])
        disagreement = float(consistency_loss(*both[0][1].chunk(2)))
        assert disagreement > 0
        assert agreeing[0] == pytest.approx(plain[0] + weight * disagreement, rel=1e-5)
