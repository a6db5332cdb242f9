"""The piecewise-linear map against numpy's interpolation."""

import numpy as np
import pytest
import torch
from scipy import stats

from secfed.augmentation.piecewise import draw_piecewise_parameters, piecewise
from secfed.augmentation_config import PiecewiseConfig


@pytest.mark.parametrize("shape", [(5, 1, 11, 13), (3, 2, 9, 8), (2, 1, 6, 7, 8)], ids=["2D", "two channels", "3D"])
@pytest.mark.parametrize("knots", [2, 7, 30])
def test_every_image_is_interpolated_between_its_own_values(make_images, make_generator, shape, knots):
    images, config = make_images(shape, dtype=torch.float64), PiecewiseConfig(knots=knots)
    drawn = draw_piecewise_parameters(images, config=config, generator=make_generator())
    augmented = piecewise(images, config=config, generator=make_generator())
    for image, found, values in zip(images.numpy(), augmented.numpy(), drawn.values.numpy(), strict=True):
        mapped = np.interp(image, np.linspace(image.min(), image.max(), knots), values)
        expected = (mapped - mapped.mean()) / mapped.std() * image.std() + image.mean()
        np.testing.assert_allclose(found, expected, atol=1e-10)


def test_values_are_standard_normal(make_generator):
    drawn = draw_piecewise_parameters(torch.empty(500, 1, 4, 4), config=PiecewiseConfig(), generator=make_generator())
    values = drawn.values.flatten().numpy()
    assert stats.kstest(values, "norm").pvalue > 1e-4
    assert stats.kstest(values, stats.norm(0, 1.5).cdf).pvalue < 1e-4


def test_most_maps_are_not_monotone(make_generator):
    drawn = draw_piecewise_parameters(torch.empty(1000, 1, 4, 4), config=PiecewiseConfig(), generator=make_generator())
    rising = (drawn.values.diff(dim=1) > 0).all(dim=1) | (drawn.values.diff(dim=1) < 0).all(dim=1)
    # 2 of the 5040 orders of seven values are monotone.
    assert int(rising.sum()) < 10


def test_equal_intensities_stay_equal_and_moments_are_kept(make_generator):
    images = torch.tensor([0.0, 0.3, 1.0])[torch.randint(3, (4, 1, 8, 8), generator=make_generator())]
    augmented = piecewise(images, config=PiecewiseConfig(), generator=make_generator(1))
    for image, changed in zip(images, augmented, strict=True):
        assert all(float(changed[image == value].std()) < 1e-6 for value in (0.0, 0.3, 1.0))
        torch.testing.assert_close(torch.stack(torch.std_mean(changed)), torch.stack(torch.std_mean(image)))
