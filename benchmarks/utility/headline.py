"""The study's headline as Markdown tables, for a README: what was to be shown, and the methods on the unseen modality.

Every figure comes from `secfed.study`, like those of the page. Rows without data are left out, and the number of seeds
stands beside every figure that has not all of them.
"""

from collections.abc import Sequence

from secfed.study.methods import MethodRow, ModalityResult
from secfed.study.record import StudyRecord
from secfed.study.statistics import Estimate
from secfed.study.summary import StudySummary, summarise

_VERDICTS = {True: "yes", False: "**no**", None: "no data"}


def headline(record: StudyRecord) -> str:
    """Markdown: the aims, then one table per experiment of methods."""
    found = summarise(record)
    seeds = len(found.seeds)
    parts = [_claims(record)]
    for experiment in found.experiments:
        if experiment.experiment.kind != "methods":
            continue
        table = _methods(experiment.methods.rows, experiment.methods.modalities, seeds=seeds)
        if table:
            parts.append(f"{experiment.experiment.title}:\n\n{table}")
    frontier = _frontier(found, seeds=seeds)
    return "\n\n".join([*parts, frontier] if frontier else parts) + "\n"


def _claims(record: StudyRecord) -> str:
    rows = [f"| {claim.claim} | {claim.aim} | {claim.value} | {_VERDICTS[claim.met]} |" for claim in record.claims]
    return "\n".join(["| | aim | found | met |", "|---|---|---|---|", *rows])


def _methods(rows: Sequence[MethodRow], modalities: Sequence[str], *, seeds: int) -> str:
    shown = [row for row in rows if row.seeds]
    if not shown:
        return ""
    names = ["MRI" if name == "MR" else name for name in modalities]
    lines = ["| Dice, mean over organs | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for row in shown:
        cells = [_result(row.modality(name), seeds=seeds) for name in modalities]
        lines.append(f"| {row.variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _result(result: ModalityResult, *, seeds: int) -> str:
    if result.mean is None:
        return ""
    return _estimate(result.mean, seeds=seeds) + ("" if result.seen else " (unseen)")


def _frontier(found: StudySummary, *, seeds: int) -> str:
    frontier = next((one.frontier for one in found.experiments if one.frontier is not None), None)
    if frontier is None or not frontier.points:
        return ""
    epsilons = sorted({round(point.epsilon) for point in frontier.points})
    lines = ["| Dice | " + " | ".join(f"epsilon {value}" for value in epsilons) + " |"]
    lines.append("|---" * (len(epsilons) + 1) + "|")
    for series in frontier.series:
        by_epsilon = {round(point.epsilon): point for point in series.points}
        cells = [_estimate(by_epsilon[one].dice, seeds=seeds) if one in by_epsilon else "" for one in epsilons]
        lines.append(f"| {series.mode} noise | " + " | ".join(cells) + " |")
    levels = [f"{level.variant} {_estimate(level.dice, seeds=seeds)}" for level in frontier.levels]
    companions = frontier.points[0].companions
    return "\n".join([*lines, "", f"Without an epsilon: {', '.join(levels)}. Every epsilon {companions}."])


def _estimate(found: Estimate, *, seeds: int) -> str:
    fewer = "" if found.seeds == seeds else f" (n = {found.seeds})"
    if found.low is None or found.high is None:
        return f"{_short(found.mean)}{fewer}"
    return f"{_short(found.mean)} [{_short(found.low)}, {_short(found.high)}]{fewer}"


def _short(value: float) -> str:
    """'.123', as tables of Dice have it."""
    return f"{value:.3f}".replace("0.", ".", 1)
