"""Optimiser moments that ride with the model: averaged over one site they are its own, over two they are shared."""

import dataclasses

import numpy as np
import pytest
import torch

from clients.local_steps import adamw
from clients.optimizer_state import load_shared, shared_moments
from clients.training import TrainingSource, batch_for, samples_for, train_one_round
from secfed.model import initial_model
from secfed.network import initial_vector
from secfed.parameters import ParameterLayout, TensorSpec
from secfed.protected_vector import vector_format


def rounds(plan, source, folder, *, count):
    vector, layout = initial_vector(plan, num_classes=9)
    for server_round in range(1, count + 1):
        outcome = train_one_round(
            plan=plan,
            sources=(source,),
            start=vector,
            layout=layout,
            server_round=server_round,
            state_folder=folder,
        )
        vector = outcome.weights
    return vector, layout


@pytest.fixture
def source(cases):
    return TrainingSource(site="ct-1", cases=cases)


def test_moments_that_travel_train_like_moments_that_stay(make_plan, source, tmp_path):
    kept, layout = rounds(make_plan(training={"optimizer_state": "keep"}), source, tmp_path / "a", count=3)
    plan = make_plan(training={"optimizer_state": "average"})
    shared, _ = rounds(plan, source, tmp_path / "b", count=3)
    # The second moment went through its root, so the last bits differ. Biases before a normalisation have gradients of
    # rounding errors only; AdamW scales these up, and they differ freely without any effect.
    alike = np.isclose(shared[: layout.size], kept, rtol=1e-3, atol=1e-4)
    assert alike.mean() > 0.95
    reset, _ = rounds(make_plan(training={"optimizer_state": "reset"}), source, tmp_path / "c", count=3)
    assert np.isclose(reset, kept, rtol=1e-3, atol=1e-4).mean() < 0.2


def test_a_site_that_shares_moments_keeps_no_state_of_its_own(make_plan, source, tmp_path):
    rounds(make_plan(training={"optimizer_state": "average"}), source, tmp_path, count=2)
    assert not list(tmp_path.iterdir())


def test_moments_survive_the_vector(make_plan):
    plan = make_plan()
    model = initial_model(plan.model, 9, 0)
    optimizer = adamw(model, plan.training)
    for _ in range(3):
        model(torch.randn(2, 1, 16, 16)).square().mean().backward()
        optimizer.step()
    moments = shared_moments(model, optimizer)
    other = adamw(model, plan.training)
    load_shared(model, other, moments, steps_taken=3)
    np.testing.assert_allclose(shared_moments(model, other), moments, rtol=1e-6, atol=1e-12)
    for parameter in model.parameters():
        assert other.state[parameter]["step"] == optimizer.state[parameter]["step"] == 3


def test_a_second_moment_rounded_to_nothing_never_makes_a_large_step(make_plan):
    plan = make_plan()
    model = initial_model(plan.model, 9, 0)
    size = sum(parameter.numel() for parameter in model.parameters())
    moments = np.concatenate([np.full(size, 3e-7, np.float32), np.zeros(size, np.float32)])
    optimizer = adamw(model, plan.training)
    load_shared(model, optimizer, moments, steps_taken=1000)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for group in optimizer.param_groups:
        group["lr"], group["weight_decay"] = 1e-3, 0.0
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    with torch.no_grad():
        moved = max(float((new - old).abs().max()) for new, old in zip(model.parameters(), before, strict=True))
    # Without the bound it would be 3e-7 / 1e-8 = 30 learning rates.
    assert moved <= 2.4e-3


def test_moments_of_clipped_gradients_fit_their_segment(make_plan, source, tmp_path):
    plan = make_plan(training={"optimizer_state": "average", "gradient_clip_norm": 0.01})
    vector, layout = rounds(plan, source, tmp_path, count=2)
    slots = vector_format(layout, plan, cohort_size=4)
    [segment] = [segment for segment in slots.segments if segment.name == "moments"]
    assert segment.length == layout.num_moments == 2 * layout.num_parameters
    assert segment.max_abs == 0.01
    assert np.abs(vector[layout.model_size :]).max() <= 0.01 * (1 + 1e-6)
    assert np.abs(vector[layout.model_size :]).max() > 0


def test_layouts_put_moments_last():
    parameter, moment = TensorSpec("w", (2,), "parameter"), TensorSpec("m", (2,), "moment")
    layout = ParameterLayout((parameter, moment))
    assert (layout.size, layout.model_size, layout.num_moments) == (4, 2, 2)
    assert layout.model_layout() == ParameterLayout((parameter,))
    assert ParameterLayout.from_json(layout.to_json()) == layout
    with pytest.raises(ValueError, match="before moments"):
        ParameterLayout((moment, parameter))


@pytest.mark.parametrize(("cases_held", "expected"), [(20, 8), (5, 2), (10, 4), (1, 1), (40, 16)])
def test_batches_follow_the_number_of_cases(make_plan, source, cases_held, expected):
    plan = make_plan(training={"batch_size": 8, "batch_cases": 20, "steps_per_round": 3})
    held = dataclasses.replace(source, cases=source.cases[:1] * cases_held)
    assert batch_for(held, plan.training) == expected
    assert samples_for(held, plan.training) == 3 * expected
