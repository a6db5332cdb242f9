"""Where a site computes: the site's own file decides, a run cannot.

Runs at a site. "auto" takes the first CUDA device where there is one, and the CPU elsewhere.
"""

from typing import TYPE_CHECKING

from secfed.errors import ConfigError
from secfed.site_config import DeviceName

if TYPE_CHECKING:
    import torch


def torch_device(name: DeviceName) -> "torch.device":
    """The device of that name.

    Raises:
        ConfigError: the site asks for CUDA, and there is none.
    """
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError('site.toml: device = "cuda", but torch finds no CUDA device; "auto" falls back to the CPU')
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda")


def device_description(device: "torch.device") -> str:
    """For the report: "cpu", or the name of the GPU."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
