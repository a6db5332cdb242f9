"""The segmentation network, from MONAI, and its way to and from one flat vector.

Sites train it and whoever predicts builds it; the aggregator never imports this module.

Architectures: MONAI `UNet` (Kerfoot et al., 2019, residual units) and `BasicUNet` (Falk et al., 2019). Three choices
differ from MONAI's defaults. Activations are never in place, because per-sample gradients need their inputs. Instance
normalisation is computed as group normalisation with one channel per group, which is the same formula and, on a CPU,
as fast or faster in either memory order. Groups are chosen per layer, so that every channel count constructs.
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import nn

from secfed.config import ModelConfig
from secfed.errors import ConfigError
from secfed.federation_config import NormalisationRule
from secfed.modality_sets import with_sets
from secfed.normalisation import LAYERS, own_tensors
from secfed.parameters import FloatVector, ParameterLayout, TensorKind, TensorSpec

# MONAI's own slope of BasicUNet; a leaky slope has no parameter, unlike the PReLU that MONAI's UNet uses by default.
_ACTIVATION = ("leakyrelu", {"negative_slope": 0.1, "inplace": False})
_MAX_GROUPS = 8
_BASIC_UNET_LEVELS = 5


def build_model(config: ModelConfig, *, num_classes: int) -> nn.Module:
    """A network (B, config.in_channels, *spatial) -> logits (B, num_classes, *spatial).

    Its weights come from torch's global generator. Spatial lengths must be multiples of `grid_factor(config)`.

    Raises:
        ConfigError: the architecture cannot have these channels.
    """
    return _choose_normalisation(_ARCHITECTURES[config.architecture](config, num_classes), config)


def initial_model(config: ModelConfig, num_classes: int, seed: int) -> nn.Module:
    """The network that every participant of a run starts from; torch's global generator is left as it was."""
    # The CPU generator alone is seeded: `torch.manual_seed` would reseed every GPU, which fork_rng would not undo.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build_model(config, num_classes=num_classes)


def grid_factor(config: ModelConfig) -> int:
    """What every spatial length must be a multiple of: each level below the first halves the grid."""
    return 1 << (len(config.channels) - 1)


def layout_of(model: nn.Module) -> ParameterLayout:
    """Names, shapes and order of the model's values in its flat vector."""
    return ParameterLayout(tuple(TensorSpec(name, tuple(t.shape), kind) for name, t, kind in _tensors(model)))


def state_layout(
    model: nn.Module,
    optimizer_state: Literal["keep", "reset", "average"],
    normalisation: NormalisationRule = "shared",
) -> ParameterLayout:
    """What a round starts from and gives back: the model, AdamW's moments where sites share them, and FedNorm's sets.

    The second moment travels as its root, whose range is that of the gradient.
    """
    layout = layout_of(model)
    if optimizer_state == "average":
        moments = tuple(
            TensorSpec(f"optimizer.{moment}.{spec.name}", spec.shape, "moment")
            for moment in ("first_moment", "root_second_moment")
            for spec in layout.tensors
            if spec.kind == "parameter"
        )
        layout = ParameterLayout(layout.tensors + moments)
    return with_sets(layout, own_tensors(model, layout, normalisation)) if normalisation == "fednorm" else layout


def flatten(model: nn.Module) -> FloatVector:
    """The model's values, float32, shape (layout_of(model).size,), a copy on the CPU."""
    parts = [tensor.detach().reshape(-1).float() for _, tensor, _ in _tensors(model)]
    vector: FloatVector = torch.cat(parts).cpu().numpy() if parts else np.empty(0, dtype=np.float32)
    return vector


def load_flat(model: nn.Module, vector: FloatVector, layout: ParameterLayout) -> None:
    """Write a flat vector into the model, on the model's own device.

    Raises:
        ValueError: `layout` is not the model's, or `vector` does not fit it.
    """
    layout.check(vector)
    if layout != layout_of(model):
        raise ValueError("the layout is not this model's: names, shapes, kinds and order must all agree")
    tensors = [tensor for _, tensor, _ in _tensors(model)]
    if not tensors:
        return
    # One transfer, then copies on the device. The array may be read-only, which torch does not accept.
    flat = torch.from_numpy(np.array(vector)).to(tensors[0].device)
    with torch.no_grad():
        for tensor, (spec, place) in zip(tensors, layout.slices(), strict=True):
            tensor.copy_(flat[place].view(spec.shape))
        for module in model.modules():
            variance = getattr(module, "running_var", None) if isinstance(module, LAYERS) else None
            if variance is not None:
                # A mean of variances next to nothing may have been rounded to one below it, which has no root.
                variance.clamp_(min=0.0)


def _tensors(model: nn.Module) -> list[tuple[str, torch.Tensor, TensorKind]]:
    parameters: list[tuple[str, torch.Tensor, TensorKind]] = [(n, p, "parameter") for n, p in model.named_parameters()]
    return parameters + [(n, b, "buffer") for n, b in model.named_buffers() if b.is_floating_point()]


def _unet(config: ModelConfig, num_classes: int) -> nn.Module:
    from monai.networks.nets import UNet

    model: nn.Module = UNet(
        spatial_dims=config.dimensions,
        in_channels=config.in_channels,
        out_channels=num_classes,
        channels=config.channels,
        strides=(2,) * (len(config.channels) - 1),
        num_res_units=config.residual_units,
        act=_ACTIVATION,
        norm=_monai_norm(config),
        dropout=config.dropout_prob,
    )
    return model


def _basic_unet(config: ModelConfig, num_classes: int) -> nn.Module:
    from monai.networks.nets import BasicUNet

    if len(config.channels) != _BASIC_UNET_LEVELS:
        raise ConfigError(
            f"model.channels = {list(config.channels)}: architecture 'basic_unet' has exactly "
            f"{_BASIC_UNET_LEVELS} levels, for example [16, 16, 32, 64, 128]; 'unet' takes any number from two"
        )
    model: nn.Module = BasicUNet(
        spatial_dims=config.dimensions,
        in_channels=config.in_channels,
        out_channels=num_classes,
        # MONAI's sixth number is the width after the last upsampling, which lies on the first level's grid.
        features=(*config.channels, config.channels[0]),
        act=_ACTIVATION,
        norm=_monai_norm(config),
        dropout=config.dropout_prob,
    )
    return model


# `residual_units` belongs to "unet" alone: a BasicUNet has none.
_ARCHITECTURES: dict[str, Callable[[ModelConfig, int], nn.Module]] = {"unet": _unet, "basic_unet": _basic_unet}


def _monai_norm(config: ModelConfig) -> tuple[str, dict[str, bool]]:
    return ("batch" if config.normalisation == "batch" else "instance", {"affine": True})


def _choose_normalisation(model: nn.Module, config: ModelConfig) -> nn.Module:
    """Replace instance by group normalisation, with one channel per group or with at most eight groups."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.InstanceNorm2d | nn.InstanceNorm3d):
            channels = module.num_features
            groups = channels if config.normalisation == "instance" else _groups(channels)
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, nn.GroupNorm(groups, channels, eps=module.eps))
    return model


def _groups(channels: int) -> int:
    return max(groups for groups in range(1, _MAX_GROUPS + 1) if math.gcd(groups, channels) == groups)
