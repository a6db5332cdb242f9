"""What training took, per variant, and whether protection changed the model."""

from secfed.report.markup import DASH, Markup, caption, duration, join, number, scrollable, size, tag
from secfed.report.naming import protection_name
from secfed.report.study.notes import Footnotes, Study, heads, variant_name
from secfed.study.costs import CostRow
from secfed.study.summary import ExperimentSummary

_HEADS = (
    "Variant",
    "Sites",
    "Up",
    "Down",
    "Exchanges",
    "Wall time",
    "Training work",
    "Protection work",
    "Peak memory",
    "Passes",
)


def cost_table(study: Study, summary: ExperimentSummary, notes: Footnotes) -> Markup:
    """One row per variant of the record; those without a trained model are dashes."""
    by_name = {row.variant: row for row in summary.costs}
    rows = []
    for variant in summary.experiment.variants:
        row = by_name.get(variant.name)
        note = variant.note or ("" if row is None else protection_name(row.protection))
        heading = variant_name(study, variant.name, variant.cells, notes, note=note)
        cells = [tag("td", text) for text in ([DASH] * (len(_HEADS) - 1) if row is None else _cells(row))]
        rows.append(tag("tr", tag("th", heading, scope="row"), cells))
    title = "Cost of training, means over seeds"
    text = (
        f"{title}. Up and down are message contents of one site in one round; an exchange is a request that the "
        "aggregator waits for, per round. Training and protection work are summed over the sites and the aggregator. "
        "Peak memory is that of the one process that played all parties."
    )
    body = tag(
        "table",
        caption(text),
        heads(_HEADS),
        tag("tbody", rows),
        class_="scores methods",
    )
    return scrollable(body, title)


def model_hashes(summary: ExperimentSummary) -> Markup | None:
    """The models of each seed, by their first hexadecimal digits."""
    if not summary.models:
        return None
    items = []
    for one in summary.models:
        parts = [
            join("; " if index else "", ", ".join(names), ": ", tag("code", model[:16], title=model))
            for index, (model, names) in enumerate(one.variants_of.items())
        ]
        items.append(tag("li", f"Seed {one.seed}: ", parts))
    return tag("ul", items, class_="hashes")


def _cells(row: CostRow) -> list[str]:
    return [
        str(row.sites),
        DASH if row.bytes_up is None else size(row.bytes_up),
        DASH if row.bytes_down is None else size(row.bytes_down),
        number(row.exchanges, 1),
        DASH if row.seconds is None else duration(row.seconds),
        DASH if row.training_seconds is None else duration(row.training_seconds),
        DASH if row.protection_seconds is None else duration(row.protection_seconds),
        DASH if row.peak_memory_bytes is None else size(row.peak_memory_bytes),
        number(row.passes, 2),
    ]
