"""FedProx: mu / 2 times the squared distance from the round's start is part of what a site minimises."""

import numpy as np
import pytest
import torch

from clients import local_steps
from clients.local_steps import adamw, learning_rate, run_steps
from clients.loss import segmentation_loss
from clients.training import TrainingSource, train_one_round
from secfed.config import TrainingPlan
from secfed.network import initial_vector

STEPS = 2
BATCH = 3


def plan_with(mu, **tables):
    return TrainingPlan.model_validate(
        {
            "seed": 5,
            "model": {"channels": [4, 8], "residual_units": 0, **tables.pop("model", {})},
            "augmentation": {"method": "none", "affine": {"probability": 0.0}},
            "training": {
                "batch_size": BATCH,
                "patch_size": [8, 8],
                "steps_per_round": STEPS,
                "schedule": "constant",
                "warmup_fraction": 0.0,
                "learning_rate": 0.05,
                **tables.pop("training", {}),
            },
            "federation": {"rounds": 1, "proximal_mu": mu},
        }
    )


class OnePatch:
    """A sampler that always gives the same patch, so that the order of draws is nothing to know."""

    def __init__(self):
        rng = np.random.default_rng(1)
        self.image = rng.normal(size=(8, 8)).astype(np.float32)
        self.label = (self.image > 0.5).astype(np.uint8)

    def draw(self, generator):
        return self.image, self.label


def network(normalisation=None):
    torch.manual_seed(3)
    layers = [torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.LeakyReLU(), torch.nn.Conv2d(4, 9, 1)]
    return torch.nn.Sequential(*layers[:1], *([normalisation] if normalisation else []), *layers[1:])


def trained(plan, model=None):
    model = network() if model is None else model
    run_steps(
        model,
        adamw(model, plan.training),
        plan=plan,
        samplers=(OnePatch(),),
        samples=[STEPS * BATCH],
        steps=STEPS,
        server_round=1,
        sampling=np.random.default_rng(0),
        augmentation_seed=0,
        device=torch.device("cpu"),
        on_step=None,
    )
    return torch.cat([value.detach().flatten() for value in model.parameters()]).numpy()


def by_hand(plan, mu):
    """The loop of a textbook: the penalty stands in the loss, and autograd finds its gradient."""
    model, patch, training = network(), OnePatch(), plan.training
    images = torch.from_numpy(patch.image).expand(BATCH, 1, 8, 8).contiguous()
    labels = torch.from_numpy(patch.label).long().expand(BATCH, 8, 8).contiguous()
    parameters = list(model.parameters())
    start = [value.detach().clone() for value in parameters]
    optimizer = torch.optim.AdamW(
        parameters, lr=0.0, betas=training.adam_betas, weight_decay=training.weight_decay, fused=True
    )
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = learning_rate((step + 0.5) / STEPS, training)
        optimizer.zero_grad()
        loss = segmentation_loss(
            model(images), labels, dice_weight=1.0, cross_entropy_weight=1.0, class_weights=None, over="batch"
        )
        if mu:
            loss = loss + mu / 2 * sum((w - s).square().sum() for w, s in zip(parameters, start, strict=True))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, training.gradient_clip_norm)
        optimizer.step()
    return torch.cat([value.detach().flatten() for value in parameters]).numpy()


@pytest.mark.parametrize("clip", [5.0, 0.01], ids=["unclipped", "clipped together"])
def test_two_steps_are_those_of_a_loss_with_the_penalty_written_into_it(clip):
    mu = 3.0
    plan = plan_with(mu, training={"gradient_clip_norm": clip})
    expected = by_hand(plan, mu)
    np.testing.assert_allclose(trained(plan), expected, rtol=1e-5, atol=1e-6)
    # The first step starts at the start, where the penalty has no slope; the second shows it, and a wrong factor.
    for wrong in (0.0, 1.5, 6.0):
        assert np.abs(trained(plan) - by_hand(plan, wrong)).max() > 1e-4


def test_without_mu_the_steps_are_plain_ones_bit_for_bit(monkeypatch):
    without, little = trained(plan_with(0.0)), trained(plan_with(1e-3))
    np.testing.assert_allclose(without, by_hand(plan_with(0.0), 0.0), rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(local_steps._Proximal, "add_gradient", lambda self: None)
    plain = trained(plan_with(1e-3))
    np.testing.assert_array_equal(without, plain)
    assert not np.array_equal(little, plain)


def test_statistics_are_not_held_back():
    """They are measured, not trained; a pull on them would be no penalty on weights."""
    held, free = torch.nn.BatchNorm2d(4), torch.nn.BatchNorm2d(4)
    trained(plan_with(1e6, training={"learning_rate": 1e-6}), network(held))
    trained(plan_with(0.0, training={"learning_rate": 1e-6}), network(free))
    assert held.running_mean.abs().max() > 0
    torch.testing.assert_close(held.running_mean, free.running_mean, rtol=1e-3, atol=1e-5)


def test_what_does_not_learn_feels_no_pull():
    model = network()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    trained(plan_with(2.0), model)
    torch.testing.assert_close(model[0].weight, before, rtol=0, atol=0)


def test_a_site_stays_nearer_to_where_the_round_started_the_larger_mu_is(cases, tmp_path):
    moved = []
    for mu in (0.0, 1.0, 100.0):
        plan = plan_with(mu, training={"steps_per_round": 10, "patch_size": [16, 16]})
        start, layout = initial_vector(plan, num_classes=9)
        outcome = train_one_round(
            plan=plan,
            sources=(TrainingSource(site="ct-1", cases=cases),),
            start=start,
            layout=layout,
            server_round=1,
            state_folder=tmp_path / f"{mu}",
        )
        moved.append(float(np.linalg.norm(outcome.weights - start)))
    assert moved[0] > moved[1] > 1.5 * moved[2] > 0
