"""Segment cases with a model and score them: Dice and HD95 per patient and organ.

Runs at sites for validation, and with whoever started the run for its test sets. Scores are computed on the
preprocessed grid, whole volumes at a time. They are NOT protected here: what leaves a site rides in the masked vector.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch import Tensor, nn

from secfed.config import TrainingPlan
from secfed.data.cases import LABEL_MAPS, LabelMap, Modality
from secfed.data.preprocessing import PreparedCase
from secfed.data.sampling import neighbours
from secfed.errors import DataError
from secfed.metrics import dice_per_class, hd95_per_class
from secfed.model import grid_factor, load_flat
from secfed.network import build_network
from secfed.parameters import FloatVector, ParameterLayout

_DEFAULT_BATCH = 16
_WINDOW_OVERLAP = 0.5


@dataclass(frozen=True, kw_only=True)
class CaseScore:
    """One organ of one case: `dice` 0 to 1 and `hd95_mm`, both NaN where neither labels nor prediction have it."""

    patient: str
    modality: Modality
    organ: str
    dice: float
    hd95_mm: float


def predict(
    model: nn.Module, case: PreparedCase, *, plan: TrainingPlan, device: torch.device, batch_size: int = _DEFAULT_BATCH
) -> npt.NDArray[np.uint8]:
    """Label volume (z, y, x) of a case, by a model on `device`.

    A 2D model segments whole slices, `batch_size` at a time; with context slices each comes with its neighbours, where
    past the end of the volume its outermost slice stands again, as in training. A 3D model slides a window of the
    training patch's size over the volume, with Gaussian weights and half overlap, so that memory does not grow with the
    volume. The model is in evaluation mode during the call and then as before.
    """
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            # A copy, because prepared images are read-only maps, which torch does not accept.
            volume = torch.from_numpy(np.array(case.image, dtype=np.float32))
            segment = _predict_slices if plan.model.dimensions == 2 else _predict_windows
            labels: npt.NDArray[np.uint8] = segment(model, volume, plan, device, batch_size).numpy()
            return labels
    finally:
        model.train(training)


def class_scores(
    model: nn.Module,
    image: npt.NDArray[np.float32],
    *,
    plan: TrainingPlan,
    device: torch.device,
    batch_size: int = _DEFAULT_BATCH,
    on_share: Callable[[float], None] = lambda _: None,
) -> Tensor:
    """The logits (classes, z, y, x) of a prepared image that `predict` chooses its labels by, on the device.

    Everything stays there between two batches, unless the logits of the whole volume would not fit beside the model:
    then they are gathered on the CPU. `on_share` is told after each batch how much of the volume is done, 0 to 1.
    """
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            volume = torch.from_numpy(np.array(image, dtype=np.float32)).to(device)
            gathered = _gathering_device(volume, LABEL_MAPS[plan.task].num_classes)
            if plan.model.dimensions == 2:
                return _slice_logits(model, volume, plan, batch_size, gathered, on_share)
            done, windows = 0, _window_count(volume.shape, plan.training.patch_size)

            def counted(batch: Tensor) -> Tensor:
                nonlocal done
                logits = _logits(model, batch, plan)
                done += len(batch)
                on_share(min(1.0, done / windows))
                return logits

            return _window_logits(counted, volume, plan, batch_size, compute=device, gathered=gathered)
    finally:
        model.train(training)


def evaluate_cases(
    model: nn.Module,
    cases: Iterable[PreparedCase],
    *,
    plan: TrainingPlan,
    device: torch.device,
    batch_size: int = _DEFAULT_BATCH,
) -> list[CaseScore]:
    """Scores of labelled cases, organ by organ in the task's order; an organ that a case did not draw has none.

    Raises:
        DataError: a case has no labels.
    """
    label_map = LABEL_MAPS[plan.task]
    scores = []
    for case in cases:
        prediction = predict(model, case, plan=plan, device=device, batch_size=batch_size)
        scores += score_case(case, prediction, label_map=label_map)
    return scores


def score_case(case: PreparedCase, prediction: npt.NDArray[np.uint8], *, label_map: LabelMap) -> list[CaseScore]:
    """Scores of one prediction (z, y, x), organ by organ in the task's order; those that were not drawn have none.

    Raises:
        DataError: the case has no labels.
    """
    if case.label is None:
        raise DataError(f"{case.patient} has no labels, so no score can be computed")
    dice = dice_per_class(prediction, case.label, label_map.num_classes)
    hd95 = hd95_per_class(prediction, case.label, label_map.num_classes, spacing_mm=case.spacing_mm)
    return [
        CaseScore(
            patient=case.patient,
            modality=case.modality,
            organ=organ,
            dice=float(dice[index]),
            hd95_mm=float(hd95[index]),
        )
        for index, organ in enumerate(label_map.organs)
        if index + 1 not in case.unlabelled
    ]


def mean_dice_by_modality(
    vector: FloatVector,
    layout: ParameterLayout,
    cases: Iterable[PreparedCase],
    *,
    plan: TrainingPlan,
    device: torch.device | None = None,
) -> dict[Modality, tuple[float, int]]:
    """Per modality, the sum over cases of each case's mean Dice, and the number of cases: what sites add up.

    A case's mean is taken over the organs that its labels or its prediction have, those that were not drawn aside; a
    case without any is left out.

    Raises:
        DataError: a case has no labels.
        ValueError: `vector` or `layout` do not fit the plan's model.
    """
    device = torch.device("cpu") if device is None else device
    num_classes = LABEL_MAPS[plan.task].num_classes
    with torch.random.fork_rng(devices=[]):
        model = build_network(plan, num_classes=num_classes).to(device)
    load_flat(model, vector[: layout.model_size], layout.model_layout())
    totals: dict[Modality, tuple[float, int]] = {}
    for case in cases:
        if case.label is None:
            raise DataError(f"{case.patient} has no labels, so no score can be computed")
        dice = dice_per_class(predict(model, case, plan=plan, device=device), case.label, num_classes)
        dice = np.delete(dice, [index - 1 for index in case.unlabelled])
        if not np.isnan(dice).all():
            total, count = totals.get(case.modality, (0.0, 0))
            totals[case.modality] = (total + float(np.nanmean(dice)), count + 1)
    return totals


def _predict_slices(
    model: nn.Module, volume: Tensor, plan: TrainingPlan, device: torch.device, batch_size: int
) -> Tensor:
    padding, inside = _symmetric_padding(volume.shape[1:], grid_factor(plan.model))
    padded = F.pad(volume, padding, value=float(volume.min()))
    parts = []
    for first in range(0, len(padded), batch_size):
        batch = _stacks(padded, first, batch_size, plan).to(device)
        parts.append(_logits(model, batch, plan).argmax(dim=1).to(torch.uint8))
    return torch.cat(parts)[(slice(None), *inside)].cpu()


def _slice_logits(
    model: nn.Module,
    volume: Tensor,
    plan: TrainingPlan,
    batch_size: int,
    gathered: torch.device,
    on_share: Callable[[float], None],
) -> Tensor:
    padding, inside = _symmetric_padding(volume.shape[1:], grid_factor(plan.model))
    padded = F.pad(volume, padding, value=float(volume.min()))
    parts = []
    for first in range(0, len(padded), batch_size):
        logits = _logits(model, _stacks(padded, first, batch_size, plan), plan)
        parts.append(logits[(slice(None), slice(None), *inside)].to(gathered))
        on_share(min(1.0, (first + batch_size) / len(padded)))
    return torch.cat(parts).transpose(0, 1)


def _stacks(volume: Tensor, first: int, count: int, plan: TrainingPlan) -> Tensor:
    """Slices `first` to `first + count` of a volume with their neighbours as channels, (slices, C, y, x)."""
    context, depth = plan.model.context_slices, len(volume)
    if not context:
        return volume[first : first + count, None]
    middle = range(first, min(first + count, depth))
    index = np.stack([neighbours(z, depth=depth, context_slices=context) for z in middle])
    return volume[torch.from_numpy(index).to(volume.device)]


def _predict_windows(
    model: nn.Module, volume: Tensor, plan: TrainingPlan, device: torch.device, batch_size: int
) -> Tensor:
    # The stitched volume of all classes may be larger than a GPU's memory.
    logits = _window_logits(
        lambda windows: _logits(model, windows, plan),
        volume,
        plan,
        batch_size,
        compute=device,
        gathered=torch.device("cpu"),
    )
    return logits.argmax(dim=0).to(torch.uint8)


def _window_logits(
    predictor: Callable[[Tensor], Tensor],
    volume: Tensor,
    plan: TrainingPlan,
    batch_size: int,
    *,
    compute: torch.device,
    gathered: torch.device,
) -> Tensor:
    from monai.inferers import sliding_window_inference

    stitched: Tensor = sliding_window_inference(
        volume[None, None],
        roi_size=plan.training.patch_size,
        sw_batch_size=batch_size,
        predictor=predictor,
        overlap=_WINDOW_OVERLAP,
        mode="gaussian",
        padding_mode="constant",
        cval=float(volume.min()),
        sw_device=compute,
        device=gathered,
    )
    return stitched[0]


def _window_count(lengths: torch.Size, patch: tuple[int, ...]) -> int:
    """How many windows MONAI slides over a volume; a shorter axis is padded to one window."""
    steps = [max(1, int(size * (1 - _WINDOW_OVERLAP))) for size in patch]
    return math.prod(
        1 + math.ceil(max(0, length - size) / step) for length, size, step in zip(lengths, patch, steps, strict=True)
    )


def _gathering_device(volume: Tensor, num_classes: int) -> torch.device:
    if volume.device.type != "cuda":
        return volume.device
    # The logits, the sum of window weights, and as much again while the sum is divided by them.
    needed = 2 * (num_classes + 1) * volume.numel() * volume.element_size()
    free, _ = torch.cuda.mem_get_info(volume.device)
    return volume.device if needed < free // 2 else torch.device("cpu")


def _logits(model: nn.Module, images: Tensor, plan: TrainingPlan) -> Tensor:
    dtype = getattr(torch, plan.training.precision)
    with torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not torch.float32):
        logits: Tensor = model(images)
    return logits.float()


def _symmetric_padding(lengths: torch.Size, factor: int) -> tuple[list[int], tuple[slice, ...]]:
    """Padding for torch's `pad` (last axis first) up to multiples of `factor`, and where the original then lies."""
    padding: list[int] = []
    inside = []
    for length in lengths:
        missing = -length % factor
        before = missing // 2
        padding = [before, missing - before, *padding]
        inside.append(slice(before, before + length))
    return padding, tuple(inside)
