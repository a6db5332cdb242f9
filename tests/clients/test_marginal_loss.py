"""The marginal loss by hand, beside the ordinary one, and blind to what nobody drew."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.loss import segmentation_loss
from clients.marginal_loss import marginal_segmentation_loss
from secfed.data.open_background import MOST_ORGANS, background_of, open_organs

CLASSES = 4
TERMS = {"dice_weight": 1.0, "cross_entropy_weight": 1.0, "class_weights": None, "over": "image"}
WEIGHTS = torch.tensor([0.1, 1.0, 3.0, 2.0])
EVERY = [
    {**TERMS, "over": over, "class_weights": weights}
    for over, weights in itertools.product(("image", "batch"), (None, WEIGHTS))
]


def batch(seed=0, size=4, spatial=(6, 5)):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(size, CLASSES, *spatial, generator=generator)
    return logits, torch.randint(0, CLASSES, (size, *spatial), generator=generator)


def opened(labels, *unlabelled):
    """The same labels where these classes were not drawn in any image."""
    known = torch.where(torch.isin(labels, torch.tensor(unlabelled)), 0, labels)
    return torch.where(known == 0, background_of(unlabelled), known)


def test_background_of_names_classes_by_bits():
    assert [background_of(classes) for classes in ((), (1,), (2,), (1, 3), (24,))] == [0, -1, -2, -5, -(2**23)]
    for wrong in ((0,), (-1,), (MOST_ORGANS + 1,)):
        with pytest.raises(ValueError, match="classes 1 to 24"):
            background_of(wrong)


def test_bits_are_read_back_and_drawn_voxels_are_open_to_nothing():
    labels = torch.tensor([[0, 1, 3, background_of((2,)), background_of((1, 3))]])
    expected = torch.tensor([[[0, 0, 0, 0, 1], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]]).bool()
    assert torch.equal(open_organs(labels, CLASSES), expected)


def test_open_background_survives_float32_as_augmentation_moves_it():
    code = background_of(range(1, MOST_ORGANS + 1))
    assert int(torch.tensor(code).float().long()) == code


@pytest.mark.parametrize("options", EVERY)
def test_where_everything_was_drawn_it_is_the_ordinary_loss(options):
    logits, labels = batch()
    values, gradients = [], []
    for loss in (segmentation_loss, marginal_segmentation_loss):
        leaf = logits.clone().requires_grad_()
        value = loss(leaf, labels, **options)
        value.backward()
        values.append(value.detach())
        gradients.append(leaf.grad)
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)


def test_cross_entropy_by_hand():
    """One voxel of open background: the probabilities of background and of the two open classes together."""
    p = torch.tensor([0.1, 0.2, 0.3, 0.4])
    loss = marginal_segmentation_loss(
        p.log().reshape(1, 4, 1), torch.tensor([[background_of((1, 3))]]), **{**TERMS, "dice_weight": 0.0}
    )
    assert float(loss) == pytest.approx(-math.log(0.1 + 0.2 + 0.4))


def test_open_background_weighs_as_background():
    logits, _ = batch(size=1, spatial=(2,))
    labels = torch.tensor([[background_of((2,)), 3]])
    loss = marginal_segmentation_loss(logits, labels, **{**TERMS, "dice_weight": 0.0, "class_weights": WEIGHTS})
    p = logits.softmax(dim=1)[0]
    expected = -(0.1 * (p[0, 0] + p[2, 0]).log() + 2.0 * p[3, 1].log()) / 2.1
    torch.testing.assert_close(loss, expected)


def test_dice_over_the_batch_takes_an_organ_from_the_images_that_have_drawn_it():
    logits, labels = batch()
    labels[:2] = opened(labels[:2], 2)
    labels = torch.where(labels == 3, 0, labels)
    labels = torch.where(labels <= 0, labels - 4, labels)
    loss = marginal_segmentation_loss(logits, labels, **{**TERMS, "cross_entropy_weight": 0.0, "over": "batch"})
    p = logits.softmax(dim=1)
    dice = []
    for organ, images in ((1, slice(None)), (2, slice(2, None))):
        predicted, reference = p[images, organ], (labels[images] == organ).float()
        dice.append((2 * (predicted * reference).sum() + 1) / (predicted.sum() + reference.sum() + 1))
    torch.testing.assert_close(loss, 1 - torch.stack(dice).mean())


@pytest.mark.parametrize("options", EVERY)
def test_moving_probability_between_what_is_open_changes_nothing_over_background(options):
    """Where all voxels are open background, how a model splits it between background and open organs is its affair."""
    logits, labels = batch()
    target = torch.full_like(labels, background_of((2, 3)))
    swapped = logits[:, [2, 1, 3, 0]]
    torch.testing.assert_close(
        marginal_segmentation_loss(logits, target, **options),
        marginal_segmentation_loss(swapped, target, **options),
    )


@pytest.mark.parametrize("over", ["image", "batch"])
def test_nothing_pushes_an_organ_out_that_nobody_drew_but_the_ordinary_loss_does(over):
    """A model that is sure of organ 3 where the label, which has no organ 3, says background."""
    logits = torch.zeros(1, CLASSES, 10)
    logits[:, 3, :5] = 8.0
    logits[:, 1, 5:] = 8.0
    labels = torch.tensor([[0] * 5 + [1] * 5])
    gradients = {}
    for name, loss, target in (
        ("ordinary", segmentation_loss, labels),
        ("marginal", marginal_segmentation_loss, opened(labels, 3)),
    ):
        leaf = logits.clone().requires_grad_()
        loss(leaf, target, **{**TERMS, "over": over}).backward()
        gradients[name] = leaf.grad[0, 3, :5]
    assert gradients["ordinary"].min() > 0.05
    assert gradients["marginal"].abs().max() < 1e-3


def test_without_any_organ_drawn_the_loss_is_finite_and_teaches_nothing():
    logits, labels = batch()
    for over in ("image", "batch"):
        leaf = logits.clone().requires_grad_()
        loss = marginal_segmentation_loss(
            leaf, torch.full_like(labels, background_of((1, 2, 3))), **{**TERMS, "over": over}
        )
        loss.backward()
        assert float(loss.detach()) == pytest.approx(0.0, abs=1e-6)
        assert leaf.grad.abs().max() < 1e-6


@pytest.mark.parametrize("class_weights", [None, WEIGHTS])
def test_over_images_no_image_looks_at_another_one(class_weights):
    logits, labels = batch()
    labels[0], labels[1] = opened(labels[0], 1), opened(labels[1], 2, 3)
    options = {**TERMS, "class_weights": class_weights}
    logits.requires_grad_()
    marginal_segmentation_loss(logits, labels, **options).backward()
    for index in range(len(logits)):
        alone = logits[index : index + 1].detach().requires_grad_()
        marginal_segmentation_loss(alone, labels[index : index + 1], **options).backward()
        torch.testing.assert_close(logits.grad[index], alone.grad[0] / len(logits))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    unlabelled=st.sets(st.integers(1, 3)),
    options=st.sampled_from(EVERY),
    scale=st.sampled_from([0.0, 1.0, 40.0]),
)
def test_it_is_finite_never_above_the_ordinary_cross_entropy_and_differentiable(seed, unlabelled, options, scale):
    logits, labels = batch(seed, size=2, spatial=(4, 3))
    logits = (scale * logits).requires_grad_()
    known = torch.where(torch.isin(labels, torch.tensor(sorted(unlabelled) or [99])), 0, labels)
    entropy = {**options, "dice_weight": 0.0}
    marginal = marginal_segmentation_loss(logits, opened(labels, *unlabelled), **entropy)
    ordinary = segmentation_loss(logits, known, **entropy).item()
    assert marginal.item() <= ordinary + 1e-5 * max(1, ordinary)
    loss = marginal_segmentation_loss(logits, opened(labels, *unlabelled), **options)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


def test_volumes_and_half_precision_are_computed_alike():
    logits, labels = batch(spatial=(4, 6, 5))
    labels = opened(labels, 2)
    for options in EVERY:
        flat = marginal_segmentation_loss(logits.flatten(2), labels.flatten(1), **options)
        torch.testing.assert_close(marginal_segmentation_loss(logits, labels, **options), flat)
        half = marginal_segmentation_loss(logits.bfloat16(), labels, **options)
        assert half.dtype == torch.float32
