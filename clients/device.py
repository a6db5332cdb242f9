"""Where and how a site computes: the site's own file decides, a run cannot.

Runs at a site. "auto" takes the first CUDA device where there is one, and the CPU elsewhere.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from secfed.errors import ConfigError
from secfed.site_config import ONE_DEVICE, Computing, DeviceName, SiteFile

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


@dataclass(frozen=True, kw_only=True)
class Compute:
    """What a site trains on: `device`, or for one batch `replicas` of it together; all else is done on `device`."""

    device: "torch.device"
    replicas: tuple["torch.device", ...] = ()
    compiled: bool = False


def compute_of(site: SiteFile) -> Compute:
    """What `device`, `devices` and `compile` of a site's file come to on this machine.

    Raises:
        ConfigError: as `compute_with`.
    """
    return compute_with(site.device, site.computing)


def compute_with(name: DeviceName, computing: Computing) -> Compute:
    """The same settings, wherever they stand.

    Raises:
        ConfigError: the machine has not got it, or `devices` numbers CUDA devices for a CPU.
    """
    import torch

    device = torch_device(name)
    wanted, shown = computing.devices, computing.shown_devices
    if device.type == "cpu":
        if not isinstance(wanted, int):
            raise ConfigError(
                f'devices = {shown} numbers CUDA devices, but device = "{name}" is the CPU here: give how many '
                "processes are to train together"
            )
        devices = (device,) * wanted
    elif wanted == 1:
        devices = (device,)
    else:
        found = torch.cuda.device_count()
        numbers = range(wanted) if isinstance(wanted, int) else wanted
        if max(numbers) >= found:
            raise ConfigError(
                f"devices = {shown}, but torch finds {found} CUDA devices, numbered from 0: give at most {found}"
            )
        devices = tuple(torch.device("cuda", number) for number in numbers)
    return Compute(device=devices[0], replicas=devices if len(devices) > 1 else (), compiled=computing.compile)


def device_description(device: "torch.device", computing: Computing = ONE_DEVICE) -> str:
    """For the report: "cpu", or the name of the GPU, and what else about training makes another model."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    together = f", {computing.replicas} devices a batch" if computing.replicas > 1 else ""
    return name + together + (", compiled" if computing.compile else "")
