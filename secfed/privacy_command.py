"""`secfed privacy account` and `calibrate`: the price of a plan, and the noise that a budget asks for.

Turns options into `privacy.accounting`'s terms and its answers into a page or one JSON object. Epsilon is never shown
without delta, unit, relation and accountant, nor without what it allows an attacker.
"""

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from privacy.accounting import Segment, Spend, calibrate, default_delta, spend
from privacy.errors import MisuseError
from secfed.errors import ConfigError

NOT_A_RUN = (
    "This prices a plan. It holds for a training that samples patients at random, clips what each contributes and adds "
    "that noise, as `secfed run` does with [privacy]; a run of its own is priced by `secfed preflight`."
)


def account_plan(
    *,
    sampling_prob: float | None,
    noise_multiplier: float | None,
    steps: int | None,
    more: Sequence[str],
    delta: float | None,
    patients: int | None,
) -> Spend:
    """The price of one stretch given by three options, of `more` stretches "Q,S,T", or of all together.

    Raises:
        ConfigError: an option is missing, unreadable or out of range; the message names it.
    """
    given = (sampling_prob, noise_multiplier, steps)
    segments = [read_segment(text, option="--segment") for text in more]
    if sampling_prob is not None and noise_multiplier is not None and steps is not None:
        segments.insert(0, _segment(sampling_prob, noise_multiplier, steps))
    elif any(value is not None for value in given):
        raise ConfigError("--sampling-prob, --noise-multiplier and --steps belong together: give all three")
    if not segments:
        raise ConfigError(
            "nothing to account: give --sampling-prob, --noise-multiplier and --steps, or --segment Q,S,T"
        )
    try:
        return spend(segments, delta=_delta(delta, patients))
    except MisuseError as error:
        raise ConfigError(_in_options(str(error))) from error


def calibrate_plan(
    *,
    epsilon: float,
    sampling_prob: float,
    steps: int,
    before: Sequence[str],
    delta: float | None,
    patients: int | None,
) -> tuple[float, Spend]:
    """The noise multiplier for this budget, and what the plan with it (and all that came before) costs.

    Raises:
        ConfigError: an option is unreadable or out of range, or no noise is enough.
    """
    history = [read_segment(text, option="--before") for text in before]
    target = _delta(delta, patients)
    try:
        noise = calibrate(epsilon=epsilon, delta=target, sampling_prob=sampling_prob, steps=steps, before=history)
        return noise, spend([*history, _segment(sampling_prob, noise, steps)], delta=target)
    except MisuseError as error:
        raise ConfigError(_in_options(str(error))) from error


def read_segment(text: str, *, option: str) -> Segment:
    """A stretch written as Q,S,T: sampling probability, noise multiplier, steps.

    Raises:
        ConfigError: it is not three numbers, or one is out of range.
    """
    parts = text.split(",")
    try:
        sampling_prob, noise_multiplier, steps = float(parts[0]), float(parts[1]), int(parts[2])
    except (ValueError, IndexError) as error:
        raise ConfigError(f"{option} = '{text}': expected Q,S,T such as 0.04,1.5,2250") from error
    if len(parts) != 3:
        raise ConfigError(f"{option} = '{text}': expected Q,S,T such as 0.04,1.5,2250")
    try:
        return Segment(sampling_prob=sampling_prob, noise_multiplier=noise_multiplier, steps=steps)
    except MisuseError as error:
        raise ConfigError(f"{option} = '{text}': {error}") from error


def as_dict(found: Spend, *, noise_multiplier: float | None) -> dict[str, Any]:
    """One JSON object; an infinite epsilon or mu is null, because JSON has no infinity."""
    caps = found.attacker(0.01)
    return {
        "epsilon": _finite(found.epsilon),
        "delta": found.delta,
        "unit": found.unit,
        "relation": found.relation,
        "accountant": found.accountant,
        "noise_multiplier": noise_multiplier,
        "segments": [
            {
                "sampling_prob": segment.sampling_prob,
                "noise_multiplier": segment.noise_multiplier,
                "steps": segment.steps,
            }
            for segment in found.segments
        ],
        "attacker": {
            "tpr_at_1_percent_fpr": caps.tpr,
            "auc": caps.auc,
            "basis": caps.basis,
            "tpr_at_1_percent_fpr_from_epsilon_delta": caps.tpr_from_pair,
            "auc_from_epsilon_delta": caps.auc_from_pair,
            "gaussian_mu": _finite(caps.mu),
            "gaussian_tpr_at_1_percent_fpr": caps.tpr_gaussian,
            "gaussian_auc": caps.auc_gaussian,
        },
    }


def print_spend(found: Spend, console: Console, *, noise_multiplier: float | None) -> None:
    """The page: what was planned, what it costs, what that allows an attacker."""
    plan = Table(box=None, pad_edge=False)
    for name in ("sampling probability", "noise multiplier", "steps"):
        plan.add_column(name, justify="right")
    for segment in found.segments:
        plan.add_row(f"{segment.sampling_prob:.6g}", f"{segment.noise_multiplier:.6g}", f"{segment.steps:,}")
    console.print(plan)
    console.print()
    price = Table(box=None, pad_edge=False, show_header=False)
    if noise_multiplier is not None:
        price.add_row("noise multiplier", f"[bold]{noise_multiplier:.6g}[/] clip norms on the sum")
    price.add_row("epsilon", f"[bold]{_number(found.epsilon)}[/]")
    price.add_row("delta", f"{found.delta:g}")
    price.add_row("unit, relation", f"{found.unit}, {found.relation}")
    price.add_row("accountant", found.accountant)
    console.print(price)
    console.print()
    caps = found.attacker(0.01)
    ways = Table(box=None, pad_edge=False)
    ways.add_column("attacker's best", no_wrap=True)
    ways.add_column("found at 1 %", justify="right")
    ways.add_column("AUC", justify="right")
    ways.add_column("is")
    for name, tpr, auc, kind in (
        ("whole trade-off curve", caps.tpr, caps.auc, "a bound (of record)"),
        ("epsilon and delta alone", caps.tpr_from_pair, caps.auc_from_pair, "a bound"),
        (f"Gaussian, mu {_number(caps.mu)}", caps.tpr_gaussian, caps.auc_gaussian, "a comparison, no bound"),
    ):
        ways.add_row(name, f"{100 * tpr:.1f} %", f"{auc:.3f}", kind)
    console.print(ways)
    console.print()
    if math.isinf(found.epsilon):
        console.print("Without noise there is no guarantee: an attacker may find every patient.", soft_wrap=True)
    else:
        console.print(caps.sentence(), soft_wrap=True, highlight=False)
    console.print(NOT_A_RUN, soft_wrap=True, style="dim")


def _segment(sampling_prob: float, noise_multiplier: float, steps: int) -> Segment:
    try:
        return Segment(sampling_prob=sampling_prob, noise_multiplier=noise_multiplier, steps=steps)
    except MisuseError as error:
        raise ConfigError(_in_options(str(error))) from error


def _delta(delta: float | None, patients: int | None) -> float:
    if (delta is None) == (patients is None):
        raise ConfigError("give exactly one of --delta D and --patients N (then delta is min(1e-5, 1/(10 N)))")
    if delta is not None:
        return delta
    try:
        return default_delta(patients)  # type: ignore[arg-type] # one of both is given
    except MisuseError as error:
        raise ConfigError(_in_options(str(error))) from error


def _in_options(message: str) -> str:
    """The mechanisms' message with the name that was typed: each option is its setting with dashes."""
    name, found, rest = message.partition(" = ")
    return f"--{name.replace('_', '-')}{found}{rest}" if found and name.replace("_", "").isalpha() else message


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "infinite"
