"""Which part of a network learns: under differential privacy, noise grows with the number of parameters that do.

Sites use it; `privacy.trainable` of a run's configuration names the set. All other parameters are frozen: what travels
of them is exactly zero, and they receive no noise.

    all        every parameter
    decoder    the way up, with the last convolution
    norm+head  scales and shifts of all normalisations, and the last convolution
    head       the last convolution
    lora       a low-rank adapter on every convolution (secfed.adapters), nothing else
"""

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from secfed.adapters import CONVOLUTIONS, LowRankConvolution, add_adapters
from secfed.errors import ConfigError
from secfed.parameters import FloatVector, ParameterLayout
from secfed.privacy_config import TrainableSet

ADAPTER_RANK = 4

# MONAI's UNet nests level in level, each a sequence of way down, inner levels, way up; BasicUNet names its parts.
_DECODER = re.compile(r"model\.(1\.submodule\.)*2\.|(upcat_\d+|final_conv)\.")


@dataclass(frozen=True, kw_only=True)
class TrainableParameters:
    """Names of what learns, in the order of the model's vector, and how many values that is."""

    names: tuple[str, ...]
    num_params: int

    def places(self, layout: ParameterLayout) -> npt.NDArray[np.intp]:
        """Where these values stand in the model's vector, (num_params,), rising.

        Raises:
            ValueError: the layout lacks a name, or has it with another size.
        """
        found = [np.arange(place.start, place.stop) for spec, place in layout.slices() if spec.name in self.names]
        places = np.concatenate(found) if found else np.empty(0, np.intp)
        if len(found) != len(self.names) or len(places) != self.num_params:
            raise ValueError("the layout is not that of the model whose parameters were chosen")
        return places.astype(np.intp)

    def add_to(self, vector: FloatVector, change: npt.NDArray[np.floating], layout: ParameterLayout) -> FloatVector:
        """A copy of the model's vector (layout.size,) with `change` (num_params,) added where it belongs."""
        result = vector.copy()
        result[self.places(layout)] += change.astype(np.float32)
        return result


def choose_trainable(model: nn.Module, trainable: TrainableSet, *, seed: int = 0) -> TrainableParameters:
    """Freeze all but the set, in place; "lora" adds adapters, which start from `seed`.

    Raises:
        ConfigError: the network has no such part.
    """
    if trainable == "lora":
        if not any(isinstance(module, LowRankConvolution) for module in model.modules()):
            add_adapters(model, rank=ADAPTER_RANK, generator=torch.Generator().manual_seed(seed))
        chosen = {n for n, m in model.named_modules() if isinstance(m, LowRankConvolution)}
        chosen = {f"{name}.{part}" for name in chosen for part in ("up", "down")}
    else:
        chosen = _chosen(model, trainable)
    if not chosen:
        raise ConfigError(f"privacy.trainable = '{trainable}': this network has no such part; 'all' is always there")
    names, size = [], 0
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
        if name in chosen:
            names.append(name)
            size += parameter.numel()
    return TrainableParameters(names=tuple(names), num_params=size)


def _chosen(model: nn.Module, trainable: TrainableSet) -> set[str]:
    names = {name for name, _ in model.named_parameters()}
    if trainable == "all":
        return names
    if trainable == "decoder":
        return {name for name in names if _DECODER.match(name)}
    head = [name for name, module in model.named_modules() if isinstance(module, CONVOLUTIONS)][-1:]
    layers = head if trainable == "head" else head + _normalisations(model)
    return {name for name in names if name.rpartition(".")[0] in layers}


def _normalisations(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.GroupNorm)]
