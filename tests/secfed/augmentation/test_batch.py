"""Ranges and moments, image by image."""

import numpy as np
import torch

from secfed.augmentation.batch import choose_images, in_unit_range, with_moments_of


def test_the_unit_range_is_each_image_s_own(make_images):
    images = make_images((3, 2, 5, 6), dtype=torch.float64)
    unit, low, span = in_unit_range(images)
    for one, image, least, length in zip(unit, images, low, span, strict=True):
        expected = (image - image.min()) / (image.max() - image.min())
        torch.testing.assert_close(one, expected)
        torch.testing.assert_close(torch.stack([least, least + length]), torch.stack(image.aminmax()))


def test_moments_are_those_of_the_image_over_channels_and_pixels(make_images):
    images, other = make_images((3, 2, 5, 6), dtype=torch.float64), make_images((3, 2, 5, 6), seed=9).double()
    restored = with_moments_of(5 * other + 3, images).numpy()
    for one, image in zip(restored, images.numpy(), strict=True):
        np.testing.assert_allclose([one.mean(), one.std()], [image.mean(), image.std()], atol=1e-12)


def test_a_constant_image_has_no_range_and_gives_its_mean(make_images):
    constant = torch.full((1, 1, 4, 4), 3.0)
    unit, low, span = in_unit_range(constant)
    assert torch.equal(unit, torch.zeros_like(constant))
    assert (float(low), float(span)) == (3.0, 0.0)
    varied = make_images((1, 1, 4, 4))
    torch.testing.assert_close(with_moments_of(constant, varied), varied.mean().expand(1, 1, 4, 4))
    torch.testing.assert_close(with_moments_of(varied, constant), constant)


def test_images_are_chosen_as_often_as_asked(make_generator):
    images = torch.empty(20_000, 1, 1, 1)
    for probability in (0.0, 0.2, 1.0):
        chosen = choose_images(images, probability=probability, generator=make_generator())
        # Four standard deviations; 0.8 for 0.2 would be far outside.
        assert abs(float(chosen.float().mean()) - probability) <= 4 * (probability * (1 - probability) / 20_000) ** 0.5
