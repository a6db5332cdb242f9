"""What a run's privacy settings come to: how much noise each site adds, what a round costs, what the whole run costs.

Computed by every site from the agreed plan and public numbers, so that nobody has to believe anybody. Of the model it
needs `dimension`: how many of its parameters learn.

Whoever reads sums that differ in one site reads that site's integers, with its share of the noise alone. Under masks
sites open no two such sums over one model. Where updates travel in plain everybody is read alone, and where sites see
encrypted sums of changing members they may be; then that share is what is counted.
"""

import math
from dataclasses import replace

from privacy.accounting import NoiseSplit, Segment, Spend, calibrate, distributed_segment, spend
from privacy.errors import PrivacyError
from privacy.fixed_point import VectorFormat
from secfed.config import TrainingPlan
from secfed.errors import ConfigError
from secfed.parameters import ParameterLayout
from secfed.privacy_config import PrivacyConfig
from secfed.protected_vector import delta_limit, sensitivity, vector_format

LOCAL_QUANTA = 2**20
"""Integer steps per clip norm where a site adds all of the noise itself; fewer under noise of many clip norms."""

_FINE_NOISE = 128.0


def noise_split(plan: TrainingPlan, slots: VectorFormat, *, dimension: int) -> NoiseSplit:
    """How the noise of one sum is shared, in the units of the weighted delta that travels.

    In local mode there is nothing to share: one site, all of the noise, in units of the clipped gradient sum.

    Raises:
        MisuseError, RangeError: the numbers make no noise that could be accounted; the message names the one.
    """
    privacy, shared = plan.privacy, plan.privacy.mode in ("distributed", "silo")
    if not shared:
        return NoiseSplit(
            noise_multiplier=_multiplier(privacy),
            clip_norm=privacy.clip_norm,
            quantum=privacy.clip_norm / LOCAL_QUANTA * max(1.0, _multiplier(privacy) / _FINE_NOISE),
            dimension=dimension,
            invited=1,
            max_dropouts=0,
            max_colluders=0,
        )
    return NoiseSplit(
        noise_multiplier=_multiplier(privacy),
        clip_norm=sensitivity(plan),
        quantum=delta_limit(plan) / slots.max_integer,
        dimension=dimension,
        invited=slots.max_clients,
        max_dropouts=privacy.max_dropouts,
        max_colluders=privacy.max_colluders,
    )


def round_cost(plan: TrainingPlan, slots: VectorFormat, *, dimension: int) -> Segment:
    """What one round costs a patient, at the fewest survivors that the agreement allows.

    In silo mode a patient can turn a site's whole update round: its reach is twice the clip norm, and what holds for a
    patient holds for everybody at the site together.

    Raises:
        MisuseError, RangeError: as `noise_split`.
    """
    privacy = plan.privacy
    split = noise_split(plan, slots, dimension=dimension)
    if privacy.mode == "local":
        return distributed_segment(split, sampling_prob=privacy.sampling_prob, steps=plan.training.steps_per_round)
    if read_alone(plan):
        alone = split.noise_multiplier / math.sqrt(split.certain_honest)
        split = replace(split, noise_multiplier=alone, invited=1, max_dropouts=0, max_colluders=0)
    if privacy.mode == "silo":
        split = replace(split, noise_multiplier=split.noise_multiplier / 2, clip_norm=2 * split.clip_norm)
        return distributed_segment(split, sampling_prob=1.0)
    return distributed_segment(split, sampling_prob=privacy.sampling_prob)


def read_alone(plan: TrainingPlan) -> bool:
    """Whether somebody may come to see one site's integers by themselves, with that site's noise and no other.

    In plain, whoever receives them. Encrypted, a site that colludes with the aggregator, because all sites have the
    key; and sites that are shown the sum of a round run again without the one that dropped out of it.
    """
    mode, privacy = plan.protection.mode, plan.privacy
    return mode == "plain" or (mode == "encrypted" and (privacy.max_dropouts > 0 or privacy.max_colluders > 0))


def run_cost(plan: TrainingPlan, slots: VectorFormat, *, dimension: int) -> Spend:
    """What the whole run costs every patient, if each round is charged once.

    Raises:
        MisuseError, RangeError: as `round_cost`, or delta is too small to be accounted.
    """
    cost = round_cost(plan, slots, dimension=dimension)
    whole = replace(cost, steps=cost.steps * plan.federation.rounds)
    return spend([whole], delta=plan.privacy.resolved_delta)


def priced(plan: TrainingPlan, layout: ParameterLayout, *, dimension: int, sites: int) -> tuple[TrainingPlan, Spend]:
    """The plan with its noise, and what all of it costs, before anybody's data are looked at.

    Raises:
        ConfigError: there is no such noise, or it cannot be accounted for; the message names the setting.
    """
    try:
        resolved = resolve_noise(plan, layout, dimension=dimension, sites=sites)
        slots = vector_format(layout, resolved, cohort_size=sites)
        return resolved, run_cost(resolved, slots, dimension=dimension)
    except PrivacyError as error:
        raise ConfigError(f"[privacy] mode = '{plan.privacy.mode}': {error}") from error


def resolve_noise(plan: TrainingPlan, layout: ParameterLayout, *, dimension: int, sites: int) -> TrainingPlan:
    """The plan with the noise multiplier that its epsilon asks for; unchanged where it names the multiplier itself.

    Raises:
        MisuseError, RangeError: the target is out of reach, or the numbers contradict each other.
        ConfigError: the noise does not fit into the integers.
    """
    target = plan.privacy.epsilon
    if target is None:
        return plan
    # Rounding and the dropped shares cost a little: start from what a continuous noise would need and correct for it.
    guess = _with_noise(plan, 1.0)
    probe = round_cost(guess, vector_format(layout, guess, cohort_size=sites), dimension=dimension)
    wanted = calibrate(
        epsilon=target,
        delta=plan.privacy.resolved_delta,
        sampling_prob=probe.sampling_prob,
        steps=probe.steps * plan.federation.rounds,
    )
    multiplier = wanted / probe.noise_multiplier
    for _ in range(20):
        resolved = _with_noise(plan, multiplier)
        cost = round_cost(resolved, vector_format(layout, resolved, cohort_size=sites), dimension=dimension)
        if cost.noise_multiplier >= wanted:
            return resolved
        multiplier *= 1.0001 * wanted / cost.noise_multiplier
    raise ConfigError(
        f"privacy.epsilon = {target:g}: the noise that it asks for, {wanted:.4g} clip norms, does not fit into the "
        f"integers of {sites} sites: raise epsilon, or lower privacy.max_dropouts"
    )


def _with_noise(plan: TrainingPlan, multiplier: float) -> TrainingPlan:
    # The target stays out: what the sites agree on is the noise, and each computes for itself what that costs.
    privacy = plan.privacy.model_copy(update={"noise_multiplier": multiplier, "epsilon": None})
    return plan.model_copy(update={"privacy": privacy})


def _multiplier(privacy: PrivacyConfig) -> float:
    if privacy.noise_multiplier is None:
        raise ConfigError("privacy.noise_multiplier has not been resolved from privacy.epsilon yet")
    return privacy.noise_multiplier
