"""All attacks, in the order in which they are run and printed, and how a selection of them is run.

Attacks on the protocol come first, because they take milliseconds; those on learning train networks
and take about 15 seconds each on one core.
"""

from collections.abc import Callable, Iterable, Sequence

from secfed.audit.attacks import (
    cohort_floors,
    collusion,
    corrupt_site,
    differencing,
    encrypted_model,
    encrypted_noise,
    encrypted_setup,
    encrypted_sums,
    framing,
    gradient_inversion,
    imprint_layers,
    key_substitution,
    mask_reuse,
    membership,
    model_inconsistency,
    parameter_downgrade,
    published_aggregate,
    replay,
    restart,
    second_sum,
    split_consortium,
    survivor_lists,
    trap_weights,
    weak_generator,
    wraparound,
)
from secfed.audit.rows import Attack, AttackRow, Mode
from secfed.errors import ConfigError

PROTOCOL: tuple[Attack, ...] = (
    *survivor_lists.ATTACKS,
    *collusion.ATTACKS,
    *key_substitution.ATTACKS,
    *cohort_floors.ATTACKS,
    *replay.ATTACKS,
    *restart.ATTACKS,
    *mask_reuse.ATTACKS,
    *weak_generator.ATTACKS,
    *second_sum.ATTACKS,
    *differencing.ATTACKS,
    *model_inconsistency.ATTACKS,
    *wraparound.ATTACKS,
    *corrupt_site.ATTACKS,
    *framing.ATTACKS,
    *published_aggregate.ATTACKS,
    *encrypted_setup.ATTACKS,
    *parameter_downgrade.ATTACKS,
    *split_consortium.ATTACKS,
    *encrypted_sums.ATTACKS,
    *encrypted_noise.ATTACKS,
    *encrypted_model.ATTACKS,
)
"""Attacks on the protocol: the aggregator, sites or both break its rules."""

LEARNING: tuple[Attack, ...] = (
    *gradient_inversion.ATTACKS,
    *imprint_layers.ATTACKS,
    *trap_weights.ATTACKS,
    *membership.ATTACKS,
)
"""Attacks on what learning gives away, through updates, sums and the model: nobody breaks a rule of the protocol."""

ATTACKS: tuple[Attack, ...] = (*PROTOCOL, *LEARNING)


def selected(only: Iterable[str]) -> tuple[Attack, ...]:
    """The attacks of these names, in the suite's order; all of them where no name is given.

    Raises:
        ConfigError: a name is not known.
    """
    wanted = set(only)
    unknown = sorted(wanted - {attack.name for attack in ATTACKS})
    if unknown:
        known = ", ".join(attack.name for attack in ATTACKS)
        raise ConfigError(f"--only = {', '.join(unknown)}: no such attack; known attacks are {known}")
    return tuple(attack for attack in ATTACKS if not wanted or attack.name in wanted)


def run_suite(
    *,
    modes: Sequence[Mode],
    only: Iterable[str] = (),
    seed: int = 0,
    on_row: Callable[[AttackRow], None] = lambda _: None,
) -> list[AttackRow]:
    """One row for each attack and mode; `on_row` is called with each as soon as it is there.

    Raises:
        ConfigError: a name in `only` is not known.
    """
    rows = []
    for attack in selected(only):
        for mode in modes:
            row = attack.run(mode, seed)
            rows.append(row)
            on_row(row)
    return rows
