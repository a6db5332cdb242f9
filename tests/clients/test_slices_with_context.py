"""Training and testing with neighbouring slices: batches, learning, prediction, partial labels, private gradients."""

import dataclasses
import typing

import numpy as np
import pytest
import torch
from clipped_sums import clipped
from private_runs import ask, charges_of, one_site, private_config
from torch import nn

import clients.local_steps
from clients.evaluation import class_scores, evaluate_cases, predict
from clients.patients import patients_of
from clients.training import TrainingSource, network_for, train_one_round
from secfed.augmentation_config import AppearanceMethod
from secfed.config import TrainingPlan
from secfed.data.cases import ABDOMEN
from secfed.model import initial_model, load_flat
from secfed.network import initial_vector

CPU = torch.device("cpu")
METHODS = [method for method in typing.get_args(AppearanceMethod) if method != "slaug"]


class Copies(nn.Module):
    """Labels a slice by one channel of its stack: class i where that is nearest to i."""

    def __init__(self, channel: int) -> None:
        super().__init__()
        self.channel = channel
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, images):
        self.shapes.append(tuple(images.shape))
        classes = torch.arange(9.0).reshape(1, 9, 1, 1)
        return -((images[:, self.channel : self.channel + 1] - classes) ** 2)


def train(plan, cases, folder, server_round=1):
    start, layout = initial_vector(plan, num_classes=ABDOMEN.num_classes)
    outcome = train_one_round(
        plan=plan,
        sources=(TrainingSource(site="ct-1", cases=tuple(cases)),),
        start=start,
        layout=layout.shared_layout(),
        server_round=server_round,
        state_folder=folder,
    )
    return outcome, start, layout


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("shape", [(5, 16, 16), (3, 17, 30), (1, 9, 8), (2, 5, 3)])
def test_every_channel_of_a_prediction_is_the_slice_it_stands_for(make_plan, make_case, count, shape):
    """A network that copies the middle gives the volume back, and one that copies a neighbour the neighbour."""
    plan = make_plan(model={"channels": [4, 8, 8], "context_slices": count})
    label = np.random.default_rng(0).integers(0, 9, shape).astype(np.uint8)
    case = dataclasses.replace(make_case(0, shape=shape), image=label.astype(np.float32), label=label)
    for channel in range(1 + 2 * count):
        model = Copies(channel)
        found = predict(model, case, plan=plan, device=CPU, batch_size=3)
        above = np.clip(np.arange(shape[0]) + channel - count, 0, shape[0] - 1)
        np.testing.assert_array_equal(found, label[above])
        assert all(length % 4 == 0 for shape_of in model.shapes for length in shape_of[2:])
        assert {shape_of[1] for shape_of in model.shapes} == {1 + 2 * count}
        assert sum(shape_of[0] for shape_of in model.shapes) == shape[0]
        scores = class_scores(model, case.image, plan=plan, device=CPU, batch_size=2)
        np.testing.assert_array_equal(scores.argmax(dim=0), found)


def test_slices_of_a_stack_are_padded_alike_with_the_darkest_value_of_the_volume(make_plan, make_case):
    case, seen = make_case(0, shape=(3, 9, 8)), []
    model = Copies(0)
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numpy()))
    predict(model, case, plan=make_plan(model={"channels": [4, 8, 8], "context_slices": 1}), device=CPU)
    padded = np.pad(case.image, ((0, 0), (1, 2), (0, 0)), constant_values=case.image.min())
    np.testing.assert_array_equal(seen[0], padded[[[0, 0, 1], [0, 1, 2], [1, 2, 2]]])


def test_batches_hold_stacks_whose_middle_is_what_would_be_drawn_without(monkeypatch, make_plan, cases, tmp_path):
    drawn = {}
    for count in (0, 2):
        seen = drawn[count] = []
        moved = clients.local_steps.random_affine

        def watch(images, labels, *, config, generator, seen=seen, moved=moved):
            seen.append((images.clone(), labels.clone()))
            return moved(images, labels, config=config, generator=generator)

        with monkeypatch.context() as during:
            during.setattr(clients.local_steps, "random_affine", watch)
            plan = make_plan(model={"context_slices": count}, training={"foreground_prob": 0.5, "patch_size": [8, 12]})
            train(plan, cases, tmp_path / str(count))
    assert len(drawn[0]) == 3
    for (flat, labels), (stacks, same) in zip(drawn[0], drawn[2], strict=True):
        assert (flat.shape, stacks.shape) == ((4, 1, 8, 12), (4, 5, 8, 12))
        assert torch.equal(stacks[:, 2:3], flat)
        assert torch.equal(labels, same)


@pytest.mark.parametrize("method", METHODS)
def test_training_with_every_method_moves_the_weights_and_repeats_itself(make_plan, cases, tmp_path, method):
    plan = make_plan(model={"context_slices": 1}, augmentation={"method": method, "keep_air": method != "none"})
    found = [train(plan, cases, tmp_path / name)[0] for name in "ab"]
    _, start, layout = train(plan, cases, tmp_path / "c")
    assert np.isfinite(found[0].mean_loss)
    np.testing.assert_array_equal(found[0].weights, found[1].weights)
    assert np.abs(found[0].weights - start)[: layout.num_parameters].max() > 1e-4


def next_slice_case(seed):
    """An organ lies in a slice where the slice above it is bright; the slice's own image says nothing of it."""
    rng = np.random.default_rng(seed)
    bright = np.zeros((13, 16, 16), bool)
    for plane in bright:
        y, x = rng.integers(0, 9, size=2)
        plane[y : y + 7, x : x + 7] = True
    image = (2.0 * bright + rng.normal(0, 0.1, bright.shape)).astype(np.float32)
    return image[:12], np.concatenate([bright[1:12], bright[11:12]]).astype(np.uint8)


def test_what_only_a_neighbour_shows_is_learned_with_context_and_not_without(make_plan, make_case, tmp_path):
    """Above and below are the same in training and in prediction, or this would not be learned either."""
    image, label = next_slice_case(1)
    training = [
        dataclasses.replace(make_case(0), patient=f"p{seed}", image=image, label=label)
        for seed in range(8)
        for image, label in [next_slice_case(seed)]
    ]
    image, label = next_slice_case(99)
    test = dataclasses.replace(make_case(0), patient="new", image=image, label=label)
    dice = {}
    for count in (0, 1):
        plan = make_plan(
            model={"channels": [8, 16], "context_slices": count},
            training={"batch_size": 8, "steps_per_round": 120, "learning_rate": 0.02, "schedule": "constant"},
            augmentation={"method": "none", "affine": {"probability": 0.0}},
            rounds=1,
        )
        outcome, _, layout = train(plan, training, tmp_path / str(count))
        model = initial_model(plan.model, ABDOMEN.num_classes, 0)
        load_flat(model, outcome.weights[: layout.model_size], layout.model_layout())
        dice[count] = evaluate_cases(model, [test], plan=plan, device=CPU)[0].dice
    assert dice[1] > 0.9
    assert dice[0] < 0.6


@pytest.mark.parametrize("augmentation", [{"method": "gin"}, {"method": "gin_ipa"}])
def test_cases_with_undrawn_organs_train_on_stacks(make_plan, cases, tmp_path, augmentation):
    label = np.where(cases[0].label == 2, 0, cases[0].label).astype(np.uint8)
    undrawn = dataclasses.replace(cases[0], label=label, unlabelled=tuple(range(2, 9)))
    ignorant = dataclasses.replace(undrawn, unlabelled=())
    plan = make_plan(model={"context_slices": 1}, augmentation=augmentation)
    found = [
        train(plan, [case, *cases[1:]], tmp_path / str(index))[0].weights
        for index, case in enumerate([undrawn, ignorant])
    ]
    assert np.isfinite(found[0]).all()
    assert np.abs(found[0] - found[1]).max() > 1e-4


def private_plan(count, mode="distributed"):
    return TrainingPlan.model_validate(
        {
            "model": {"channels": [4, 8], "residual_units": 0, "context_slices": count},
            "training": {"patch_size": [16, 16], "optimizer_state": "reset"},
            "privacy": {"mode": mode, "noise_multiplier": 1.0, "delta": 1e-5, "patches": 2, "views": 2},
        }
    )


def test_a_patient_s_gradient_is_bounded_and_nobody_else_s_images_are_in_it(cases):
    plan = private_plan(1)
    other = dataclasses.replace(cases[1], image=1e3 * np.array(cases[1].image))
    mine = [clipped(plan, (cases[0], theirs), (0,)) for theirs in (cases[1], other)]
    assert mine[0].shape == (initial_vector(plan, num_classes=9)[1].num_parameters,)
    assert 0 < np.linalg.norm(mine[0]) <= plan.privacy.clip_norm * (1 + 1e-6)
    np.testing.assert_array_equal(*mine)


def test_a_patient_s_own_neighbours_of_the_drawn_slices_are_in_it_and_no_others(cases):
    touched = {}
    for count in (0, 1):
        plan = private_plan(count)
        before = clipped(plan, cases, (0,))
        touched[count] = set()
        for z in range(8):
            image = np.array(cases[0].image)
            image[z] += 1.0
            after = clipped(plan, (dataclasses.replace(cases[0], image=image), *cases[1:]), (0,))
            if np.abs(after - before).max() > 1e-6:
                touched[count].add(z)
    assert touched[0]
    assert touched[1] == {z for drawn in touched[0] for z in (drawn - 1, drawn, drawn + 1) if 0 <= z < 8}


def test_patients_of_plans_that_differ_in_context_alone_are_not_taken_for_one_another(cases):
    source = (TrainingSource(site="here", cases=cases),)
    for count in (0, 2, 0, 1):
        (patient, *_) = patients_of(source, private_plan(count))
        image, label = patient.sampler.draw(np.random.default_rng(0))
        assert image.shape == ((1 + 2 * count, 16, 16) if count else (16, 16))
        assert label.shape == (16, 16)
        assert patient.digest == patients_of(source, private_plan(0))[0].digest


@pytest.mark.parametrize("mode", ["local", "distributed", "silo", "clip_only"])
def test_a_site_answers_in_every_private_mode_and_pays_for_it(scans, tmp_path, mode):
    site, session, model = one_site(tmp_path, private_config(scans, mode, model={"context_slices": 1}))
    made = ask(site, session, model)
    assert made.encoded.shape == (session.slots.length,)
    assert len(np.unique(made.encoded)) > 100
    assert len(charges_of(site.folder)) == (0 if mode == "clip_only" else 1)
    assert network_for(session.plan, CPU)(torch.zeros(1, 3, 16, 16)).shape == (1, 9, 16, 16)
