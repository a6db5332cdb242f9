"""FDA and amplitude mix against numpy's transform, with the square walked frequency by frequency."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from secfed.augmentation.fourier import apply_fourier, apr, draw_apr_parameters, draw_fda_parameters, fda
from secfed.augmentation_config import AprConfig, FdaConfig

SHAPES = {"2D": (4, 1, 12, 15), "even and odd": (3, 2, 9, 8), "3D": (3, 1, 6, 7, 8)}


def fda_from_the_definition(image, partner, half_width):
    """Yang and Soatto, CVPR 2020: (C, *spatial) images; the square is centred in the shifted spectrum."""
    axes = tuple(range(1, image.ndim))
    own = np.fft.fftshift(np.fft.fftn(image, axes=axes), axes=axes)
    other = np.fft.fftshift(np.fft.fftn(partner, axes=axes), axes=axes)
    amplitude, phase = np.abs(own), np.angle(own)
    centre = [size // 2 for size in image.shape[1:]]
    for place in itertools.product(*(range(size) for size in image.shape[1:])):
        if all(abs(at - middle) <= half_width for at, middle in zip(place, centre, strict=True)):
            amplitude[(slice(None), *place)] = np.abs(other[(slice(None), *place)])
    mixed = np.fft.ifftshift(amplitude * np.exp(1j * phase), axes=axes)
    return np.fft.ifftn(mixed, axes=axes).real


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("length", [0.0, 0.2, 0.5])
def test_fda_is_its_definition_for_every_image(make_images, make_generator, shape, length):
    images = make_images(shape, dtype=torch.float64)
    config = FdaConfig(smallest=length, largest=length)
    partner = draw_fda_parameters(images, config=config, generator=make_generator()).partner
    augmented = fda(images, config=config, generator=make_generator())
    half_width = math.floor(min(shape[2:]) * length)
    for index, image in enumerate(images):
        expected = fda_from_the_definition(image.numpy(), images[partner[index]].numpy(), half_width)
        np.testing.assert_allclose(augmented[index].numpy(), expected, atol=1e-10)
        assert not np.allclose(augmented[index].numpy(), image.numpy())


def test_the_square_reaches_as_far_as_was_drawn(make_generator):
    images = torch.empty(4000, 1, 64, 80)
    drawn = draw_fda_parameters(images, config=FdaConfig(), generator=make_generator())
    # L ~ U(0.01, 0.09), so 64 L ~ U(0.64, 5.76) and its floor is one of 0 to 5.
    found = torch.bincount(drawn.reach.long(), minlength=6).double()
    expected = torch.tensor([0.36, 1, 1, 1, 1, 0.76], dtype=torch.float64) * 4000 / 5.12
    assert stats.chisquare(found.numpy(), expected.numpy()).pvalue > 1e-4


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("config", [AprConfig(), AprConfig(swap=True), AprConfig(strength=0.3)])
def test_amplitudes_are_mixed_and_the_phase_is_kept(make_images, make_generator, shape, config):
    images = make_images(shape, dtype=torch.float64)
    drawn = draw_apr_parameters(images, config=config, generator=make_generator())
    augmented = apr(images, config=config, generator=make_generator()).numpy()
    axes = tuple(range(1, len(shape) - 1))
    assert float(drawn.share.min()) >= 0
    assert float(drawn.share.max()) <= config.strength
    for image, found, partner, drawn_share in zip(images, augmented, drawn.partner, drawn.share, strict=True):
        own, new = np.fft.fftn(image.numpy(), axes=axes), np.fft.fftn(found, axes=axes)
        other = np.abs(np.fft.fftn(images[partner].numpy(), axes=axes))
        share = 1.0 if config.swap else float(drawn_share)
        np.testing.assert_allclose(np.abs(new), (1 - share) * np.abs(own) + share * other, atol=1e-9)
        np.testing.assert_allclose(np.exp(1j * np.angle(new)), np.exp(1j * np.angle(own)), atol=1e-6)


def test_the_share_is_uniform_up_to_the_strength(make_generator):
    images = torch.empty(2000, 1, 4, 4)
    drawn = draw_apr_parameters(images, config=AprConfig(strength=0.3), generator=make_generator())
    assert stats.kstest(drawn.share.numpy(), stats.uniform(0, 0.3).cdf).pvalue > 1e-4


@pytest.mark.parametrize("method", ["fda", "apr"])
def test_the_partner_is_any_other_image_and_never_oneself(make_generator, method):
    images, counts = torch.empty(5, 1, 4, 4), torch.zeros(5, 5)
    generator = make_generator()
    for _ in range(2000):
        drawn = (
            draw_fda_parameters(images, config=FdaConfig(), generator=generator)
            if method == "fda"
            else draw_apr_parameters(images, config=AprConfig(), generator=generator)
        )
        counts[torch.arange(5), drawn.partner] += 1
    assert not counts.diagonal().any()
    others = counts[~torch.eye(5, dtype=torch.bool)]
    assert stats.chisquare(others.numpy()).pvalue > 1e-4


@pytest.mark.parametrize("method", ["fda", "apr"])
def test_an_image_alone_in_its_batch_stays_what_it_is(make_images, make_generator, method):
    image = make_images((1, 1, 12, 15))
    augmented = (
        fda(image, config=FdaConfig(), generator=make_generator())
        if method == "fda"
        else apr(image, config=AprConfig(), generator=make_generator())
    )
    assert torch.equal(augmented, image)


def test_two_equal_images_are_each_other_s_partner_and_stay(make_images, make_generator):
    same = make_images((1, 1, 12, 15), dtype=torch.float64).expand(2, 1, 12, 15)
    torch.testing.assert_close(apr(same, config=AprConfig(), generator=make_generator()), same)


def test_images_that_are_not_chosen_still_lend_their_amplitude(make_images, make_generator):
    images = make_images((2, 1, 12, 15))
    drawn = draw_apr_parameters(images, config=AprConfig(swap=True), generator=make_generator())
    one = apply_fourier(images, dataclasses.replace(drawn, chosen=torch.tensor([True, False])))
    assert torch.equal(one[1], images[1])
    assert torch.equal(one[0], apply_fourier(images, drawn)[0])
