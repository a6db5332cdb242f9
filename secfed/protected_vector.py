"""What one site hands to the sum: everything that may leave it, in one vector with fixed slots.

    [ w * delta | w * buffer delta | w * moments | w | w * training loss | validation sums and counts per modality ]

The vector is what protection hides: the aggregator learns the sum over sites and nothing else, so example counts and
metrics stand here and never in a message header. `w = f(min(n, cap)) / f(cap)` lies in (0, 1].

Runs at both sides: sites pack, the aggregator unpacks the decoded SUM. It does not protect by
itself (privacy.secagg does).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from privacy.fixed_point import Segment, VectorFormat
from privacy.he.parameters import HeParameters
from privacy.noise import plan_noise_tail
from secfed.config import FederationConfig, ProtectionConfig, TrainingPlan
from secfed.parameters import ParameterLayout

BUFFER_LIMIT = 8192.0
"""Largest move of a normalisation statistic in one round; with 32 bits and 100 sites its quantum is 4e-4."""

METRIC_LIMITS: Mapping[str, float] = {
    "train_loss": 64.0,
    "validation_dice_ct": 1024.0,
    "validation_cases_ct": 1024.0,
    "validation_dice_mr": 1024.0,
    "validation_cases_mr": 1024.0,
}
"""Name and largest absolute value of every metric that may travel. Dice sums and counts are bounded by the cases."""


@dataclass(frozen=True, kw_only=True)
class ModelUpdate:
    """A site's contribution before weighting; `delta` has shape (num_parameters,), already clipped.

    `moments` are the optimiser's at the end of the round, not their change; their range is that of clipped gradients.
    """

    delta: npt.NDArray[np.floating]
    buffer_delta: npt.NDArray[np.floating]
    moments: npt.NDArray[np.floating]
    weight: float
    train_loss: float
    validation: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class CohortAverage:
    """The weighted mean over the survivors; all that the aggregator ever learns about a round."""

    delta: npt.NDArray[np.float64]
    buffer_delta: npt.NDArray[np.float64]
    moments: npt.NDArray[np.float64]
    total_weight: float
    metrics: Mapping[str, float]


def example_weight(examples: int, federation: FederationConfig) -> float:
    """FedAvg weight in (0, 1]; raises ValueError for a site without examples."""
    if examples < 1:
        raise ValueError(f"examples must be at least 1, got {examples}")
    capped = min(examples, federation.example_cap)
    if federation.weighting == "uniform":
        return 1.0
    ratio = capped / federation.example_cap
    return math.sqrt(ratio) if federation.weighting == "sqrt_examples" else ratio


def vector_format(layout: ParameterLayout, plan: TrainingPlan, *, cohort_size: int) -> VectorFormat:
    """Slots and ranges of the vector for a cohort of at most `cohort_size` sites, with room for noise."""
    segments = [Segment(name="delta", length=layout.num_parameters, max_abs=delta_limit(plan))]
    if layout.num_buffers:
        segments.append(Segment(name="buffers", length=layout.num_buffers, max_abs=BUFFER_LIMIT))
    if layout.num_moments:
        # AdamW's moments are means of gradients, and of their squares, each clipped to this norm.
        limit = plan.training.gradient_clip_norm
        segments.append(Segment(name="moments", length=layout.num_moments, max_abs=limit))
    segments.append(Segment(name="weight", length=1, max_abs=1.0))
    if not plan.privacy.guarantees:
        # A loss or a score of private cases is a release: a vector that patients are protected in has no place for it.
        segments += [Segment(name=name, length=1, max_abs=limit) for name, limit in METRIC_LIMITS.items()]
    return VectorFormat(
        segments=tuple(segments), max_clients=cohort_size, noise_tail=_noise_tail(plan, layout, cohort_size=cohort_size)
    )


def delta_limit(plan: TrainingPlan) -> float:
    """The largest entry of a weighted delta: the clip on a site's update, or what clipped patients add up to at most.

    With one step per round a site sends sum / (sampling_prob * example_cap); its at most `example_cap` patients give
    at most `clip_norm` each.
    """
    match plan.privacy.mode:
        case "distributed":
            return plan.privacy.clip_norm / plan.privacy.sampling_prob
        case "silo":
            return plan.privacy.clip_norm
        case _:
            return plan.federation.clip_norm


def site_noise(plan: TrainingPlan, *, cohort_size: int) -> float:
    """What every site adds to each entry of the weighted delta that learns, as a standard deviation; 0 without such."""
    privacy = plan.privacy
    if privacy.mode not in ("distributed", "silo") or privacy.noise_multiplier is None:
        return 0.0
    honest = cohort_size - privacy.max_dropouts - privacy.max_colluders
    return privacy.noise_multiplier * sensitivity(plan) / math.sqrt(max(1, honest))


def sensitivity(plan: TrainingPlan) -> float:
    """How far one patient, or in silo mode one site, moves the weighted delta that travels, L2."""
    if plan.privacy.mode == "silo":
        return plan.privacy.clip_norm
    return plan.privacy.clip_norm / (plan.privacy.sampling_prob * plan.federation.example_cap)


def _noise_tail(plan: TrainingPlan, layout: ParameterLayout, *, cohort_size: int) -> int:
    noise = site_noise(plan, cohort_size=cohort_size)
    if not noise:
        return 0
    entries = layout.num_parameters * plan.federation.rounds
    return plan_noise_tail(site_noise=noise, max_abs=delta_limit(plan), sites=cohort_size, entries=entries)


def encryption_parameters(slots: VectorFormat, protection: ProtectionConfig) -> HeParameters:
    """What an encrypted run's vectors are encrypted under: every party computes it, so nobody is offered a weaker one.

    Raises:
        RangeError: more sites than the scheme adds up without error.
    """
    if protection.scheme == "bfv":
        return HeParameters.for_format(slots)
    return HeParameters.approximate(max_clients=max(2, slots.max_clients))


def pack(update: ModelUpdate, *, slots: VectorFormat) -> npt.NDArray[np.float64]:
    """Weight an update and lay it out; shape (slots.length,). Losses are clamped to their limit, not refused.

    Metrics are left out where the vector has no place for them.
    """
    values = np.zeros(slots.length, np.float64)
    np.multiply(update.delta, update.weight, out=values[slots.slice_of("delta")])
    if update.buffer_delta.size:
        values[slots.slice_of("buffers")] = update.weight * update.buffer_delta
    if update.moments.size:
        values[slots.slice_of("moments")] = update.weight * update.moments
    values[slots.slice_of("weight")] = update.weight
    if _has_metrics(slots):
        loss = min(update.train_loss, METRIC_LIMITS["train_loss"])
        values[slots.slice_of("train_loss")] = update.weight * loss
        for name, value in update.validation.items():
            values[slots.slice_of(name)] = value
    return values


def unpack_sum(values: npt.NDArray[np.float64], *, slots: VectorFormat) -> CohortAverage:
    """Read the decoded sum back as weighted means.

    Raises:
        ValueError: the total weight is not positive, so the sum cannot come from honest sites.
    """
    total = float(values[slots.slice_of("weight")][0])
    if not total > 0.0:
        raise ValueError(f"the summed weight is {total}, but every honest site adds a positive weight")
    metrics = {}
    if _has_metrics(slots):
        metrics["train_loss"] = float(values[slots.slice_of("train_loss")][0]) / total
    for modality in ("ct", "mr") if _has_metrics(slots) else ():
        cases = float(values[slots.slice_of(f"validation_cases_{modality}")][0])
        if cases > 0.5:
            dice = float(values[slots.slice_of(f"validation_dice_{modality}")][0])
            metrics[f"validation_dice_{modality}"] = dice / cases
    present = {segment.name for segment in slots.segments}

    def mean(name: str) -> npt.NDArray[np.float64]:
        return values[slots.slice_of(name)] / total if name in present else np.zeros(0)

    return CohortAverage(
        delta=mean("delta"),
        buffer_delta=mean("buffers"),
        moments=mean("moments"),
        total_weight=total,
        metrics=metrics,
    )


def _has_metrics(slots: VectorFormat) -> bool:
    return any(segment.name == "train_loss" for segment in slots.segments)
