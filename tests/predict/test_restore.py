"""Labels come back where they were: to the voxel where grids coincide or nest, and within a model's voxel elsewhere."""

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from secfed.data.preprocessing import read_volume, resample_label
from secfed.metrics import dice_per_class
from secfed.predict.label_file import stored_grid, write_labels
from secfed.predict.restore import labels_on_scan

CLASSES = 5


def one_hot(labels):
    """Logits of a model that is sure of these labels."""
    classes = torch.arange(CLASSES).reshape(-1, 1, 1, 1)
    return 40.0 * (torch.from_numpy(np.array(labels))[None] == classes).float()


@st.composite
def affines(draw):
    """Voxels of any size in any order and direction, turned by any angle."""
    spacing = draw(st.tuples(*[st.floats(0.4, 7.0)] * 3))
    signs = draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
    turn = Rotation.from_euler("xyz", draw(st.tuples(*[st.floats(-180.0, 180.0)] * 3)), degrees=True).as_matrix()
    if draw(st.booleans()):
        turn = np.eye(3)
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.eye(3)[:, draw(st.permutations([0, 1, 2]))] @ np.diag(np.multiply(spacing, signs))
    affine[:3, 3] = draw(st.tuples(*[st.floats(-300.0, 300.0)] * 3))
    return affine


shapes = st.tuples(*[st.integers(1, 9)] * 3)
seeds = st.integers(0, 2**31)


def there_and_back(folder, labels, affine, *, parts=(1, 1, 1)):
    """Through a file, onto a grid with so many voxels in the place of one along (z, y, x), and back to a file."""
    source, result = folder / "label.nii", folder / "back.nii.gz"
    nibabel.save(nibabel.Nifti1Image(labels, affine), source)
    volume = read_volume(source)
    spacing_mm = tuple(step / part for step, part in zip(volume.spacing_mm, parts, strict=True))
    prepared = resample_label(volume.voxels.astype(np.uint8), volume.spacing_mm, spacing_mm)
    found = labels_on_scan(
        one_hot(prepared),
        spacing_mm=spacing_mm,
        scan_shape=volume.voxels.shape,
        scan_spacing_mm=volume.spacing_mm,
    )
    write_labels(result, found, stored_grid(source), highest=CLASSES - 1, description="")
    return nibabel.load(source), nibabel.load(result)


@given(shape=shapes, affine=affines(), seed=seeds, parts=st.tuples(*[st.integers(1, 3)] * 3))
def test_labels_agree_to_the_voxel_where_the_grids_coincide_or_nest(tmp_path_factory, shape, affine, seed, parts):
    labels = np.random.default_rng(seed).integers(0, CLASSES, shape).astype(np.uint8)
    before, after = there_and_back(tmp_path_factory.mktemp("round"), labels, affine, parts=parts)
    np.testing.assert_array_equal(np.asarray(after.dataobj), labels)
    np.testing.assert_array_equal(after.affine, before.affine)


@given(shape=st.tuples(*[st.integers(1, 14)] * 3), spacing=st.tuples(*[st.floats(0.4, 7.0)] * 3), seed=seeds)
def test_a_voxel_changes_only_where_another_label_is_within_a_voxel_of_the_model(shape, spacing, seed):
    """The linear weights of a place are on model voxels within one of their steps, each named after the nearest one."""
    rng, spacing_mm = np.random.default_rng(seed), (2.0, 2.0, 2.0)
    coarse = rng.integers(0, CLASSES, tuple(-(-length // 4) for length in shape))
    labels = np.kron(coarse, np.ones((4, 4, 4), int))[tuple(map(slice, shape))].astype(np.uint8)
    prepared = resample_label(labels, spacing, spacing_mm)
    found = labels_on_scan(one_hot(prepared), spacing_mm=spacing_mm, scan_shape=shape, scan_spacing_mm=spacing)
    reach = [2 * int(np.ceil(2.0 / step + 0.5)) + 1 for step in spacing]
    alike = ndimage.maximum_filter(labels, reach) == ndimage.minimum_filter(labels, reach)
    np.testing.assert_array_equal(found[alike], labels[alike])


@pytest.mark.parametrize("seed", range(6))
def test_probabilities_restore_a_ball_better_than_the_nearest_label_does(seed):
    """The same model, which knows which part of each of its voxels the ball fills: the class chosen last or first."""
    rng, fine, coarse = np.random.default_rng(seed), (1.0, 1.0, 1.0), (4.0, 4.0, 4.0)
    grid = np.stack(np.meshgrid(*[np.arange(40.0)] * 3, indexing="ij"), axis=-1)
    ball = np.linalg.norm(grid - 20 - rng.uniform(-3, 3, 3), axis=-1) < rng.uniform(8, 14)
    share = ball.reshape(10, 4, 10, 4, 10, 4).mean(axis=(1, 3, 5))
    nearest = np.kron(share > 0.5, np.ones((4, 4, 4), bool))
    logits = torch.log(torch.from_numpy(np.stack([1 - share, share])).clamp(1e-6, 1))
    linear = labels_on_scan(logits, spacing_mm=coarse, scan_shape=ball.shape, scan_spacing_mm=fine)
    (first,) = dice_per_class(nearest.astype(int), ball.astype(int), 2)
    (last,) = dice_per_class(linear, ball.astype(int), 2)
    assert last > first + 0.02
    assert last > 0.88


def test_slabs_give_what_the_whole_gives(monkeypatch):
    logits = torch.randn(CLASSES, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    order = {"spacing_mm": (3.0, 2.0, 1.0), "scan_shape": (13, 11, 9), "scan_spacing_mm": (1.1, 1.2, 0.8)}
    whole = labels_on_scan(logits, **order)
    monkeypatch.setattr("secfed.predict.restore._SLAB_VALUES", 1)
    np.testing.assert_array_equal(labels_on_scan(logits, **order), whole)


def test_the_border_lies_where_the_probabilities_say():
    """A class that reaches into the next voxel of the model by a quarter covers a quarter of its fine voxels."""
    share = torch.tensor([0.999, 0.75, 0.001])
    logits = torch.log(torch.stack([1 - share, share]))[:, :, None, None]
    found = labels_on_scan(logits, spacing_mm=(8.0, 1.0, 1.0), scan_shape=(24, 1, 1), scan_spacing_mm=(1.0, 1.0, 1.0))
    assert int(found.sum()) == 12 + 3
    assert found[:15].all()


def test_what_does_not_lie_on_the_scan_is_refused():
    with pytest.raises(ValueError, match="do not lie on a scan"):
        labels_on_scan(
            torch.zeros(2, 3, 3, 3), spacing_mm=(1.0, 1.0, 1.0), scan_shape=(3, 3, 4), scan_spacing_mm=(1.0, 1.0, 1.0)
        )
