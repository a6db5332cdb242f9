"""Neighbouring slices as channels: every method draws once for all slices of an image, and a tissue stays a tissue."""

import dataclasses
import typing

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate

from secfed.augmentation import nnunet as transforms
from secfed.augmentation.appearance import appearance, views
from secfed.augmentation.gin import draw_gin_parameters, gin
from secfed.augmentation.ipa import gin_ipa
from secfed.augmentation.nnunet import apply_nnunet, draw_nnunet_parameters, nnunet
from secfed.augmentation.randconv import draw_randconv_parameters, randconv
from secfed.augmentation.spatial import apply_affine, draw_affine_parameters, random_affine
from secfed.augmentation_config import (
    AffineConfig,
    AppearanceMethod,
    AugmentationConfig,
    GinConfig,
    IpaConfig,
    NnunetConfig,
    RandConvConfig,
)

METHODS = [method for method in typing.get_args(AppearanceMethod) if method not in ("none", "slaug")]
SLICES = 5
CHANGES_NOTHING = {"blur_sigma": 0, "brightness": 1, "contrast": 1, "resolution": 1, "inverted_gamma": 1, "gamma": 1}


def config_of(method, **more):
    return AugmentationConfig.model_validate({"method": method, **more})


def tissues(count, *, slices=SLICES, seed=0):
    """Images of four intensities, in other places in every slice; the same four in all of them."""
    drawn = torch.randint(4, (count, slices, 12, 15), generator=torch.Generator().manual_seed(seed))
    return torch.tensor([-1.3, -0.2, 0.4, 1.9])[drawn]


def alone(method):
    """Settings under which the method is a map of intensities, so that what tissue it was is still to be told."""
    kernels = {"gin": {"kernel_sizes": [1]}, "randconv": {"kernel_sizes": [1]}}
    return config_of(method, **({method: kernels[method]} if method in kernels else {}))


@pytest.mark.parametrize("air", [False, True], ids=["", "keep_air"])
@pytest.mark.parametrize("method", ["gin", "randconv", "bezier", "piecewise"])
def test_a_tissue_has_one_brightness_in_all_slices_of_an_image(make_labels, make_generator, method, air):
    images, labels = tissues(30), make_labels((30, 12, 15))
    config = alone(method).model_copy(update={"keep_air": air})
    augmented = appearance(images, labels, config=config, generator=make_generator())
    assert (augmented != images).flatten(1).any(dim=1).all()
    for clean, image in zip(images, augmented, strict=True):
        for tissue in clean.unique():
            found = image[clean == tissue]
            torch.testing.assert_close(found, found[:1].expand_as(found))


def test_networks_for_all_channels_at_once_would_not_keep_that(make_generator):
    """The control: as one image of five channels, slices are mixed with one another, and each gets another contrast."""
    images = tissues(1)
    found = gin(images, config=GinConfig(kernel_sizes=(1,)), generator=make_generator())
    assert found[images == -1.3].std() > 0.01


@pytest.mark.parametrize("method", [method for method in METHODS if method not in ("nnunet", "mixed")])
def test_equal_slices_are_changed_alike_and_as_one_slice_would_be(make_images, make_labels, make_generator, method):
    flat, labels = make_images((6, 1, 12, 15)), make_labels((6, 12, 15))
    config = config_of(method, keep_air=True)
    one = appearance(flat, labels, config=config, generator=make_generator())
    stack = appearance(flat.expand(6, SLICES, 12, 15), labels, config=config, generator=make_generator())
    assert (one != flat).flatten(1).any(dim=1).all()
    for channel in stack.unbind(1):
        torch.testing.assert_close(channel[:, None], one, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_stacks_and_leaves_its_input(make_images, make_labels, make_generator, method):
    images, labels = make_images((8, SLICES, 12, 15)), make_labels((8, 12, 15))
    before = images.clone()
    first, partner = views(images, labels, config=config_of(method, keep_air=True), generator=make_generator())
    for found in [first] if partner is None else [first, partner]:
        assert (found.shape, found.dtype) == (images.shape, images.dtype)
        assert bool(found.isfinite().all())
        assert (found != images).any()
    assert torch.equal(images, before)


@pytest.mark.parametrize("method", [method for method in METHODS if method not in ("mixed", "gin_ipa")])
def test_stacks_that_are_not_chosen_come_back_bit_for_bit(make_images, make_labels, make_generator, method):
    images, labels = make_images((100, 3, 6, 8)), make_labels((100, 6, 8))
    config = config_of(method, keep_air=True, **{method: {"probability": 0.5}})
    augmented = appearance(images, labels, config=config, generator=make_generator())
    kept = (augmented == images).flatten(1).all(dim=1)
    assert 20 < int(kept.sum()) < 90


def test_no_stack_s_look_depends_on_the_others_of_its_batch(make_images, make_labels, make_generator):
    images, labels = make_images((4, 3, 12, 15)), make_labels()
    others = images.clone()
    others[2] = 1e3 * images[2].flip(1) + 7
    for method in set(METHODS) - {"fda", "apr"}:
        found = [
            appearance(batch, labels, config=config_of(method), generator=make_generator(3))
            for batch in (images, others)
        ]
        assert (found[0] != found[1]).flatten(1).any(dim=1).tolist() == [False, False, True, False], method


def test_gin_passes_each_slice_through_the_image_s_network_and_keeps_the_norm_of_all(make_images, make_generator):
    images = make_images((4, 3, 9, 8), dtype=torch.float64)
    for seed in range(4):
        config = GinConfig(layers=3, width=4)
        drawn = draw_gin_parameters(images[:, :1], config=config, generator=make_generator(seed))
        fast = gin(images, config=config, generator=make_generator(seed), drawn_channels=1)
        for index, image in enumerate(images.numpy()):
            passed = []
            for hidden in image[:, None]:
                for layer, (weight, shift) in enumerate(zip(drawn.weights, drawn.shifts, strict=True)):
                    kernel, offset = weight[index].numpy(), shift[index].numpy()
                    hidden = np.stack(  # noqa: PLW2901 - the network's hidden values, layer after layer
                        [
                            sum(correlate(hidden[i], kernel[o, i], mode="constant") for i in range(len(hidden)))
                            + offset[o]
                            for o in range(len(kernel))
                        ]
                    )
                    if layer < len(drawn.weights) - 1:
                        hidden = np.where(hidden >= 0, hidden, 0.01 * hidden)  # noqa: PLW2901
                passed.append(hidden[0])
            alpha = float(drawn.alpha[index])
            blend = alpha * np.stack(passed) + (1 - alpha) * image
            slow = blend * np.sqrt((image**2).sum()) / (np.sqrt((blend**2).sum()) + 1e-5)
            np.testing.assert_allclose(fast[index].numpy(), slow, rtol=1e-9, atol=1e-12)


def test_gin_ipa_has_one_mask_and_two_networks_for_all_slices(make_images, make_generator):
    """Where all slices are equal, both copies of the pair are, slice by slice, and the two differ from one another."""
    images = make_images((3, 1, 16, 16)).expand(3, SLICES, 16, 16)
    one, other = gin_ipa(images, gin=GinConfig(), ipa=IpaConfig(), generator=make_generator(), drawn_channels=1)
    for copy in (one, other):
        torch.testing.assert_close(copy, copy[:, :1].expand_as(copy), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(one, other, atol=1e-2)


def test_randconv_passes_each_slice_through_the_image_s_layer(make_images, make_generator):
    images = make_images((4, 3, 9, 8), dtype=torch.float64)
    for seed in range(4):
        drawn = draw_randconv_parameters(images[:, :1], config=RandConvConfig(), generator=make_generator(seed))
        found = randconv(images, config=RandConvConfig(), generator=make_generator(seed), drawn_channels=1)
        for image, augmented, weight, alpha in zip(images, found, drawn.weight, drawn.alpha, strict=True):
            filtered = torch.nn.functional.conv2d(image[:, None], weight, padding=weight.shape[-1] // 2)[:, 0]
            torch.testing.assert_close(augmented, alpha * filtered + (1 - alpha) * image)


def nothing_drawn(images, make_generator, **changes):
    """Choices of nnU-Net's set that change nothing, but for those given."""
    drawn = draw_nnunet_parameters(images, config=NnunetConfig(), generator=make_generator(), drawn_channels=1)
    assert drawn.gamma.shape == (len(images), 1)
    assert drawn.noise.shape == images.shape
    numbers = {name: torch.full_like(getattr(drawn, name), value) for name, value in CHANGES_NOTHING.items()}
    noise = torch.zeros_like(drawn.noise)
    return dataclasses.replace(drawn, noise=noise, **{**numbers, **changes})


@pytest.mark.parametrize("name", ["brightness", "contrast", "inverted_gamma", "gamma"])
def test_nnunet_changes_intensities_over_the_range_of_all_slices(make_images, make_generator, name):
    images = tissues(6).double()
    assert torch.equal(apply_nnunet(images, nothing_drawn(images, make_generator)), images)
    numbers = torch.linspace(0.7, 1.4, 6, dtype=torch.float64)[:, None]
    found = apply_nnunet(images, nothing_drawn(images, make_generator, **{name: numbers}))
    for image, changed, number in zip(images.numpy(), found, numbers[:, 0].tolist(), strict=True):
        sign = -1 if name == "inverted_gamma" else 1
        inner = sign * image
        if name == "brightness":
            expected = image * number
        elif name == "contrast":
            expected = np.clip((image - image.mean()) * number + image.mean(), image.min(), image.max())
        else:
            curved = ((inner - inner.min()) / np.ptp(inner)) ** number
            expected = sign * ((curved - curved.mean()) / curved.std() * inner.std() + inner.mean())
        np.testing.assert_allclose(changed.numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["blur_sigma", "resolution"])
def test_nnunet_blurs_and_coarsens_each_slice_in_its_plane(make_images, make_generator, name):
    images = make_images((6, 3, 12, 15), dtype=torch.float64)
    sigma = torch.tensor([[0.5, 1.0], [1.0, 0.7], [0.6, 0.6], [0.0, 0.0], [0.8, 0.8], [0.9, 0.5]]).double()
    scale = torch.tensor([0.5, 0.6, 0.7, 1.0, 0.9, 0.55]).double()
    numbers = {"blur_sigma": sigma[:, None], "resolution": scale[:, None]}[name]
    found = apply_nnunet(images, nothing_drawn(images, make_generator, **{name: numbers}))
    assert torch.equal(found[3], images[3])
    transform = {"blur_sigma": transforms.blur, "resolution": transforms.low_resolution}[name]
    for channel in range(3):
        expected = transform(images[:, channel], numbers[:, 0])
        torch.testing.assert_close(found[[0, 1, 2, 4, 5], channel], expected[[0, 1, 2, 4, 5]])


def test_nnunet_s_noise_is_every_slice_s_own_and_equally_strong(make_generator):
    images = torch.zeros(400, 3, 12, 15)
    drawn = draw_nnunet_parameters(images, config=NnunetConfig(), generator=make_generator(), drawn_channels=1)
    noisy = drawn.noise[drawn.noise.flatten(1).any(dim=1)]
    assert 15 < len(noisy) < 80
    deviations = noisy.flatten(2).std(dim=2)
    torch.testing.assert_close(deviations, deviations.mean(dim=1, keepdim=True).expand(-1, 3), rtol=0.35, atol=0)
    pairs = torch.stack([torch.corrcoef(image.flatten(1))[0, 1:] for image in noisy])
    assert pairs.mean().abs() < 0.05


def test_of_one_slice_all_draws_are_those_of_an_image_without_neighbours(make_images, make_generator):
    images = make_images()
    for call, config in ((gin, GinConfig()), (randconv, RandConvConfig()), (nnunet, NnunetConfig())):
        ours, theirs = make_generator(4), make_generator(4)
        found = call(images, config=config, generator=ours, drawn_channels=1)
        assert torch.equal(found, call(images, config=config, generator=theirs))
        assert torch.equal(ours.get_state(), theirs.get_state())


def test_all_slices_of_an_image_and_its_label_move_alike(make_images, make_generator):
    images, config = make_images((5, SLICES, 14, 12)), AffineConfig(shift=0.1)
    labels = (images[:, SLICES // 2] > 0).long()
    drawn = draw_affine_parameters(images, config=config, generator=make_generator())
    moved, turned = apply_affine(images, labels, drawn)
    for channel in range(SLICES):
        one, same = apply_affine(images[:, channel : channel + 1], labels, drawn)
        torch.testing.assert_close(moved[:, channel], one[:, 0])
        assert torch.equal(turned, same)
    together = random_affine(images, labels, config=config, generator=make_generator())
    assert torch.equal(together[0], moved)
    assert not torch.allclose(moved, images)
