"""The network of a round as torch.compile makes it: fewer and larger kernels, where the site has a compiler for them.

Runs at sites whose own file says so (`compile` in site.toml); no run can. The network alone is compiled: augmentation,
loss and optimiser stay as they are, and so do the names, shapes and values that leave the site. Results are near those
without, not equal bit for bit, because sums are formed in another order.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from secfed.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn

BACKEND = "inductor"
"""torch's own compiler: C++ on a CPU, Triton on a GPU. Tests name others, which need no compiler."""


def compile_network(network: "nn.Module") -> None:
    """Have the network's calls compiled, each kind at its first; the module and its names stay what they are."""
    # In place, because the module that torch.compile returns calls every parameter `_orig_mod.` and its name.
    network.compile(backend=BACKEND)


def require_compiler(device: "torch.device") -> None:
    """Compile one line and run it, so that a site hears at its start that it has no compiler, and not in a round.

    Raises:
        ConfigError: it does not work on this device.
    """
    import torch

    with explained(device):
        torch.compile(lambda values: 2 * values + 1, backend=BACKEND)(torch.ones(8, device=device))


@contextmanager
def explained(device: "torch.device") -> Iterator[None]:
    """What the compiler says within the block, as an error about the setting that asked for it.

    Raises:
        ConfigError: something could not be compiled.
    """
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        needed = "Triton, which comes with torch for CUDA," if device.type == "cuda" else "a C++ compiler, such as g++,"
        raise ConfigError(
            f"compile = true: torch cannot compile for this {device.type} device: {_first_line(error)}; it needs "
            f"{needed} on this machine. Without this setting (site.toml; --compile of `secfed run`) it trains as it is"
        ) from error


def _first_line(error: Exception) -> str:
    """The sentence that says what is missing: of a backend's error, its own and not the frame around it."""
    told = getattr(error, "inner_exception", None) or error
    return next((line.strip() for line in str(told).splitlines() if line.strip()), type(told).__name__).rstrip(".")
