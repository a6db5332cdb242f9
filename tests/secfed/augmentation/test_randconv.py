"""RandConv against one plain convolution per image, and the law of its weights."""

import numpy as np
import pytest
import torch
from scipy import stats

from secfed.augmentation.randconv import apply_randconv, draw_randconv_parameters, randconv
from secfed.augmentation_config import RandConvConfig


@pytest.mark.parametrize("shape", [(5, 1, 11, 13), (3, 2, 9, 8), (2, 1, 6, 7, 8)], ids=["2D", "two channels", "3D"])
@pytest.mark.parametrize("mixing", [True, False])
def test_every_image_passes_its_own_convolution(make_images, make_generator, shape, mixing):
    images = make_images(shape, dtype=torch.float64)
    convolve = torch.nn.functional.conv2d if len(shape) == 4 else torch.nn.functional.conv3d
    sizes = set()
    for seed in range(6):
        config = RandConvConfig(mixing=mixing)
        drawn = draw_randconv_parameters(images, config=config, generator=make_generator(seed))
        augmented = randconv(images, config=config, generator=make_generator(seed))
        sizes.add(drawn.weight.shape[-1])
        for image, found, weight, alpha in zip(images, augmented, drawn.weight, drawn.alpha, strict=True):
            filtered = convolve(image[None], weight, padding=weight.shape[-1] // 2)[0]
            expected = alpha * filtered + (1 - alpha) * image if mixing else filtered
            torch.testing.assert_close(found, expected)
    assert len(sizes) > 1


@pytest.mark.parametrize("size", [1, 3, 5, 7])
@pytest.mark.parametrize("channels", [1, 3])
def test_weights_are_normal_with_the_variance_of_kaiming(make_generator, size, channels):
    images = torch.empty(3000 // channels**2, channels, 8, 8)
    config = RandConvConfig(kernel_sizes=(size,))
    weight = draw_randconv_parameters(images, config=config, generator=make_generator(size)).weight
    assert weight.shape[-2:] == (size, size)
    values = weight.flatten().double().numpy()
    deviation = 1 / np.sqrt(channels * size**2)
    assert stats.kstest(values, stats.norm(0, deviation).cdf).pvalue > 1e-4
    for wrong in (2 / 3 * deviation, 3 / 2 * deviation, deviation * np.sqrt(2)):
        assert stats.kstest(values, stats.norm(0, wrong).cdf).pvalue < 1e-4


def test_one_kernel_size_is_drawn_for_the_batch_and_all_are_drawn(make_images, make_generator):
    generator = make_generator()
    sizes = [
        draw_randconv_parameters(make_images(), config=RandConvConfig(), generator=generator).weight.shape[-1]
        for _ in range(200)
    ]
    assert {size: 25 <= sizes.count(size) <= 75 for size in (1, 3, 5, 7)} == dict.fromkeys((1, 3, 5, 7), True)


def test_the_share_of_the_layer_is_uniform(make_generator):
    drawn = draw_randconv_parameters(torch.empty(2000, 1, 4, 4), config=RandConvConfig(), generator=make_generator())
    assert stats.kstest(drawn.alpha.numpy(), "uniform").pvalue > 1e-4


def test_a_constant_image_is_scaled_inside_and_zero_stays_zero(make_generator):
    images = torch.stack([torch.zeros(1, 20, 20), torch.ones(1, 20, 20)])
    config = RandConvConfig(mixing=False)
    drawn = draw_randconv_parameters(images, config=config, generator=make_generator())
    augmented = apply_randconv(images, drawn)
    assert torch.equal(augmented[0], images[0])
    torch.testing.assert_close(augmented[1, 0, 10, 10], drawn.weight[1].sum())
