"""Federated against centralised training: the ratio with its interval, and the passes of both sides beside it."""

from secfed.report.markup import DASH, Markup, caption, join, number, percent, scrollable, tag
from secfed.report.naming import modality_name
from secfed.report.study.charts import Scale, legend, linear, swatch
from secfed.report.study.dot_plot import Dot, DotRow, dot_plot
from secfed.report.study.methods import look
from secfed.report.study.notes import below, bracketed, heads, interval
from secfed.study.training import SAME_PASSES, TrainingRatio


def ratio_part(ratios: tuple[TrainingRatio, ...]) -> Markup | None:
    """Chart and table, or None where no centralised variant was like a federated one."""
    if not ratios:
        return None
    return join(tag("h3", "Ratio to centralised training"), _chart(ratios), _table(ratios))


def _chart(ratios: tuple[TrainingRatio, ...]) -> Markup:
    modalities = sorted({row.modality for row in ratios if row.modality is not None})
    ends = [value for row in ratios for value in (row.ratio.mean, row.ratio.low, row.ratio.high) if value is not None]
    found = linear([100 * value for value in ends] + [95.0, 100.0], floor=0.0)
    scale = Scale(low=found.low, high=found.high, ticks=found.ticks, digits=found.digits)
    rows = []
    for variant in dict.fromkeys(row.variant for row in ratios):
        of_variant = [row for row in ratios if row.variant == variant]
        fair = all(row.like_for_like for row in of_variant)
        dots = tuple(_dot(row, modalities) for row in of_variant)
        rows.append(DotRow(name=variant, dots=dots, detail="" if fair else "NOT like for like"))
    items = [(_sample(name, modalities), modality_name(name)) for name in modalities]
    if any(row.modality is None for row in ratios):
        items.append((_sample(None, modalities), "mean of both" if len(modalities) == 2 else "mean of all"))
    unfair = "" if all(row.like_for_like for row in ratios) else " Hollow: NOT at the same number of passes."
    told = "Dice of federated training in percent of centralised training, with 95 % intervals."
    return tag(
        "figure",
        tag("figcaption", "Dice in percent of centralised training", tag("small", f"Bars are 95 % intervals.{unfair}")),
        legend(items),
        dot_plot(rows, scale=scale, unit="percent of centralised", told=told, rules=[(100.0, "rule strong")]),
    )


def _dot(row: TrainingRatio, modalities: list[str]) -> Dot:
    colour, shape = _look(row.modality, modalities)
    name = "mean of all" if row.modality is None else modality_name(row.modality)
    return Dot(
        value=100 * row.ratio.mean,
        low=None if row.ratio.low is None else 100 * row.ratio.low,
        high=None if row.ratio.high is None else 100 * row.ratio.high,
        colour=colour,
        shape=shape,
        filled=bool(row.like_for_like),
        told=f"{row.variant}, {name}: {percent(row.ratio.mean)}{bracketed(row.ratio, share=True)}",
    )


def _look(modality: str | None, modalities: list[str]) -> tuple[str, str]:
    return ("--line-1", "square") if modality is None else look(modality, modalities)


def _sample(modality: str | None, modalities: list[str]) -> Markup:
    colour, shape = _look(modality, modalities)
    return swatch(colour, shape=shape, dash="none")


def _table(ratios: tuple[TrainingRatio, ...]) -> Markup:
    modalities = list(dict.fromkeys(row.modality for row in ratios))
    rows = []
    for variant in dict.fromkeys(row.variant for row in ratios):
        found = {row.modality: row for row in ratios if row.variant == variant}
        any_row = next(iter(found.values()))
        cells = [
            tag("td", percent(one.ratio.mean), below(interval(one.ratio, share=True)))
            if (one := found.get(name)) is not None
            else tag("td", DASH)
            for name in modalities
        ]
        passes = [tag("td", number(value, 2)) for value in (any_row.passes, any_row.centralised_passes)]
        rows.append(
            tag(
                "tr",
                tag("th", variant, scope="row"),
                tag("td", any_row.centralised, class_="words"),
                cells,
                passes,
                tag("td", _verdict(any_row), class_="words" if any_row.like_for_like else "words warning"),
            )
        )
    names = ["Mean of all" if name is None else modality_name(name) for name in modalities]
    columns = ["Federated", "Centralised", *names, "Passes, federated", "Passes, centralised", "Like for like"]
    title = "Dice divided by that of centralised training with the same model and augmentation"
    note = (
        f"{title}, with 95 % intervals. Passes are samples drawn divided by samples held, all parties together; sides "
        f"that differ by more than {percent(SAME_PASSES, 0)} are not like for like: their ratio answers nothing."
    )
    body = tag(
        "table",
        caption(note),
        heads(columns, left=("Centralised", "Like for like")),
        tag("tbody", rows),
        class_="scores",
    )
    return scrollable(body, title)


def _verdict(row: TrainingRatio) -> str:
    return {True: "yes", False: "NO", None: "not known: passes were not recorded"}[row.like_for_like]
