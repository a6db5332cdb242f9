"""The benchmark of deployments, which itself takes half an hour: what its plans are of."""

import torch

from benchmarks.deployment import LARGE_CHANNELS, LARGE_PARAMETERS, comparable_plan
from secfed.config import ModelConfig
from secfed.model import build_model


def test_the_large_model_is_as_large_as_it_says():
    tree = comparable_plan(1, training={}, model={"channels": list(LARGE_CHANNELS)})
    with torch.device("meta"):
        model = build_model(ModelConfig.model_validate(tree["model"]), num_classes=9)
    assert LARGE_PARAMETERS <= sum(values.numel() for values in model.parameters()) < 1.1 * LARGE_PARAMETERS
