"""The two ways to apply GIN's networks are one: products of shifted memory are the grouped convolution."""

import pytest
import torch

from secfed.augmentation.gin import GinParameters, apply_gin, draw_gin_parameters
from secfed.augmentation.gin_networks import grouped_convolutions, shifted_products
from secfed.augmentation_config import GinConfig

SHAPES = [
    (8, 1, 64, 80),
    (3, 2, 33, 47),
    (1, 1, 7, 5),
    (4, 3, 1, 1),
    (2, 1, 1, 9),
    (2, 1, 12, 17, 9),
    (1, 2, 5, 4, 7),
    (3, 1, 1, 2, 1),
]
CONFIGS = {
    "the paper's": GinConfig(),
    "wide": GinConfig(width=8),
    "one layer": GinConfig(layers=1, kernel_sizes=(3,)),
    "far": GinConfig(layers=3, width=3, kernel_sizes=(1, 3, 5)),
    "pointwise": GinConfig(kernel_sizes=(1,)),
}


def drawn_for(shape, config, *, seed=0, dtype=torch.float64):
    images = torch.randn(shape, generator=torch.Generator().manual_seed(100 + seed), dtype=torch.float64).to(dtype)
    return images, draw_gin_parameters(images, config=config, generator=torch.Generator().manual_seed(seed))


def outputs(apply, images, drawn):
    return apply(images, drawn.weights, drawn.shifts, negative_slope=0.01)


def in_double(drawn):
    return GinParameters(
        weights=tuple(weight.double() for weight in drawn.weights),
        shifts=tuple(shift.double() for shift in drawn.shifts),
        alpha=drawn.alpha.double(),
        chosen=drawn.chosen,
    )


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shifted_products_are_the_grouped_convolution(shape, config):
    for seed in range(5):
        images, drawn = drawn_for(shape, config, seed=seed)
        expected = outputs(grouped_convolutions, images, drawn)
        torch.testing.assert_close(outputs(shifted_products, images, drawn), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_in_float32_they_differ_from_float64_by_rounding_only(shape, config):
    for seed in range(5):
        images, drawn = drawn_for(shape, config, seed=seed, dtype=torch.float32)
        exact = outputs(grouped_convolutions, images.double(), in_double(drawn))
        found = outputs(shifted_products, images, drawn)
        assert found.dtype == torch.float32
        # Sums cancel, so what counts is the error beside the largest value of the image.
        error = (found - exact).abs().flatten(1).amax(dim=1) / exact.abs().flatten(1).amax(dim=1)
        assert float(error.max()) < 3e-6


@pytest.mark.parametrize("shape", [(8, 1, 64, 80), (5, 1, 20, 33, 31)], ids=str)
@pytest.mark.parametrize("width", [2, 8])
def test_an_image_s_bits_depend_neither_on_its_batch_nor_on_threads(shape, width):
    before = torch.get_num_threads()
    images, drawn = drawn_for(shape, GinConfig(width=width), dtype=torch.float32)
    together = apply_gin(images, drawn, negative_slope=0.01)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for rows in ([0], [4], [3, 1], [4, 0, 2], list(range(shape[0]))):
                some = apply_gin(images[rows], drawn.rows(torch.tensor(rows)), negative_slope=0.01)
                assert torch.equal(some, together[rows])
    finally:
        torch.set_num_threads(before)


def test_an_image_that_is_not_finite_stays_alone():
    images, drawn = drawn_for((3, 1, 6, 7), GinConfig(kernel_sizes=(3,)), dtype=torch.float32)
    expected = outputs(shifted_products, images, drawn)
    images[1] = torch.nan
    found = outputs(shifted_products, images, drawn)
    assert torch.equal(found[[0, 2]], expected[[0, 2]])
    assert bool(found[1].isnan().any())


def test_what_memory_held_before_is_never_read(monkeypatch):
    images, drawn = drawn_for((3, 2, 6, 7), GinConfig(layers=6), seed=3, dtype=torch.float32)
    assert {weight.shape[-1] for weight in drawn.weights} == {1, 3}
    expected = outputs(shifted_products, images, drawn)
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, size, **more: self.new_full((size,), torch.nan, **more))
    assert torch.equal(outputs(shifted_products, images, drawn), expected)


@pytest.mark.parametrize("apply", [grouped_convolutions, shifted_products])
def test_autocast_and_gradients_are_left_out(apply):
    images, drawn = drawn_for((3, 1, 8, 9), GinConfig(), dtype=torch.float32)
    expected = outputs(apply, images, drawn)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = outputs(apply, images.requires_grad_(), drawn)
    assert torch.equal(found, expected)
    assert not found.requires_grad


def test_images_in_any_memory_order_are_taken():
    images, drawn = drawn_for((3, 2, 8, 9), GinConfig(), dtype=torch.float32)
    expected = outputs(shifted_products, images, drawn)
    assert torch.equal(outputs(shifted_products, images.contiguous(memory_format=torch.channels_last), drawn), expected)


def test_an_empty_batch_is_an_empty_batch():
    images, drawn = drawn_for((0, 1, 4, 4), GinConfig(), dtype=torch.float32)
    assert apply_gin(images, drawn, negative_slope=0.01).shape == (0, 1, 4, 4)
