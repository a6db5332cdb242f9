"""Two ways to a patient's gradient: the loop, and Opacus's per-sample gradients regrouped by patient."""

import numpy as np
import pytest
import torch
from patient_lots import PixelNetwork, example, image_losses, make_lot, network
from torch import nn
from torch.nn.functional import cross_entropy

from privacy.errors import MisuseError
from privacy.opacus_backend import OpacusHooks
from privacy.patientwise import PatientLoop


def entropy(logits, labels):
    """In the precision of the network, so that float64 shows more than float32's rounding."""
    return cross_entropy(logits, labels, reduction="none").flatten(1).mean(dim=1)


CASES = [
    ("unet", 2, "instance", 0),
    ("unet", 2, "group", 2),
    ("unet", 3, "instance", 1),
    ("unet", 3, "group", 0),
    ("basic_unet", 2, "instance", 0),
    ("basic_unet", 2, "group", 0),
    ("basic_unet", 3, "instance", 0),
    ("basic_unet", 3, "group", 0),
]


@pytest.mark.parametrize(("architecture", "dimensions", "normalisation", "residual_units"), CASES)
def test_both_backends_give_the_same_gradients(architecture, dimensions, normalisation, residual_units):
    model = network(
        architecture, dimensions=dimensions, normalisation=normalisation, residual_units=residual_units
    ).double()
    shape = (
        (32 if architecture == "basic_unet" else 16,) * 2
        if dimensions == 2
        else ((32, 16, 16) if architecture == "basic_unet" else (8, 8, 8))
    )
    # Patients with different numbers of views, of which some are clipped.
    lot = make_lot(2, shape=shape, dtype=torch.float64) + make_lot(1, views=1, shape=shape, dtype=torch.float64)
    made_up = example(shape=shape, dtype=torch.float64)
    loop, hooks = (
        backend(model, loss=entropy, clip_norm=1.0, example=made_up).sum(lot) for backend in (PatientLoop, OpacusHooks)
    )
    assert np.linalg.norm(loop.vector) > 0.1
    assert np.abs(hooks.vector - loop.vector).max() < 1e-12
    assert np.allclose(hooks.diagnostics.norms, loop.diagnostics.norms, rtol=1e-12)
    assert hooks.patients == loop.patients == 3


def test_both_backends_agree_in_float32_with_the_training_loss():
    model, lot = network(), make_lot(4)
    loop, hooks = (
        backend(model, loss=image_losses, clip_norm=0.5, example=example()).sum(lot)
        for backend in (PatientLoop, OpacusHooks)
    )
    assert np.abs(hooks.vector - loop.vector).max() < 1e-6


def test_loss_over_all_views_of_a_patient_is_regrouped_too():
    model, lot = network().double(), make_lot(3, dtype=torch.float64)

    def coupled(logits, labels):
        """A patient's views together, which no per-sample loss is."""
        return cross_entropy(logits, labels).sqrt()

    made_up = example(dtype=torch.float64)
    loop, hooks = (
        backend(model, loss=coupled, clip_norm=1.0, example=made_up).sum(lot) for backend in (PatientLoop, OpacusHooks)
    )
    assert np.abs(hooks.vector - loop.vector).max() < 1e-12


def test_frozen_parameters_are_left_out_by_both():
    model, lot = network(), make_lot(2)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".N." in name)
    loop, hooks = (
        backend(model, loss=image_losses, clip_norm=0.5, example=example()).sum(lot)
        for backend in (PatientLoop, OpacusHooks)
    )
    assert loop.vector.shape == hooks.vector.shape
    assert np.abs(hooks.vector - loop.vector).max() < 1e-6


def test_empty_lot_is_a_sum_of_nothing_here_too():
    """Transposed convolutions cannot take an empty batch, so none is given to them."""
    found = OpacusHooks(network(), loss=image_losses, clip_norm=1.0, example=example()).sum([])
    assert not found.vector.any()
    assert found.patients == 0


def test_network_is_left_as_it_was():
    model, lot = network(dropout_prob=0.3), make_lot(2)
    keys = {name: set(vars(module)) for name, module in model.named_modules()}
    OpacusHooks(model, loss=image_losses, clip_norm=1.0, example=example()).sum(lot)
    assert not {a for name, module in model.named_modules() for a in set(vars(module)) ^ keys[name]}
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(getattr(parameter, "grad_sample", None) is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("middle", "named"),
    [
        (nn.LeakyReLU(inplace=True), r"middle \(LeakyReLU\).*in place"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), r"middle \(Conv2d\).*reflect"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), r"middle \(Conv2d\).*circular"),
    ],
)
def test_layers_that_opacus_takes_and_gets_wrong_are_refused_by_name(middle, named):
    with pytest.raises(MisuseError, match=named):
        OpacusHooks(PixelNetwork(middle), loss=image_losses, clip_norm=1.0, example=example())


def test_wrong_gradients_of_an_unknown_layer_are_found_by_comparison():
    """A layer that turns its batch around: what reaches it at place i belongs to another image."""

    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)

        def forward(self, images):
            return self.conv(images.flip(0)).flip(0)

    with pytest.raises(MisuseError, match="differ from the loop's"):
        OpacusHooks(PixelNetwork(Turned()), loss=image_losses, clip_norm=1.0, example=example())


def test_evaluation_mode_is_refused_because_hooks_are_silent_in_it():
    model = network()
    hooks = OpacusHooks(model, loss=image_losses, clip_norm=1.0, example=example())
    model.eval()
    with pytest.raises(MisuseError, match=r"call train\(\)"):
        hooks.sum(make_lot(1))


def test_monai_networks_that_opacus_cannot_take_are_refused_and_the_loop_takes_them():
    from monai.networks.nets import SegResNet

    model = SegResNet(spatial_dims=2, init_filters=8, in_channels=1, out_channels=3, blocks_down=(1, 1), blocks_up=(1,))
    with pytest.raises(MisuseError):
        OpacusHooks(model, loss=image_losses, clip_norm=1.0, example=example())
    assert PatientLoop(model, loss=image_losses, clip_norm=1.0, example=example()).sum(make_lot(2)).vector.any()
