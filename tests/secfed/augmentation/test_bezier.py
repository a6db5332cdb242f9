"""Bezier curves against a dense evaluation, and location-scale augmentation class by class in plain numpy."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from secfed.augmentation.bezier import (
    apply_bezier,
    apply_slaug,
    bezier,
    curve_at,
    curve_coefficients,
    draw_bezier_parameters,
    draw_slaug_parameters,
    slaug,
)
from secfed.augmentation_config import BezierConfig, SlaugConfig

SHAPES = {"2D": (5, 1, 11, 13), "two channels": (3, 2, 9, 8), "3D": (2, 1, 6, 7, 8)}


def dense_curve(unit, controls):
    """Models Genesis: points of the curve at many t, and linear interpolation between them."""
    t = np.linspace(0, 1, 20_001)
    x1, y1, x2, y2 = controls
    x, y = (3 * (1 - t) ** 2 * t * p + 3 * (1 - t) * t**2 * q + t**3 for p, q in ((x1, x2), (y1, y2)))
    return np.interp(unit, np.maximum.accumulate(x), y)


def curve(unit, *controls):
    return curve_at(unit, curve_coefficients(torch.tensor(controls, dtype=unit.dtype)))


@settings(max_examples=100)
@given(controls=st.tuples(*[st.floats(0, 1)] * 4))
def test_a_curve_is_that_of_its_controls_rises_and_keeps_its_ends(controls):
    unit = torch.linspace(0, 1, 401, dtype=torch.float64)
    found = curve(unit, *controls).numpy()
    # Where the curve is nearly upright, a height is only as exact as its piece is wide.
    np.testing.assert_allclose(found, dense_curve(unit.numpy(), controls), atol=2e-3)
    assert np.diff(found).min() >= -1e-12
    np.testing.assert_allclose(found[[0, -1]], [0, 1], atol=1e-12)


def test_a_straight_curve_is_the_identity_and_a_bent_one_is_exact_where_it_is_known():
    unit = torch.linspace(0, 1, 50, dtype=torch.float64)
    torch.testing.assert_close(curve(unit, 1 / 3, 1 / 3, 2 / 3, 2 / 3), unit)
    # With x = t the height is the cubic itself.
    height = 3 * (1 - unit) ** 2 * unit * 0.9 + 3 * (1 - unit) * unit**2 * 0.1 + unit**3
    torch.testing.assert_close(curve(unit, 1 / 3, 0.9, 2 / 3, 0.1), height, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_every_image_keeps_its_range_and_gets_its_own_curve(make_images, make_generator, shape):
    images = make_images(shape, dtype=torch.float64)
    config = BezierConfig(inverted_probability=0.5)
    seen = set()
    for seed in range(4):
        drawn = draw_bezier_parameters(images, config=config, generator=make_generator(seed))
        augmented = bezier(images, config=config, generator=make_generator(seed))
        for image, found, controls, falling in zip(
            images.numpy(), augmented.numpy(), drawn.controls.numpy(), drawn.falling, strict=True
        ):
            low, high = image.min(), image.max()
            expected = dense_curve((image - low) / (high - low), controls)
            expected = 1 - expected if falling else expected
            np.testing.assert_allclose(found, expected * (high - low) + low, atol=2e-3 * (high - low))
            ends = (high, low) if falling else (low, high)
            np.testing.assert_allclose([found.flat[image.argmin()], found.flat[image.argmax()]], ends, atol=1e-9)
            seen.add(bool(falling))
    assert seen == {True, False}


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_curves_fall_as_often_as_asked(make_generator, probability):
    config = BezierConfig(inverted_probability=probability)
    drawn = draw_bezier_parameters(torch.empty(5000, 1, 2, 2), config=config, generator=make_generator())
    assert abs(float(drawn.falling.float().mean()) - probability) < 0.03
    assert stats.kstest(drawn.controls.flatten().numpy(), "uniform").pvalue > 1e-4


def slaug_from_the_authors_code(image, labels, drawn, index):
    """Su et al., AAAI 2023, for one image (C, *spatial) in its own range, class by class."""
    low, high = image.min(), image.max()
    unit = (image - low) / (high - low)
    labels = np.broadcast_to(labels if drawn.per_class[index] else 0 * labels, image.shape)
    result = np.empty_like(unit)
    for part in np.unique(labels):
        inside = labels == part
        values = unit[inside]
        dark, bright = values.min(), values.max()
        heights = dense_curve((values - dark) / max(bright - dark, 1e-12), drawn.controls[index, part].numpy())
        heights = 1 - heights if drawn.falling[index, part] else heights
        heights = heights * (bright - dark) + dark
        location = np.clip(
            float(drawn.location[index, part]), -np.percentile(heights, 20), 1 - np.percentile(heights, 80)
        )
        result[inside] = np.clip(heights * float(drawn.scale[index, part]) + location, 0, 1)
    if drawn.per_class[index]:
        result = np.where(unit <= 0.01, unit, result)
    return result * (high - low) + low


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_location_scale_is_its_definition_for_every_image(make_images, make_labels, make_generator, shape):
    images = make_images(shape, dtype=torch.float64)
    labels = make_labels((shape[0], *shape[2:]))
    labels[0] = 3
    seen = set()
    for seed in range(6):
        drawn = draw_slaug_parameters(images, config=SlaugConfig(), generator=make_generator(seed))
        augmented = slaug(images, labels, config=SlaugConfig(), generator=make_generator(seed))
        for index, image in enumerate(images.numpy()):
            expected = slaug_from_the_authors_code(image, labels[index].numpy(), drawn, index)
            span = image.max() - image.min()
            np.testing.assert_allclose(augmented[index].numpy(), expected, atol=5e-3 * span)
        seen |= set(drawn.per_class.tolist())
    assert seen == {True, False}


def test_a_class_s_curve_acts_inside_the_class_only(make_images, make_labels, make_generator):
    images, labels = make_images((2, 1, 20, 20)), make_labels((2, 20, 20))
    drawn = draw_slaug_parameters(images, config=SlaugConfig(), generator=make_generator())
    drawn = dataclasses.replace(drawn, per_class=torch.tensor([True, False]))
    other = dataclasses.replace(drawn, controls=drawn.controls.clone(), location=drawn.location.clone())
    other.controls[:, 2] = torch.rand(2, 4, generator=make_generator(8))
    other.location[:, 2] += 0.3
    changed = apply_slaug(images, labels, drawn) != apply_slaug(images, labels, other)
    assert bool(changed[0, 0][labels[0] == 2].any())
    assert not changed[0, 0][labels[0] != 2].any()
    assert not changed[1].any()


def test_half_of_the_images_get_one_rising_curve(make_generator):
    images = torch.empty(4000, 1, 2, 2)
    drawn = draw_slaug_parameters(images, config=SlaugConfig(), generator=make_generator())
    assert abs(float(drawn.per_class.float().mean()) - 0.5) < 0.04
    assert not drawn.falling[~drawn.per_class].any()
    assert bool(drawn.falling[drawn.per_class, 0].all())
    assert abs(float(drawn.falling[drawn.per_class, 1:].float().mean()) - 0.5) < 0.01
    # clip(N(1, 0.1), 0.9, 1.1): 32 % of scales lie at the two limits; locations ~ N(0, 0.5).
    assert (float(drawn.scale.min()), float(drawn.scale.max())) == pytest.approx((0.9, 1.1))
    assert abs(float(((drawn.scale - 1).abs() > 0.0999).float().mean()) - 0.3182) < 0.01
    assert stats.kstest(drawn.location[:, 0].numpy(), stats.norm(0, 0.5).cdf).pvalue > 1e-4


def test_slaug_stays_in_the_range_of_the_image(make_images, make_labels, make_generator):
    images, labels = make_images((16, 1, 12, 15)), make_labels((16, 12, 15))
    augmented = slaug(images, labels, config=SlaugConfig(), generator=make_generator())
    assert bool((augmented.flatten(1).amin(1) >= images.flatten(1).amin(1) - 1e-5).all())
    assert bool((augmented.flatten(1).amax(1) <= images.flatten(1).amax(1) + 1e-5).all())


def test_labels_of_another_shape_are_refused(make_images, make_labels, make_generator):
    with pytest.raises(ValueError, match="labels must have shape"):
        slaug(make_images(), make_labels((4, 12, 14)), config=SlaugConfig(), generator=make_generator())


def test_a_bezier_curve_and_its_upside_down_sum_to_both_ends(make_images, make_generator):
    images = make_images(dtype=torch.float64)
    drawn = draw_bezier_parameters(images, config=BezierConfig(), generator=make_generator())
    both = [
        apply_bezier(images, dataclasses.replace(drawn, falling=torch.full((4,), falling))) for falling in (False, True)
    ]
    low, high = images.flatten(1).aminmax(dim=1)
    torch.testing.assert_close(both[0] + both[1], (low + high)[:, None, None, None].expand_as(images))
