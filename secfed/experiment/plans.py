"""From a run's configuration to the training jobs: the federation itself and the references beside it.

References are federations too, so the same code trains them: centralised training is a federation of one site that
holds every site's data, and draws as many samples from each site's data as that site draws in the federation. Their
updates travel unprotected to a server in the same process, because there is nobody to hide them from.
"""

from dataclasses import dataclass, replace
from typing import Literal

from secfed.config import ModalityName, ReferenceName, RunConfig, SiteConfig, TrainingPlan
from secfed.parameters import model_digest
from secfed.privacy_config import PrivacyConfig
from secfed.privacy_plan import priced

CENTRALISED_CLIP_NORM = 1000.0
"""Far above what a whole round moves a model by: the clip bounds the fixed-point range here and is never felt."""


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """A job before it has a folder: participants map a name to the sites whose data it holds."""

    model: str
    training: Literal["federated", "centralised", "single_site", "single_modality"]
    plan: TrainingPlan
    participants: dict[str, tuple[SiteConfig, ...]]

    @property
    def modalities(self) -> set[ModalityName]:
        """What the model has seen in training."""
        return {site.modality for sites in self.participants.values() for site in sites}


def job_specs(config: RunConfig) -> list[JobSpec]:
    """The federation first, unless the run is for its references alone, then these in the configured order."""
    plan = agreed_plan(config)
    each: dict[str, tuple[SiteConfig, ...]] = {site.name: (site,) for site in config.sites}
    specs = [JobSpec(model="federated", training="federated", plan=plan, participants=each)] if config.federated else []
    for reference in config.references:
        specs += [replace(spec, plan=_naming_start(spec.plan, config)) for spec in _reference(reference, config, plan)]
    return specs


def agreed_plan(config: RunConfig) -> TrainingPlan:
    """The plan that sites agree on: with the model that it starts from, and with the noise that its epsilon asks for.

    Raises:
        ConfigError: `start_from` is no model of this architecture, or no noise does what [privacy] asks for.
    """
    plan = config.plan()
    if config.start_from is None and not plan.privacy.guarantees:
        return plan
    # Only these two need the network, and torch with it.
    from clients.private_contribution import trained_count
    from secfed.experiment.start import starting_vector

    vector, layout = starting_vector(config)
    if config.start_from is not None:
        plan = plan.model_copy(update={"initial_model": model_digest(vector, layout).hex()})
    if not plan.privacy.guarantees:
        return plan
    return priced(plan, layout, dimension=trained_count(plan, layout), sites=len(config.sites))[0]


def _reference(reference: ReferenceName, config: RunConfig, plan: TrainingPlan) -> list[JobSpec]:
    each: dict[str, tuple[SiteConfig, ...]] = {site.name: (site,) for site in config.sites}
    match reference:
        case "without_augmentation":
            bare = plan.augmentation.model_copy(update={"method": "none"})
            clean = _in_plain(plan).model_copy(update={"augmentation": bare})
            return [
                JobSpec(model="federated_without_augmentation", training="federated", plan=clean, participants=each)
            ]
        case "centralised":
            everything = {"centralised": config.sites}
            return [JobSpec(model="centralised", training="centralised", plan=_alone(plan), participants=everything)]
        case "single_site":
            return [
                JobSpec(
                    model=f"site:{site.name}",
                    training="single_site",
                    plan=_alone(plan),
                    participants={site.name: (site,)},
                )
                for site in config.sites
            ]
        case "single_modality":
            modalities = sorted({site.modality for site in config.sites})
            return [
                JobSpec(
                    model=f"modality:{modality}",
                    training="single_modality",
                    plan=_unprotected(plan),
                    participants={site.name: (site,) for site in config.sites if site.modality == modality},
                )
                for modality in modalities
            ]


def _naming_start(plan: TrainingPlan, config: RunConfig) -> TrainingPlan:
    """The plan with the hash of the model that it starts from, whose vector depends on what is shared."""
    if config.start_from is None or plan.federation.normalisation == config.federation.normalisation:
        return plan
    from secfed.experiment.start import starting_vector

    vector, layout = starting_vector(config.model_copy(update={"federation": plan.federation}))
    return plan.model_copy(update={"initial_model": model_digest(vector, layout).hex()})


def _in_plain(plan: TrainingPlan) -> TrainingPlan:
    # Masking changes no bit of a model, so a reference need not pay for it. What noise is worth does depend on it.
    if plan.privacy.guarantees:
        return plan
    return plan.model_copy(
        update={"protection": plan.protection.model_copy(update={"mode": "plain", "threshold": None})}
    )


def _unprotected(plan: TrainingPlan) -> TrainingPlan:
    federation = plan.federation.model_copy(update={"min_cohort": 1})
    return _in_plain(plan.model_copy(update={"federation": federation, "privacy": PrivacyConfig()}))


def _alone(plan: TrainingPlan) -> TrainingPlan:
    bare = _unprotected(plan)
    # One participant is plain training: the server hands the model back as it came, and momentum has no meaning.
    federation = bare.federation.model_copy(
        update={
            "server_optimizer": "fedavg",
            "server_learning_rate": 1.0,
            "server_momentum": 0.0,
            "proximal_mu": 0.0,
            "normalisation": "shared",
            "clip_norm": CENTRALISED_CLIP_NORM,
        }
    )
    return bare.model_copy(update={"federation": federation})
