"""Slices with their neighbours: which slice is which channel, to the voxel, also past the ends of a volume."""

from pathlib import Path

import numpy as np
import pytest

from secfed.data.cases import Modality
from secfed.data.preprocessing import PreparedCase
from secfed.data.sampling import PatchSampler, neighbours

SHAPE = (6, 16, 20)


def numbered_case(shape=SHAPE) -> PreparedCase:
    """Every voxel's image value is its own number, so a patch tells where it was cut; slices 2 and 3 hold an organ."""
    label = np.zeros(shape, np.uint8)
    label[2:4, 5:8, 6:9] = 3
    return PreparedCase(
        patient="p",
        modality=Modality.CT,
        image=np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 1000,
        label=label,
        spacing_mm=(5.0, 5.0, 5.0),
        source=Path("p.nii.gz"),
    )


def slice_of(patch) -> int:
    """Which slice of the volume a patch without padding was cut from."""
    return int(patch[0, 0] - 1000) // (SHAPE[1] * SHAPE[2])


@pytest.mark.parametrize(
    ("z", "depth", "count", "expected"),
    [
        (3, 7, 0, [3]),
        (3, 7, 2, [1, 2, 3, 4, 5]),
        (0, 7, 2, [0, 0, 0, 1, 2]),
        (6, 7, 2, [4, 5, 6, 6, 6]),
        (1, 2, 3, [0, 0, 0, 1, 1, 1, 1]),
        (0, 1, 2, [0, 0, 0, 0, 0]),
    ],
)
def test_the_outermost_slice_stands_again_past_the_end(z, depth, count, expected):
    assert neighbours(z, depth=depth, context_slices=count).tolist() == expected


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("patch_size", [(16, 20), (8, 8)])
@pytest.mark.parametrize("foreground_prob", [0.0, 1.0])
def test_channels_are_the_slices_from_below_to_above_at_one_place(count, patch_size, foreground_prob):
    case = numbered_case()
    sampler = PatchSampler([case], patch_size=patch_size, foreground_prob=foreground_prob, context_slices=count)
    generator, seen = np.random.default_rng(0), set()
    for _ in range(60):
        stack, label = sampler.draw(generator)
        assert (stack.shape, label.shape) == ((1 + 2 * count, *patch_size), patch_size)
        assert (stack.dtype, label.dtype) == (np.float32, np.uint8)
        z = slice_of(stack[count])
        _, y, x = np.unravel_index(int(stack[count, 0, 0]) - 1000, SHAPE)
        place = (slice(y, y + patch_size[0]), slice(x, x + patch_size[1]))
        for channel, patch in enumerate(stack):
            expected = case.image[min(max(z + channel - count, 0), SHAPE[0] - 1)]
            np.testing.assert_array_equal(patch, expected[place])
        np.testing.assert_array_equal(label, case.label[z][place])
        seen.add(z)
    assert seen == ({2, 3} if foreground_prob else set(range(6)))


def test_all_channels_are_padded_alike_with_the_volume_s_darkest_value():
    sampler = PatchSampler([numbered_case()], patch_size=(20, 24), foreground_prob=0.0, context_slices=1)
    generator = np.random.default_rng(1)
    for _ in range(20):
        stack, label = sampler.draw(generator)
        inside = np.zeros((20, 24), bool)
        inside[2:18, 2:22] = True
        assert (stack[:, ~inside] == 1000).all()
        assert not label[~inside].any()
        z = slice_of(stack[1, 2:18, 2:22])
        for channel, found in enumerate(stack[:, 2:18, 2:22]):
            np.testing.assert_array_equal(found, numbered_case().image[min(max(z + channel - 1, 0), 5)])


def test_the_share_of_forced_patches_is_that_of_the_slice_in_the_middle():
    """A third of the slices hold foreground, and neighbours that hold it count for nothing."""
    sampler = PatchSampler([numbered_case()], patch_size=(16, 20), foreground_prob=0.4, context_slices=2)
    generator = np.random.default_rng(3)
    share = np.mean([sampler.draw(generator)[1].any() for _ in range(4000)])
    assert share == pytest.approx(0.4 + 0.6 / 3, abs=0.035)


def test_stacks_are_fresh_arrays_also_where_a_slice_stands_twice():
    case = numbered_case((1, 16, 20))
    sampler = PatchSampler([case], patch_size=(16, 20), foreground_prob=0.0, context_slices=1)
    stack, _ = sampler.draw(np.random.default_rng(0))
    stack[0] += 1
    np.testing.assert_array_equal(stack[1], case.image[0])
    np.testing.assert_array_equal(stack[2], case.image[0])
    assert case.image.max() == 1000 + 16 * 20 - 1


def test_a_pass_is_as_long_as_without_neighbours():
    assert PatchSampler([numbered_case()], patch_size=(8, 8), foreground_prob=0.0, context_slices=3).num_slices == 6


@pytest.mark.parametrize(("patch_size", "count"), [((8, 8), -1), ((4, 8, 8), 1)])
def test_neighbours_that_cannot_be_are_refused(patch_size, count):
    with pytest.raises(ValueError, match=f"context_slices = {count}: 0 or more for slices"):
        PatchSampler([numbered_case()], patch_size=patch_size, foreground_prob=0.0, context_slices=count)
