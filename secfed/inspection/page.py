"""An inspection as one HTML file that loads nothing and has no script: counts, measures, problems, a slice per case.

It names patients and shows their scans: keep it where the scans are kept.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from secfed.config import PreprocessingConfig
from secfed.data.cases import Case
from secfed.data.preprocessing import ReadCase
from secfed.data.problems import CaseProblem
from secfed.inspection.facts import InspectedDataSet, Inspection, Spread
from secfed.inspection.thumbnails import thumbnail, without_picture
from secfed.report.document import document, section
from secfed.report.markup import Markup, across, join, tag
from secfed.report.naming import modality_name, organ_name
from secfed.report.overlays import overlay_legend
from secfed.report.stylesheet import STYLESHEET
from secfed.whole_file import write_whole

_READING = (
    "The middle one of the slices in which something is drawn, or of all. Anterior is up and R marks the patient's "
    "right: a liver on the right-hand side, or a spine on top, is a scan whose header is wrong."
)

_STYLE = """
.overlays { grid-template-columns: repeat(auto-fill, minmax(min(45%, 11rem), 1fr)); gap: 1rem; }
.overlays figcaption { overflow-wrap: anywhere; font-size: .85rem; line-height: 1.35; }
.problems { padding: 0; list-style: none; }
.problems li { padding: .6rem .9rem; border-left: 4px solid var(--rule); background: var(--surface);
  overflow-wrap: anywhere; }
.problems li.error { border-color: var(--warn); background: var(--warn-soft); }
.problems p { margin: .2rem 0 0; }
h2, .path { overflow-wrap: anywhere; }
"""


class InspectionPage:
    """Collects one small drawing per case while scans pass by, and writes the page at the end."""

    def __init__(self, config: PreprocessingConfig) -> None:
        self._config = config
        self._figures: dict[str, list[Markup]] = {}

    def add(self, found: InspectedDataSet, case: Case, read: ReadCase | None) -> None:
        """Draw a case; None for one that cannot be used."""
        figures = self._figures.setdefault(found.title, [])
        if read is None:
            figures.append(without_picture(case))
        else:
            figures.append(thumbnail(case, read, label_map=found.label_map, config=self._config))

    def write(self, path: Path, inspection: Inspection) -> None:
        """Write the page whole.

        Raises:
            OSError: it cannot be written.
        """
        body = join(
            tag("header", tag("h1", "Data sets"), tag("p", "secfed data inspect", class_="kicker")),
            tag("p", verdict(inspection), class_="lead"),
            [
                _data_set(f"data-set-{index}", found, self._figures.get(found.title, []))
                for index, found in enumerate(inspection.data_sets, start=1)
            ],
        )
        text = document("Inspection of data sets", body, style=STYLESHEET + _STYLE)
        write_whole(path, text.encode("utf-8", "replace"), durable=False)


def verdict(inspection: Inspection) -> str:
    """One sentence on everything that was looked at."""
    cases = sum(len(found.cases()) for found in inspection.data_sets)
    errors, warnings = inspection.num_errors, inspection.num_warnings
    counted = f"{_count(cases, 'case')}, {_count(errors, 'error')}, {_count(warnings, 'warning')}."
    return f"{counted} {'Errors keep cases out of a run.' if errors else 'A run can use all of them.'}"


def spread_text(spread: Spread) -> list[str]:
    """Three numbers for a row of a table."""
    return [f"{value:.4g}" for value in (spread.lowest, spread.median, spread.highest)]


def _data_set(key: str, found: InspectedDataSet, figures: Sequence[Markup]) -> Markup:
    parts: list[Markup | None] = [tag("p", tag("code", str(found.folder)), class_="path")]
    if found.problems:
        parts += [tag("h3", "Problems"), _problems((*found.errors, *found.warnings))]
    if found.data_set is not None:
        parts += [_counts(found), *_measures(found), _organs(found), _several(found)]
    if figures:
        parts += [
            tag("h3", "Slices"),
            overlay_legend(found.label_map.organs, compared=False),
            tag("div", figures, class_="overlays"),
            tag("p", _READING, class_="note"),
        ]
    return section(key, found.title, *parts)


def _problems(problems: Iterable[CaseProblem]) -> Markup:
    return tag(
        "ul",
        [
            tag(
                "li",
                tag("b", problem.severity.capitalize()),
                f", {problem.case}: " if problem.case else ": ",
                problem.reason,
                tag("p", tag("code", str(problem.file)), class_="note"),
                tag("p", f"What to do: {problem.todo}") if problem.todo else None,
                class_=problem.severity,
            )
            for problem in problems
        ],
        class_="problems",
    )


def _counts(found: InspectedDataSet) -> Markup:
    columns = [*map(modality_name, found.modalities), "with a label", "patients"]
    rows = [(split, [str(number) for number in counted.values()]) for split, counted in found.counts().items()]
    return across(columns, rows, "Cases", "split")


def _measures(found: InspectedDataSet) -> list[Markup]:
    tables = []
    for modality in found.modalities:
        rows = [(name, spread_text(spread)) for name, spread in found.measures(modality).items()]
        if rows:
            title = f"{modality_name(modality)}: grid as stored, and grey values"
            tables.append(across(["least", "median", "greatest"], rows, title, "measure"))
    return tables


def _organs(found: InspectedDataSet) -> Markup:
    rows = [(organ_name(organ), [str(drawn), str(seen)]) for organ, (drawn, seen) in found.organs().items()]
    title = f"Task {found.label_map.task}: usable cases in which an organ was drawn, and in which it has a voxel"
    return across(["drawn", "seen"], rows, title, "organ")


def _several(found: InspectedDataSet) -> Markup | None:
    several = found.several_scans()
    if not several:
        return None
    listed = ", ".join(f"{patient} ({count})" for patient, count in several.items())
    return tag("p", f"Patients with several scans: {listed}. Each counts as one patient.", class_="path")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
