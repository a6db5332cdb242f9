"""From trained weights to protected integers: the whole pipeline of a site's update on one page.

    weights - start            delta, per parameter; normalisation statistics apart; what stays at the site becomes zero
    -> clip                    L2 norm at most clip_norm, so that every entry fits the fixed-point range
    -> set apart               the normalisation layers that are the modality's, with zero in their place
    -> weight, lay out         w * delta, w, metrics: one vector, nothing beside it
    -> fixed point             signed integers modulo 2^32, stochastic rounding from a keyed stream
    -> protect                 the caller masks the integers (privacy.secagg.client) or, in plain mode, sends them

Integers are the same whatever the protection, so the model is too. Runs at a site. Clipping here bounds the range; it
is not differential privacy, because no noise is added.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from privacy.clipping import clip_by_l2_norm
from privacy.fixed_point import VectorFormat, encode
from privacy.streams import Keystream, derive_key
from secfed.config import ModalityName, TrainingPlan
from secfed.parameters import ParameterLayout
from secfed.protected_vector import BUFFER_LIMIT, ModelUpdate, pack


@dataclass(frozen=True, kw_only=True)
class TrainedRound:
    """What local training hands over: weights of shape (layout.shared_size,) and what may be told about them.

    The positions `own` of them are not everybody's: with a `modality` they are that one's, without they stay here.
    """

    start: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]
    own: npt.NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, np.intp))
    modality: ModalityName | None = None
    example_weight: float
    train_loss: float
    validation: Mapping[str, float]


def encode_update(
    trained: TrainedRound, *, plan: TrainingPlan, layout: ParameterLayout, slots: VectorFormat, rounding: Keystream
) -> npt.NDArray[np.uint32]:
    """Integers of one update, shape (slots.length,).

    Raises:
        RangeError: a value does not fit its slot; nothing is wrapped and nothing leaves the site.
    """
    parameters, buffers = slice(layout.num_parameters), slice(layout.num_parameters, layout.model_size)
    moments = slice(layout.model_size, layout.shared_size)
    values = trained.weights.astype(np.float64)
    # Moments travel as they are, not how far they moved.
    values[: layout.model_size] -= trained.start[: layout.model_size]
    if trained.modality is None:
        values[trained.own] = 0.0
    values[parameters] = clip_by_l2_norm(values[parameters], bound=plan.federation.clip_norm).values
    # A statistic that leaves its range is clamped like the delta is clipped: training may go on, and the integers stay
    # inside what the range analysis covers.
    values[buffers] = np.clip(values[buffers], -BUFFER_LIMIT, BUFFER_LIMIT)
    # Inside the range but for rounding: gradients are clipped to this norm before the optimiser sees them.
    limit = plan.training.gradient_clip_norm
    values[moments] = np.clip(values[moments], -limit, limit)
    sets = {} if trained.modality is None else {trained.modality: values[trained.own]}
    values[trained.own] = 0.0
    update = ModelUpdate(
        delta=values[parameters],
        buffer_delta=values[buffers],
        moments=values[moments],
        sets=sets,
        weight=trained.example_weight,
        train_loss=trained.train_loss,
        validation=trained.validation,
    )
    return encode(pack(update, slots=slots), vector_format=slots, rounding=rounding)


def rounding_stream(key: bytes, *, plan: TrainingPlan, server_round: int) -> Keystream:
    """The stream for stochastic rounding: one per site key, plan and round, so that a rerun gives the same integers.

    How updates travel is left out of the plan here, because integers must not depend on it.
    """
    context: dict[str, bytes | int | str] = {"plan": plan.unprotected_digest(), "round": server_round}
    return Keystream(derive_key(key, label="stochastic rounding", context=context))
