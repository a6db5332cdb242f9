"""Which tensors of a network are its normalisation layers, and which of them are not everybody's.

Layers are found by their type. Their names say nothing: a filter for "bn" would find no layer of these networks, and
all would be shared without a word.
"""

from torch import nn

from secfed.errors import ConfigError
from secfed.federation_config import NormalisationRule
from secfed.parameters import ParameterLayout, TensorSpec

LAYERS = (
    nn.GroupNorm,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)


def own_tensors(model: nn.Module, layout: ParameterLayout, rule: NormalisationRule) -> tuple[TensorSpec, ...]:
    """The tensors that are the site's own, or its modality's, in the layout's order; none where all is shared.

    Of layers that are a site's own the optimiser's moments are, too, wherever they stand in the layout.

    Raises:
        ConfigError: the rule keeps something that the model does not have.
    """
    if rule == "shared":
        return ()
    affine, statistics = set[str](), set[str]()
    for name, module in model.named_modules():
        if isinstance(module, LAYERS):
            inside = f"{name}." if name else ""
            affine.update(inside + own for own, _ in module.named_parameters(recurse=False))
            statistics.update(inside + own for own, _ in module.named_buffers(recurse=False))
    kept = statistics if rule == "silobn" else affine | statistics
    own = tuple(spec for spec in layout.tensors if spec.modality is None and _model_name(spec) in kept)
    if not own:
        raise ConfigError(f"federation.normalisation = '{rule}': the model has no such values: use 'shared'")
    return own


def _model_name(spec: TensorSpec) -> str:
    """The name of the tensor in the model; a moment is named "optimizer.MOMENT.NAME"."""
    return spec.name.split(".", 2)[2] if spec.kind == "moment" else spec.name
