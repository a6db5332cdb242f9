"""One sentence per experiment, made from its tables alone, so that it cannot say what they do not."""

from secfed.report.markup import number, percent, signed, size, words
from secfed.report.naming import modality_name
from secfed.report.study.notes import bracketed, epsilon_text, probability
from secfed.study.frontier import FrontierPoint
from secfed.study.methods import MethodRow, MethodTable
from secfed.study.statistics import Comparison, Estimate
from secfed.study.summary import ExperimentSummary
from secfed.study.training import TrainingRatio


def answers(summary: ExperimentSummary) -> list[str]:
    """What the experiment found, a sentence each; says so where nothing was trained."""
    table = summary.methods
    if not any(row.seeds for row in table.rows):
        return ["No model of this experiment was trained, so it answers nothing."]
    if summary.experiment.kind == "cost":
        return [*models_sentences(summary), *_cost(summary)]
    if summary.frontier is not None:
        found = [_kept(series.mode, series.points, table.reference) for series in summary.frontier.series]
        return [sentence for sentence in found if sentence is not None] or ["No model with an epsilon was trained."]
    ratios = [_ratio(row) for row in summary.ratios if row.modality is None]
    return [sentence for sentence in (_best(table), *ratios) if sentence is not None]


def models_sentences(summary: ExperimentSummary) -> list[str]:
    """Whether the variants ended with the same model, in words."""
    if not summary.models:
        return ["No two variants were trained at one seed, so whether they give the same model is not known."]
    same = [one for one in summary.models if one.same]
    seeds = "seed" if len(summary.models) == 1 else "seeds"
    if len(same) == len(summary.models):
        at: dict[str, list[str]] = {}
        for one in same:
            names = words(name for found in one.variants_of.values() for name in found)
            at.setdefault(names, []).append(str(one.seed))
        which = "; ".join(f"{names} at seed{'s' * (len(found) > 1)} {words(found)}" for names, found in at.items())
        return [f"The same final model, bit for bit, by its SHA-256: {which}."]
    apart = [
        f"at seed {one.seed} {words(f'{words(names)} with {model[:8]}' for model, names in one.variants_of.items())}"
        for one in summary.models
        if not one.same
    ]
    return [f"The final models are the same at {len(same)} of {len(summary.models)} {seeds}; {'; '.join(apart)}."]


def unseen_by_all(table: MethodTable) -> list[str]:
    """Modalities that no trained variant of the table has seen."""
    return [
        name for name in table.modalities if all(row.modality(name).seen is False for row in table.rows if row.seeds)
    ]


def _best(table: MethodTable) -> str | None:
    """Who is ahead where it matters: on the modality that nobody saw, else over all."""
    unseen = unseen_by_all(table)
    modality = unseen[0] if unseen else None
    ranked = sorted(
        ((found.mean, row) for row in table.rows if (found := _mean(row, modality)) is not None),
        key=lambda pair: -pair[0],
    )
    if len(ranked) < 2:
        return None
    best = ranked[0][1]
    where = f"on {modality_name(modality)}, which no model saw" if modality else _over(table)
    text = f"{best.variant} has the highest mean Dice {where}: {_told(_mean(best, modality))}"
    if best.is_reference:
        return f"{text}. It is the reference; {ranked[1][1].variant} follows with {number(ranked[1][0])}."
    compared = _comparison(best, modality)
    if table.reference is None or compared is None:
        return f"{text}; {ranked[1][1].variant} follows with {number(ranked[1][0])}."
    result = None if modality is None else best.modality(modality)
    p = f", p {_equals(result.p_holm)} after Holm's correction" if result is not None else ""
    lead = f"that is {signed(compared.difference.mean)}{bracketed(compared.difference, sign=True)}"
    each = [
        f"{modality_name(one.modality)} {signed(one.comparison.difference.mean)}"
        for one in best.modalities
        if modality is None and len(best.modalities) > 1 and one.comparison is not None
    ]
    parts = f" ({words(each)})" if each else ""
    follows = ranked[1][1]
    second = f" {follows.variant} follows with {number(ranked[1][0])}." if not follows.is_reference else ""
    beside = [
        f"{signed(one.comparison.difference.mean)}{bracketed(one.comparison.difference, sign=True)} on "
        f"{modality_name(one.modality)}"
        for one in best.modalities
        if modality not in (None, one.modality) and one.comparison is not None
    ]
    rest = f" Against the same it is {words(beside)}." if beside else ""
    within_chance = compared.difference.low is not None and compared.difference.low <= 0
    chance = ", which the interval cannot tell from no difference" if within_chance else ""
    return f"{text}; {lead} against {table.reference}{parts}{p}{chance}.{rest}{second}"


def _ratio(row: TrainingRatio) -> str:
    ours, theirs = number(row.passes, 2), number(row.centralised_passes, 2)
    fair = f"both at {ours} passes over the data"
    if not row.like_for_like:
        fair = f"NOT like for like: {ours} against {theirs} passes over the data"
    share = f"{percent(row.ratio.mean)}{bracketed(row.ratio, share=True)}"
    return f"{row.variant} reaches {share} of {row.centralised}, {fair}."


def _kept(mode: str, points: tuple[FrontierPoint, ...], reference: str | None) -> str | None:
    kept = [
        f"{percent(point.share.mean)} at epsilon {epsilon_text(point.epsilon)}"
        for point in points
        if point.share is not None
    ]
    if not kept or reference is None:
        return None
    return f"With {mode} noise the model keeps {words(kept)} of the Dice of {reference}."


def _cost(summary: ExperimentSummary) -> list[str]:
    known = [row for row in summary.costs if row.bytes_up]
    if len(known) < 2:
        return []
    first, *others = known
    parts = [
        f"{row.variant} {size(row.bytes_up or 0)} ({(row.bytes_up or 0) / (first.bytes_up or 1):.1f} times)"
        for row in others
    ]
    return [f"Per site and round, {first.variant} sends {size(first.bytes_up or 0)}, {words(parts)}."]


def _over(table: MethodTable) -> str:
    names = words(modality_name(name) for name in table.modalities)
    return f"over {names}" if len(table.modalities) > 1 else f"on {names}"


def _mean(row: MethodRow, modality: str | None) -> Estimate | None:
    return row.overall if modality is None else row.modality(modality).mean


def _comparison(row: MethodRow, modality: str | None) -> Comparison | None:
    return row.overall_comparison if modality is None else row.modality(modality).comparison


def _told(found: Estimate | None) -> str:
    assert found is not None  # noqa: S101 - only rows with a mean are ranked
    return f"{number(found.mean)}{bracketed(found, name='95 % interval ')}"


def _equals(p: float | None) -> str:
    shown = probability(p)
    return shown if shown.startswith("<") else f"= {shown}"
