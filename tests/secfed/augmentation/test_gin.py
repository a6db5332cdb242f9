"""GIN against its definition, image by image, and at its edges."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate

from secfed.augmentation.gin import apply_gin, draw_gin_parameters, gin, mask_kernel, restrict_kernel
from secfed.augmentation_config import GinConfig

SHAPES = {"2D": (5, 1, 11, 13), "2D, two channels": (3, 2, 9, 8), "3D": (2, 1, 6, 7, 8)}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images_of(shape, seed=1, dtype=torch.float32):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def gin_from_the_definition(image, weights, shifts, alpha, negative_slope):
    """Ouyang et al., IEEE TMI 2022, for one image (C, *spatial), in float64 and with explicit loops."""
    hidden = image
    for layer, (weight, shift) in enumerate(zip(weights, shifts, strict=True)):
        hidden = np.stack(
            [
                sum(correlate(hidden[i], weight[o, i], mode="constant") for i in range(len(hidden))) + shift[o]
                for o in range(len(weight))
            ]
        )
        if layer < len(weights) - 1:
            hidden = np.where(hidden >= 0, hidden, negative_slope * hidden)
    blend = alpha * hidden + (1 - alpha) * image
    return blend * np.sqrt((image**2).sum()) / (np.sqrt((blend**2).sum()) + 1e-5)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize(
    "config", [GinConfig(), GinConfig(layers=1), GinConfig(layers=3, width=8, kernel_sizes=(1, 3, 5))]
)
def test_gin_is_its_definition_for_every_image(shape, config):
    images = images_of(shape, dtype=torch.float64)
    for seed in range(4):
        drawn = draw_gin_parameters(images, config=config, generator=generator(seed))
        fast = gin(images, config=config, generator=generator(seed))
        for index in range(shape[0]):
            slow = gin_from_the_definition(
                images[index].numpy(),
                [weight[index].numpy() for weight in drawn.weights],
                [shift[index].numpy() for shift in drawn.shifts],
                float(drawn.alpha[index]),
                config.negative_slope,
            )
            np.testing.assert_allclose(fast[index].numpy(), slow, rtol=1e-9, atol=1e-12)


def test_widths_are_those_of_the_paper():
    drawn = draw_gin_parameters(images_of((3, 1, 8, 8)), config=GinConfig(), generator=generator())
    assert [tuple(weight.shape[:3]) for weight in drawn.weights] == [(3, 2, 1), (3, 2, 2), (3, 2, 2), (3, 1, 2)]
    assert {weight.shape[-1] for weight in drawn.weights} <= {1, 3}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_the_norm_of_every_image_is_kept(shape):
    images = images_of(shape) * torch.arange(1, shape[0] + 1).reshape(-1, *[1] * (len(shape) - 1))
    augmented = gin(images, config=GinConfig(), generator=generator())
    torch.testing.assert_close(augmented.flatten(1).norm(dim=1), images.flatten(1).norm(dim=1), rtol=1e-4, atol=0)
    assert not torch.allclose(augmented, images)


def test_an_image_does_not_depend_on_the_others_in_its_batch():
    images = images_of((4, 1, 10, 10))
    drawn = draw_gin_parameters(images, config=GinConfig(), generator=generator())
    together = apply_gin(images, drawn, negative_slope=0.01)
    others = images.clone()
    others[[0, 1, 3]] = 100.0
    torch.testing.assert_close(apply_gin(others, drawn, negative_slope=0.01)[2], together[2])
    alone = dataclasses.replace(
        drawn,
        weights=tuple(weight[2:3] for weight in drawn.weights),
        shifts=tuple(shift[2:3] for shift in drawn.shifts),
        alpha=drawn.alpha[2:3],
        chosen=drawn.chosen[2:3],
    )
    torch.testing.assert_close(apply_gin(images[2:3], alone, negative_slope=0.01)[0], together[2])


def test_every_image_gets_its_own_network():
    same = images_of((1, 1, 8, 8)).expand(3, 1, 8, 8)
    augmented = gin(same, config=GinConfig(), generator=generator())
    assert not torch.allclose(augmented[0], augmented[1])
    assert not torch.allclose(augmented[1], augmented[2])


def test_the_receptive_field_is_nine_at_most():
    config = GinConfig(kernel_sizes=(3,))
    images = images_of((1, 1, 25, 25), dtype=torch.float64)
    touched = images.clone()
    touched[..., 12, 12] += 5.0
    drawn = draw_gin_parameters(images, config=config, generator=generator())
    # The rescaling to the former norm touches every pixel by the same factor, which the ratio shows.
    ratio = apply_gin(touched, drawn, negative_slope=0.01)[0, 0] / apply_gin(images, drawn, negative_slope=0.01)[0, 0]
    changed = (ratio / ratio[0, 0] - 1).abs() > 1e-9
    rows, columns = torch.nonzero(changed, as_tuple=True)
    assert (int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())) == (8, 16, 8, 16)


def test_kernels_of_size_one_map_equal_values_to_equal_values():
    config = GinConfig(kernel_sizes=(1,))
    images = torch.tensor([0.0, 1.0, 2.0])[torch.randint(3, (2, 1, 6, 6), generator=generator())]
    augmented = gin(images, config=config, generator=generator())
    for image, changed in zip(images, augmented, strict=True):
        for value in (0.0, 1.0, 2.0):
            assert len(changed[image == value].unique()) == 1


def test_a_masked_kernel_is_the_same_convolution_as_a_cropped_one():
    weight = torch.randn(6, 2, 1, 5, 5, generator=generator())
    images = images_of((1, 6, 9, 9))
    for size in (1, 3, 5):
        cropped, masked = restrict_kernel(weight, torch.tensor(size)), mask_kernel(weight, torch.tensor(size))
        assert cropped.shape[-2:] == (size, size)
        assert masked.shape == weight.shape
        outputs = [
            torch.nn.functional.conv2d(images, kernel.flatten(0, 1), padding=kernel.shape[-1] // 2, groups=6)
            for kernel in (cropped, masked)
        ]
        torch.testing.assert_close(*outputs)


def test_probability_zero_returns_every_image_bit_for_bit():
    images = images_of((4, 1, 6, 6))
    result = gin(images, config=GinConfig(probability=0.0), generator=generator())
    assert torch.equal(result, images)
    assert result.data_ptr() != images.data_ptr()


def test_images_that_are_not_chosen_come_back_bit_for_bit():
    images = images_of((64, 1, 6, 6))
    config = GinConfig(probability=0.5)
    drawn = draw_gin_parameters(images, config=config, generator=generator())
    result = gin(images, config=config, generator=generator())
    kept = torch.tensor([torch.equal(a, b) for a, b in zip(result, images, strict=True)])
    assert torch.equal(kept, ~drawn.chosen)
    assert 16 < int(kept.sum()) < 48


def test_probability_one_chooses_every_image():
    drawn = draw_gin_parameters(images_of((500, 1, 2, 2)), config=GinConfig(), generator=generator())
    assert bool(drawn.chosen.all())


def test_the_generator_decides_everything():
    images = images_of((3, 1, 8, 8))
    first = gin(images, config=GinConfig(), generator=generator(5))
    torch.rand(7)
    assert torch.equal(first, gin(images, config=GinConfig(), generator=generator(5)))
    assert not torch.equal(first, gin(images, config=GinConfig(), generator=generator(6)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_full_and_rounded(dtype):
    images = images_of((3, 1, 8, 8), dtype=dtype)
    result = gin(images, config=GinConfig(), generator=generator())
    full = gin(images.float(), config=GinConfig(), generator=generator())
    assert result.dtype == dtype
    assert torch.equal(result, full.to(dtype))


def test_autocast_changes_nothing():
    images = images_of((3, 1, 8, 8))
    plain = gin(images, config=GinConfig(), generator=generator())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gin(images, config=GinConfig(), generator=generator()), plain)


def test_a_zero_image_stays_zero_and_a_constant_one_stays_finite():
    images = torch.stack([torch.zeros(1, 8, 8), torch.full((1, 8, 8), 1e4), torch.full((1, 8, 8), 1e-30)])
    result = gin(images, config=GinConfig(), generator=generator())
    assert torch.equal(result[0], images[0])
    assert bool(result.isfinite().all())


def test_no_gradient_and_no_change_of_the_input():
    images = images_of((2, 1, 8, 8)).requires_grad_()
    before = images.detach().clone()
    assert not gin(images, config=GinConfig(), generator=generator()).requires_grad
    assert torch.equal(images.detach(), before)


def test_an_empty_batch_is_an_empty_batch():
    assert gin(torch.empty(0, 1, 4, 4), config=GinConfig(), generator=generator()).shape == (0, 1, 4, 4)


def test_a_generator_on_another_device_is_refused():
    with pytest.raises(ValueError, match=r"generator lives on cpu, but the images on meta"):
        gin(torch.empty(1, 1, 4, 4, device="meta"), config=GinConfig(), generator=generator())


@pytest.mark.parametrize("images", [torch.zeros(4, 4), torch.zeros(1, 1, 4, 4, dtype=torch.int32)])
def test_other_shapes_and_dtypes_are_refused(images):
    with pytest.raises(ValueError, match="must be floating"):
        gin(images, config=GinConfig(), generator=generator())
