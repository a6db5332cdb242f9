"""Networks and losses that would let one patient into another one's gradient: refused before one is asked for."""

import pytest
import torch
from patient_lots import PixelNetwork, example, image_losses, make_lot, network
from torch import nn

from privacy.errors import MisuseError
from privacy.opacus_backend import OpacusHooks
from privacy.patientwise import PatientLoop
from privacy.patientwise_checks import require_patientwise


class Remembering(nn.Module):
    """Adds a running mean of all that it saw, kept where `keep` says."""

    def __init__(self, keep):
        super().__init__()
        self.keep = keep
        if keep == "buffer":
            self.register_buffer("seen", torch.zeros(()))
        elif keep == "late buffer":
            self.register_buffer("seen", None)
        else:
            self.seen = torch.zeros(())

    def forward(self, images):
        before = 0 if self.seen is None else self.seen
        self.seen = (0.5 * before + images.detach().square().mean()).detach()
        return images + self.seen


class RememberingGradients(nn.Module):
    """Scales gradients by how large they have been; its output says nothing of it."""

    class Scale(torch.autograd.Function):
        @staticmethod
        def forward(ctx, images, seen):
            ctx.seen = seen
            return images.clone()

        @staticmethod
        def backward(ctx, gradient):
            ctx.seen.append(float(gradient.square().mean()))
            return gradient / (1e-12 + sum(ctx.seen)) ** 0.5, None

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, images):
        return self.Scale.apply(images, self.seen)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, images):
        self.calls += 1
        return images


def slow_spectral_norm():
    """Its power iteration goes on for long, because the largest singular values are nearly equal."""
    layer = nn.Conv2d(4, 4, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([1.0, 0.999, 0.99, 0.9]))[:, :, None, None])
    torch.manual_seed(0)
    return torch.nn.utils.parametrizations.spectral_norm(layer)


# Made anew by each test, because some of these layers remember.
REFUSED = {
    "batch normalisation": (lambda: nn.BatchNorm2d(4), r"middle \(BatchNorm2d\): batch normalisation"),
    "batch normalisation without statistics": (
        lambda: nn.BatchNorm2d(4, track_running_stats=False),
        "batch normalisation",
    ),
    "batch normalisation of many devices": (lambda: nn.SyncBatchNorm(4), "batch normalisation"),
    "running statistics of instances": (lambda: nn.InstanceNorm2d(4, track_running_stats=True), "running statistics"),
    "a buffer that changes": (lambda: Remembering("buffer"), "middle.seen: this buffer changes"),
    "a buffer that appears": (lambda: Remembering("late buffer"), "middle.seen: this buffer changes"),
    "a counter": (Counting, "middle.calls: this buffer changes"),
    "an attribute that changes": (lambda: Remembering("attribute"), "changed after others were seen"),
    "gradients that were seen": (RememberingGradients, "the gradient of the same images changed"),
    "a spectral norm": (slow_spectral_norm, "this buffer changes"),
}


@pytest.mark.parametrize("backend", [PatientLoop, OpacusHooks])
@pytest.mark.parametrize("kind", REFUSED)
def test_what_carries_patients_over_is_refused_when_the_backend_is_made(backend, kind):
    make_middle, message = REFUSED[kind]
    with pytest.raises(MisuseError, match=message):
        backend(PixelNetwork(make_middle()).train(), loss=image_losses, clip_norm=1.0, example=example())


@pytest.mark.parametrize("seed", [626, 646, 655, 762, 996, 1098, 1424, 1480, 2426, 2459])
def test_what_is_remembered_shows_also_where_one_loss_does_not_change(seed):
    """With these weights, images of one loudness alone leave the loss where it was, to four digits."""
    torch.manual_seed(seed)
    model = PixelNetwork(Remembering("attribute")).train()
    with pytest.raises(MisuseError, match="changed after others were seen"):
        PatientLoop(model, loss=image_losses, clip_norm=1.0, example=example())


def test_the_layers_of_our_networks_pass_and_dropout_does():
    for normalisation in ("instance", "group"):
        model = network(normalisation=normalisation, dropout_prob=0.3)
        require_patientwise(model)
        PatientLoop(model, loss=image_losses, clip_norm=1.0, example=example())
    with pytest.raises(MisuseError, match="batch normalisation"):
        require_patientwise(network(normalisation="batch"))


def test_a_loss_that_remembers_patients_is_refused():
    """For example class weights that follow the labels seen so far."""
    seen = []

    def remembering(logits, labels):
        seen.append(float(logits.detach().square().mean()))
        return image_losses(logits, labels) * sum(seen)

    with pytest.raises(MisuseError, match="changed after others were seen"):
        PatientLoop(PixelNetwork(), loss=remembering, clip_norm=1.0, example=example())


@pytest.mark.parametrize(
    ("loss", "shape"),
    [
        (lambda logits, labels: image_losses(logits, labels)[:2], r"\(2,\)"),
        (lambda logits, labels: logits.mean(dim=1), r"\(3, 16, 16\)"),
        (lambda logits, labels: image_losses(logits, labels)[:, None], r"\(3, 1\)"),
        (lambda logits, labels: image_losses(logits, labels).mean().reshape(1), r"\(1,\)"),
    ],
)
def test_a_loss_that_is_not_of_one_patient_is_refused(loss, shape):
    with pytest.raises(MisuseError, match=f"has shape {shape}, accepted is"):
        PatientLoop(PixelNetwork(), loss=loss, clip_norm=1.0, example=example())


def test_a_loss_over_all_views_cannot_be_cut_into_passes():
    with pytest.raises(MisuseError, match=r"has shape \(\), accepted is \(2,\)"):
        PatientLoop(
            PixelNetwork(),
            loss=lambda logits, labels: image_losses(logits, labels).mean(),
            clip_norm=1.0,
            example=example(),
            views_at_once=2,
        )


def test_a_loss_without_a_gradient_is_refused():
    with pytest.raises(MisuseError, match="no gradient"):
        PatientLoop(
            PixelNetwork(),
            loss=lambda logits, labels: image_losses(logits.detach(), labels),
            clip_norm=1.0,
            example=example(),
        )


def test_a_network_whose_backward_pass_cannot_be_repeated_leaves_no_gradients():
    model = PixelNetwork(RememberingGradients())
    with pytest.raises(MisuseError, match="gradient of the same images"):
        PatientLoop(model, loss=image_losses, clip_norm=1.0, example=example())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_parameters_without_a_gradient_are_named():
    class Unused(PixelNetwork):
        def __init__(self):
            super().__init__()
            self.spare = nn.Linear(2, 2)

    with pytest.raises(MisuseError, match=r"spare.weight, spare.bias: trainable, but the loss does not reach"):
        PatientLoop(Unused(), loss=image_losses, clip_norm=1.0, example=example())
    model = Unused()
    model.spare.requires_grad_(requires_grad=False)
    PatientLoop(model, loss=image_losses, clip_norm=1.0, example=example())
    model.requires_grad_(requires_grad=False)
    with pytest.raises(MisuseError, match="no trainable parameter"):
        PatientLoop(model, loss=image_losses, clip_norm=1.0, example=example())


@pytest.mark.parametrize("backend", [PatientLoop, OpacusHooks])
def test_parameters_that_are_thawed_later_are_refused_before_a_patient_is_asked_for(backend):
    model = network()
    model.model[2].requires_grad_(requires_grad=False)
    made = backend(model, loss=image_losses, clip_norm=1.0, example=example())
    model.requires_grad_(requires_grad=True)

    def patient():
        raise AssertionError("a patient was asked for")

    with pytest.raises(MisuseError, match="make another one"):
        made.sum([patient])


@pytest.mark.parametrize("backend", [PatientLoop, OpacusHooks])
@pytest.mark.parametrize(("images", "labels"), [(0, 0), (2, 3)])
def test_patients_without_views_or_with_other_labels_are_refused(backend, images, labels):
    made = backend(network(), loss=image_losses, clip_norm=1.0, example=example())
    wrong = torch.zeros(images, 1, 16, 16), torch.zeros(labels, 16, 16, dtype=torch.int64)
    with pytest.raises(MisuseError, match=f"{images} images and {labels} labels"):
        made.sum([wrong])


@pytest.mark.parametrize("argument", [{"clip_norm": 0.0}, {"clip_norm": float("nan")}, {"views_at_once": 0}])
def test_arguments_that_mean_nothing_are_refused(argument):
    with pytest.raises(MisuseError, match=next(iter(argument))):
        PatientLoop(network(), loss=image_losses, example=example(), **{"clip_norm": 1.0, **argument})


def test_gradients_of_a_patient_whose_views_fail_do_not_stay():
    model = network()
    loop = PatientLoop(model, loss=image_losses, clip_norm=1.0, example=example())

    def broken():
        raise OSError("the volume cannot be read")

    with pytest.raises(OSError, match="cannot be read"):
        loop.sum([make_lot(1)[0], broken])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_making_a_backend_leaves_the_generators_and_the_network_as_they_were():
    model = network(dropout_prob=0.5)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    PatientLoop(model, loss=image_losses, clip_norm=1.0, example=example())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
