"""GIN-IPA: a smooth mask between 0 and 1, and copies that are complements of each other."""

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

from secfed.augmentation.gin import apply_gin, draw_gin_parameters
from secfed.augmentation.ipa import blend, draw_mask, gin_ipa, mask_of
from secfed.augmentation_config import GinConfig, IpaConfig

SHAPES = {"2D": (3, 1, 24, 31), "two channels": (2, 2, 9, 8), "3D": (2, 1, 8, 10, 12)}


def mask_from_the_definition(control, spatial, spacing):
    """A tensor product of scipy's quadratic B-splines through (P, ..., P) control points, stretched to [0, 1]."""
    field = control
    for axis, size in enumerate(spatial):
        points = control.shape[axis]
        place = (np.arange(size) + 0.5) / size / spacing
        # Uniform knots, two of them before the image: at 0 the first three control points have weight.
        spline = BSpline(np.arange(points + 3) - 2.0, np.eye(points), 2)
        field = np.moveaxis(np.tensordot(spline(place), field, axes=(1, axis)), 0, axis)
    return (field - field.min()) / (field.max() - field.min())


@pytest.mark.parametrize("spatial", [(24, 31), (8, 10, 12)], ids=["2D", "3D"])
@pytest.mark.parametrize("spacing", [0.25, 0.3, 1.0])
def test_the_mask_is_a_quadratic_spline_of_its_control_points(make_generator, spatial, spacing):
    points = int(np.ceil(1 / spacing)) + 2
    control = torch.randn(2, *[points] * len(spatial), generator=make_generator(), dtype=torch.float64)
    mask = mask_of(control, spatial=spatial, spacing=spacing)
    assert mask.shape == (2, 1, *spatial)
    for found, points_of in zip(mask, control, strict=True):
        np.testing.assert_allclose(
            found[0].numpy(), mask_from_the_definition(points_of.numpy(), spatial, spacing), atol=1e-12
        )


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_masks_reach_from_zero_to_one_and_are_every_image_s_own(make_images, make_generator, shape):
    mask = draw_mask(make_images(shape), config=IpaConfig(), generator=make_generator())
    assert mask.shape == (shape[0], 1, *shape[2:])
    assert torch.equal(mask.flatten(1).amin(1), torch.zeros(shape[0]))
    assert torch.equal(mask.flatten(1).amax(1), torch.ones(shape[0]))
    assert not torch.allclose(mask[0], mask[1])


def test_masks_are_smooth_and_finer_for_closer_control_points(make_generator):
    steps = []
    for spacing in (0.5, 0.25, 0.1):
        mask = draw_mask(torch.empty(50, 1, 200, 200), config=IpaConfig(spacing=spacing), generator=make_generator())
        for axis in (2, 3):
            slope = mask.diff(dim=axis).abs().max()
            # The slope has no jumps, as that of a linear interpolation would have at every control point.
            assert float(mask.diff(n=2, dim=axis).abs().max()) < 0.2 * float(slope)
        steps.append(float(slope))
    assert steps == sorted(steps)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_the_pair_is_two_gin_copies_blended_by_the_mask_and_its_complement(make_images, make_generator, shape):
    images = make_images(shape, dtype=torch.float64)
    one, other = gin_ipa(images, gin=GinConfig(), ipa=IpaConfig(), generator=make_generator())
    generator = make_generator()
    copies = [
        apply_gin(images, draw_gin_parameters(images, config=GinConfig(), generator=generator), negative_slope=0.01)
        for _ in range(2)
    ]
    mask = draw_mask(images, config=IpaConfig(), generator=generator)
    torch.testing.assert_close(one, mask * copies[0] + (1 - mask) * copies[1])
    torch.testing.assert_close(other, (1 - mask) * copies[0] + mask * copies[1])
    torch.testing.assert_close(one + other, copies[0] + copies[1])
    assert not torch.allclose(copies[0], copies[1])


def test_equal_images_blend_to_themselves_bit_for_bit(make_images, make_generator):
    images = make_images()
    mask = draw_mask(images, config=IpaConfig(), generator=make_generator())
    assert torch.equal(blend(images, images.clone(), mask), images)


def test_an_image_that_is_left_out_is_left_out_of_both_copies(make_images, make_generator):
    images = make_images((64, 1, 8, 8))
    pair = gin_ipa(images, gin=GinConfig(probability=0.5), ipa=IpaConfig(), generator=make_generator())
    kept = [(view == images).flatten(1).all(dim=1) for view in pair]
    assert torch.equal(kept[0], kept[1])
    assert 16 < int(kept[0].sum()) < 48
