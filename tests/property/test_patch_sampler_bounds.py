"""Whatever the sizes, patches lie within the volume or are padded, and forced foreground is there."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from secfed.data.cases import Modality
from secfed.data.preprocessing import PreparedCase
from secfed.data.sampling import PatchSampler

SIZES = st.tuples(*(st.integers(1, 9) for _ in range(3)))


@given(
    shape=SIZES,
    patch_size=st.one_of(SIZES, st.tuples(st.integers(1, 9), st.integers(1, 9))),
    seed=st.integers(0, 2**32),
    place=st.tuples(*(st.floats(0, 0.999) for _ in range(3))),
)
def test_a_single_labelled_voxel_is_always_found(
    shape: tuple[int, int, int], patch_size: tuple[int, ...], seed: int, place: tuple[float, float, float]
) -> None:
    image = np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)
    label = np.zeros(shape, np.uint8)
    voxel = tuple(int(share * size) for share, size in zip(place, shape, strict=True))
    label[voxel] = 1
    case = PreparedCase(
        patient="p", modality=Modality.MR, image=image, label=label, spacing_mm=(1.0, 1.0, 1.0), source=Path("p")
    )
    sampler = PatchSampler([case], patch_size=patch_size, foreground_prob=1.0)
    drawn_image, drawn_label = sampler.draw(np.random.default_rng(seed))
    assert drawn_image.shape == drawn_label.shape == patch_size
    assert drawn_label.sum() == 1
    assert drawn_image[drawn_label == 1] == image[voxel]
