"""Dice and HD95 against a second implementation that compares every voxel with every other one."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from secfed.metrics import dice_per_class, hd95_per_class

CLASSES = 3


@st.composite
def label_pairs(draw):
    shape = draw(array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=5))
    labels = arrays(np.uint8, shape, elements=st.integers(0, CLASSES - 1))
    spacing = draw(st.tuples(*[st.floats(0.3, 6.0) for _ in shape]))
    return draw(labels), draw(labels), spacing


def surface(labels, index):
    inside = {place for place in np.ndindex(labels.shape) if labels[place] == index}
    steps = [step for step in itertools.product((-1, 0, 1), repeat=labels.ndim) if np.abs(step).sum() == 1]
    return [place for place in inside if any(tuple(np.add(place, step)) not in inside for step in steps)]


def directed(points, targets, spacing):
    nearest = [min(np.sqrt((((np.subtract(p, t)) * spacing) ** 2).sum()) for t in targets) for p in points]
    return np.percentile(nearest, 95)


def hd95_of_all_pairs(prediction, reference, index, spacing):
    ours, theirs = surface(prediction, index), surface(reference, index)
    if not ours and not theirs:
        return np.nan
    if not ours or not theirs:
        return np.sqrt(sum((n * s) ** 2 for n, s in zip(prediction.shape, spacing, strict=True)))
    return max(directed(ours, theirs, spacing), directed(theirs, ours, spacing))


@settings(max_examples=200, deadline=None)
@given(label_pairs())
def test_hd95_equals_all_pairs(pair):
    prediction, reference, spacing = pair
    expected = [hd95_of_all_pairs(prediction, reference, index, spacing) for index in range(1, CLASSES)]
    np.testing.assert_allclose(
        hd95_per_class(prediction, reference, CLASSES, spacing_mm=spacing), expected, rtol=1e-9, atol=1e-9
    )


@settings(max_examples=100, deadline=None)
@given(label_pairs())
def test_dice_equals_counting(pair):
    prediction, reference, _ = pair
    expected = []
    for index in range(1, CLASSES):
        total = int((prediction == index).sum()) + int((reference == index).sum())
        both = int(((prediction == index) & (reference == index)).sum())
        expected.append(2 * both / total if total else np.nan)
    np.testing.assert_allclose(dice_per_class(prediction, reference, CLASSES), expected)
