"""The server's step on the averaged update: FedAvg, or FedAvg with momentum; and the average of the models it leads to.

Runs at the aggregator, and wherever its work is checked, on values that every party may know (the decoded mean), in
float64 with one rounding to float32 at the end, so that equal integer sums give equal models bit for bit. Source:
McMahan et al. 2017 (FedAvg); Hsu et al. 2019, arXiv 1909.06335 (FedAvgM); De et al. 2022, arXiv 2204.13650 (a moving
average with a decay that warms up, as post-processing of noisy steps).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from secfed.config import FederationConfig
from secfed.parameters import ParameterLayout
from secfed.protected_vector import CohortAverage


@dataclass(frozen=True, kw_only=True)
class ServerState:
    """The global model, shape (layout.size,), and the momentum, shape (num_parameters,), after `completed` rounds.

    `average` is the moving average of the models, shape (layout.size,); None before the first round and where the plan
    asks for none.
    """

    completed: int
    model: npt.NDArray[np.float32]
    momentum: npt.NDArray[np.float64]
    average: npt.NDArray[np.float32] | None = None

    @classmethod
    def initial(cls, model: npt.NDArray[np.float32], layout: ParameterLayout) -> "ServerState":
        """State before the first round."""
        return cls(completed=0, model=model, momentum=np.zeros(layout.num_parameters))

    @property
    def result(self) -> npt.NDArray[np.float32]:
        """What users get, shape (layout.size,): the average where there is one, else the model."""
        return self.model if self.average is None else self.average


def max_state_bytes(layout: ParameterLayout) -> int:
    """More than a state takes as bytes: model and average in float32, momentum in float64, and what wraps them."""
    return 8 * layout.size + 8 * layout.num_parameters + 1024


def step(
    state: ServerState, average: CohortAverage, *, federation: FederationConfig, layout: ParameterLayout
) -> ServerState:
    """One server step; statistics and shared moments take the plain mean: momentum could make a variance negative.

    FedAvg is v = mean, FedAvgM is v = beta * v + mean; the model moves by server_learning_rate * v. After round t the
    average keeps min(ema_decay, (1 + t) / (10 + t)) of itself and takes the rest from the model.
    """
    beta = federation.server_momentum if federation.server_optimizer == "fedavgm" else 0.0
    velocity = beta * state.momentum + average.delta
    model = state.model.astype(np.float64)
    model[: layout.num_parameters] += federation.server_learning_rate * velocity
    model[layout.num_parameters : layout.model_size] += average.buffer_delta
    model[layout.model_size :] = average.moments
    after = model.astype(np.float32)
    return ServerState(
        completed=state.completed + 1, model=after, momentum=velocity, average=_average(state, after, federation)
    )


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
