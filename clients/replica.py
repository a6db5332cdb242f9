"""One of several devices that train a batch together: its part of the batch, and what it shares with the others.

Runs at a site, in a process of its own (clients.replica_processes). Every replica holds the whole network and sees its
own part of each batch; torch's DistributedDataParallel (Li et al., VLDB 2020) averages the gradients while they are
computed, so that all replicas take the same steps. Unequal parts count by their images.

Against one device that trains the same round:

    patches               the same, image by image
    appearance and pose   drawn from a stream of the replica's own, as dropout is: of the same law, not the same
    loss over "image"     the same mean over all images of the batch
    loss over "batch"     Dice and class weights over each replica's part, and then the mean
    batch normalisation   each replica's own part; running statistics are the mean of all replicas'
    methods that mix      partners are of the replica's own part

A number of devices gives one model, whenever it is asked for; another number gives another one.

Replicas meet over a file in a folder of their own and talk over the loopback interface, or directly from GPU to GPU;
nothing listens on a network. It does not hide a replica from other users of the machine: what crosses loopback is
neither encrypted nor authenticated, as memory of the machine is not.
"""

import hashlib
import inspect
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from secfed.errors import ConfigError
from secfed.parameters import FloatVector

_LOOPBACK = ("lo", "lo0")
# torch 2.13 has another name for it, and warns of the one that earlier versions know.
_BUFFERS_BEFORE_FORWARD = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(DistributedDataParallel.__init__).parameters
)


@dataclass(frozen=True, kw_only=True)
class Replica:
    """Number `index` of `count`, counted from 0; its calls wait for the others' same calls."""

    index: int
    count: int
    device: torch.device

    @classmethod
    @contextmanager
    def joined(
        cls, *, index: int, count: int, device: torch.device, meeting: Path, patience_seconds: float
    ) -> Iterator[Self]:
        """Meet the others at the file `meeting`, which all are told; whoever lets them wait too long is given up.

        Raises:
            ConfigError: the machine has no loopback interface.
        """
        loopback = _loopback()
        os.environ["GLOO_SOCKET_IFNAME"] = loopback
        os.environ["NCCL_SOCKET_IFNAME"] = f"={loopback}"
        os.environ["NCCL_IB_DISABLE"] = "1"
        gpu = device.type == "cuda"
        if gpu:
            torch.cuda.set_device(device)
        dist.init_process_group(
            "nccl" if gpu else "gloo",
            store=dist.FileStore(str(meeting), count),  # type: ignore[attr-defined] # it is documented, if not exported
            rank=index,
            world_size=count,
            timeout=timedelta(seconds=patience_seconds),
            device_id=device if gpu else None,
        )
        yield cls(index=index, count=count, device=device)
        # After an error the others may be gone or wait for ever; then the process ends without a farewell.
        dist.destroy_process_group()

    @property
    def part(self) -> tuple[int, int]:
        """Which part of a batch is its own (clients.batches)."""
        return self.index, self.count

    def wrapped(self, network: nn.Module) -> nn.Module:
        """The network, whose gradients are the mean over all replicas after every backward pass."""
        # No replica reads the running statistics while it trains; `settle` makes them one in the end.
        no_buffers: dict[str, Any] = {_BUFFERS_BEFORE_FORWARD: False}
        return DistributedDataParallel(
            network,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            **no_buffers,
        )

    def share(self, images: int, whole: int) -> float:
        """What this replica's mean over `images` counts, so that the mean over replicas is that over `whole` images."""
        return self.count * images / whole

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all replicas, in a tensor of its own."""
        total = values.clone()
        dist.all_reduce(total)
        return total / self.count

    def settle(self, network: nn.Module) -> None:
        """Give the network the mean of all replicas' running statistics; its parameters are the same already."""
        buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
        if not buffers:
            return
        mean = self.mean(torch.cat([buffer.detach().reshape(-1).float() for buffer in buffers]))
        for buffer, values in zip(buffers, torch.split(mean, [buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(values.view_as(buffer))

    def all_hold(self, weights: FloatVector) -> bool:
        """Whether all replicas have come to these weights, bit for bit."""
        digest = int.from_bytes(hashlib.sha256(weights.tobytes()).digest()[:7], "little")
        own = torch.tensor(digest, dtype=torch.int64, device=self.device)
        first = own.clone()
        dist.broadcast(first, src=0)
        different = (own != first).to(torch.int64)
        dist.all_reduce(different)
        return int(different) == 0


def _loopback() -> str:
    found = {name for _, name in socket.if_nameindex()}
    for name in _LOOPBACK:
        if name in found:
            return name
    raise ConfigError(f"devices: replicas talk over the loopback interface, and this machine has only {sorted(found)}")
