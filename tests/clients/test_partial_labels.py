"""Organs that a case did not draw, from the sampler through both kinds of training to the scores."""

import dataclasses

import numpy as np
import pytest
import torch
from clipped_sums import clipped

import clients.local_steps
import clients.patient_training
from clients.evaluation import mean_dice_by_modality, score_case
from clients.training import TrainingSource, train_one_round
from secfed.augmentation.bezier import slaug
from secfed.augmentation_config import SlaugConfig
from secfed.config import TrainingPlan
from secfed.data.cases import ABDOMEN
from secfed.data.open_background import background_of
from secfed.data.sampling import PatchSampler
from secfed.model import flatten, initial_model, layout_of
from secfed.network import initial_vector

SPLEEN = ABDOMEN.index("spleen")
BUT_LIVER = tuple(range(2, 9))


def without(case, *classes):
    """The case of a site that did not draw these."""
    label = np.where(np.isin(case.label, classes), 0, case.label).astype(np.uint8)
    return dataclasses.replace(case, label=label, unlabelled=classes)


def private_plan(**training) -> TrainingPlan:
    return TrainingPlan.model_validate(
        {
            "model": {"channels": [4, 8], "residual_units": 0},
            "training": {"patch_size": [16, 16], "optimizer_state": "reset", **training},
            "privacy": {"mode": "distributed", "noise_multiplier": 1.0, "delta": 1e-5, "patches": 2, "views": 2},
        }
    )


def train(plan, cases, folder):
    start, layout = initial_vector(plan, num_classes=ABDOMEN.num_classes)
    return train_one_round(
        plan=plan,
        sources=(TrainingSource(site="ct-1", cases=tuple(cases)),),
        start=start,
        layout=layout.shared_layout(),
        server_round=1,
        state_folder=folder,
    )


def test_a_sampler_writes_open_background_and_draws_the_same_patches(make_case):
    whole = make_case(0)
    partial = dataclasses.replace(whole, unlabelled=(3, 5))
    samplers = [PatchSampler([case], patch_size=(8, 8), foreground_prob=0.5) for case in (whole, partial)]
    generators = [np.random.default_rng(1) for _ in samplers]
    for _ in range(20):
        (image, label), (same, opened) = (
            sampler.draw(generator) for sampler, generator in zip(samplers, generators, strict=True)
        )
        np.testing.assert_array_equal(image, same)
        np.testing.assert_array_equal(np.where(label == 0, background_of((3, 5)), label.astype(int)), opened)
        assert (label.dtype, opened.dtype) == (np.uint8, np.int32)


def forbid(*_: object, **__: object) -> None:
    pytest.fail("the marginal loss was asked where everything was drawn")


@pytest.mark.parametrize("over", ["batch", "image"])
def test_where_everything_was_drawn_no_step_of_training_differs(monkeypatch, make_plan, cases, tmp_path, over):
    """The loss and its bits are what they were: the ordinary one is computed, from labels as they were."""
    plan = make_plan(training={"loss_over": over})
    seen = []
    ordinary = clients.local_steps.segmentation_loss

    def watch(logits, labels, **options):
        assert labels.min() >= 0
        value = ordinary(logits, labels, **options)
        seen.append(value.detach())
        return value

    for module in (clients.local_steps, clients.patient_training):
        monkeypatch.setattr(module, "marginal_segmentation_loss", forbid)
        monkeypatch.setattr(module, "segmentation_loss", watch)
    outcome = train(plan, cases, tmp_path)
    assert outcome.mean_loss == float(torch.stack(seen).double().mean())
    private = private_plan(loss_over=over)
    clipped(private, cases, (0, 1))


def reference_loss(logits, labels, *, over):
    """The loss as it is defined, in the operations and the order of clients.loss."""
    terms = torch.nn.functional.cross_entropy(logits, labels, reduction="mean" if over == "batch" else "none")
    flat = logits.transpose(0, 1).flatten(1)[None] if over == "batch" else logits.flatten(2)
    target = labels.flatten()[None] if over == "batch" else labels.flatten(1)
    predicted = flat.softmax(dim=1)[:, 1:]
    reference = (target[:, None] == torch.arange(1, flat.shape[1])[None, :, None]).to(predicted.dtype)
    sizes = reference.sum(dim=2)
    dice = (2 * (predicted * reference).sum(dim=2) + 1.0) / (predicted.sum(dim=2) + sizes + 1.0)
    if over == "batch":
        return 1.0 * (1 - dice.mean()) + 1.0 * terms
    present = (sizes > 0).to(dice.dtype)
    count = present.sum(dim=1)
    mean = torch.where(count > 0, (dice * present).sum(dim=1) / count.clamp(min=1), 1.0)
    return (1.0 * (1 - mean) + 1.0 * terms.flatten(1).mean(dim=1)).mean()


@pytest.mark.parametrize("over", ["batch", "image"])
def test_the_ordinary_loss_and_its_gradient_have_the_bits_of_its_definition(over):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 9, 16, 16, generator=generator)
    labels = torch.randint(0, 9, (4, 16, 16), generator=generator)
    found = []
    for loss in (clients.local_steps.segmentation_loss, reference_loss):
        leaf = logits.clone().requires_grad_()
        options = {"over": over}
        if loss is not reference_loss:
            options |= {"dice_weight": 1.0, "cross_entropy_weight": 1.0, "class_weights": None}
        value = loss(leaf, labels, **options)
        value.backward()
        found.append((value.detach(), leaf.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize(
    "augmentation",
    [
        {"method": "none"},
        {"method": "slaug"},
        {"method": "gin_ipa"},
        {"method": "slaug", "consistency": {"weight": 1.0, "labelled": "both"}},
        {"method": "gin", "consistency": {"weight": 1.0, "other": "clean"}},
    ],
)
def test_partial_cases_train_with_one_view_and_with_two(make_plan, cases, tmp_path, augmentation):
    outcome = train(make_plan(augmentation=augmentation), [without(cases[0], *BUT_LIVER), *cases[1:]], tmp_path)
    assert np.isfinite(outcome.mean_loss)


def test_slaug_takes_open_background_as_background(cases):
    image = torch.from_numpy(np.array(cases[0].image))[None, :1]
    label = torch.from_numpy(np.array(cases[0].label))[None, 0].long()
    opened = torch.where(label == 0, background_of((3, 4)), label)
    views = [
        slaug(image, target, config=SlaugConfig(), generator=torch.Generator().manual_seed(0))
        for target in (label, opened)
    ]
    assert torch.equal(*views)


def probability_of(organ, vector, plan, case):
    """Mean probability of a class over the voxels that are its in truth."""
    model = initial_model(plan.model, ABDOMEN.num_classes, plan.seed)
    torch.nn.utils.vector_to_parameters(torch.from_numpy(np.asarray(vector, np.float32)), model.parameters())
    with torch.inference_mode():
        logits = model.eval()(torch.from_numpy(np.array(case.image))[:, None])
    truth = torch.from_numpy(np.array(case.label)) == organ
    return float(logits.softmax(dim=1)[:, organ][truth].mean())


def test_a_site_that_did_not_draw_an_organ_does_not_unlearn_it(make_plan, cases, tmp_path):
    """One case has spleens, two do not draw them: as background they push the organ out, as unlabelled they do not."""
    plan = make_plan(training={"steps_per_round": 60, "batch_size": 6, "learning_rate": 0.02}, rounds=1)
    found = {}
    for name, unlabelled in (("background", ()), ("unlabelled", (SPLEEN,))):
        others = [dataclasses.replace(without(case, SPLEEN), unlabelled=unlabelled) for case in cases[1:]]
        outcome = train(plan, [cases[0], *others], tmp_path / name)
        found[name] = probability_of(SPLEEN, outcome.weights, plan, cases[1])
    assert found["unlabelled"] > found["background"] + 0.2


@pytest.mark.parametrize("over", ["batch", "image"])
def test_another_patients_undrawn_organs_do_not_change_a_patients_gradient_by_a_bit(cases, over):
    plan = private_plan(loss_over=over)
    mine, other = cases[0], cases[1]
    gradients = [clipped(plan, (mine, theirs), (0,)) for theirs in (other, without(other, *BUT_LIVER))]
    np.testing.assert_array_equal(*gradients)
    assert np.linalg.norm(gradients[0]) > 0


def test_undrawn_organs_reach_the_private_gradient(cases):
    plan = private_plan()
    whole, partial = cases[0], without(cases[0], SPLEEN)
    ignorant = dataclasses.replace(partial, unlabelled=())
    vectors = [clipped(plan, (case,), (0,)) for case in (whole, partial, ignorant)]
    assert np.abs(vectors[1] - vectors[2]).max() > 1e-4
    assert all(np.linalg.norm(vector) <= plan.privacy.clip_norm * (1 + 1e-6) for vector in vectors)


def test_a_patient_with_one_scan_of_each_kind_trains(cases):
    partial = dataclasses.replace(without(cases[1], SPLEEN), patient=cases[0].patient)
    assert np.isfinite(clipped(private_plan(), (cases[0], partial), (0,))).all()


def test_only_drawn_organs_are_scored(make_case):
    case = without(make_case(0), SPLEEN)
    prediction = np.full(case.label.shape, SPLEEN, np.uint8)
    scores = score_case(case, prediction, label_map=ABDOMEN)
    assert [score.organ for score in scores] == [organ for organ in ABDOMEN.organs if organ != "spleen"]
    assert scores[0].dice == 0.0


def test_validation_leaves_undrawn_organs_out(make_plan, make_case):
    """A model that sees spleen everywhere: where spleens were not drawn, that says nothing against it."""
    plan = make_plan()
    model = initial_model(plan.model, ABDOMEN.num_classes, 0)
    with torch.no_grad():
        last = [parameter for parameter in model.parameters() if parameter.shape == (ABDOMEN.num_classes,)][-1]
        last[SPLEEN] = 1e6
    case = make_case(0)
    nothing = dataclasses.replace(case, label=np.zeros_like(case.label))
    undrawn = dataclasses.replace(nothing, unlabelled=(SPLEEN,))
    arguments = {"plan": plan}
    assert mean_dice_by_modality(flatten(model), layout_of(model), [undrawn], **arguments) == {}
    assert mean_dice_by_modality(flatten(model), layout_of(model), [nothing], **arguments) == {case.modality: (0.0, 1)}
