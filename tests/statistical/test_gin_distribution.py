"""GIN draws from the distributions of its definition, and a wrong scale would be seen."""

import pytest
import torch
from scipy import stats

from secfed.augmentation.gin import draw_gin_parameters, gin
from secfed.augmentation_config import GinConfig

WRONG_SCALES = (2 / 3, 3 / 2)


def draw(batch, *, config=None, seed=0):
    images = torch.empty(batch, 1, 4, 4)
    return draw_gin_parameters(images, config=config or GinConfig(), generator=torch.Generator().manual_seed(seed))


def assert_follows(samples, distribution, what):
    """The samples follow the distribution, and not one that is 2/3 or 3/2 as wide."""
    assert stats.kstest(samples, distribution.cdf).pvalue > 1e-3, what
    for scale in WRONG_SCALES:
        assert stats.kstest(samples / scale, distribution.cdf).pvalue < 1e-9, f"{what} at scale {scale}"


@pytest.mark.parametrize("layer", range(4))
def test_weights_and_shifts_are_standard_normal_without_fan_in_scaling(layer):
    drawn = draw(1000, config=GinConfig(kernel_sizes=(3,)))
    assert_follows(drawn.weights[layer].flatten().numpy(), stats.norm(), "weights")
    assert_follows(drawn.shifts[layer].flatten().numpy(), stats.norm(), "shifts")


def test_alpha_is_uniform_between_zero_and_one():
    assert_follows(draw(3000).alpha.numpy(), stats.uniform(), "alpha")


def test_kernel_sizes_are_equally_likely_and_independent_between_layers():
    counts = {}
    for seed in range(1600):
        sizes = tuple(weight.shape[-1] for weight in draw(1, seed=seed).weights)
        counts[sizes] = counts.get(sizes, 0) + 1
    assert len(counts) == 16
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


@pytest.mark.parametrize("probability", [0.2, 0.75])
def test_each_image_is_augmented_with_the_given_probability(probability):
    config = GinConfig(probability=probability)
    images = torch.randn(2000, 1, 3, 3, generator=torch.Generator().manual_seed(1))
    changed = (gin(images, config=config, generator=torch.Generator().manual_seed(2)) != images).flatten(1).any(dim=1)
    count = int(changed.sum())
    assert stats.binomtest(count, 2000, probability).pvalue > 1e-3
    for scale in WRONG_SCALES:
        assert stats.binomtest(count, 2000, min(1.0, probability * scale)).pvalue < 1e-9
