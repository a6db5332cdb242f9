"""What a run's differential privacy costs and allows, before anything runs.

Computed from the plan by the code that sites charge by. It does not look at a site's ledger: `secfed site ledger` does.
"""

from dataclasses import dataclass
from typing import Any

from privacy.accounting import Segment, Spend, steps_left
from privacy.errors import PrivacyError
from secfed.config import RunConfig
from secfed.parameters import ParameterLayout
from secfed.privacy_plan import priced, read_alone, round_cost
from secfed.protected_vector import vector_format
from secfed.site_config import SitePolicy

NO_PRIVACY = "No differential privacy in this plan: no epsilon can be stated."
CLIP_ONLY = "Patients are clipped and no noise is added: no DP, and no epsilon can be stated."


@dataclass(frozen=True, kw_only=True)
class PrivacyPrice:
    """What the run costs a patient if every round is charged once; `trained` parameters get noise."""

    mode: str
    noise_multiplier: float
    trained: int
    per_round: Segment
    rounds: int
    whole: Spend
    alone: bool

    def rounds_under(self, policy: SitePolicy) -> int:
        """How many rounds a site of this policy pays for whose patients have paid nothing yet, at most those asked."""
        fit = steps_left([], per_round=self.per_round, cap_epsilon=policy.max_epsilon, delta=policy.max_delta)
        return min(fit, self.rounds)

    def refusals(self, policy: SitePolicy) -> tuple[str, ...]:
        """What a site of this policy says to the price."""
        try:
            fit = self.rounds_under(policy)
        except PrivacyError as error:
            return (str(error),)
        if fit:
            return ()
        return (f"one round costs more than max_epsilon = {policy.max_epsilon:g} at delta {policy.max_delta:g} allows",)

    def lines(self) -> list[str]:
        """For people."""
        caps = self.whole.attacker(0.01)
        price = (
            f"The whole run costs {self.whole}; mode {self.mode}, noise multiplier {self.noise_multiplier:.4g}, noise "
            f"on {self.trained:,} parameters. A round that is repeated with new noise costs again."
        )
        found = [price, caps.sentence()]
        if self.alone:
            found.append(
                "Single updates may be read here, so each site's own share of the noise is what is counted: masked "
                "runs and, without max_dropouts, encrypted ones cost less."
            )
        return found

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "differential_privacy": True,
            "mode": self.mode,
            "epsilon": self.whole.epsilon,
            "delta": self.whole.delta,
            "unit": self.whole.unit,
            "relation": self.whole.relation,
            "accountant": self.whole.accountant,
            "noise_multiplier": self.noise_multiplier,
            "trained_parameters": self.trained,
            "tpr_at_1_percent_fpr": self.whole.attacker(0.01).tpr,
            "statement": " ".join(self.lines()),
        }


def price_of(config: RunConfig, layout: ParameterLayout) -> tuple[RunConfig, PrivacyPrice | None]:
    """The run with its noise, and its price; None without a guarantee.

    Raises:
        ConfigError: there is no such noise, or it cannot be accounted for.
    """
    if not config.privacy.guarantees:
        return config, None
    from clients.private_contribution import trained_count

    trained, sites = trained_count(config, layout), len(config.sites)
    plan, whole = priced(config.plan(), layout, dimension=trained, sites=sites)
    price = PrivacyPrice(
        mode=plan.privacy.mode,
        noise_multiplier=plan.privacy.noise_multiplier or 0.0,
        trained=trained,
        per_round=round_cost(plan, vector_format(layout, plan, cohort_size=sites), dimension=trained),
        rounds=plan.federation.rounds,
        whole=whole,
        alone=plan.privacy.mode != "local" and read_alone(plan),
    )
    return config.model_copy(update={"privacy": plan.privacy}), price


def statement(config: RunConfig, price: PrivacyPrice | None) -> dict[str, Any]:
    """The part about privacy for --json."""
    if price is not None:
        return price.as_dict()
    text = CLIP_ONLY if config.privacy.mode == "clip_only" else NO_PRIVACY
    return {"differential_privacy": False, "statement": text}
