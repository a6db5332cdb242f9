"""Gradients patient by patient: the sum over a lot of what each person's images say, nobody louder than the clip norm.

Run by sites. For each patient of the lot, g_i is the gradient of the mean loss over all images given for that patient:
P patches, each in K augmented views. It is clipped to C and added (privacy.clipped_sum). Views that are averaged before
clipping cost no privacy, because clipping bounds the patient whatever they were (De et al., "Unlocking High-Accuracy
Differentially Private Image Classification through Scale", 2022).

`PatientLoop` takes one patient at a time: any layer, and memory that does not grow with the lot. Another backend behind
the same interface is `privacy.opacus_backend`.

What it does not do: it adds no noise and charges no budget. It cannot see what a patient's images were made from: two
persons mixed into one image count as one. Randomness of views and dropout must not depend on other patients' images.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, TypeAlias

from privacy.clipped_sum import ClippedAccumulator, ClippedSum
from privacy.errors import MisuseError
from privacy.patientwise_checks import drop_gradients, require_own_gradient, require_patientwise

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Views: TypeAlias = "tuple[Tensor, Tensor]"
"""One patient's images (views, channels, *spatial) and labels (views, *spatial), on the model's device."""

Patient: TypeAlias = "Views | Callable[[], Views]"
"""Views, or what makes them; a callable keeps only one patient's images in memory."""

Loss: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"
"""From the logits and labels of ONE patient, (views, ...) each, to a scalar, or to a loss of each view (views,)."""

# Small enough for the first steps of a network in float16. It is fixed: one that reacts to overflow would let a
# patient's images choose the rounding of the next patient's gradient.
FLOAT16_SCALE = 1024.0


class PatientGradients(Protocol):
    """What turns a lot of patients into the sum of their clipped gradients."""

    num_params: int

    def sum(self, lot: Iterable[Patient]) -> ClippedSum:
        """The sum over a lot, which may be empty; `vector` is over the parameters that can be trained, in order."""
        ...


class PatientLoop:
    """One backward pass per patient.

    `precision` "bfloat16" or "float16" computes activations in it, float16 with a fixed loss scale that is taken out
    before anything is measured. `views_at_once` cuts a patient's views into passes of so many; the loss must then give
    one value per view. The declared parameters are those with requires_grad when the loop is made.
    """

    def __init__(
        self,
        model: "nn.Module",
        *,
        loss: Loss,
        clip_norm: float,
        example: Views,
        precision: "torch.dtype | None" = None,
        views_at_once: int | None = None,
    ) -> None:
        """Ask the network all questions of `patientwise_checks`; `example` has a patient's shapes and nobody's images.

        Raises:
            MisuseError: the network or the loss couples patients, or an argument is not accepted.
        """
        if views_at_once is not None and views_at_once < 1:
            raise MisuseError(f"views_at_once = {views_at_once} must be at least 1")
        require_patientwise(model)
        self._model = model
        self._loss = loss
        self._clip_norm = clip_norm
        self._precision = precision
        self._views_at_once = views_at_once
        self._parameters = trainable_parameters(model)
        self.num_params = sum(parameter.numel() for parameter in self._parameters)
        self._accumulator()
        images, labels = (tensor[:views_at_once] for tensor in checked_views(example))

        def loss_of(made_up: "Tensor") -> "Tensor":
            return self._mean_loss(made_up, labels[: len(made_up)], of=len(made_up))

        require_own_gradient(model, loss_of, images=images)

    def sum(self, lot: Iterable[Patient]) -> ClippedSum:
        """The sum over a lot; gradients that the parameters held before are dropped.

        Raises:
            MisuseError: a patient's views or loss have another shape than agreed, or what is trainable has changed.
        """
        import torch

        require_declared(self._model, self._parameters)
        total = self._accumulator()
        scale = FLOAT16_SCALE if self._precision is torch.float16 else 1.0
        try:
            for patient in lot:
                drop_gradients(self._parameters)
                images, labels = checked_views(patient() if callable(patient) else patient)
                step = self._views_at_once or len(images)
                for start in range(0, len(images), step):
                    part = slice(start, start + step)
                    loss = self._mean_loss(images[part], labels[part], of=len(images))
                    torch.autograd.backward(loss * scale)
                total.add([_gradient(parameter) for parameter in self._parameters], scale=scale)
        finally:
            drop_gradients(self._parameters)
        return total.result()

    def _mean_loss(self, images: "Tensor", labels: "Tensor", *, of: int) -> "Tensor":
        """This part's share of the mean over all of a patient's `of` views."""
        with autocast(self._precision, images.device):
            logits = self._model(images)
        loss = self._loss(logits, labels)
        if loss.shape == (len(images),):
            return loss.sum() / of
        if loss.shape == () and self._views_at_once is None:
            return loss
        accepted = f"({len(images)},)" if self._views_at_once else f"() or ({len(images)},)"
        raise MisuseError(f"the loss of one patient has shape {tuple(loss.shape)}, accepted is {accepted}")

    def _accumulator(self) -> ClippedAccumulator:
        shapes = [parameter.shape for parameter in self._parameters]
        return ClippedAccumulator(shapes, clip_norm=self._clip_norm, device=self._parameters[0].device)


def trainable_parameters(model: "nn.Module") -> "list[nn.Parameter]":
    """The declared parameters, in the order of the vector."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def require_declared(model: "nn.Module", parameters: "list[nn.Parameter]") -> None:
    """Raise MisuseError where others are trainable now: the places in the vector would have shifted."""
    if [id(parameter) for parameter in trainable_parameters(model)] != [id(parameter) for parameter in parameters]:
        raise MisuseError("which parameters are trainable has changed since this backend was made: make another one")


def checked_views(views: Views) -> Views:
    """The same views.

    Raises:
        MisuseError: there is none, or images and labels are not equally many.
    """
    images, labels = views
    if not len(images) or len(images) != len(labels):
        raise MisuseError(f"a patient has {len(images)} images and {len(labels)} labels: give one label per image")
    return images, labels


def autocast(precision: "torch.dtype | None", device: "torch.device") -> AbstractContextManager[object]:
    """The network's arithmetic; None and float32 leave it as it is."""
    import torch

    lowered = precision not in (None, torch.float32)
    return torch.autocast(device.type, dtype=precision, enabled=lowered)


def _gradient(parameter: "nn.Parameter") -> "Tensor":
    """Zero where this patient's loss did not reach the parameter; stopping here would tell that there is such a one."""
    return parameter.new_zeros(parameter.shape) if parameter.grad is None else parameter.grad
