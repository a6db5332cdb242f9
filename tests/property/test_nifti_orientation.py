"""However a scanner stores a volume, it is read as the same array."""

import tempfile
from pathlib import Path

import nibabel
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import axcodes2ornt, ornt_transform

from secfed.data.preprocessing import read_volume

AXES = st.permutations(["LR", "PA", "IS"]).flatmap(lambda pairs: st.tuples(*(st.sampled_from(pair) for pair in pairs)))
SIZES = st.tuples(*(st.integers(1, 7) for _ in range(3)))
SPACINGS = st.tuples(*(st.floats(0.5, 8.0) for _ in range(3)))


@settings(max_examples=100)
@given(axes=AXES, size=SIZES, spacing=SPACINGS, offset=st.tuples(*(st.floats(-500, 500) for _ in range(3))))
def test_all_48_orientations_read_as_the_same_volume(
    axes: tuple[str, str, str],
    size: tuple[int, int, int],
    spacing: tuple[float, float, float],
    offset: tuple[float, float, float],
) -> None:
    values = np.arange(np.prod(size), dtype=np.float32).reshape(size)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = offset
    # The same voxels in the same places, stored along other axes.
    orientation = axcodes2ornt(axes)
    stored = nibabel.Nifti1Image(values, affine).as_reoriented(
        ornt_transform(axcodes2ornt(("R", "A", "S")), orientation)
    )
    assert nibabel.aff2axcodes(stored.affine) == axes
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stored.nii"
        nibabel.save(stored, path)
        volume = read_volume(path)
    np.testing.assert_array_equal(volume.voxels, values.transpose(2, 1, 0))
    np.testing.assert_allclose(volume.spacing_mm, spacing[::-1], rtol=1e-5)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-3)
