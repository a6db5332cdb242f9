"""Batches to augment, and their generators."""

import pytest
import torch


@pytest.fixture
def make_generator():
    def make(seed=0):
        return torch.Generator().manual_seed(seed)

    return make


@pytest.fixture
def make_images(make_generator):
    def make(shape=(4, 1, 12, 15), *, seed=1, dtype=torch.float32):
        return torch.randn(shape, generator=make_generator(seed), dtype=torch.float64).to(dtype)

    return make


@pytest.fixture
def make_labels(make_generator):
    def make(shape=(4, 12, 15), *, classes=4, seed=2):
        return torch.randint(classes, shape, generator=make_generator(seed))

    return make
