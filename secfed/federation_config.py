"""What `[federation]` may hold: rounds, weights, the server's step, and what holds sites together or sets them apart.

`FederationConfig.label` names the method in reports with the settings that make it what it is.
"""

from typing import Annotated, Literal

from pydantic import Field

from secfed.config_table import Decay, NonNegative, Positive, PositiveInt, Table

NormalisationRule = Literal["shared", "fedbn", "silobn", "fednorm"]

NORMALISATION_NAMES: dict[NormalisationRule, str] = {
    "shared": "averaged",
    "fedbn": "FedBN",
    "silobn": "SiloBN",
    "fednorm": "FedNorm",
}
"""As the papers write them: Li et al., ICLR 2021; Andreux et al., DART 2020; Bernecker et al., arXiv 2205.11096."""


class FederationConfig(Table):
    """Rounds, weights and the server's step.

    `clip_norm` bounds the L2 norm of every update, and with it the range of the fixed-point code. Weights are
    w = f(min(n, example_cap)) / f(example_cap) with f the identity, the square root or 1. With an `ema_decay`, users
    get an exponential moving average of the models after each round, which needs no data; training does not see it.
    "fedadam" (Reddi et al., ICLR 2021) divides the momentum by the root of a second moment plus `server_adaptivity`.
    `proximal_mu` is FedProx's (Li et al., MLSys 2020): half of it times the squared distance from the round's start is
    added to the loss. `normalisation` says whose the normalisation layers are: everybody's ("shared"), the site's
    ("fedbn"), the site's statistics under everybody's scales and shifts ("silobn"), or the modality's ("fednorm").
    """

    rounds: PositiveInt = 20
    weighting: Literal["examples", "sqrt_examples", "uniform"] = "examples"
    example_cap: PositiveInt = 1000
    clip_norm: Positive = 30.0
    server_optimizer: Literal["fedavg", "fedavgm", "fedadam"] = "fedavg"
    server_learning_rate: Positive = 1.0
    server_momentum: Decay = 0.0
    server_second_momentum: Decay = 0.99
    server_adaptivity: Positive = 1e-3
    proximal_mu: NonNegative = 0.0
    normalisation: NormalisationRule = "shared"
    ema_decay: Decay = 0.0
    validate_every: Annotated[int, Field(ge=0)] = 0
    min_cohort: PositiveInt = 2
    stage_timeout_seconds: Positive = 600.0

    @property
    def has_momentum(self) -> bool:
        """Whether the server's step looks at its former steps."""
        return self.server_optimizer in ("fedavgm", "fedadam")

    @property
    def has_second_moment(self) -> bool:
        """Whether the server's step looks at the squares of its former steps."""
        return self.server_optimizer == "fedadam"

    def label(self) -> str:
        """The method as reports name it, with the settings that make it what it is."""
        name: str = self.server_optimizer
        told = [] if self.server_learning_rate == 1 else [f"rate {self.server_learning_rate:g}"]
        if self.has_momentum:
            told.append(f"momentum {self.server_momentum:g}")
        if self.has_second_moment:
            told += [f"second {self.server_second_momentum:g}", f"adaptivity {self.server_adaptivity:g}"]
        if self.proximal_mu:
            if name == "fedavg":
                name = "fedprox"
            told.append(f"mu {self.proximal_mu:g}")
        return f"{name} ({', '.join(told)})" if told else name
