"""Low-rank adapters on convolutions: a small trainable correction beside weights that stay as they are.

Sites train with them and whoever exports a model merges them. A kernel's weight, seen as a matrix with its first axis
as rows, becomes W + B A with B (rows, rank) and A (rank, columns) (Hu et al., "LoRA: Low-Rank Adaptation of Large
Language Models", ICLR 2022, there for linear layers). B starts at zero, so adding adapters changes no output. Merging
puts the sum into the convolution itself: names, shapes and order of the model's tensors are then those from before.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class LowRankConvolution(nn.Module):
    """A frozen convolution with a trainable correction; `up` is B, `down` is A."""

    def __init__(self, base: nn.Module, *, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        weight = base.get_parameter("weight")
        rows, columns = weight.shape[0], weight[0].numel()
        self.base = base.requires_grad_(requires_grad=False)
        # Drawn on the CPU, so that every site and every device starts from the same numbers.
        down = torch.randn(rank, columns, generator=generator) / math.sqrt(columns)
        self.down = nn.Parameter(down.to(weight))
        self.up = nn.Parameter(weight.new_zeros(rows, rank))

    def weight(self) -> Tensor:
        """The kernel that is applied."""
        weight = cast(Tensor, self.base.weight)
        return weight + (self.up @ self.down).view(weight.shape)

    def forward(self, images: Tensor) -> Tensor:
        """The convolution with the corrected kernel."""
        result: Tensor = functional_call(self.base, {"weight": self.weight()}, (images,))
        return result


def add_adapters(model: nn.Module, *, rank: int, generator: torch.Generator) -> None:
    """Give every convolution an adapter, in place; the generator lives on the CPU.

    Raises:
        ValueError: the rank is below 1, there is no convolution, or the model has adapters already.
    """
    if rank < 1:
        raise ValueError(f"rank = {rank} must be at least 1")
    if any(isinstance(module, LowRankConvolution) for module in model.modules()):
        raise ValueError("the model has adapters already: merge them first")
    names = [name for name, module in model.named_modules() if name and isinstance(module, CONVOLUTIONS)]
    if not names:
        raise ValueError("the model has no convolution to adapt")
    for name in names:
        _replace(model, name, LowRankConvolution(model.get_submodule(name), rank=rank, generator=generator))


@torch.no_grad()
def merge_adapters(model: nn.Module) -> None:
    """Write the corrections into the convolutions and take the adapters out, in place; without adapters, do nothing."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LowRankConvolution):
            module.base.get_parameter("weight").copy_(module.weight())
            _replace(model, name, module.base)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, module)
