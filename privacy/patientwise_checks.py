"""What a network must not do where each patient's gradient is to be that patient's alone; asked before any is touched.

Run by sites. Two kinds of question: `require_patientwise` looks at the layers by name, and `require_own_gradient` runs
loss and gradient on made-up images, which finds state that any layer carries from one call to the next, whatever it is
called. Dropout is allowed: it draws without looking at the images.

A network that keeps state only sometimes passes both, so layers of unknown origin want reading.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from privacy.errors import MisuseError

if TYPE_CHECKING:
    import torch
    from torch import nn

# Kernels of a GPU may add in another order from call to call; state that is carried over changes far more.
_TOLERANCE = 1e-4
# Others of two loudnesses are shown, because what one of them leaves behind can cancel in one loss.
_LOUD = 30.0
# Views of the patient that others are shown between: few, because all this is asked in every round.
_VIEWS = 2
# Backward kernels too, in bfloat16 as well; of the largest entry of all, because some parameters' are rounding only.
_GRADIENT_TOLERANCE = 1e-2


def require_patientwise(model: "nn.Module") -> None:
    """Refuse layers that mix the images of a batch, or remember them.

    Raises:
        MisuseError: batch normalisation, running statistics of any kind, or nothing to train; the message names the
            layer.
    """
    import torch

    for name, module in model.named_modules():
        layer = f"{name or 'the network'} ({type(module).__name__})"
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            raise MisuseError(f"{layer}: batch normalisation mixes patients; use instance or group normalisation")
        if getattr(module, "track_running_stats", False) or getattr(module, "running_mean", None) is not None:
            raise MisuseError(
                f"{layer}: keeps running statistics, which carry one patient into the next one's gradient"
            )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise MisuseError("the network has no trainable parameter, so there is no gradient to take")


def require_own_gradient(
    model: "nn.Module", loss_of: "Callable[[torch.Tensor], torch.Tensor]", *, images: "torch.Tensor"
) -> None:
    """Refuse a network whose loss or gradient on the same images changes after it saw others, or misses a parameter.

    `loss_of` maps images to a scalar through the model; of `images`, only shape, dtype and device matter. Gradients
    that the parameters hold are dropped; torch's global generators are left as they were.

    Raises:
        MisuseError: a buffer changed, loss or gradient depend on earlier calls, or a trainable parameter has none.
    """
    import torch

    few = images[:_VIEWS]
    one, other = made_up_images(few, wave=0.37), made_up_images(few, wave=1.91)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    devices = [images.device] if images.device.type == "cuda" else []

    def evaluate(given: torch.Tensor, *, gradient: bool) -> torch.Tensor:
        # Each call starts from the generators' state outside, so dropout falls on the same places.
        with torch.random.fork_rng(devices=devices), torch.set_grad_enabled(gradient):
            return loss_of(given)

    def gradient_of(loss: torch.Tensor) -> torch.Tensor:
        drop_gradients(parameters.values())
        torch.autograd.backward(loss)
        if unreached := [name for name, parameter in parameters.items() if parameter.grad is None]:
            raise MisuseError(f"{', '.join(unreached)}: trainable, but the loss does not reach them; freeze them")
        return torch.cat([p.grad.detach().flatten().float() for p in parameters.values() if p.grad is not None])

    evaluate(made_up_images(images, wave=0.37), gradient=False)
    first = evaluate(one, gradient=False)
    evaluate(_LOUD * other, gradient=False)
    loss = evaluate(one, gradient=True)
    for name, buffer in model.named_buffers():
        if name not in before or not torch.equal(before[name], buffer):
            raise MisuseError(
                f"{name}: this buffer changes in the forward pass, which carries one patient into the next"
            )
    _require_unchanged(first, loss.detach(), "loss", within=_TOLERANCE)
    if not loss.requires_grad:
        raise MisuseError("the loss has no gradient: it must come from the network's output, without detaching it")
    try:
        own = gradient_of(loss)
        gradient_of(evaluate(other, gradient=True))
        loss = evaluate(one, gradient=True)
        _require_unchanged(first, loss.detach(), "loss", within=_TOLERANCE)
        _require_unchanged(own, gradient_of(loss), "gradient", within=_GRADIENT_TOLERANCE)
    finally:
        drop_gradients(parameters.values())


def _require_unchanged(before: "torch.Tensor", after: "torch.Tensor", what: str, *, within: float) -> None:
    """Of the largest entry; what is not finite must be the same."""
    import torch

    allowed = within * float(before.nan_to_num(0.0, 0.0, 0.0).abs().max())
    if not torch.allclose(before, after, rtol=0, atol=allowed, equal_nan=True):
        raise MisuseError(
            f"the {what} of the same images changed after others were seen: something carries patients over"
        )


def made_up_images(images: "torch.Tensor", *, wave: float) -> "torch.Tensor":
    """A smooth pattern in the shape, dtype and device of `images`, which belongs to nobody."""
    import torch

    steps = torch.arange(images.numel(), device=images.device, dtype=torch.float32)
    return torch.sin(wave * steps + 1e-3 * wave * steps.sqrt()).view(images.shape).to(images.dtype)


def drop_gradients(parameters: "Iterable[nn.Parameter]") -> None:
    """Let go of what backward passes left, so that the next one allocates only what it needs."""
    for parameter in parameters:
        parameter.grad = None
