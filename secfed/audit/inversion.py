"""Images from a gradient, and how close they come: the tool that gradient inversion and trap weights share.

Run by the attacker, who knows the model (it sent it) and, in its good case, the labels. Source: Geiping et al.,
"Inverting Gradients", NeurIPS 2020: search the image whose gradient points where the seen one does, by cosine
similarity, with total variation as the prior. Zhu et al., "Deep Leakage from Gradients", NeurIPS 2019, came first.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import ndimage

if TYPE_CHECKING:
    from torch import nn

Images = npt.NDArray[np.float64]

_SSIM_WINDOW = 7


@dataclass(frozen=True, kw_only=True)
class Search:
    """How long and how smooth the attacker searches; `total_variation` weighs smoothness against the gradient."""

    steps: int = 400
    learning_rate: float = 0.05
    total_variation: float = 3e-3


def invert(
    model: "nn.Module",
    gradient: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    *,
    seed: int,
    search: Search,
    used: npt.NDArray[np.bool_] | None = None,
) -> Images:
    """Images (B, rows, columns), each with mean 0 and deviation 1, whose mean loss has the gradient (num_parameters,).

    `labels` has shape (B, rows, columns); `used` names the entries of the gradient that count, all by default. The
    scale of the gradient is not used, and networks with instance normalisation hide the scale of the image too, but
    sites normalise their volumes, so the attacker knows it.
    """
    import torch

    from clients.loss import losses_per_image

    parameters = list(model.parameters())
    kept = slice(None) if used is None else torch.from_numpy(np.flatnonzero(used))
    target = torch.from_numpy(np.array(gradient, np.float32))[kept]
    # A tiny gradient says as much as a large one, but its square must not vanish in float32. A gradient of nothing but
    # zeros leaves the prior alone.
    target = target / target.norm().clamp(min=1e-30)
    classes = torch.from_numpy(np.array(labels, np.int64))
    generator = torch.Generator().manual_seed(seed)
    images = (0.3 * torch.randn(len(labels), 1, *labels.shape[1:], generator=generator)).requires_grad_()
    optimizer = torch.optim.Adam([images], lr=search.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, search.steps)
    for _ in range(search.steps):
        losses = losses_per_image(model(images), classes, dice_weight=1.0, cross_entropy_weight=1.0, class_weights=None)
        found = torch.autograd.grad(losses.mean(), parameters, create_graph=True)
        own = torch.cat([part.flatten() for part in found])[kept]
        distance = 1 - (own @ target) / own.norm().clamp(min=1e-12)
        rough = (images[..., 1:, :] - images[..., :-1, :]).abs().mean()
        rough = rough + (images[..., 1:] - images[..., :-1]).abs().mean()
        (images.grad,) = torch.autograd.grad(distance + search.total_variation * rough, [images])
        optimizer.step()
        schedule.step()
    result: Images = images.detach()[:, 0].double().numpy()
    result -= result.mean(axis=(1, 2), keepdims=True)
    result /= np.maximum(result.std(axis=(1, 2), keepdims=True), 1e-12)
    return result


def psnr_db(found: Images, truth: Images) -> float:
    """Peak signal to noise ratio of one image in dB; the peak is the range of the truth."""
    error = float(np.square(found - truth).mean())
    return float(10 * np.log10(np.square(np.ptp(truth)) / max(error, 1e-20)))


def ssim(found: Images, truth: Images) -> float:
    """Structural similarity, mean over all windows of 7 x 7 (Wang et al., IEEE TIP 2004); 1 for equal images."""
    border = _SSIM_WINDOW // 2

    def local(values: Images) -> Images:
        mean: Images = ndimage.uniform_filter(values, _SSIM_WINDOW)[border:-border, border:-border]
        return mean

    mean_found, mean_truth = local(found), local(truth)
    variance = local(found**2) - mean_found**2 + local(truth**2) - mean_truth**2
    covariance = local(found * truth) - mean_found * mean_truth
    peak = float(np.ptp(truth))
    small, smaller = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    luminance = (2 * mean_found * mean_truth + small) / (mean_found**2 + mean_truth**2 + small)
    return float((luminance * (2 * covariance + smaller) / (variance + smaller)).mean())
