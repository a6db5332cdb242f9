"""Patient gradients by Opacus: all views of a lot in one pass, and per-sample gradients regrouped by patient.

Run by sites; an independent second opinion on `privacy.patientwise.PatientLoop`, with which it agrees to rounding. The
per-sample gradients come from Opacus's hooks (Yousefpour et al., "Opacus: User-Friendly Differential Privacy Library in
PyTorch", 2021), clipping and sum from privacy.clipped_sum, like the loop's.

It takes several times the memory and time of the loop, and fewer layers: no activations in place, no padding by
reflection (whose gradients Opacus gets wrong without saying so), no layer used twice with a state. Because a wrong
gradient would not show, the backend compares itself with the loop on made-up images before it touches any patient.
"""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from privacy.clipped_sum import ClippedAccumulator, ClippedSum
from privacy.errors import MisuseError
from privacy.patientwise import (
    Loss,
    Patient,
    PatientLoop,
    Views,
    checked_views,
    require_declared,
    trainable_parameters,
)
from privacy.patientwise_checks import drop_gradients, made_up_images

if TYPE_CHECKING:
    from torch import Tensor, nn

# Float32 sums in another order; a wrong gradient is off by its own size.
_AGREEMENT = 1e-3
_NO_BOUND = 1e30


class OpacusHooks:
    """One backward pass for a whole lot; the network must be in training mode."""

    def __init__(self, model: "nn.Module", *, loss: Loss, clip_norm: float, example: Views) -> None:
        """Ask all that the loop asks, then compare with the loop.

        Raises:
            MisuseError: the network or the loss couples patients, or Opacus cannot take its gradients apart.
        """
        # A bound that clips nothing, so that the gradients themselves are compared.
        loop = PatientLoop(model, loss=loss, clip_norm=_NO_BOUND, example=example)
        self.num_params = loop.num_params
        self._model = model
        self._loss = loss
        self._clip_norm = clip_norm
        self._parameters = trainable_parameters(model)
        self._accumulator()
        _require_hookable(model)
        self._compare(loop, example)

    def sum(self, lot: Iterable[Patient]) -> ClippedSum:
        """The sum over a lot; all its views are in memory together.

        Raises:
            MisuseError: as for the loop, or the network is not in training mode, in which the hooks are silent.
        """
        require_declared(self._model, self._parameters)
        if not self._model.training:
            raise MisuseError("the network is in evaluation mode, in which Opacus takes no gradients: call train()")
        total = self._accumulator()
        patients = [checked_views(patient() if callable(patient) else patient) for patient in lot]
        # Some layers cannot take an empty batch, and there is nothing to take gradients of.
        if patients:
            per_view = self._gradients(patients)
            for place in _places([len(images) for images, _ in patients]):
                total.add([views[place].sum(dim=0) for views in per_view])
        return total.result()

    def _gradients(self, patients: list[Views]) -> "list[Tensor]":
        """The gradient of every view's share in its patient's loss, (all views, *shape) per parameter."""
        import torch

        everything = torch.cat([images for images, _ in patients])
        try:
            with _hooks(self._model):
                logits = self._model(everything)
                losses = []
                for place, (images, labels) in zip(_places([len(i) for i, _ in patients]), patients, strict=True):
                    loss = self._loss(logits[place], labels)
                    if loss.shape not in ((), (len(images),)):
                        raise MisuseError(
                            f"the loss of one patient has shape {tuple(loss.shape)}, accepted is () or ({len(images)},)"
                        )
                    losses.append(loss.mean())
                torch.autograd.backward(torch.stack(losses).sum())
                return [_per_view(parameter, len(everything)) for parameter in self._parameters]
        finally:
            drop_gradients(self._parameters)

    def _accumulator(self) -> ClippedAccumulator:
        shapes = [parameter.shape for parameter in self._parameters]
        return ClippedAccumulator(shapes, clip_norm=self._clip_norm, device=self._parameters[0].device)

    def _compare(self, loop: PatientLoop, example: Views) -> None:
        """Two made-up patients by both ways; dropout rests meanwhile, because it would draw differently."""
        import torch

        images, labels = example
        patients = [(made_up_images(images, wave=wave), labels) for wave in (0.37, 1.91)]
        modes = [(module, module.training) for module in self._model.modules()]
        self._model.train()
        for module, _ in modes:
            if isinstance(module, torch.nn.modules.dropout._DropoutNd):
                module.eval()
        try:
            try:
                per_view = self._gradients(patients)
            except RuntimeError as error:
                raise MisuseError(f"Opacus fails on this network, use the loop: {error}") from error
            for place, patient in zip(_places([len(labels)] * 2), patients, strict=True):
                expected = torch.from_numpy(loop.sum([patient]).vector)
                found = torch.cat([views[place].sum(dim=0).flatten() for views in per_view]).cpu()
                worst = float((found - expected).abs().max())
                if not worst <= _AGREEMENT * float(expected.abs().max()):
                    raise MisuseError(
                        f"Opacus's gradients differ from the loop's by {worst:.2g} on made-up images: use the loop here"
                    )
        finally:
            for module, training in modes:
                module.training = training


def _require_hookable(model: "nn.Module") -> None:
    for name, module in model.named_modules():
        layer = f"{name or 'the network'} ({type(module).__name__})"
        if getattr(module, "inplace", False):
            raise MisuseError(f"{layer}: works in place, which destroys what Opacus's hooks need; set inplace=False")
        if getattr(module, "padding_mode", "zeros") != "zeros":
            raise MisuseError(
                f"{layer}: padding_mode = {module.padding_mode!r}, for which Opacus computes wrong gradients; "
                "use 'zeros', or the loop"
            )


def _places(counts: list[int]) -> Iterator[slice]:
    stop = 0
    for count in counts:
        start, stop = stop, stop + count
        yield slice(start, stop)


def _per_view(parameter: "nn.Parameter", views: int) -> "Tensor":
    found: object = getattr(parameter, "grad_sample", None)
    shape = (views, *parameter.shape)
    if getattr(found, "shape", None) != shape:
        raise MisuseError(f"Opacus gave no gradient of shape {shape} for a parameter: use the loop for this network")
    return found  # type: ignore[return-value] # it has a shape, and Opacus hangs tensors there


@contextmanager
def _hooks(model: "nn.Module") -> Iterator[None]:
    """Opacus's hooks on the network, for the time of one pass."""
    from opacus.grad_sample import GradSampleModule

    try:
        # The loss is a sum over patients, so a view's share in it is not to be multiplied by the batch.
        hooked = GradSampleModule(model, loss_reduction="sum", strict=True)
    except (NotImplementedError, ValueError) as error:
        raise MisuseError(f"Opacus refuses this network, use the loop: {error}") from error
    try:
        with warnings.catch_warnings():
            # torch remarks that images need no gradient, which is how it should be.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            yield
    finally:
        hooked.to_standard_module()
        # What a failed pass leaves there are patients' activations.
        for module in model.modules():
            for left in ("activations", "max_batch_len"):
                vars(module).pop(left, None)
