"""Dice and HD95 on cases whose answers are known by hand, and beside MONAI's."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from secfed.metrics import dice_per_class, hd95_per_class


def volume(shape, **boxes):
    labels = np.zeros(shape, np.uint8)
    for name, box in boxes.items():
        labels[box] = int(name[1:])
    return labels


def test_dice_by_hand():
    reference = np.array([[1, 1, 1, 0], [2, 2, 0, 0]], np.uint8)
    prediction = np.array([[1, 1, 0, 0], [0, 2, 2, 2]], np.uint8)
    np.testing.assert_allclose(dice_per_class(prediction, reference, 5), [4 / 5, 2 / 5, np.nan, np.nan])


def test_a_class_that_is_missed_or_invented_scores_zero():
    reference, prediction = np.array([1, 1, 0]), np.array([2, 2, 0])
    np.testing.assert_array_equal(dice_per_class(prediction, reference, 4), [0.0, 0.0, np.nan])


def test_dice_is_symmetric_and_one_for_equal_labels():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, (2, 6, 7, 8))
    np.testing.assert_array_equal(dice_per_class(a, b, 4), dice_per_class(b, a, 4))
    np.testing.assert_array_equal(dice_per_class(a, a, 4), 1.0)


@pytest.mark.parametrize(("axis", "expected"), [(0, 3 * 5.0), (1, 3 * 2.0), (2, 3 * 1.5)])
def test_a_shifted_box_is_as_far_as_the_shift_in_mm(axis, expected):
    reference = volume((20, 20, 20), c1=np.s_[6:10, 6:10, 6:10])
    prediction = np.roll(reference, 3, axis)
    # The far face of a 4-voxel box holds a fifth of its surface and more, all of it at the full shift.
    np.testing.assert_allclose(hd95_per_class(prediction, reference, 2, spacing_mm=(5.0, 2.0, 1.5)), [expected])


def test_two_single_voxels_are_a_straight_line_apart():
    reference, prediction = volume((9, 9), c1=np.s_[1, 1]), volume((9, 9), c1=np.s_[4, 5])
    np.testing.assert_allclose(hd95_per_class(prediction, reference, 2, spacing_mm=(1.0, 1.0)), [5.0])


def test_the_worst_twentieth_of_the_surface_is_forgiven():
    reference = volume((4, 200), c1=np.s_[1:3, 10:110])
    few, many = reference.copy(), reference.copy()
    few[1, 150] = 1
    many[1, 150:165] = 1
    assert hd95_per_class(few, reference, 2, spacing_mm=(1.0, 1.0))[0] == 0.0
    assert hd95_per_class(many, reference, 2, spacing_mm=(1.0, 1.0))[0] > 40.0


def test_equal_structures_are_at_distance_zero_and_absent_ones_have_none():
    labels = volume((5, 6, 7), c2=np.s_[1:3, 1:3, 1:3])
    np.testing.assert_array_equal(hd95_per_class(labels, labels, 4, spacing_mm=(1, 1, 1)), [np.nan, 0.0, np.nan])


def test_a_missed_or_invented_structure_costs_the_diagonal_of_the_volume():
    labels, empty = volume((3, 4, 6), c1=np.s_[1, 1, 1]), volume((3, 4, 6))
    expected = [np.sqrt(30.0**2 + 8.0**2 + 6.0**2)]
    for prediction, reference in ((labels, empty), (empty, labels)):
        np.testing.assert_allclose(
            hd95_per_class(prediction, reference, 2, spacing_mm=(10.0, 2.0, 1.0)), expected, rtol=1e-12
        )


def test_a_structure_at_the_border_of_the_volume_has_a_surface_there():
    reference, prediction = np.ones((6, 6), np.uint8), np.ones((6, 6), np.uint8)
    prediction[:, 3:] = 0
    assert hd95_per_class(prediction, reference, 2, spacing_mm=(1.0, 2.0))[0] == 6.0


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@pytest.mark.parametrize("spacing_mm", [(5.0, 5.0, 5.0), (5.0, 1.5, 0.8)])
def test_hd95_is_that_of_monai(spacing_mm):
    import torch
    from monai.metrics import compute_hausdorff_distance

    rng = np.random.default_rng(4)
    shape = (10, 14, 16)
    reference = volume(shape, c1=np.s_[2:7, 3:10, 2:9], c2=np.s_[4:9, 2:9, 10:15])
    prediction = np.roll(reference, (1, -2), (0, 2))
    noise = rng.random(shape) < 0.01
    prediction[noise] = rng.integers(0, 3, noise.sum())

    def one_hot(labels):
        return torch.from_numpy(np.stack([labels == index for index in range(3)])[None])

    theirs = compute_hausdorff_distance(one_hot(prediction), one_hot(reference), percentile=95, spacing=spacing_mm)
    ours = hd95_per_class(prediction, reference, 3, spacing_mm=spacing_mm)
    np.testing.assert_allclose(ours, theirs[0].numpy(), rtol=1e-5)


def test_eight_organs_in_a_phantom_sized_volume_take_less_than_sixty_milliseconds():
    shape = (48, 64, 80)
    reference = volume(
        shape,
        **{
            f"c{1 + 4 * a + 2 * b + c}": np.s_[
                4 + 22 * a : 22 + 22 * a, 6 + 28 * b : 30 + 28 * b, 8 + 34 * c : 36 + 34 * c
            ]
            for a in (0, 1)
            for b in (0, 1)
            for c in (0, 1)
        },
    )
    prediction = np.roll(reference, (1, 2), (0, 1))
    seconds = []
    for _ in range(3):
        started = time.process_time()
        hd95_per_class(prediction, reference, 9, spacing_mm=(5.0, 5.0, 5.0))
        seconds.append(time.process_time() - started)
    assert min(seconds) < 0.06


def test_hd95_survives_a_thread_that_flushes_subnormal_numbers():
    # In a process of its own: the failure would be a stack overflow inside SciPy that ends the process.
    code = """
import numpy as np, torch
from secfed.metrics import hd95_per_class
torch.set_flush_denormal(True)
labels = np.zeros((4, 6, 6), np.uint8)
labels[0], labels[3, 0, 0] = 1, 1
assert hd95_per_class(labels, labels, 2, spacing_mm=(100.0, 1.0, 1.0)) == 0
"""
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=root).returncode == 0


def test_what_does_not_fit_is_refused():
    labels = np.zeros((4, 4), np.uint8)
    with pytest.raises(ValueError, match="the same shape"):
        dice_per_class(labels, labels[:2], 2)
    with pytest.raises(ValueError, match="prediction must hold classes 0 to 1, got 0 to 3"):
        hd95_per_class(np.full_like(labels, 3) - 3 * np.eye(4, dtype=np.uint8), labels, 2, spacing_mm=(1.0, 1.0))
    with pytest.raises(ValueError, match="reference must hold classes 0 to 1, got -1 to -1"):
        dice_per_class(labels, np.full((4, 4), -1), 2)
    for spacing_mm in ((1.0,), (1.0, 0.0), (1.0, float("nan"))):
        with pytest.raises(ValueError, match="spacing_mm needs 2 positive lengths"):
            hd95_per_class(labels, labels, 2, spacing_mm=spacing_mm)
