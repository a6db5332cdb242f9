"""The marginal loss against its definition, written out voxel by voxel in double precision."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.marginal_loss import marginal_segmentation_loss
from secfed.data.open_background import background_of

CLASSES, VOXELS = 4, 5
FOREGROUND = range(1, CLASSES)
IMAGES = st.lists(
    st.tuples(
        st.sets(st.sampled_from(list(FOREGROUND))),
        st.lists(st.integers(0, CLASSES - 1), min_size=VOXELS, max_size=VOXELS),
    ),
    min_size=1,
    max_size=3,
)


def softmax(values):
    highest = max(values)
    powers = [math.exp(value - highest) for value in values]
    return [power / sum(powers) for power in powers]


def defined(logits, images, *, weights, over, dice_weight, cross_entropy_weight):
    """Means over voxels and organs as the docstrings say them."""
    probabilities = [[softmax(voxel) for voxel in image] for image in logits]
    labels = [[0 if label in undrawn else label for label in drawn] for undrawn, drawn in images]
    # An image leaves an organ open where a voxel of background may be it.
    is_open = [undrawn if 0 in known else set() for (undrawn, _), known in zip(images, labels, strict=True)]
    entropies, voxel_weights = [], []
    for image, known, undrawn in zip(probabilities, labels, is_open, strict=True):
        entropies.append([])
        voxel_weights.append([weights[label] for label in known])
        for p, label in zip(image, known, strict=True):
            admitted = {0, *undrawn} if label == 0 else {label}
            entropies[-1].append(-math.log(sum(p[index] for index in admitted)))

    def soft_dice(organ, chosen):
        voxels = [
            (p[organ], label == organ)
            for index in chosen
            for p, label in zip(probabilities[index], labels[index], strict=True)
        ]
        overlap = sum(p for p, inside in voxels if inside)
        return (2 * overlap + 1) / (sum(p for p, _ in voxels) + sum(inside for _, inside in voxels) + 1)

    everything = range(len(images))
    if over == "batch":
        flat = list(zip(itertools.chain(*voxel_weights), itertools.chain(*entropies), strict=True))
        entropy = sum(w * e for w, e in flat) / sum(w for w, _ in flat)
        chosen = {organ: [index for index in everything if organ not in is_open[index]] for organ in FOREGROUND}
        found = [soft_dice(organ, own) for organ, own in chosen.items() if own]
        dice = sum(found) / len(found) if found else 1.0
        return dice_weight * (1 - dice) + cross_entropy_weight * entropy
    losses = []
    for index in everything:
        own = [soft_dice(organ, [index]) for organ in FOREGROUND if organ in labels[index]]
        dice = sum(own) / len(own) if own else 1.0
        weighted = sum(w * e for w, e in zip(voxel_weights[index], entropies[index], strict=True))
        losses.append(dice_weight * (1 - dice) + cross_entropy_weight * weighted / sum(voxel_weights[index]))
    return sum(losses) / len(losses)


@settings(max_examples=150, deadline=None)
@given(
    images=IMAGES,
    seed=st.integers(0, 2**16),
    weights=st.sampled_from([(1.0,) * CLASSES, (0.1, 1.0, 3.0, 2.0)]),
    over=st.sampled_from(["image", "batch"]),
    terms=st.sampled_from([(1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.5, 2.0)]),
)
def test_it_is_what_it_says(images, seed, weights, over, terms):
    logits = 2 * torch.randn(len(images), CLASSES, VOXELS, generator=torch.Generator().manual_seed(seed))
    labels = torch.tensor(
        [[background_of(undrawn) if label in {0, *undrawn} else label for label in drawn] for undrawn, drawn in images]
    )
    dice_weight, cross_entropy_weight = terms
    found = marginal_segmentation_loss(
        logits,
        labels,
        dice_weight=dice_weight,
        cross_entropy_weight=cross_entropy_weight,
        class_weights=torch.tensor(weights),
        over=over,
    )
    expected = defined(
        logits.transpose(1, 2).double().tolist(),
        images,
        weights=weights,
        over=over,
        dice_weight=dice_weight,
        cross_entropy_weight=cross_entropy_weight,
    )
    assert float(found) == pytest.approx(expected, rel=1e-5, abs=1e-6)
