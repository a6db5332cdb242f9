"""The tables and the chart of methods: Dice per organ and modality, each variant against the reference."""

from collections.abc import Sequence

from secfed.report.markup import DASH, Markup, caption, join, number, scrollable, tag
from secfed.report.naming import modality_name, organ_name
from secfed.report.study.answers import unseen_by_all
from secfed.report.study.charts import legend, linear, swatch
from secfed.report.study.dot_plot import Dot, DotRow, dot_plot
from secfed.report.study.notes import Footnotes, Study, bracketed, probability, value_cell, variant_name
from secfed.results import MEAN
from secfed.study.methods import MethodRow, MethodTable, ModalityResult

UNSEEN = "†"
_DOUBT = (
    "p is about patients for the models at hand. The interval carries the seeds too, and no difference lies inside it: "
    "other seeds may give no difference, or the opposite."
)
# Colour and shape of a modality on the whole page.
_LOOKS = {"CT": ("--line-0", "circle"), "MR": ("--line-2", "diamond")}
_OTHERS = (("--line-4", "square"), ("--line-3", "triangle"))


def look(modality: str, modalities: Sequence[str]) -> tuple[str, str]:
    """CSS variable and shape of a modality."""
    if modality in _LOOKS:
        return _LOOKS[modality]
    others = [name for name in modalities if name not in _LOOKS]
    return _OTHERS[others.index(modality) % len(_OTHERS)]


def method_chart(table: MethodTable) -> Markup | None:
    """Means with intervals as dots, sorted by the modality that nobody saw where there is one."""
    results = [result for row in table.rows for result in row.modalities if result.mean is not None]
    if not results:
        return None
    ends = [
        value
        for result in results
        if result.mean is not None
        for value in (result.mean.mean, result.mean.low, result.mean.high)
        if value is not None
    ]
    scale = linear(ends, floor=0.0, ceiling=1.0)
    rows, order = _sorted(table)
    drawn = [DotRow(name=row.variant, dots=_dots(row, table), detail=_detail(row)) for row in rows]
    rules = [
        (result.mean.mean, f"rule {'mr' if look(result.modality, table.modalities)[0] == '--line-2' else 'ct'}")
        for row in table.rows
        if row.is_reference
        for result in row.modalities
        if result.mean is not None
    ]
    against = f" Dotted lines: the reference, {table.reference}." if rules else ""
    text = f"Mean Dice over organs per method and test modality, with 95 % intervals. {order}{against}"
    return tag(
        "figure",
        tag("figcaption", "Mean Dice over organs", tag("small", f"Bars are 95 % intervals. {order}{against}")),
        _legend(table),
        dot_plot(drawn, scale=scale, unit="Dice", told=text, rules=rules),
    )


def method_table_markup(study: Study, table: MethodTable, notes: Footnotes) -> Markup:
    """One row per variant: the mean over organs, the difference from the reference and its p, per modality."""
    groups = tag("tr", tag("td"), [_group(table, name) for name in table.modalities])
    heads = ["Dice", "HD95, mm"] + (["Difference", "p, Holm"] if table.reference is not None else [])
    columns = [
        tag("th", head, scope="col", class_="edge" if index == 0 else None)
        for _ in table.modalities
        for index, head in enumerate(heads)
    ]
    rows = [
        tag(
            "tr",
            tag("th", _heading(study, row, notes), scope="row"),
            [_summary_cells(row, row.modality(name), table, notes) for name in table.modalities],
            class_="reference" if row.is_reference else None,
        )
        for row in table.rows
    ]
    title = "Mean over organs, per test modality"
    against = (
        f" Differences are from {table.reference}, over the same patients and seeds; p is that of Wilcoxon's "
        f"signed-rank test over patients, corrected by Holm for {table.family} comparisons."
        if table.reference is not None
        else ""
    )
    body = tag(
        "table",
        caption(f"{title}, with 95 % intervals below. Underlined: no variant has a higher Dice.{against}"),
        tag("thead", groups, tag("tr", tag("th", "Method", scope="col"), columns)),
        tag("tbody", rows),
        class_="scores methods",
    )
    return scrollable(body, title)


def organ_tables(table: MethodTable) -> Markup:
    """One table per test modality with a column per organ, unseen modalities first."""
    unseen = unseen_by_all(table)
    names = sorted(table.modalities, key=lambda name: name not in unseen)
    return join([_organ_table(table, name) for name in names])


def contradicted(result: ModalityResult) -> bool:
    """Whether p calls a difference significant whose interval, with the seeds in it, holds zero."""
    compared, p = result.comparison, result.p_holm
    if compared is None or p is None or compared.difference.low is None or compared.difference.high is None:
        return False
    return p < 0.05 and compared.difference.low <= 0 <= compared.difference.high


def table_notes(table: MethodTable, notes: Footnotes) -> Markup:
    """Footnotes, the dagger's meaning, and how small a p could be."""
    parts = []
    if any(result.seen is False for row in table.rows for result in row.modalities):
        parts.append(f"{UNSEEN} no scan of this modality was in the training data.")
    if table.smallest_p is not None and 0.01 < table.smallest_p < 1:
        parts.append(
            f"With so few patients and {table.family} comparisons no corrected p can be below {table.smallest_p:.2g}."
        )
    note = tag("p", " ".join(parts), class_="note") if parts else None
    return join(notes.listing(), note)


def _organ_table(table: MethodTable, modality: str) -> Markup:
    heads = [tag("th", organ_name(organ), scope="col") for organ in table.organs]
    rows = []
    for row in table.rows:
        result = row.modality(modality)
        cells = [value_cell(result.organs[organ], best=organ in result.best) for organ in table.organs]
        mean = value_cell(result.mean, best=MEAN in result.best, mark=_dagger(result), class_="meancell")
        heading = tag("th", tag("span", row.variant, class_="name"), scope="row")
        rows.append(tag("tr", heading, mean, cells, class_="reference" if row.is_reference else None))
    title = f"Dice per organ on {modality_name(modality)}{_seen_text(table, modality)}"
    body = tag(
        "table",
        caption(f"{title}, with 95 % intervals."),
        tag("thead", tag("tr", tag("th", "Method", scope="col"), tag("th", "Mean", scope="col"), heads)),
        tag("tbody", rows),
        class_="scores methods organs",
    )
    return scrollable(body, title)


def _summary_cells(row: MethodRow, result: ModalityResult, table: MethodTable, notes: Footnotes) -> Markup:
    dropped = (
        notes.mark(f"{result.dropped} patients have no value at every seed of this variant and are left out.")
        if result.dropped
        else None
    )
    alone = result.mean is not None and result.mean.seeds == 1 < max(len(one.seeds) for one in table.rows)
    single = notes.mark("n = 1 seed: the interval is over patients alone.") if alone else None
    value = value_cell(
        result.mean, best=MEAN in result.best, mark=join(_dagger(result), dropped, single), class_="edge"
    )
    distance = value_cell(result.hd95_mm, digits=1)
    if table.reference is None:
        return join(value, distance)
    if row.is_reference:
        return join(value, distance, tag("td", "reference", class_="soft", colspan=2))
    compared = result.comparison
    if compared is None:
        return join(value, distance, tag("td", DASH), tag("td", DASH))
    marks = []
    if result.shared_seeds < max(len(row.seeds), 1):
        marks.append(notes.mark(f"Over the {result.shared_seeds} seeds that both have."))
    if result.dropped_in_comparison > result.dropped:
        marks.append(notes.mark(f"{result.dropped_in_comparison} patients are missing on one side and left out."))
    if compared.difference.low == compared.difference.high == 0:
        return join(value, distance, tag("td", "identical", join(marks), class_="soft", colspan=2))
    difference = value_cell(compared.difference, sign=True, mark=join(marks) if marks else None)
    doubt = notes.mark(_DOUBT) if contradicted(result) else None
    return join(value, distance, difference, tag("td", probability(result.p_holm), doubt))


def _heading(study: Study, row: MethodRow, notes: Footnotes) -> Markup:
    return variant_name(study, row.variant, row.cells, notes, note=row.note)


def _group(table: MethodTable, modality: str) -> Markup:
    span = 4 if table.reference is not None else 2
    text = f"{modality_name(modality)}{_seen_text(table, modality)}"
    return tag("th", text, scope="colgroup", colspan=span, class_="run edge")


def _seen_text(table: MethodTable, modality: str) -> str:
    seen = {row.modality(modality).seen for row in table.rows if row.seeds}
    return ", seen" if seen == {True} else ", unseen" if seen == {False} else ""


def _dagger(result: ModalityResult) -> Markup | None:
    return tag("sup", UNSEEN) if result.seen is False and result.mean is not None else None


def _sorted(table: MethodTable) -> tuple[list[MethodRow], str]:
    unseen = unseen_by_all(table)
    if not unseen:
        return list(table.rows), ""

    def key(row: MethodRow) -> float:
        mean = row.modality(unseen[0]).mean
        return 1.0 if mean is None else -mean.mean

    return sorted(table.rows, key=key), f"Sorted by {modality_name(unseen[0])}, which no model saw."


def _dots(row: MethodRow, table: MethodTable) -> tuple[Dot, ...]:
    dots = []
    for result in row.modalities:
        if result.mean is None:
            continue
        colour, shape = look(result.modality, table.modalities)
        seen = "unseen" if result.seen is False else "seen"
        told = (
            f"{row.variant}, {modality_name(result.modality)} ({seen}): {number(result.mean.mean)}"
            f"{bracketed(result.mean)}"
        )
        dots.append(
            Dot(
                value=result.mean.mean,
                low=result.mean.low,
                high=result.mean.high,
                colour=colour,
                shape=shape,
                filled=result.seen is not False,
                told=told,
            )
        )
    return tuple(dots)


def _detail(row: MethodRow) -> str:
    role = "reference" if row.is_reference else ""
    fewer = f"{len(row.seeds)} of {row.planned} seeds" if len(row.seeds) < row.planned else ""
    return ", ".join(part for part in (role, fewer) if part)


def _legend(table: MethodTable) -> Markup:
    items = []
    for modality in table.modalities:
        colour, shape = look(modality, table.modalities)
        for seen, text in ((True, "seen in training"), (False, "unseen")):
            if any(row.modality(modality).seen is seen for row in table.rows):
                sample = swatch(colour, shape=shape, filled=seen, dash="none")
                items.append((sample, f"{modality_name(modality)}, {text}"))
    return legend(items)
