"""Dice and HD95 beside MONAI's, and beside a second implementation that shares no step with ours.

The second one takes surfaces by erosion, and every distance between two surface voxels one by one, or from SciPy's
distance transform; ours rolls masks and asks a k-d tree.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from secfed.data.preprocessing import NiftiVolume, resample_image
from secfed.metrics import dice_per_class, hd95_per_class

CLASSES = 4
spacings = st.tuples(*[st.sampled_from([0.5, 0.78, 1.0, 2.5, 5.0])] * 3)
shapes = st.tuples(*[st.integers(1, 8)] * 3)


@st.composite
def pairs(draw):
    """Two label volumes: dense noise, a few single voxels, or boxes of which one is moved; classes may be absent."""
    shape, rng = draw(shapes), np.random.default_rng(draw(st.integers(0, 2**31)))
    kind = draw(st.sampled_from(["noise", "voxels", "boxes"]))
    volumes = []
    for _ in range(2):
        labels = np.zeros(shape, np.uint8)
        if kind == "noise":
            labels[:] = rng.integers(0, CLASSES, shape)
        elif kind == "voxels":
            for label in range(1, CLASSES):
                if rng.random() < 0.7:
                    labels[tuple(rng.integers(0, shape))] = label
        else:
            for label in range(1, CLASSES):
                first = rng.integers(0, shape)
                labels[tuple(slice(place, place + rng.integers(1, 5)) for place in first)] = label
        volumes.append(labels)
    return volumes


def surface(mask):
    return mask & ~ndimage.binary_erosion(mask, ndimage.generate_binary_structure(mask.ndim, 1))


def hd95_by_brute_force(prediction, reference, spacing_mm):
    ours, theirs = (np.argwhere(surface(mask)) * spacing_mm for mask in (prediction, reference))
    if not len(ours) and not len(theirs):
        return np.nan
    if not len(ours) or not len(theirs):
        return float(np.linalg.norm(np.multiply(prediction.shape, spacing_mm)))
    between = np.sqrt(((ours[:, None] - theirs[None]) ** 2).sum(axis=-1))
    return max(np.percentile(between.min(axis=axis), 95) for axis in (0, 1))


def hd95_by_distance_transform(prediction, reference, spacing_mm):
    borders = surface(prediction), surface(reference)
    return max(
        np.percentile(ndimage.distance_transform_edt(~other, sampling=spacing_mm)[own], 95)
        for own, other in (borders, borders[::-1])
    )


@given(volumes=pairs(), spacing_mm=spacings)
def test_both_metrics_are_those_of_a_second_implementation(volumes, spacing_mm):
    prediction, reference = volumes
    dice = dice_per_class(prediction, reference, CLASSES)
    hd95 = hd95_per_class(prediction, reference, CLASSES, spacing_mm=spacing_mm)
    for label in range(1, CLASSES):
        a, b = prediction == label, reference == label
        sizes = int(a.sum()) + int(b.sum())
        expected = 2 * int((a & b).sum()) / sizes if sizes else np.nan
        np.testing.assert_allclose(dice[label - 1], expected, rtol=1e-12)
        np.testing.assert_allclose(hd95[label - 1], hd95_by_brute_force(a, b, spacing_mm), rtol=1e-9)
        if a.any() and b.any():
            np.testing.assert_allclose(hd95[label - 1], hd95_by_distance_transform(a, b, spacing_mm), rtol=1e-9)


@pytest.mark.filterwarnings("ignore:the (ground truth|prediction) of class:UserWarning")
@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@given(volumes=pairs(), spacing_mm=spacings)
def test_both_metrics_are_those_of_monai_where_it_has_one(volumes, spacing_mm):
    """MONAI gives NaN for Dice where the reference lacks a class, and no finite distance where either lacks it."""
    import torch
    from monai.metrics import DiceMetric, compute_hausdorff_distance

    prediction, reference = volumes
    one_hot = [torch.from_numpy(np.stack([v == label for label in range(CLASSES)])[None]) for v in volumes]
    theirs = DiceMetric(include_background=False, reduction="none")(*one_hot)[0].numpy()
    ours = dice_per_class(prediction, reference, CLASSES)
    known = [bool((reference == label).any()) for label in range(1, CLASSES)]
    np.testing.assert_allclose(ours[known], theirs[known], rtol=1e-6)
    both = [known[label - 1] and bool((prediction == label).any()) for label in range(1, CLASSES)]
    if any(both):
        distances = compute_hausdorff_distance(*one_hot, percentile=95, spacing=spacing_mm)[0].numpy()
        hd95 = hd95_per_class(prediction, reference, CLASSES, spacing_mm=spacing_mm)
        np.testing.assert_allclose(hd95[both], distances[both], rtol=1e-5, atol=1e-5)


def test_an_implementation_that_forgets_the_spacing_would_be_caught():
    reference = np.zeros((6, 6, 6), np.uint8)
    prediction = reference.copy()
    reference[1, 1, 1], prediction[4, 1, 1] = 1, 1
    assert hd95_per_class(prediction, reference, 2, spacing_mm=(5.0, 1.0, 1.0))[0] == 15.0
    assert hd95_by_brute_force(prediction == 1, reference == 1, (1.0, 1.0, 1.0)) == 3.0


@given(shape=st.tuples(*[st.integers(2, 12)] * 3), factor=st.sampled_from([2, 3, 4]), seed=st.integers(0, 2**31))
def test_resampling_a_smooth_image_there_and_back_errs_as_its_curvature_says(shape, factor, seed):
    """Linear interpolation between points h apart is off by at most h^2 / 8 times the second derivative, per axis."""
    rng = np.random.default_rng(seed)
    waves, shifts = rng.uniform(0.05, 0.25, 3), rng.uniform(0, 6, 3)
    fine = tuple(length * factor for length in shape)
    axes = np.meshgrid(*[np.arange(length, dtype=float) for length in fine], indexing="ij")
    image = sum(np.cos(w * axis + s) for w, axis, s in zip(waves, axes, shifts, strict=True)).astype(np.float32)

    def volume(voxels, step):
        return NiftiVolume(voxels=voxels, affine=np.eye(4), spacing_mm=(step,) * 3)

    coarse = resample_image(volume(image, 1.0), (float(factor),) * 3)
    back = resample_image(volume(coarse, float(factor)), (1.0, 1.0, 1.0))
    assert coarse.shape == shape
    assert back.shape == image.shape
    # Taken at distances of 1 on the way there and of `factor` on the way back; the outermost half voxel is repeated.
    inner = tuple(slice(factor // 2, length - factor // 2) for length in fine)
    bound = sum((1 + factor**2) / 8 * w**2 for w in waves)
    assert np.abs(back - image)[inner].max() <= bound + 1e-5
