"""An inspection as a person reads it in the terminal: one table per data set, then what is wrong, and what to do."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from secfed.command_line import printable
from secfed.inspection.facts import InspectedDataSet, Inspection
from secfed.inspection.page import spread_text, verdict
from secfed.problem_lines import problem_lines
from secfed.report.naming import modality_name, organ_name

_MANY_PATIENTS = 10


def print_inspection(inspection: Inspection, console: Console) -> None:
    """Everything, verdict last."""
    for found in inspection.data_sets:
        console.print(Text(printable(found.title), style="bold"), soft_wrap=True)
        console.print(Text(printable(str(found.folder)), style="dim"), soft_wrap=True)
        if found.data_set is not None:
            _counts(found, console)
            _measures(found, console)
            _organs(found, console)
            _several(found, console)
        console.print(problem_lines((*found.errors, *found.warnings)), end="", soft_wrap=True)
        console.print()
    console.print(Text(verdict(inspection), style="bold red" if inspection.num_errors else "bold green"))


def _counts(found: InspectedDataSet, console: Console) -> None:
    table = _table("cases", *map(modality_name, found.modalities), "with a label", "patients")
    for split, counted in found.counts().items():
        table.add_row(split, *(str(number) for number in counted.values()))
    console.print(table)


def _measures(found: InspectedDataSet, console: Console) -> None:
    for modality in found.modalities:
        table = _table(modality_name(modality), "least", "median", "greatest")
        for name, spread in found.measures(modality).items():
            table.add_row(name, *spread_text(spread))
        if table.row_count:
            console.print(table)


def _organs(found: InspectedDataSet, console: Console) -> None:
    table = _table(f"organs of {found.label_map.task}", "drawn in", "seen in")
    for organ, (drawn, seen) in found.organs().items():
        table.add_row(organ_name(organ), str(drawn), str(seen))
    console.print(table)


def _several(found: InspectedDataSet, console: Console) -> None:
    several = found.several_scans()
    if several:
        first = ", ".join(f"{patient} ({count})" for patient, count in list(several.items())[:_MANY_PATIENTS])
        more = f" and {len(several) - _MANY_PATIENTS} more" if len(several) > _MANY_PATIENTS else ""
        console.print(Text(printable(f"patients with several scans: {first}{more}")), soft_wrap=True)


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    table.add_column(first, no_wrap=True, min_width=18)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table
