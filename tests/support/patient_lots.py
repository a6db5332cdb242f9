"""Patients that belong to nobody, small networks, and a loss, for tests of patient-wise gradients."""

import torch
from torch import nn

from clients.loss import losses_per_image
from secfed.config import ModelConfig
from secfed.model import initial_model

CLASSES = 3


def image_losses(logits, labels):
    """One value per view, as training has it."""
    return losses_per_image(logits, labels, dice_weight=1.0, cross_entropy_weight=1.0, class_weights=None)


def make_lot(patients, *, views=3, shape=(16, 16), seed=0, dtype=torch.float32):
    """A list of (images, labels) with different brightness, so that gradients differ."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(views, 1, *shape, generator=generator, dtype=dtype) * (1 + index),
            torch.randint(CLASSES, (views, *shape), generator=generator),
        )
        for index in range(patients)
    ]


def example(*, views=3, shape=(16, 16), dtype=torch.float32):
    return torch.zeros(views, 1, *shape, dtype=dtype), torch.zeros(views, *shape, dtype=torch.int64)


def network(architecture="unet", *, dimensions=2, normalisation="instance", residual_units=0, dropout_prob=0.0):
    channels = (4, 6, 8) if architecture == "unet" else (4, 4, 6, 6, 8)
    config = ModelConfig(
        architecture=architecture,
        dimensions=dimensions,
        channels=channels,
        residual_units=residual_units,
        normalisation=normalisation,
        dropout_prob=dropout_prob,
    )
    return initial_model(config, CLASSES, 0).train()


class PixelNetwork(nn.Module):
    """Scores every pixel by itself, through whatever layer stands in the middle."""

    def __init__(self, middle=None):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.middle = middle or nn.Identity()
        self.last = nn.Conv2d(4, CLASSES, 1)

    def forward(self, images):
        return self.last(self.middle(self.first(images)))
