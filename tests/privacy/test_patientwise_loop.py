"""The loop over patients: it gives the sum of clipped gradients of single patients, however computed."""

import weakref

import numpy as np
import pytest
import torch
from patient_lots import PixelNetwork, example, image_losses, make_lot, network
from torch import nn
from torch.utils.checkpoint import checkpoint

from privacy.patientwise import PatientLoop


def mean_loss(logits, labels):
    return image_losses(logits, labels).mean()


def gradient_of(model, patient):
    """By the textbook: the gradient of one patient's mean loss as one vector, float64."""
    images, labels = patient
    grads = torch.autograd.grad(mean_loss(model(images), labels), list(model.parameters()))
    return torch.cat([grad.double().flatten() for grad in grads]).numpy()


@pytest.mark.parametrize("clip_norm", [1e-3, 0.5, 1e3])
def test_sum_is_that_of_clipped_gradients_of_single_patients(clip_norm):
    model, lot = network().double(), make_lot(4, dtype=torch.float64)
    found = PatientLoop(model, loss=image_losses, clip_norm=clip_norm, example=example(dtype=torch.float64)).sum(lot)
    expected, norms = 0.0, []
    for patient in lot:
        gradient = gradient_of(model, patient)
        norms.append(np.linalg.norm(gradient))
        expected = expected + gradient * min(1.0, clip_norm / norms[-1])
    assert np.allclose(found.vector, expected, rtol=1e-5, atol=1e-6 * clip_norm)
    assert np.allclose(found.diagnostics.norms, norms, rtol=1e-9)
    assert found.vector.dtype == np.float64
    assert found.vector.shape == (sum(parameter.numel() for parameter in model.parameters()),)
    assert (found.patients, found.clip_norm) == (4, clip_norm)
    assert found.diagnostics.fraction_clipped == np.mean(np.array(norms) > clip_norm)


def test_unclipped_sum_is_the_plain_gradient_times_the_number_of_patients():
    model, lot = network().double(), make_lot(3, dtype=torch.float64)
    found = PatientLoop(model, loss=image_losses, clip_norm=1e6, example=example(dtype=torch.float64)).sum(lot)
    together = tuple(torch.cat(parts) for parts in zip(*lot, strict=True))
    # The loss is computed in float32, also for a network in float64.
    assert np.allclose(found.vector, 3 * gradient_of(model, together), rtol=1e-4, atol=1e-7)


def test_empty_lot_is_a_sum_of_nothing():
    found = PatientLoop(network(), loss=image_losses, clip_norm=1.0, example=example()).sum([])
    assert not found.vector.any()
    assert (found.patients, found.diagnostics.fraction_clipped, found.diagnostics.norms.shape) == (0, 0.0, (0,))


def test_loss_over_all_views_of_one_patient_is_accepted():
    """A Dice over a patient's own views couples nobody else."""
    model, lot = network(), make_lot(2)
    each = PatientLoop(model, loss=image_losses, clip_norm=1.0, example=example()).sum(lot)
    whole = PatientLoop(model, loss=mean_loss, clip_norm=1.0, example=example()).sum(lot)
    assert np.array_equal(each.vector, whole.vector)


@pytest.mark.parametrize("views_at_once", [1, 2, 3, 9])
def test_views_in_several_passes_give_the_same_gradient(views_at_once):
    model, lot = network().double(), make_lot(2, dtype=torch.float64)
    made_up = example(dtype=torch.float64)
    whole = PatientLoop(model, loss=image_losses, clip_norm=0.3, example=made_up).sum(lot)
    parts = PatientLoop(model, loss=image_losses, clip_norm=0.3, example=made_up, views_at_once=views_at_once).sum(lot)
    assert np.allclose(parts.vector, whole.vector, rtol=1e-9, atol=1e-12)


def test_patients_may_differ_in_views_and_come_from_callables():
    model = network()
    loop = PatientLoop(model, loss=image_losses, clip_norm=0.5, example=example())
    lot = make_lot(1, views=2) + make_lot(1, views=5)
    asked = []

    def call(index):
        asked.append(index)
        return lot[index]

    found = loop.sum([lambda: call(0), lambda: call(1)])
    assert asked == [0, 1]
    assert np.array_equal(found.vector, loop.sum(lot).vector)


def test_order_of_patients_changes_rounding_only():
    loop = PatientLoop(network(), loss=image_losses, clip_norm=0.1, example=example())
    lot = make_lot(5)
    assert np.allclose(loop.sum(lot).vector, loop.sum(lot[::-1]).vector, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("precision", "tolerance"), [(torch.bfloat16, 0.2), (torch.float16, 0.05)])
def test_lowered_precision_clips_the_gradient_itself_and_not_its_scaled_form(precision, tolerance):
    model, lot = network(), make_lot(3)
    exact = PatientLoop(model, loss=image_losses, clip_norm=0.2, example=example()).sum(lot)
    lowered = PatientLoop(model, loss=image_losses, clip_norm=0.2, example=example(), precision=precision).sum(lot)
    assert np.allclose(lowered.diagnostics.norms, exact.diagnostics.norms, rtol=tolerance)
    assert np.linalg.norm(lowered.vector - exact.vector) < tolerance * np.linalg.norm(exact.vector)
    assert np.linalg.norm(lowered.vector) <= 3 * 0.2


class Checkpointed(nn.Module):
    def __init__(self, inner, *, use_reentrant):
        super().__init__()
        self.inner, self.use_reentrant = inner, use_reentrant

    def forward(self, images):
        # The reentrant kind passes gradients on only where an input wants one.
        return checkpoint(self.inner, images.requires_grad_(), use_reentrant=self.use_reentrant)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing_gives_the_same_sum(use_reentrant):
    model, lot = network(dropout_prob=0.2), make_lot(2)
    plain = PatientLoop(model, loss=image_losses, clip_norm=0.5, example=example())
    saved = PatientLoop(
        Checkpointed(model, use_reentrant=use_reentrant), loss=image_losses, clip_norm=0.5, example=example()
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        expected = plain.sum(lot).vector
        torch.manual_seed(1)
        found = saved.sum(lot).vector
    assert np.allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_any_layer_will_do():
    """A recurrent layer, activations in place, padding by reflection: what per-sample hooks cannot all take."""

    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect")
            self.act = nn.ReLU(inplace=True)
            self.rows = nn.GRU(4, 4, batch_first=True)
            self.last = nn.Conv2d(4, 3, 1)

        def forward(self, images):
            features = self.act(self.conv(images))
            views, channels, height, width = features.shape
            rows = features.permute(0, 2, 3, 1).reshape(views * height, width, channels)
            passed = self.rows(rows)[0].reshape(views, height, width, channels).permute(0, 3, 1, 2)
            return self.last(passed)

    model, lot = Rows(), make_lot(2)
    found = PatientLoop(model, loss=image_losses, clip_norm=1e6, example=example()).sum(lot)
    assert np.allclose(found.vector, sum(gradient_of(model, patient) for patient in lot), rtol=1e-4, atol=1e-6)


def test_only_declared_parameters_are_in_the_sum_and_gradients_are_let_go():
    model, lot = network(), make_lot(2)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("model.2"))
    declared = [parameter for parameter in model.parameters() if parameter.requires_grad]
    loop = PatientLoop(model, loss=image_losses, clip_norm=1.0, example=example())
    found = loop.sum(lot)
    assert found.vector.shape == (loop.num_params,) == (sum(parameter.numel() for parameter in declared),)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_parameter_that_one_patients_images_do_not_reach_has_gradient_zero():
    class Sometimes(PixelNetwork):
        def forward(self, images):
            features = self.first(images)
            return features[:, :3] if images.max() > 50 else self.last(features)

    model = Sometimes()
    loop = PatientLoop(model, loss=image_losses, clip_norm=1e6, example=example())
    (images, labels), usual = make_lot(2)
    found = loop.sum([(images + 100, labels), usual])
    last = sum(parameter.numel() for parameter in model.last.parameters())
    assert np.array_equal(found.vector[-last:], loop.sum([usual]).vector[-last:])
    assert found.vector[:-last].any()


def test_activations_of_one_patient_are_gone_when_the_next_one_comes():
    class Kept:
        def __init__(self, tensor):
            self.tensor = tensor

    alive, seen = weakref.WeakSet(), []

    def pack(tensor):
        kept = Kept(tensor)
        alive.add(kept)
        return kept

    def come(patient):
        seen.append(len(alive))
        return patient

    loop = PatientLoop(network(), loss=image_losses, clip_norm=1.0, example=example())
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        one, two = make_lot(2)
        loop.sum([lambda: come(one), lambda: come(two)])
    assert seen == [0, 0]
