"""The network that a plan describes: MONAI's architecture, the part of it that learns, and what users get in the end.

Sites train it, and whoever tests or exports a model builds it; the aggregator never imports this module.
"""

import functools

import numpy as np
import torch
from torch import nn

from secfed.adapters import merge_adapters
from secfed.config import TrainingPlan
from secfed.data.cases import LABEL_MAPS
from secfed.modality_sets import set_positions
from secfed.model import build_model, flatten, initial_model, layout_of, load_flat, state_layout
from secfed.normalisation import own_tensors
from secfed.parameters import FloatVector, ParameterLayout
from secfed.trainable import choose_trainable


def build_network(plan: TrainingPlan, *, num_classes: int) -> nn.Module:
    """A network with weights from torch's global generator; the parameters that learn require gradients.

    Raises:
        ConfigError: the architecture cannot have these channels, or has no such part to train.
    """
    return _with_trainable_part(build_model(plan.model, num_classes=num_classes), plan)


def initial_vector(
    plan: TrainingPlan, *, num_classes: int, start: tuple[FloatVector, ParameterLayout] | None = None
) -> tuple[FloatVector, ParameterLayout]:
    """What round 1 starts from, shape (layout.size,), as every party computes it from the plan.

    Moments are zero, and every modality's own layers are those of the model.
    `start` is a model in the hands of users, without adapters, in place of the one that the plan's seed gives.

    Raises:
        ValueError: `start` is of another architecture.
    """
    model = initial_model(plan.model, num_classes, plan.seed)
    if start is not None:
        load_flat(model, *start)
    model = _with_trainable_part(model, plan)
    layout = state_layout(model, plan.training.optimizer_state, plan.federation.normalisation)
    vector = np.zeros(layout.size, np.float32)
    vector[: layout.model_size] = flatten(model)
    for modality in layout.modalities:
        vector[layout.set_of(modality)] = vector[set_positions(layout)]
    return vector, layout


@functools.lru_cache(maxsize=4)
def own_layout(plan: TrainingPlan, layout: ParameterLayout) -> ParameterLayout:
    """The tensors of the plan's vector that are a site's own, or its modality's, in order; moments included.

    Raises:
        ConfigError: the network has none.
    """
    with torch.random.fork_rng(devices=[]):
        network = build_model(plan.model, num_classes=LABEL_MAPS[plan.task].num_classes)
    return ParameterLayout(own_tensors(network, layout, plan.federation.normalisation))


def finished_model(
    vector: FloatVector, layout: ParameterLayout, *, plan: TrainingPlan, num_classes: int
) -> tuple[FloatVector, ParameterLayout]:
    """The model as users get it, from a run's vector (layout.size,): without moments, adapters merged.

    Normalisation layers that are not everybody's are as the run started: whoever has others puts them in before.
    """
    if plan.privacy.mode == "off" or plan.privacy.trainable != "lora":
        return vector[: layout.model_size], layout.model_layout()
    with torch.random.fork_rng(devices=[]):
        network = build_network(plan, num_classes=num_classes)
    load_flat(network, vector[: layout.model_size], layout.model_layout())
    merge_adapters(network)
    return flatten(network), layout_of(network)


def _with_trainable_part(model: nn.Module, plan: TrainingPlan) -> nn.Module:
    if plan.privacy.mode != "off":
        choose_trainable(model, plan.privacy.trainable, seed=plan.seed)
    return model
