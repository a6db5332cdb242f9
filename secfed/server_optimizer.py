"""The server's step on the averaged update: FedAvg, or FedAvg with momentum.

Runs at the aggregator, and wherever its work is checked, on values that every party may know (the decoded mean), in
float64 with one rounding to float32 at the end, so that equal integer sums give equal models bit for bit. Source:
McMahan et al. 2017 (FedAvg); Hsu et al. 2019, arXiv 1909.06335 (FedAvgM).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from secfed.config import FederationConfig
from secfed.parameters import ParameterLayout
from secfed.protected_vector import CohortAverage


@dataclass(frozen=True, kw_only=True)
class ServerState:
    """The global model, shape (layout.size,), and the momentum, shape (num_parameters,), after `completed` rounds."""

    completed: int
    model: npt.NDArray[np.float32]
    momentum: npt.NDArray[np.float64]

    @classmethod
    def initial(cls, model: npt.NDArray[np.float32], layout: ParameterLayout) -> "ServerState":
        """State before the first round."""
        return cls(completed=0, model=model, momentum=np.zeros(layout.num_parameters))


def step(
    state: ServerState, average: CohortAverage, *, federation: FederationConfig, layout: ParameterLayout
) -> ServerState:
    """One server step; statistics and shared moments take the plain mean: momentum could make a variance negative.

    FedAvg is v = mean, FedAvgM is v = beta * v + mean; the model moves by server_learning_rate * v.
    """
    beta = federation.server_momentum if federation.server_optimizer == "fedavgm" else 0.0
    velocity = beta * state.momentum + average.delta
    model = state.model.astype(np.float64)
    model[: layout.num_parameters] += federation.server_learning_rate * velocity
    model[layout.num_parameters : layout.model_size] += average.buffer_delta
    model[layout.model_size :] = average.moments
    return ServerState(completed=state.completed + 1, model=model.astype(np.float32), momentum=velocity)
