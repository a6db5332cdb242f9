"""The server's step on the averaged update: FedAvg, with momentum, or adaptive; and the average of the models so far.

Runs at the aggregator, and wherever its work is checked, on values that every party may know (the decoded mean), in
float64 with one rounding to float32 at the end, so that equal integer sums give equal models bit for bit. Source:
McMahan et al. 2017 (FedAvg); Hsu et al. 2019, arXiv 1909.06335 (FedAvgM); Reddi et al., ICLR 2021, Algorithm 2
(FedAdam); De et al. 2022, arXiv 2204.13650 (a moving average with a decay that warms up, as post-processing of noisy
steps).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from secfed.federation_config import FederationConfig
from secfed.parameters import ParameterLayout
from secfed.protected_vector import CohortAverage


@dataclass(frozen=True, kw_only=True)
class ServerState:
    """The global model, shape (layout.size,), and the momentum, shape (num_parameters,), after `completed` rounds.

    `average` is the moving average of the models, shape (layout.size,), and `second_moment` FedAdam's, shape
    (num_parameters,); both are None before the first round and where the plan asks for none.
    """

    completed: int
    model: npt.NDArray[np.float32]
    momentum: npt.NDArray[np.float64]
    average: npt.NDArray[np.float32] | None = None
    second_moment: npt.NDArray[np.float64] | None = None

    @classmethod
    def initial(cls, model: npt.NDArray[np.float32], layout: ParameterLayout) -> "ServerState":
        """State before the first round."""
        return cls(completed=0, model=model, momentum=np.zeros(layout.num_parameters))

    @property
    def result(self) -> npt.NDArray[np.float32]:
        """What users get, shape (layout.size,): the average where there is one, else the model."""
        return self.model if self.average is None else self.average


def max_state_bytes(layout: ParameterLayout, federation: FederationConfig) -> int:
    """More than a state takes as bytes: model and average in float32, its moments in float64, and what wraps them."""
    moments = 2 if federation.has_second_moment else 1
    return 8 * layout.size + 8 * moments * layout.num_parameters + 1024


def step(
    state: ServerState, average: CohortAverage, *, federation: FederationConfig, layout: ParameterLayout
) -> ServerState:
    """One server step; statistics and shared moments take the plain mean: momentum could make a variance negative.

    So does what is one modality's, the mean over its sites; a modality without a survivor stays where it was.
    FedAvg is m = mean, FedAvgM is m = beta * m + mean; the model moves by server_learning_rate * m. FedAdam is
    m = beta * m + (1 - beta) * mean and v = beta2 * v + (1 - beta2) * mean^2, both from zero and, as in the paper,
    without a correction for that; the model moves by server_learning_rate * m / (sqrt(v) + server_adaptivity). After
    round t the average keeps min(ema_decay, (1 + t) / (10 + t)) of itself and takes the rest from the model.
    """
    momentum, second_moment = _moments(state, average.delta, federation)
    direction = momentum
    if second_moment is not None:
        direction = momentum / (np.sqrt(second_moment) + federation.server_adaptivity)
    model = state.model.astype(np.float64)
    model[: layout.num_parameters] += federation.server_learning_rate * direction
    model[layout.num_parameters : layout.model_size] += average.buffer_delta
    model[layout.model_size : layout.shared_size] = average.moments
    for modality, mean in average.sets.items():
        place, moments = layout.set_of(modality), layout.count("moment", modality)
        moved = slice(place.start, place.stop - moments)
        model[moved] += mean[: len(mean) - moments]
        model[moved.stop : place.stop] = mean[len(mean) - moments :]
    after = model.astype(np.float32)
    return ServerState(
        completed=state.completed + 1,
        model=after,
        momentum=momentum,
        average=_average(state, after, federation),
        second_moment=second_moment,
    )


def _moments(
    state: ServerState, mean: npt.NDArray[np.float64], federation: FederationConfig
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64] | None]:
    beta = federation.server_momentum if federation.has_momentum else 0.0
    if not federation.has_second_moment:
        return beta * state.momentum + mean, None
    second = np.zeros_like(mean) if state.second_moment is None else state.second_moment
    beta2 = federation.server_second_momentum
    return beta * state.momentum + (1 - beta) * mean, beta2 * second + (1 - beta2) * mean**2


def _average(
    state: ServerState, after: npt.NDArray[np.float32], federation: FederationConfig
) -> npt.NDArray[np.float32] | None:
    if not federation.ema_decay:
        return None
    completed = state.completed + 1
    kept = min(federation.ema_decay, (1 + completed) / (10 + completed))
    mixed = kept * state.result.astype(np.float64) + (1 - kept) * after.astype(np.float64)
    averaged: npt.NDArray[np.float32] = mixed.astype(np.float32)
    return averaged
