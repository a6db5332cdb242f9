"""Random pose: image and label move together, by what the parameters say."""

import math

import pytest
import torch
from scipy import stats

from secfed.augmentation.spatial import AffineParameters, apply_affine, draw_affine_parameters, random_affine
from secfed.augmentation_config import AffineConfig


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def parameters(*, rotation_rad=0.0, scale=1.0, shift=(0.0, 0.0), chosen=True):
    return AffineParameters(
        rotation_rad=torch.tensor([rotation_rad]),
        scale=torch.tensor([scale]),
        shift=torch.tensor([shift]),
        chosen=torch.tensor([chosen]),
    )


def box(shape, *places):
    labels = torch.zeros(1, *shape, dtype=torch.int64)
    labels[(0, *places)] = 1
    return labels[:, None].float(), labels


def centre_of(labels):
    return torch.nonzero(labels[0]).float().mean(dim=0).tolist()


def test_a_shift_moves_by_its_share_of_each_length():
    images, labels = box((20, 40), slice(4, 8), slice(10, 16))
    moved, turned = apply_affine(images, labels, parameters(shift=(0.1, -0.05)))
    expected_images, expected = box((20, 40), slice(6, 10), slice(8, 14))
    assert torch.equal(turned, expected)
    torch.testing.assert_close(moved, expected_images, atol=1e-4, rtol=0)


def test_a_quarter_turn_keeps_lengths_on_a_grid_that_is_not_square():
    images, labels = box((21, 41), slice(10, 11), slice(20, 27))
    _, turned = apply_affine(images, labels, parameters(rotation_rad=math.pi / 2))
    rows, columns = torch.nonzero(turned[0], as_tuple=True)
    assert columns.unique().tolist() == [20]
    assert rows.tolist() in ([*range(10, 17)], [*range(4, 11)])


def test_the_turn_is_from_the_last_axis_towards_the_one_before():
    _, labels = box((21, 21), slice(10, 11), slice(15, 18))
    _, turned = apply_affine(labels[:, None].float(), labels, parameters(rotation_rad=math.pi / 2))
    assert centre_of(turned) == [16.0, 10.0]


def test_scale_enlarges_about_the_centre():
    images, labels = box((40, 40), slice(16, 24), slice(16, 24))
    _, larger = apply_affine(images, labels, parameters(scale=1.5))
    assert int(larger.sum()) == 12 * 12
    assert centre_of(larger) == [19.5, 19.5]


def test_volumes_turn_about_z_and_shift_along_all_axes():
    images, labels = box((9, 21, 21), slice(2, 4), slice(10, 11), slice(15, 18))
    _, turned = apply_affine(images, labels, parameters(rotation_rad=math.pi / 2, shift=(0.0, 0.0, 0.0)))
    assert centre_of(turned) == [2.5, 16.0, 10.0]
    _, shifted = apply_affine(images, labels, parameters(shift=(3 / 9, 0.0, 0.0)))
    assert centre_of(shifted) == [5.5, 10.0, 16.0]


def test_borders_continue_in_image_and_label_alike():
    images, labels = box((10, 10), slice(0, 3), slice(0, 10))
    moved, turned = apply_affine(images, labels, parameters(shift=(0.4, 0.0)))
    assert torch.equal(turned[0, :7], torch.ones(7, 10, dtype=torch.int64))
    torch.testing.assert_close(moved[0, 0], turned[0].float(), atol=1e-4, rtol=0)


def test_image_and_label_agree_under_random_poses():
    images, labels = box((32, 48), slice(8, 24), slice(12, 36))
    images, labels = images.expand(16, -1, -1, -1), labels.expand(16, -1, -1)
    config = AffineConfig(rotation_rad=0.5, scale=0.3, shift=0.2)
    moved, turned = random_affine(images, labels, config=config, generator=generator())
    sure = (moved[:, 0] < 0.01) | (moved[:, 0] > 0.99)
    assert float(sure.float().mean()) > 0.8
    assert torch.equal((moved[:, 0] > 0.5)[sure], turned[sure] == 1)
    assert not torch.equal(turned[0], turned[1])


def test_labels_stay_labels_and_dtypes_stay():
    images = torch.randn(2, 1, 8, 8, generator=generator()).to(torch.bfloat16)
    labels = torch.randint(0, 256, (2, 8, 8), generator=generator(), dtype=torch.uint8)
    moved, turned = random_affine(images, labels, config=AffineConfig(), generator=generator())
    assert (moved.dtype, turned.dtype) == (torch.bfloat16, torch.uint8)
    assert set(turned.flatten().tolist()) <= set(labels.flatten().tolist())


def test_images_that_are_not_chosen_come_back_bit_for_bit():
    images = torch.randn(64, 1, 8, 8, generator=generator())
    labels = torch.randint(0, 9, (64, 8, 8), generator=generator())
    none = random_affine(images, labels, config=AffineConfig(probability=0.0), generator=generator())
    assert torch.equal(none[0], images)
    assert torch.equal(none[1], labels)
    moved, _ = random_affine(images, labels, config=AffineConfig(probability=0.5), generator=generator())
    kept = sum(torch.equal(a, b) for a, b in zip(moved, images, strict=True))
    assert 16 < kept < 48


def test_the_generator_decides_everything():
    images, labels = box((16, 16), slice(4, 9), slice(4, 9))
    first = random_affine(images, labels, config=AffineConfig(shift=0.1), generator=generator(1))
    again = random_affine(images, labels, config=AffineConfig(shift=0.1), generator=generator(1))
    other = random_affine(images, labels, config=AffineConfig(shift=0.1), generator=generator(2))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])


def test_draws_are_uniform_within_their_limits():
    config = AffineConfig(rotation_rad=0.4, scale=0.2, shift=0.1)
    drawn = draw_affine_parameters(torch.empty(3000, 1, 4, 4), config=config, generator=generator())
    for samples, (low, high) in (
        (drawn.rotation_rad, (-0.4, 0.4)),
        (drawn.scale, (0.8, 1.2)),
        (drawn.shift[:, 0], (-0.1, 0.1)),
        (drawn.shift[:, 1], (-0.1, 0.1)),
    ):
        assert stats.kstest(samples.numpy(), stats.uniform(low, high - low).cdf).pvalue > 1e-3
        for factor in (2 / 3, 3 / 2):
            middle, width = (low + high) / 2, (high - low) * factor
            assert stats.kstest(samples.numpy(), stats.uniform(middle - width / 2, width).cdf).pvalue < 1e-9


def test_what_does_not_fit_is_refused():
    images, labels = box((8, 8), slice(1, 3), slice(1, 3))
    with pytest.raises(ValueError, match="labels must have shape"):
        random_affine(images, labels[:, :4], config=AffineConfig(), generator=generator())
    with pytest.raises(ValueError, match="must be floating"):
        random_affine(images.long(), labels, config=AffineConfig(), generator=generator())
    with pytest.raises(ValueError, match="generator lives on cpu, but the images on meta"):
        random_affine(images.to("meta"), labels.to("meta"), config=AffineConfig(), generator=generator())
