"""What attacks got out of the training, with and without each protection, and what they find where nothing is."""

from collections.abc import Sequence

from secfed.report.markup import DASH, Markup, caption, join, number, scrollable, tag
from secfed.report.study.charts import legend, linear, swatch
from secfed.report.study.dot_plot import Dot, DotRow, dot_plot
from secfed.report.study.notes import heads
from secfed.study.record import LeakageRow

_ATTACKS = {
    "inversion": (
        "Reconstruction of scans from updates",
        "An attacker rebuilds a training image from what was sent; the better the picture, the more has leaked.",
    ),
    "membership": (
        "Who was in the training data",
        "An attacker with the model tells patients that were trained on from others.",
    ),
}


def leakage_part(rows: Sequence[LeakageRow]) -> Markup:
    """A chart per measure and a table per attack, or that nothing was attacked."""
    if not rows:
        return tag("p", "This study ran no attack, so what leaks was not measured.", class_="missing")
    parts = []
    for attack, (heading, text) in _ATTACKS.items():
        found = [row for row in rows if row.attack == attack]
        if not found:
            parts.append(join(tag("h3", heading), tag("p", "This attack was not run.", class_="missing")))
            continue
        metrics = dict.fromkeys((row.metric, row.unit) for row in found)
        charts = [_chart([row for row in found if (row.metric, row.unit) == one]) for one in metrics]
        parts.append(join(tag("h3", heading), tag("p", text), charts, _table(found, heading)))
    return join(parts)


def _chart(rows: Sequence[LeakageRow]) -> Markup:
    metric = _with_unit(rows[0])
    ends = [value for row in rows for value in (row.value, row.low, row.high, row.control) if value is not None]
    drawn = [
        DotRow(
            name=f"{row.protection}: {row.target}",
            dots=tuple(_dots(row)),
            detail=f"cohort {row.cohort}, {_repeated(row.repetitions)}",
        )
        for row in rows
    ]
    items = [
        (swatch("--line-2", shape="diamond", dash="none"), "the attack"),
        (swatch("--line-1", shape="circle", filled=False, dash="none"), "control: nothing to find"),
    ]
    told = f"{metric} of each attack, beside its control."
    return tag(
        "figure",
        tag("figcaption", metric, tag("small", "Bars are 95 % intervals; at the control, nothing has leaked.")),
        legend(items),
        dot_plot(drawn, scale=linear(ends, floor=0.0), unit=metric, told=told),
    )


def _dots(row: LeakageRow) -> list[Dot]:
    text = f"{row.protection}: {row.target}"
    dots = [
        Dot(
            value=row.value,
            low=row.low,
            high=row.high,
            colour="--line-2",
            shape="diamond",
            filled=True,
            told=f"{text}: {row.value:.3g}",
        )
    ]
    if row.control is not None:
        control = Dot(
            value=row.control,
            low=None,
            high=None,
            colour="--line-1",
            shape="circle",
            filled=False,
            told=f"{text}, control: {row.control:.3g}",
        )
        dots.append(control)
    return dots


def _table(rows: Sequence[LeakageRow], title: str) -> Markup:
    columns = ("Protection", "Attacked", "Sites", "Measure", "Found", "Control", "Repetitions", "Note")
    body = [
        tag(
            "tr",
            tag("th", row.protection, scope="row"),
            tag("td", row.target, class_="words"),
            tag("td", str(row.cohort)),
            tag("td", _with_unit(row), class_="words"),
            tag("td", _digits(row, row.value), tag("small", _interval(row), class_="ci")),
            tag("td", _digits(row, row.control)),
            tag("td", str(row.repetitions)),
            tag("td", row.note or DASH, class_="words"),
        )
        for row in rows
    ]
    table = tag(
        "table",
        caption(f"{title}: what each attack found, with 95 % intervals over its repetitions."),
        heads(columns, left=("Attacked", "Measure", "Note")),
        tag("tbody", body),
        class_="scores",
    )
    return scrollable(table, title)


def _with_unit(row: LeakageRow) -> str:
    return row.metric if row.unit in ("1", "") else f"{row.metric}, {row.unit}"


def _digits(row: LeakageRow, value: float | None) -> str:
    return number(value, 3 if row.unit in ("1", "") else 1)


def _interval(row: LeakageRow) -> str:
    if row.low is None or row.high is None:
        return "no interval"
    return f"{_digits(row, row.low)} to {_digits(row, row.high)}"


def _repeated(count: int) -> str:
    return f"{count} repetition{'' if count == 1 else 's'}"
