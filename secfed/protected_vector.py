"""What one site hands to the sum: everything that may leave it, in one vector with fixed slots.

    [ w * delta | w * buffer delta | w * moments | w | the same four per modality | w * training loss | validation ]

The vector is what protection hides: the aggregator learns the sum over sites and nothing else, so example counts and
metrics stand here and never in a message header. `w = f(min(n, cap)) / f(cap)` lies in (0, 1]. Where a modality has
normalisation layers of its own (secfed.modality_sets), its sites fill the four parts of their modality and leave those
of the others at zero: whoever sees the sum learns the sum and the summed weight per modality, and where one site of a
modality is in it, that site's.

Runs at both sides: sites pack, the aggregator unpacks the decoded SUM. It does not protect by
itself (privacy.secagg does).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
import numpy.typing as npt

from privacy.fixed_point import Segment, VectorFormat
from privacy.he.layout import Envelope
from privacy.he.parameters import HeParameters
from privacy.noise import plan_noise_tail
from secfed.config import ModalityName, ProtectionConfig, TrainingPlan
from secfed.federation_config import FederationConfig
from secfed.parameters import ParameterLayout, TensorKind

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

_PARTS: Mapping[TensorKind, str] = {"parameter": "delta", "buffer": "buffers", "moment": "moments"}


@dataclass(frozen=True, kw_only=True)
class ModelUpdate:
    """A site's contribution before weighting; `delta` has shape (num_parameters,), already clipped.

    `moments` are the optimiser's at the end of the round, not their change; their range is that of clipped gradients.
    `sets` has what is the site's modality's: its delta, its buffers' and its moments behind one another.
    """

    delta: npt.NDArray[np.floating]
    buffer_delta: npt.NDArray[np.floating]
    moments: npt.NDArray[np.floating]
    weight: float
    train_loss: float
    validation: Mapping[str, float]
    sets: Mapping[ModalityName, npt.NDArray[np.floating]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CohortAverage:
    """The weighted mean over the survivors; all that the aggregator ever learns about a round.

    `sets` has the mean over the survivors of each modality that has some, and layers of its own.
    """

    delta: npt.NDArray[np.float64]
    buffer_delta: npt.NDArray[np.float64]
    moments: npt.NDArray[np.float64]
    total_weight: float
    metrics: Mapping[str, float]
    sets: Mapping[ModalityName, npt.NDArray[np.float64]] = field(default_factory=dict)


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
    kinds: tuple[tuple[TensorKind, float], ...] = (
        ("parameter", delta_limit(plan)),
        ("buffer", BUFFER_LIMIT),
        # AdamW's moments are means of gradients, and of their squares, each clipped to this norm.
        ("moment", plan.training.gradient_clip_norm),
    )
    segments = []
    for modality in (None, *layout.modalities):
        lengths = [(_PARTS[kind], layout.count(kind, modality), limit) for kind, limit in kinds]
        segments += [
            Segment(name=_slot(name, modality), length=length, max_abs=limit)
            for name, length, limit in [*lengths, ("weight", 1, 1.0)]
            if length
        ]
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


def upload_bytes(layout: ParameterLayout, plan: TrainingPlan, *, cohort_size: int) -> int:
    """One site's vector as it travels: 4 bytes an entry, or whole ciphertexts.

    Raises:
        RangeError: more sites than the protection adds up without error.
    """
    slots = vector_format(layout, plan, cohort_size=cohort_size)
    if plan.protection.mode != "encrypted":
        return 4 * slots.length
    return message_bytes(encryption_parameters(slots, plan.protection), slots.length)


def message_bytes(parameters: HeParameters, entries: int) -> int:
    """The size of every encrypted message with so many entries, upload or sum."""
    return Envelope(parameters=parameters, fingerprint=bytes(32), length=entries).message_bytes


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
    for modality, own in update.sets.items():
        values[_set_place(slots, modality)] = update.weight * own
        values[slots.slice_of(_slot("weight", modality))] = update.weight
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
        sets={
            modality: found
            for modality in get_args(ModalityName)
            if (found := _mean_set(values, slots, modality)) is not None
        },
    )


def _mean_set(
    values: npt.NDArray[np.float64], slots: VectorFormat, modality: ModalityName
) -> npt.NDArray[np.float64] | None:
    """None where the vector has no set for the modality, or no site of it is in the sum."""
    name = _slot("weight", modality)
    if all(segment.name != name for segment in slots.segments):
        return None
    weight = float(values[slots.slice_of(name)][0])
    if weight < 0.0:
        raise ValueError(f"the summed weight of {modality} is {weight}, but every honest site adds a positive weight")
    return values[_set_place(slots, modality)] / weight if weight else None


def _set_place(slots: VectorFormat, modality: ModalityName) -> slice:
    """Where the modality's parts stand, which follow one another."""
    names = {_slot(part, modality) for part in _PARTS.values()}
    places = [slots.slice_of(segment.name) for segment in slots.segments if segment.name in names]
    return slice(places[0].start, places[-1].stop)


def _slot(part: str, modality: ModalityName | None) -> str:
    return part if modality is None else f"{part}_{modality.lower()}"


def _has_metrics(slots: VectorFormat) -> bool:
    return any(segment.name == "train_loss" for segment in slots.segments)
