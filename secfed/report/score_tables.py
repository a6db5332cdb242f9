"""The Dice and HD95 tables: organ by modality by model, with one group of columns per run.

Every figure comes from `secfed.results`, so the page cannot state another number than the terminal.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from secfed.report.markup import DASH, Child, Markup, caption, join, number, percent, scrollable, signed, tag
from secfed.report.naming import augmentation_of, modality_name, model_name, ordered, organ_name
from secfed.results import MEAN, Metric, ResultRow, RunRecord, Score, gain, overall, ratio, score

_UNSEEN = "†"
_DIGITS: dict[Metric, int] = {"dice": 3, "hd95": 1}


@dataclass(frozen=True, kw_only=True)
class _Column:
    run: int
    record: RunRecord
    model: str


def dice_table(runs: Sequence[tuple[str, RunRecord]]) -> Markup:
    """Dice with the relation to centralised training, for (name, record) pairs."""
    return _table(runs, "dice")


def hd95_table(runs: Sequence[tuple[str, RunRecord]]) -> Markup | None:
    """95th percentile Hausdorff distance in mm; None where no run has it."""
    if not any(row.metric == "hd95" for _, record in runs for row in record.results):
        return None
    return _table(runs, "hd95")


def _table(runs: Sequence[tuple[str, RunRecord]], metric: Metric) -> Markup:
    columns = [
        _Column(run=index, record=record, model=model)
        for index, (_, record) in enumerate(runs)
        for model in ordered(record.models())
    ]
    modalities = _union(record.test_modalities() for _, record in runs)
    organs = _union(record.organs() for _, record in runs)
    bodies = [_modality_body(columns, modality, organs, metric) for modality in modalities]
    if metric == "dice" and len(modalities) > 1:
        bodies.append(_overall_body(columns, modalities))
    title = "Dice coefficient" if metric == "dice" else "95th percentile Hausdorff distance (mm)"
    table = tag(
        "table",
        caption(f"{title}. {_reading(runs, metric)}"),
        _head(runs, columns),
        bodies,
        class_="scores",
    )
    return scrollable(table, title)


def _head(runs: Sequence[tuple[str, RunRecord]], columns: list[_Column]) -> Markup:
    groups = None
    if len(runs) > 1:
        spans = [
            tag("th", name, scope="colgroup", colspan=sum(column.run == index for column in columns), class_="run")
            for index, (name, _) in enumerate(runs)
        ]
        groups = tag("tr", tag("td"), spans)
    names = [
        tag("th", model_name(column.model, column.record), scope="col", class_=_edge(columns, index))
        for index, column in enumerate(columns)
    ]
    return tag("thead", groups, tag("tr", tag("th", "Organ", scope="col"), names))


def _modality_body(columns: list[_Column], modality: str, organs: Sequence[str], metric: Metric) -> Markup:
    heading = tag(
        "tr",
        tag(
            "th",
            tag("span", tag("b", modality_name(modality)), _patients(columns, modality), class_="group"),
            scope="rowgroup",
            colspan=len(columns) + 1,
        ),
        class_="group",
    )
    rows = [_score_row(columns, modality, organ, metric) for organ in organs]
    mean = _score_row(columns, modality, MEAN, metric)
    relative = [_ratio_row(columns, modality), _gain_row(columns, modality)] if metric == "dice" else []
    return tag("tbody", heading, rows, mean, relative)


def _score_row(columns: list[_Column], modality: str, organ: str, metric: Metric) -> Markup:
    scores = [
        score(column.record.results, model=column.model, modality=modality, organ=organ, metric=metric)
        for column in columns
    ]
    digits = _DIGITS[metric]
    best = _best(columns, [None if found is None else round(found.mean, digits) for found in scores], metric)
    most = max((row.n for column in columns for row in _rows(column, modality)), default=0)
    cells = [
        _score_cell(
            found,
            patients=most,
            unseen=_seen(column, modality) is False,
            best=index in best,
            digits=digits,
            edge=_edge(columns, index),
        )
        for index, (column, found) in enumerate(zip(columns, scores, strict=True))
    ]
    label = "Mean over organs" if organ == MEAN else organ_name(organ)
    return tag("tr", tag("th", label, scope="row"), cells, class_="mean" if organ == MEAN else None)


def _score_cell(
    found: Score | None, *, patients: int, unseen: bool, best: bool, digits: int, edge: str | None
) -> Markup:
    if found is None:
        return tag("td", DASH, class_=edge)
    spread = found.seeds_std if found.seeds > 1 else found.patients_std
    shown = number(found.mean, digits)
    value: Child = tag("strong", shown, class_="best") if best else shown
    mark = tag("sup", _UNSEEN) if unseen else None
    beside = tag("small", f"± {number(spread, digits)}") if spread is not None else None
    fewer = tag("small", f"n = {found.patients}") if found.patients < patients else None
    return tag("td", value, mark, beside, fewer, class_=edge)


def _ratio_row(columns: list[_Column], modality: str | None) -> Markup | None:
    ratios = [
        None if column.model == "centralised" else ratio(column.record, model=column.model, modality=modality)
        for column in columns
    ]
    if all(value is None for value in ratios):
        return None
    cells = [
        tag("td", "100 %" if column.model == "centralised" else percent(value), class_=_edge(columns, index))
        for index, (column, value) in enumerate(zip(columns, ratios, strict=True))
    ]
    return tag("tr", tag("th", "Ratio to centralised", scope="row"), cells, class_="relative")


def _gain_row(columns: list[_Column], modality: str | None) -> Markup | None:
    gains = [gain(column.record, modality=modality) if column.model == "federated" else None for column in columns]
    if all(value is None for value in gains):
        return None
    names = _union([augmentation_of(column.record) or "augmentation"] for column in columns)
    cells = [
        tag("td", None if value is None else signed(value), class_=_edge(columns, index))
        for index, value in enumerate(gains)
    ]
    return tag("tr", tag("th", f"Gain from {' / '.join(names)}", scope="row"), cells, class_="relative")


def _overall_body(columns: list[_Column], modalities: Sequence[str]) -> Markup:
    names = " and ".join(modality_name(name) for name in modalities)
    heading = tag(
        "tr",
        tag(
            "th",
            tag("span", tag("b", "All modalities"), " · each counts the same", class_="group"),
            scope="rowgroup",
            colspan=len(columns) + 1,
        ),
        class_="group",
    )
    means = [overall(column.record, column.model) for column in columns]
    best = _best(columns, [None if mean is None else round(mean, 3) for mean in means], "dice")
    cells = [
        tag(
            "td",
            tag("strong", number(mean), class_="best") if index in best else number(mean),
            class_=_edge(columns, index),
        )
        for index, mean in enumerate(means)
    ]
    row = tag("tr", tag("th", f"Mean of {names}", scope="row"), cells, class_="mean")
    return tag("tbody", heading, row, _ratio_row(columns, None), _gain_row(columns, None))


def _best(columns: list[_Column], shown: list[float | None], metric: Metric) -> set[int]:
    """Columns whose shown figure is the best of their run; nothing is best alone."""
    best: set[int] = set()
    for run in {column.run for column in columns}:
        own = {index: value for index, value in enumerate(shown) if columns[index].run == run and value is not None}
        if len(own) > 1:
            top = max(own.values()) if metric == "dice" else min(own.values())
            best |= {index for index, value in own.items() if value == top}
    return best


def _seen(column: _Column, modality: str) -> bool | None:
    return next((row.seen for row in _rows(column, modality)), None)


def _rows(column: _Column, modality: str) -> list[ResultRow]:
    rows = column.record.results
    return [row for row in rows if row.model == column.model and row.test_modality == modality]


def _patients(columns: list[_Column], modality: str) -> Markup:
    count = max((row.n for column in columns for row in _rows(column, modality)), default=0)
    seen = {_seen(column, modality) for column in columns if column.model == "federated"}
    place = None
    if seen == {True}:
        place = ", a modality of the federation"
    elif seen == {False}:
        place = ", a modality that no site of the federation has"
    return join(f" · {count} test patient{'' if count == 1 else 's'}", place)


def _reading(runs: Sequence[tuple[str, RunRecord]], metric: Metric) -> str:
    rows = [row for _, record in runs for row in record.results if row.metric == metric]
    most = max((len({row.seed for row in record.results}) for _, record in runs), default=1)
    better = "higher is better, 1 is perfect"
    if metric == "hd95":
        # secfed.metrics sets this penalty.
        better = (
            "lower is better; an organ that only one of prediction and reference has counts as the volume's diagonal"
        )
    parts = [f"Mean over patients; {better}; the best figure of a row is bold and underlined."]
    if any(row.patients_std is not None for row in rows) or most > 1:
        over = "seeds" if most > 1 else "patients"
        parts.append(f"± is the standard deviation over {over}.")
    if most == 1:
        parts.append("One seed per run (n = 1): how far a repetition would differ is not known.")
    if len({(row.test_modality, row.n) for row in rows}) > len({row.test_modality for row in rows}):
        parts.append(
            "Where n stands beside a figure, the others of the patients had no defined value and are left out."
        )
    if any(not row.seen for row in rows):
        parts.append(f"{_UNSEEN} this model trained on no scan of that modality.")
    if any(row.value is None for row in rows):
        parts.append(f"{DASH} not defined.")
    return " ".join(parts)


def _edge(columns: list[_Column], index: int) -> str | None:
    return "edge" if index and columns[index].run != columns[index - 1].run else None


def _union(sequences: Iterable[Sequence[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(item for sequence in sequences for item in sequence))
