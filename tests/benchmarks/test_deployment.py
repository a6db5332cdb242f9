"""The benchmark of deployments, which itself takes half an hour: what its plans are of."""

import torch

from benchmarks.deployment import LARGE_PARAMETERS, LARGE_WIDTH, comparable_plan, large_channels
from secfed.config import ModelConfig
from secfed.model import build_model


def test_the_large_model_is_as_large_as_it_says():
    tree = comparable_plan(1, training={}, model={"channels": large_channels(LARGE_WIDTH)})
    with torch.device("meta"):
        model = build_model(ModelConfig.model_validate(tree["model"]), num_classes=9)
    assert LARGE_PARAMETERS <= sum(values.numel() for values in model.parameters()) < 1.1 * LARGE_PARAMETERS
