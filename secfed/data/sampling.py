"""Random patches of prepared cases for training. A site runs this; each draw comes from the caller's generator."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from secfed.data.open_background import background_of
from secfed.data.preprocessing import PreparedCase
from secfed.errors import DataError

Image = NDArray[np.float32]
Label = NDArray[np.uint8] | NDArray[np.int32]
Voxel = TypeVar("Voxel", np.float32, np.uint8)


class PatchSampler:
    """Draws axial slices (two sizes in `patch_size`) or blocks (three sizes) from cases, every case equally often.

    With probability `foreground_prob` the patch holds foreground: a case, a slice and a crop that do. A patch that is
    larger than the volume is padded evenly on both sides, the image with the volume's minimum, the label with 0. Of a
    case with unlabelled organs, background comes as secfed.data.open_background writes it.

    With `context_slices` an axial slice comes with so many neighbours on each side, cut at the same place; past the end
    of the volume its outermost slice stands again. Label, foreground and random draws are those of the slice itself.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        *,
        patch_size: tuple[int, ...],
        foreground_prob: float,
        context_slices: int = 0,
    ) -> None:
        """Look once at every label.

        Raises:
            ValueError: `patch_size` has not two or three positive sizes, `foreground_prob` is no probability, or
                `context_slices` is negative, or asks for neighbours of blocks.
            DataError: there is no case, or a case has no label.
        """
        if len(patch_size) not in (2, 3) or min(patch_size) < 1:
            raise ValueError(f"patch_size = {patch_size}: two or three positive sizes are needed")
        if context_slices < 0 or (context_slices and len(patch_size) != 2):
            raise ValueError(
                f"context_slices = {context_slices}: 0 or more for slices, 0 for patch_size = {patch_size}"
            )
        if not 0 <= foreground_prob <= 1:
            raise ValueError(f"foreground_prob = {foreground_prob}: must lie in [0, 1]")
        if not cases:
            raise DataError("no case to draw patches from")
        self._flat = len(patch_size) == 2
        self._patch_size = patch_size if not self._flat else (1, *patch_size)
        self._foreground_prob = foreground_prob
        self._context_slices = context_slices
        # Plain views: slicing a memory map costs several times as much as slicing an array.
        self._images = [np.asarray(case.image).view(np.ndarray) for case in cases]
        self._labels = [_label(case) for case in cases]
        self._darkest = [np.float32(image.min()) for image in self._images]
        self._foreground = [np.flatnonzero(label.any(axis=(1, 2))) for label in self._labels]
        self._background = [background_of(case.unlabelled) for case in cases]
        self._with_foreground = [index for index, slices in enumerate(self._foreground) if len(slices)]

    @property
    def num_slices(self) -> int:
        """Patches in one pass: all axial slices, or in 3D the blocks that cover every volume once."""
        if self._flat:
            return sum(image.shape[0] for image in self._images)
        blocks = [-(-np.array(image.shape) // np.array(self._patch_size)) for image in self._images]
        return int(sum(block.prod() for block in blocks))

    def draw(self, generator: np.random.Generator) -> tuple[Image, Label]:
        """One image patch (float32) and its label, both of shape `patch_size`, as fresh arrays.

        With context the image is (1 + 2 * context_slices, *patch_size), from below to above. The label is uint8, or of
        a case with unlabelled organs int32.
        """
        return self.cut(*self.place(generator))

    def place(self, generator: np.random.Generator) -> tuple[int, tuple[int, ...]]:
        """Case and lowest corner of a patch: all that `draw` takes from the generator."""
        wants_foreground = self._foreground_prob > 0 and generator.random() < self._foreground_prob
        if wants_foreground and self._with_foreground:
            case = self._with_foreground[generator.integers(len(self._with_foreground))]
            corner = self._corner_at_foreground(case, generator)
        else:
            case = int(generator.integers(len(self._images)))
            corner = tuple(
                int(generator.integers(size - patch + 1)) if size > patch else 0
                for size, patch in zip(self._images[case].shape, self._patch_size, strict=True)
            )
        return case, corner

    def cut(self, case: int, corner: tuple[int, ...]) -> tuple[Image, Label]:
        """The patch at a place, as `draw` gives it."""
        image = self._image(case, corner)
        label: Label = self._cut(self._labels[case], corner, np.uint8(0))
        if self._background[case]:
            label = np.where(label == 0, np.int32(self._background[case]), label.astype(np.int32))
        return (image, label[0]) if self._flat else (image, label)

    def _image(self, case: int, corner: tuple[int, ...]) -> Image:
        volume, darkest = self._images[case], self._darkest[case]
        if not self._flat:
            return self._cut(volume, corner, darkest)
        z, *place = corner
        slices = neighbours(z, depth=len(volume), context_slices=self._context_slices)
        stack: list[Image] = [self._cut(volume, (int(one), *place), darkest)[0] for one in slices]
        return np.stack(stack) if self._context_slices else stack[0]

    def _corner_at_foreground(self, case: int, generator: np.random.Generator) -> tuple[int, ...]:
        """Lowest corner of a crop that holds a random foreground voxel of a random slice."""
        label, slices = self._labels[case], self._foreground[case]
        z = int(slices[generator.integers(len(slices))])
        shape = label.shape
        if self._patch_size[1] >= shape[1] and self._patch_size[2] >= shape[2]:
            held = (z, 0, 0)
        else:
            voxels = np.flatnonzero(label[z])
            y, x = divmod(int(voxels[generator.integers(len(voxels))]), shape[2])
            held = (z, y, x)
        corner = []
        for place, size, patch in zip(held, shape, self._patch_size, strict=True):
            low, high = max(0, place - patch + 1), min(place, size - patch)
            corner.append(int(generator.integers(low, high + 1)) if high > low else max(0, min(low, high)))
        return tuple(corner)

    def _cut(self, volume: NDArray[Voxel], corner: tuple[int, ...], filling: Voxel) -> NDArray[Voxel]:
        (z, y, x), (depth, height, width) = corner, self._patch_size
        found = volume[z : z + depth, y : y + height, x : x + width]
        if found.shape == self._patch_size:
            return found.copy()
        patch = np.full(self._patch_size, filling, volume.dtype)
        target = tuple(
            slice((whole - part) // 2, (whole - part) // 2 + part)
            for whole, part in zip(self._patch_size, found.shape, strict=True)
        )
        patch[target] = found
        return patch


def neighbours(z: int, *, depth: int, context_slices: int) -> NDArray[np.intp]:
    """The slice `z` in the middle of its neighbours, from below to above, (1 + 2 * context_slices,).

    Past the first or last of `depth` slices that one stands again.
    """
    return np.arange(z - context_slices, z + context_slices + 1).clip(0, depth - 1)


def _label(case: PreparedCase) -> NDArray[np.uint8]:
    if case.label is None:
        raise DataError(f"{case.source}: has no label, so it cannot be used for training")
    return np.asarray(case.label).view(np.ndarray)
