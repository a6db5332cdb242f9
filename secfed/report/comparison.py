"""Several runs beside each other, and repetitions with other seeds pooled into a mean with its spread."""

import json
import statistics
from collections.abc import Callable, Sequence

from secfed.report.headline import seeds_of
from secfed.report.markup import (
    DASH,
    Markup,
    across,
    caption,
    duration,
    join,
    number,
    percent,
    scrollable,
    signed,
    tag,
    words,
)
from secfed.report.naming import augmentation_name, augmentation_of, has_guarantee, modality_name, model_name, ordered
from secfed.report.run_folder import ReportedRun
from secfed.results import RunRecord, gain, overall, ratio, score

_OWN_TO_A_RUN = ("name", "seed")


def comparison_section(runs: Sequence[tuple[str, ReportedRun]]) -> Markup:
    """One column per run, then one table per set of runs that differ in their seed only."""
    modalities = list(dict.fromkeys(name for _, run in runs for name in run.record.test_modalities()))
    measures = (
        "Seed",
        "Protection",
        "Privacy",
        "Augmentation",
        "Network",
        "Federated mean Dice",
        "Ratio to centralised",
        "Passes, federated and centralised",
        *(f"Augmentation gain, {modality_name(name)}" for name in modalities),
        "Wall time, federated",
        "Protection work / wall time",
    )
    columns = [_cells(run, modalities) for _, run in runs]
    rows = [(measure, [column[index] for column in columns]) for index, measure in enumerate(measures)]
    table = across([name for name, _ in runs], rows, "The runs of this page.", "Measure")
    return join(table, [_pooled(group) for group in repetitions(runs)])


def repetitions(runs: Sequence[tuple[str, ReportedRun]]) -> list[list[tuple[str, ReportedRun]]]:
    """Sets of runs with one code digest, one configuration but for name and seed, and each a seed of its own."""
    groups: dict[str, list[tuple[str, ReportedRun]]] = {}
    for name, run in runs:
        if run.config and len(seeds_of(run.record)) == 1:
            kept = {key: value for key, value in run.config.items() if key not in _OWN_TO_A_RUN}
            code = run.record.provenance.code_digest
            groups.setdefault(json.dumps([code, kept], sort_keys=True, default=str), []).append((name, run))
    return [
        group
        for group in groups.values()
        if len(group) > 1 and len({seeds_of(run.record) for _, run in group}) == len(group)
    ]


def _cells(run: ReportedRun, modalities: Sequence[str]) -> tuple[str, ...]:
    record = run.record
    row = next((row for row in record.results if row.model == "federated"), None)
    job = record.job("federated")
    return (
        ", ".join(map(str, seeds_of(record))) or DASH,
        DASH if row is None else row.protection,
        DASH if row is None else row.privacy if has_guarantee(row.privacy) else "none",
        DASH if row is None else augmentation_name(row.augmentation),
        run.network or DASH,
        number(overall(record, "federated")),
        percent(ratio(record)),
        words(number(_passes(record, model), 2) for model in ("federated", "centralised")),
        *(signed(gain(record, modality=modality)) for modality in modalities),
        DASH if job is None else duration(job.seconds),
        DASH if job is None else percent(job.protection_share()),
    )


def _pooled(group: Sequence[tuple[str, ReportedRun]]) -> Markup:
    records = [run.record for _, run in group]
    modalities = list(dict.fromkeys(name for record in records for name in record.test_modalities()))
    rows = []
    for model in ordered(model for record in records for model in record.models()):
        cells = [
            _spread([_mean(record, model, modality) for record in records], number) for modality in (*modalities, None)
        ]
        reference = model == "centralised"
        ratios = [ratio(record, model=model) for record in records]
        cells.append(tag("td", "100 %") if reference else _spread(ratios, percent))
        rows.append(tag("tr", tag("th", model_name(model, records[0]), scope="row"), cells))
    headings = ["Model", *(f"Dice, {modality_name(name)}" for name in modalities), "Dice, all", "Ratio to centralised"]
    names = words(name for name, _ in group)
    fewer = " Three seeds at least make a spread worth reading." if len(group) < 3 else ""
    table = tag(
        "table",
        caption(
            f"Pooled over n = {len(group)} seeds: {names} differ in nothing but their seed. "
            f"Mean ± sample standard deviation over seeds.{fewer}",
        ),
        tag("thead", tag("tr", [tag("th", heading, scope="col") for heading in headings])),
        tag("tbody", rows),
        class_="scores",
    )
    return join(scrollable(table, "Pooled over seeds"), _gain_sentence(records, modalities))


def _passes(record: RunRecord, model: str) -> float | None:
    job = record.job(model)
    return None if job is None else job.effective_passes()


def _mean(record: RunRecord, model: str, modality: str | None) -> float | None:
    if modality is None:
        return overall(record, model)
    found = score(record.results, model=model, modality=modality)
    return None if found is None else found.mean


def _gain_sentence(records: Sequence[RunRecord], modalities: Sequence[str]) -> Markup | None:
    """The gain from augmentation per modality with its spread over the runs; None where a run lacks it."""
    parts = []
    for modality in modalities:
        gains = [value for record in records if (value := gain(record, modality=modality)) is not None]
        if len(gains) < len(records):
            return None
        spread = number(statistics.stdev(gains))
        parts.append(f"{signed(statistics.fmean(gains))} ± {spread} on {modality_name(modality)}")
    name = augmentation_of(records[0]) or "augmentation"
    return tag("p", f"Gain in mean Dice from {name} over the same seeds: {words(parts)}.")


def _spread(values: Sequence[float | None], shown: Callable[[float], str]) -> Markup:
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return tag("td", DASH)
    return tag("td", shown(statistics.fmean(known)), tag("small", f"± {shown(statistics.stdev(known))}"))
