"""Who would refuse a plan, and why: the checks of every site, asked before anybody is.

Run by whoever plans a run, or by a site that was asked to take part. Policies and thresholds are judged by the same
code that sites run (secfed.site_config, privacy.secagg.client_state). A site may still refuse later, because of its
data, its roster or what an aggregator sends.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from privacy.errors import MisuseError
from privacy.secagg.client_state import ClientFloors
from secfed.config import RunConfig
from secfed.errors import ConfigError, PolicyRefusal
from secfed.experiment.checks import class_weights_problem
from secfed.parameters import ParameterLayout
from secfed.preflight.privacy import PrivacyPrice
from secfed.preflight.quorum import Quorum
from secfed.site_config import Computing, DeviceName, SiteFile, SitePolicy

_SPLIT = {
    "masked": "open single updates",
    "encrypted": "split the sites into two groups that step on different sums",
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Why something would be refused, and the exit code that goes with it (secfed.errors)."""

    reason: str
    exit_code: int


@dataclass(frozen=True, kw_only=True)
class SiteVerdict:
    """What one site's own policy says to the plan; `refusals` is empty where it would take part.

    `device` and `computing` are what it trains on.
    """

    name: str
    in_run: bool
    policy: SitePolicy
    device: DeviceName
    computing: Computing
    refusals: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "name": self.name,
            "in_run": self.in_run,
            "policy": self.policy.model_dump(mode="json"),
            "device": self.device,
            **self.computing.model_dump(mode="json"),
            "takes_part": not self.refusals,
            "refusals": list(self.refusals),
        }


def policy_refusals(
    policy: SitePolicy, config: RunConfig, layout: ParameterLayout, *, threshold: int | None
) -> tuple[str, ...]:
    """What a site of this policy would not accept: the checks that sites make when they join and in every round."""
    sites = len(config.sites)

    def check_threshold() -> None:
        if threshold is None:
            return
        lowest = ClientFloors(min_cohort=policy.min_cohort, min_threshold=policy.min_threshold).threshold_for(sites)
        if threshold < lowest:
            raise PolicyRefusal(
                f"threshold {threshold} of {sites} sites, but {lowest} is the least here (min_threshold)"
            )

    rules: tuple[Callable[[], None], ...] = (
        lambda: policy.check_plan(config, num_parameters=layout.num_parameters),
        lambda: policy.check_cohort(sites),
        check_threshold,
    )
    refusals = []
    for rule in rules:
        try:
            rule()
        except (PolicyRefusal, MisuseError) as error:
            refusals.append(str(error))
    return tuple(refusals)


def _computing_refusals(computing: Computing, config: RunConfig) -> tuple[str, ...]:
    try:
        computing.check_plan(config)
    except PolicyRefusal as error:
        return (str(error),)
    return ()


def plan_refusals(
    config: RunConfig, layout: ParameterLayout, quorum: Quorum, *, classes: int, of_every_site: bool
) -> list[Finding]:
    """What stops the plan itself; `of_every_site` adds the policy of the sites that `secfed run` makes."""
    reasons = []
    weights = class_weights_problem(config, classes)
    if weights is not None:
        reasons.append(weights)
    mode = config.protection.mode
    if quorum.sites < 2 and quorum.threshold is not None:
        reasons.append(f"one site alone cannot be {mode}: the sum is its update; add sites or use mode = 'plain'")
    elif quorum.threshold is not None and 2 * quorum.threshold <= quorum.sites:
        reasons.append(
            f"protection.threshold = {quorum.threshold} of {quorum.sites} sites is refused by every site: "
            f"at least {quorum.sites // 2 + 1} are needed, or an aggregator that lies could {_SPLIT[mode]}"
        )
    elif of_every_site:
        # `secfed run` gives its own sites this policy (secfed.experiment.provision).
        policy = SitePolicy(
            protection=(mode,),
            encryption_schemes=(config.protection.scheme,),
            min_cohort=config.federation.min_cohort,
            max_delta=config.privacy.resolved_delta or SitePolicy().max_delta,
        )
        reasons += [
            f"the sites that `secfed run` makes: {reason}"
            for reason in policy_refusals(policy, config, layout, threshold=quorum.threshold)
        ]
    return [Finding(reason=reason, exit_code=ConfigError.exit_code) for reason in reasons]


def site_verdict(
    file: SiteFile, config: RunConfig, layout: ParameterLayout, quorum: Quorum, price: PrivacyPrice | None
) -> SiteVerdict:
    """What the site of this `site.toml` would say."""
    return SiteVerdict(
        name=file.name,
        in_run=file.name in [site.name for site in config.sites],
        policy=file.policy,
        device=file.device,
        computing=file.computing,
        refusals=(
            *policy_refusals(file.policy, config, layout, threshold=quorum.threshold),
            *_computing_refusals(file.computing, config),
            *(() if price is None else price.refusals(file.policy)),
        ),
    )
