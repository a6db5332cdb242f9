"""A random network for every image of a batch: two ways to apply them, equal but for rounding.

Runs at sites, while training. A GPU is fast at one grouped convolution per layer. A CPU is not, with channels as few as
GIN's: there a convolution is one matrix product (out, in) x (in, voxels) per image and tap of the kernel, on views of
the layer's memory, and nothing is copied. An image's output depends on no other image.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch import Tensor

from secfed.augmentation.batch import compute_dtype


@torch.no_grad()
def grouped_convolutions(
    images: Tensor, weights: Sequence[Tensor], shifts: Sequence[Tensor], *, negative_slope: float
) -> Tensor:
    """Outputs (B, C, *spatial) of networks with weights (B, out, in, k, ..., k) and shifts (B, out)."""
    batch, channels, *spatial = images.shape
    convolve = {2: F.conv2d, 3: F.conv3d}[len(spatial)]
    hidden = images.to(compute_dtype(images)).reshape(1, batch * channels, *spatial)
    with torch.autocast(images.device.type, enabled=False):
        for layer, (weight, shift) in enumerate(zip(weights, shifts, strict=True), start=1):
            reach = weight.shape[-1] // 2
            hidden = convolve(hidden, weight.flatten(0, 1), shift.flatten(), padding=reach, groups=batch)
            if layer < len(weights):
                hidden = F.leaky_relu(hidden, negative_slope)
    return hidden.reshape(images.shape)


@torch.no_grad()
def shifted_products(
    images: Tensor, weights: Sequence[Tensor], shifts: Sequence[Tensor], *, negative_slope: float
) -> Tensor:
    """The same outputs, tap by tap."""
    batch, channels = images.shape[:2]
    if batch == 1:
        # MKL rounds the products of a single matrix in another way than those of a batch.
        two = [tuple(part.expand(2, *part.shape[1:]) for part in parts) for parts in (weights, shifts)]
        return shifted_products(images.expand(2, *images.shape[1:]), *two, negative_slope=negative_slope)[:1]
    width = max(channels, *(weight.shape[1] for weight in weights))
    reach = max(weight.shape[-1] for weight in weights) // 2
    before, after = (_Layer(images, width=width, reach=reach) for _ in range(2))
    before.image(channels).copy_(images)
    for layer, (weight, shift) in enumerate(zip(weights, shifts, strict=True), start=1):
        _, fan_out, fan_in, *kernel = weight.shape
        if max(kernel) > 1:
            before.clear_padding(fan_in)
        output = after.voxels(fan_out)
        total = shift.unsqueeze(2)
        taps = weight.flatten(3).movedim(3, 0).contiguous()
        for tap, move in zip(taps, before.moves(kernel), strict=True):
            # An operation that is given its output, or works in place, is not subject to autocast.
            total = torch.baddbmm(total, tap, before.voxels(fan_in, move), out=output)
        if layer < len(weights):
            F.leaky_relu_(output, negative_slope)
        before, after = after, before
    return before.image(channels)


class _Layer:
    """The memory of one layer's images, in which every row, slice and channel is followed by zeros.

    Those zeros are what comes before the next row, slice or channel too, and before the first there are some more. So a
    kernel's tap sees, for all images at once, the same memory from a little further on or back. What it finds for the
    zeros' own places is of no use, and is cleared before the next kernel that reaches so far.
    """

    def __init__(self, images: Tensor, *, width: int, reach: int) -> None:
        """Room for the images given in up to `width` channels, and for kernels that reach so far to each side."""
        self._batch, _, *self._spatial = images.shape
        self._reach = reach
        padded = [size + reach for size in self._spatial]
        self._strides = [math.prod(padded[axis + 1 :]) for axis in range(len(padded))]
        self._length = math.prod(padded)
        self._start = reach * sum(self._strides)
        size = self._start + self._batch * width * self._length + self._start
        self._memory = images.new_empty(size, dtype=compute_dtype(images))
        self._memory[: self._start] = 0

    def voxels(self, width: int, move: int = 0) -> Tensor:
        """All voxels and zeros, (B, width, voxels), as seen from `move` places further on."""
        shape = (self._batch, width, self._length)
        return self._memory.as_strided(shape, (width * self._length, self._length, 1), self._start + move)

    def image(self, width: int) -> Tensor:
        """The voxels without the zeros, (B, width, *spatial)."""
        shape = (self._batch, width, *self._spatial)
        return self._memory.as_strided(shape, (width * self._length, self._length, *self._strides), self._start)

    def moves(self, kernel: Sequence[int]) -> list[int]:
        """How far each tap of a kernel is from its centre, the last axis running fastest."""
        moves = [0]
        for size, stride in zip(kernel, self._strides, strict=True):
            moves = [move + step * stride for move in moves for step in range(-(size // 2), size // 2 + 1)]
        return moves

    def clear_padding(self, width: int) -> None:
        """Put back the zeros."""
        blocks = self._batch * width
        for size, stride in zip(self._spatial, self._strides, strict=True):
            shape = (blocks, self._reach * stride)
            self._memory.as_strided(shape, ((size + self._reach) * stride, 1), self._start + size * stride).zero_()
            blocks *= size + self._reach
