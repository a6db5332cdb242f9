"""The loss by hand, and its promise that no image looks at another one."""

import math

import pytest
import torch

from clients.loss import consistency_loss, losses_per_image, segmentation_loss

TERMS = {"dice_weight": 1.0, "cross_entropy_weight": 1.0, "class_weights": None}
WEIGHTS = torch.tensor([0.1, 1.0, 3.0])
PLAIN = {**TERMS, "over": "image"}
WEIGHTED = {**PLAIN, "class_weights": WEIGHTS}


def batch(seed=0, size=4, spatial=(6, 5)):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, 3, *spatial, generator=generator)
    return logits, torch.randint(0, 3, (size, *spatial), generator=generator)


def test_dice_by_hand():
    # Four voxels, probabilities of class 1: .75 .25 .75 .25; class 1 is at the first two; one voxel of smoothing.
    p = torch.tensor([0.75, 0.25, 0.75, 0.25])
    logits = torch.stack([(1 - p).log(), p.log()])[None]
    loss = segmentation_loss(
        logits,
        torch.tensor([[1, 1, 0, 0]]),
        dice_weight=1.0,
        cross_entropy_weight=0.0,
        class_weights=None,
        over="image",
    )
    assert float(loss) == pytest.approx(1 - (2 * 1.0 + 1) / (2.0 + 2.0 + 1))


def test_weighted_cross_entropy_by_hand():
    p = torch.tensor([0.5, 0.25])
    logits = torch.stack([(1 - p).log(), p.log()])[None]
    loss = segmentation_loss(
        logits,
        torch.tensor([[0, 1]]),
        dice_weight=0.0,
        cross_entropy_weight=2.0,
        class_weights=torch.tensor([1.0, 3.0]),
        over="image",
    )
    assert float(loss) == pytest.approx(2 * (1 * math.log(2) + 3 * math.log(4)) / 4)


def test_without_dice_it_is_torch_cross_entropy_of_each_image():
    logits, labels = batch()
    weights = WEIGHTED["class_weights"]
    for class_weights in (None, weights):
        ours = losses_per_image(logits, labels, dice_weight=0.0, cross_entropy_weight=1.0, class_weights=class_weights)
        theirs = [
            torch.nn.functional.cross_entropy(one[None], label[None], weight=class_weights)
            for one, label in zip(logits, labels, strict=True)
        ]
        torch.testing.assert_close(ours, torch.stack(theirs))


@pytest.mark.parametrize("options", [PLAIN, WEIGHTED])
def test_an_images_loss_and_gradient_do_not_depend_on_the_others(options):
    logits, labels = batch()
    logits.requires_grad_()
    segmentation_loss(logits, labels, **options).backward()
    for index in range(len(logits)):
        alone = logits[index : index + 1].detach().requires_grad_()
        segmentation_loss(alone, labels[index : index + 1], **options).backward()
        torch.testing.assert_close(logits.grad[index], alone.grad[0] / len(logits))


def test_only_the_ratios_of_class_weights_matter():
    logits, labels = batch()
    scaled = {**TERMS, "class_weights": 7 * WEIGHTS}
    torch.testing.assert_close(
        losses_per_image(logits, labels, **{**TERMS, "class_weights": WEIGHTS}),
        losses_per_image(logits, labels, **scaled),
    )


def test_dice_counts_only_classes_that_the_image_contains():
    logits, labels = batch()
    labels[0] = labels[0].clamp(max=1)
    labels[1] = 0
    options = {"dice_weight": 1.0, "cross_entropy_weight": 0.0, "class_weights": None}
    losses = losses_per_image(logits, labels, **options)
    p, t = logits[0].softmax(0)[1], labels[0] == 1
    assert float(losses[0]) == pytest.approx(float(1 - (2 * p[t].sum() + 1) / (p.sum() + t.sum() + 1)), abs=1e-6)
    assert float(losses[1]) == 0.0


def test_a_perfect_prediction_costs_nothing_and_a_wrong_one_much():
    _, labels = batch()
    perfect = 50 * torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float()
    assert float(segmentation_loss(perfect, labels, **PLAIN)) < 1e-3
    assert float(segmentation_loss(perfect.roll(1, dims=1), labels, **PLAIN)) > 10


def test_half_precision_logits_are_computed_in_full():
    logits, labels = batch(spatial=(64, 64))
    half = segmentation_loss(logits.bfloat16(), labels, **WEIGHTED)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, segmentation_loss(logits.bfloat16().float(), labels, **WEIGHTED))


def test_volumes_are_flattened_alike():
    logits, labels = batch(spatial=(4, 6, 5))
    flat = losses_per_image(
        logits.flatten(2)[..., None], labels.flatten(1)[..., None], **{**TERMS, "class_weights": WEIGHTS}
    )
    torch.testing.assert_close(losses_per_image(logits, labels, **{**TERMS, "class_weights": WEIGHTS}), flat)


def test_over_the_batch_dice_and_cross_entropy_are_those_of_all_voxels_together():
    logits, labels = batch()
    loss = segmentation_loss(logits, labels, **{**TERMS, "class_weights": WEIGHTS, "over": "batch"})
    probabilities = logits.softmax(dim=1)
    dice = []
    for index in (1, 2):
        predicted, reference = probabilities[:, index], (labels == index).float()
        dice.append((2 * (predicted * reference).sum() + 1) / (predicted.sum() + reference.sum() + 1))
    entropy = torch.nn.functional.cross_entropy(logits, labels, weight=WEIGHTS)
    torch.testing.assert_close(loss, 1 - torch.stack(dice).mean() + entropy)


def test_over_the_batch_an_image_does_depend_on_the_others():
    logits, labels = batch()
    other = labels.clone()
    other[1:] = (other[1:] + 1) % 3
    gradients = []
    for target in (labels, other):
        leaf = logits.clone().requires_grad_()
        segmentation_loss(leaf, target, **{**TERMS, "over": "batch"}).backward()
        gradients.append(leaf.grad[0])
    assert not torch.allclose(*gradients)


def test_consistency_by_hand():
    # One voxel, two classes: .75 .25 against .25 .75, whose average is a half each.
    one, other = (torch.tensor(p).log().reshape(1, 2, 1, 1) for p in ([0.75, 0.25], [0.25, 0.75]))
    divergence = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    # The mean over both views is that of either one, and it is averaged over two classes.
    assert float(consistency_loss(one, other)) == pytest.approx(divergence / 2)


@pytest.mark.parametrize("spatial", [(6, 5), (3, 4, 5)])
def test_consistency_is_torch_s_divergence_from_the_average_of_both_views(spatial):
    (one, _), (other, _) = batch(1, spatial=spatial), batch(2, spatial=spatial)
    average = (one.softmax(1) + other.softmax(1)) / 2
    # Its own "mean", which warns that classes are averaged over too: here they are meant to be.
    theirs = torch.nn.functional.kl_div(
        torch.cat([one.log_softmax(1), other.log_softmax(1)]), torch.cat([average, average]), reduction="none"
    ).mean()
    torch.testing.assert_close(consistency_loss(one, other), theirs)
    torch.testing.assert_close(consistency_loss(other, one), theirs)


def test_consistency_is_zero_where_both_agree_and_positive_elsewhere():
    one, _ = batch()
    # Logits that differ by a constant are the same probabilities.
    assert float(consistency_loss(one, one + 3)) == pytest.approx(0, abs=1e-7)
    assert float(consistency_loss(one, one.flip(1))) > 1e-2


def test_consistency_pulls_both_views_towards_each_other():
    (one, _), (other, _) = batch(1), batch(2)
    one, other = one.double().requires_grad_(), other.double().requires_grad_()
    before = consistency_loss(one, other)
    before.backward()
    assert float(one.grad.norm()) > 0
    assert float(other.grad.norm()) > 0
    with torch.no_grad():
        assert consistency_loss(one - 5 * one.grad, other) < before
        assert consistency_loss(one, other - 5 * other.grad) < before


def test_the_gradient_of_consistency_is_its_slope_in_every_direction():
    (one, _), (other, _) = batch(1, size=1, spatial=(2, 2)), batch(2, size=1, spatial=(2, 2))
    for index in (0, 1):
        views = [one.clone(), other.clone()]
        views[index].requires_grad_()
        (gradient,) = torch.autograd.grad(consistency_loss(*views), views[index])
        for place in range(gradient.numel()):
            step = torch.zeros(gradient.numel())
            # Float32 inside, so the step is wide.
            step[place] = 0.02
            values = []
            for sign in (1, -1):
                moved = [one.clone(), other.clone()]
                moved[index] += sign * step.reshape(one.shape)
                values.append(float(consistency_loss(*moved)))
            assert (values[0] - values[1]) / 0.04 == pytest.approx(float(gradient.flatten()[place]), abs=2e-5)
        assert float(gradient.abs().max()) > 5e-3


def test_certain_views_that_contradict_each_other_give_a_finite_loss_and_gradient():
    one = torch.tensor([500.0, -500.0]).reshape(1, 2, 1, 1).requires_grad_()
    other = torch.tensor([-500.0, 500.0]).reshape(1, 2, 1, 1)
    loss = consistency_loss(one, other)
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert bool(one.grad.isfinite().all())
    assert float(one.grad[0, 0]) > 0 > float(one.grad[0, 1])


def test_consistency_of_half_precision_is_computed_in_full():
    (one, _), (other, _) = batch(1), batch(2)
    half = (one.bfloat16(), other.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = consistency_loss(*half)
    assert found.dtype == torch.float32
    assert torch.equal(found, consistency_loss(*(view.float() for view in half)))
