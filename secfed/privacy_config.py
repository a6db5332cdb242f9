"""What `[privacy]` may hold: the mode of differential privacy and what it costs.

What a mode refuses in other tables stands with the plan that holds them all (secfed.config).
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from secfed.config_table import Positive, PositiveInt, Table

PrivacyMode = Literal["off", "clip_only", "local", "distributed", "silo"]
TrainableSet = Literal["all", "decoder", "norm+head", "head", "lora"]


class PrivacyConfig(Table):
    """Differential privacy per patient (docs/differential-privacy.md); "off" and "clip_only" give none.

    Patients are sampled with `sampling_prob`; each one's gradient over `patches` patches with `views` augmented views
    each is clipped to `clip_norm`. "local" adds noise to every local step at every site, "distributed" a share of it at
    every site to the one step of a round, "silo" to a site's whole update, which `clip_norm` bounds then. The noise on
    a sum has `noise_multiplier` times `clip_norm` as its standard deviation; or give the `epsilon` that the whole run
    may spend at `delta`, which defaults to the smaller of 1e-5 and 1 / (10 `patients`). `patients` is the public number
    of all training patients; a round that loses more than `max_dropouts` sites stops before anything is opened, and the
    guarantee holds against `max_colluders` sites that tell what noise they added. Only the `trainable` part learns.
    """

    mode: PrivacyMode = "off"
    noise_multiplier: Positive | None = None
    epsilon: Positive | None = None
    delta: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    patients: PositiveInt | None = None
    sampling_prob: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    clip_norm: Positive = 1.0
    patches: PositiveInt = 4
    views: PositiveInt = 2
    max_dropouts: Annotated[int, Field(ge=0)] = 0
    max_colluders: Annotated[int, Field(ge=0)] = 0
    trainable: TrainableSet = "all"

    @property
    def guarantees(self) -> bool:
        """Whether the mode adds noise, so that there is an epsilon."""
        return self.mode in ("local", "distributed", "silo")

    @model_validator(mode="after")
    def _noise(self) -> Self:
        given = [name for name in ("noise_multiplier", "epsilon") if getattr(self, name) is not None]
        if not self.guarantees:
            if given:
                raise ValueError(f"mode = '{self.mode}' adds no noise, so {' and '.join(given)} would mean nothing")
            return self
        if len(given) != 1:
            raise ValueError(f"mode = '{self.mode}' needs exactly one of noise_multiplier and epsilon")
        if self.delta is None and self.patients is None:
            raise ValueError("give delta, or patients, from which it is derived: min(1e-5, 1 / (10 patients))")
        return self

    @property
    def resolved_delta(self) -> float:
        """The delta of the run; 0 in modes without one."""
        if self.delta is not None:
            return self.delta
        return min(1e-5, 1 / (10 * self.patients)) if self.guarantees and self.patients else 0.0
