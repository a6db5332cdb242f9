"""The transforms of nnU-Net, one by one and in order, channel by channel in numpy and scipy; and their odds."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.ndimage import correlate1d

from secfed.augmentation import nnunet as transforms
from secfed.augmentation.nnunet import apply_nnunet, draw_nnunet_parameters, nnunet
from secfed.augmentation_config import NnunetConfig

SHAPES = {"2D": (40, 1, 11, 13), "two channels": (20, 2, 9, 8), "3D": (20, 1, 6, 7, 8), "small": (20, 1, 2, 3)}
ALL = NnunetConfig()


def blurred(channel, sigmas):
    for axis, sigma in enumerate(sigmas):
        # batchgeneratorsv2: the odd number nearest to 6 sigma + 0.5.
        taps = min((3, 5, 7), key=lambda count: abs(count - (6 * sigma + 0.5)))
        place = np.arange(taps) - taps // 2
        kernel = np.exp(-0.5 * (place / sigma) ** 2)
        channel = correlate1d(channel, kernel / kernel.sum(), axis=axis, mode="mirror")
    return channel


def contrasted(channel, factor):
    mean = channel.mean()
    return np.clip((channel - mean) * factor + mean, channel.min(), channel.max())


def coarsened(channel, scale):
    fewer = [max(1, round(size * scale)) for size in channel.shape]
    # The voxel under the middle of each coarse one: torch's "nearest-exact", but exact at the borders of voxels too.
    places = [
        [(2 * at + 1) * size // (2 * few) for at in range(few)] for few, size in zip(fewer, channel.shape, strict=True)
    ]
    coarse = torch.from_numpy(channel[np.ix_(*places)])[None, None]
    mode = "bilinear" if channel.ndim == 2 else "trilinear"
    return torch.nn.functional.interpolate(coarse, channel.shape, mode=mode)[0, 0].numpy()


def gamma_corrected(channel, exponent):
    low, span = channel.min(), np.ptp(channel)
    curved = ((channel - low) / span) ** exponent * span + low
    return (curved - curved.mean()) / curved.std() * channel.std() + channel.mean()


def nnunet_from_the_definition(channel, noise, drawn):
    """One channel, in nnU-Net's order; `drawn` holds its numbers."""
    channel = channel + noise
    if any(drawn["blur_sigma"]):
        channel = blurred(channel, drawn["blur_sigma"])
    channel = channel * drawn["brightness"]
    if drawn["contrast"] != 1:
        channel = contrasted(channel, drawn["contrast"])
    if drawn["resolution"] != 1:
        channel = coarsened(channel, drawn["resolution"])
    if drawn["inverted_gamma"] != 1:
        channel = -gamma_corrected(-channel, drawn["inverted_gamma"])
    if drawn["gamma"] != 1:
        channel = gamma_corrected(channel, drawn["gamma"])
    return channel


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_every_channel_passes_the_transforms_that_were_drawn_for_it(make_images, make_generator, shape):
    images = make_images(shape, dtype=torch.float64)
    drawn = draw_nnunet_parameters(images, config=ALL, generator=make_generator())
    augmented = nnunet(images, config=ALL, generator=make_generator())
    names = ("blur_sigma", "brightness", "contrast", "resolution", "inverted_gamma", "gamma")
    for image in range(shape[0]):
        for channel in range(shape[1]):
            numbers = {name: getattr(drawn, name)[image, channel].numpy() for name in names}
            expected = nnunet_from_the_definition(
                images[image, channel].numpy(), drawn.noise[image, 0].numpy(), numbers
            )
            np.testing.assert_allclose(augmented[image, channel].numpy(), expected, atol=1e-10)


@pytest.mark.parametrize("spatial", [(16, 20), (8, 9, 10)], ids=["2D", "3D"])
@pytest.mark.parametrize("name", ["blur", "contrast", "low_resolution", "gamma"])
def test_a_transform_is_its_definition_over_its_whole_range(make_images, make_generator, name, spatial):
    channels = make_images((12, *spatial), dtype=torch.float64)
    bounds = {
        "blur": transforms.BLUR_SIGMA,
        "contrast": transforms.CONTRAST_FACTOR,
        "low_resolution": transforms.LOW_RESOLUTION_SCALE,
        "gamma": transforms.GAMMA_EXPONENT,
    }[name]
    slow = {"blur": blurred, "contrast": contrasted, "low_resolution": coarsened, "gamma": gamma_corrected}[name]
    numbers = torch.linspace(*bounds, 12, dtype=torch.float64)
    if name == "blur":
        numbers = torch.stack([numbers, *[numbers.flip(0)] * (len(spatial) - 1)], dim=1)
    for channel, number, found in zip(channels, numbers, getattr(transforms, name)(channels, numbers), strict=True):
        np.testing.assert_allclose(found.numpy(), slow(channel.numpy(), number.numpy()), atol=1e-10)


def test_probabilities_and_ranges_are_nnunet_s(make_generator):
    count = 20_000
    drawn = draw_nnunet_parameters(torch.empty(count, 1, 3, 3), config=ALL, generator=make_generator())
    applied = {
        "noise": ((drawn.noise != 0).flatten(1).any(dim=1), 0.1),
        "blur": ((drawn.blur_sigma > 0).all(dim=2)[:, 0], 0.2 * 0.5),
        "brightness": (drawn.brightness[:, 0] != 1, 0.15),
        "contrast": (drawn.contrast[:, 0] != 1, 0.15),
        "resolution": (drawn.resolution[:, 0] != 1, 0.25 * 0.5),
        "inverted gamma": (drawn.inverted_gamma[:, 0] != 1, 0.1),
        "gamma": (drawn.gamma[:, 0] != 1, 0.3),
    }
    for name, (which, probability) in applied.items():
        deviation = (probability * (1 - probability) / count) ** 0.5
        assert abs(float(which.double().mean()) - probability) < 4 * deviation, name
    for values, (low, high) in (
        (drawn.blur_sigma[applied["blur"][0]], (0.5, 1.0)),
        (drawn.resolution[applied["resolution"][0]], (0.5, 1.0)),
    ):
        assert stats.kstest(values.flatten().numpy(), stats.uniform(low, high - low).cdf).pvalue > 1e-4
    for name, (low, high) in {
        "brightness": (0.75, 1.25),
        "contrast": (0.75, 1.25),
        "inverted gamma": (0.7, 1.5),
        "gamma": (0.7, 1.5),
    }.items():
        values = getattr(drawn, name.replace(" ", "_"))[applied[name][0]].flatten().numpy()
        # Half of the factors below 1 and half above, each uniform.
        for part, start in ((values[values < 1], low), (values[values > 1], 1.0)):
            end = 1.0 if start < 1 else high
            assert abs(len(part) / len(values) - 0.5) < 0.05
            assert stats.kstest(part, stats.uniform(start, end - start).cdf).pvalue > 1e-4
    noise = drawn.noise[applied["noise"][0]]
    # The deviation is U(0, 0.1), so the variance is 0.1^2 / 3 on average.
    assert float(noise.var()) == pytest.approx(0.01 / 3, rel=0.1)


def test_on_another_device_all_channels_are_computed_and_the_drawn_ones_kept(make_images, make_generator, monkeypatch):
    images = make_images((20, 2, 9, 8), dtype=torch.float64)
    drawn = draw_nnunet_parameters(images, config=ALL, generator=make_generator())

    def everywhere(transform, channels, numbers, *, none):
        which = (numbers != none).reshape(len(numbers), -1).any(dim=1)
        return torch.where(which.reshape(-1, *[1] * (channels.ndim - 1)), transform(channels, numbers), channels)

    chosen = apply_nnunet(images, drawn)
    monkeypatch.setattr(transforms, "_where_drawn", everywhere)
    torch.testing.assert_close(apply_nnunet(images, drawn), chosen)
