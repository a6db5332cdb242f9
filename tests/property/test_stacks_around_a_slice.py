"""Whatever the sizes: a stack is the patch that would be drawn without neighbours, with those of the volume around."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from secfed.data.cases import Modality
from secfed.data.preprocessing import PreparedCase
from secfed.data.sampling import PatchSampler

SIZE = st.integers(1, 9)


@given(
    shapes=st.lists(st.tuples(SIZE, SIZE, SIZE), min_size=1, max_size=3),
    patch_size=st.tuples(SIZE, SIZE),
    count=st.integers(1, 5),
    foreground_prob=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 2**32),
)
def test_the_middle_channel_is_the_patch_without_neighbours_and_no_draw_differs(
    shapes, patch_size, count, foreground_prob, seed
):
    cases = []
    for index, shape in enumerate(shapes):
        rng = np.random.default_rng([seed, index])
        cases.append(
            PreparedCase(
                patient=f"p{index}",
                modality=Modality.MR,
                image=rng.normal(size=shape).astype(np.float32),
                label=(rng.random(shape) < 0.1).astype(np.uint8),
                spacing_mm=(1.0, 1.0, 1.0),
                source=Path("p"),
                unlabelled=(4,) if index else (),
            )
        )
    flat, deep = (
        PatchSampler(cases, patch_size=patch_size, foreground_prob=foreground_prob, context_slices=context)
        for context in (0, count)
    )
    generators = [np.random.default_rng(seed) for _ in range(2)]
    for _ in range(5):
        patch, label = flat.draw(generators[0])
        stack, same = deep.draw(generators[1])
        np.testing.assert_array_equal(stack[count], patch)
        np.testing.assert_array_equal(same, label)
        assert generators[0].bit_generator.state == generators[1].bit_generator.state
        # Every channel is a patch at that place of some volume's edge-padded stack of slices.
        assert any(stands_in(case.image, stack, patch_size, count) for case in cases)


def stands_in(image, stack, patch_size, count):
    """Whether the stack is cut from the volume, whose ends are continued and which is padded evenly in the plane."""
    deep = np.pad(image, ((count, count), (0, 0), (0, 0)), mode="edge")
    margins = []
    for size, patch in zip(image.shape[1:], patch_size, strict=True):
        missing = max(0, patch - size)
        margins.append((missing // 2, missing - missing // 2))
    deep = np.pad(deep, ((0, 0), *margins), constant_values=image.min())
    windows = np.lib.stride_tricks.sliding_window_view(deep, (1 + 2 * count, *patch_size))
    return bool((windows == stack).all(axis=(3, 4, 5)).any())
