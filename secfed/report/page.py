"""The whole page: one HTML file that works offline, for a researcher, a governance board and an auditor.

Several runs stand beside each other. A study, which is many runs with questions of its own, has a page of its own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from secfed.errors import RunFolderError
from secfed.report.aggregator_view import aggregator_section
from secfed.report.comparison import comparison_section
from secfed.report.cost import cost_section
from secfed.report.curves import DRAW_SCRIPT, curves_section, panel_data, panels
from secfed.report.document import document, section, write_page
from secfed.report.headline import headline
from secfed.report.markup import Markup, join, tag
from secfed.report.overlays import overlays_section
from secfed.report.privacy import privacy_section
from secfed.report.reproduction import limits_section, provenance_section
from secfed.report.run_folder import ReportedRun, read_run_folder
from secfed.report.score_tables import dice_table, hd95_table
from secfed.report.study.page import read_study, render_study
from secfed.study.record import FILE_NAME as STUDY


def build_report(run_folders: Sequence[Path], *, out: Path) -> Path:
    """Write the page of run folders, or of one study folder, to `out` and return it; the same gives the same bytes.

    Raises:
        RunFolderError: no folder is given, one is given twice, its `run.json` or `study.json` cannot be used, or a
            study is given beside anything else.
    """
    if not run_folders:
        raise RunFolderError("a report needs at least one run folder, got none")
    if len({folder.resolve() for folder in run_folders}) < len(run_folders):
        raise RunFolderError(f"a run folder is given twice: {', '.join(map(str, run_folders))}")
    studies = [folder for folder in run_folders if (folder / STUDY).exists()]
    if studies and len(run_folders) > 1:
        raise RunFolderError(
            f"{studies[0]} is a study, which has a page of its own: give it alone, or the run folders alone, "
            "such as those in its cells folder"
        )
    text = render_study(studies[0]) if studies else render([read_run_folder(folder) for folder in run_folders])
    return write_page(out, text)


def study_tables(folder: Path) -> dict[str, Any] | None:
    """The tables behind a study's page as plain JSON values; None for a folder that is no study.

    Raises:
        RunFolderError: its `study.json` cannot be used.
    """
    return read_study(folder).summary.as_dict() if (folder / STUDY).exists() else None


def render(runs: Sequence[ReportedRun]) -> str:
    """The page as text."""
    named = list(zip(_names(runs), runs, strict=True))
    title = "secfed report: " + ", ".join(name for name, _ in named)
    single = len(named) == 1
    sections = [_scores(named)] if single else [section("comparison", "The runs compared", _compared(named))]
    details = [_details(name, run, index, single=single) for index, (name, run) in enumerate(named)]
    body = join(
        tag("header", tag("h1", title.removeprefix("secfed report: ")), tag("p", "secfed report", class_="kicker")),
        headline(runs[0]) if single else None,
        sections,
        details,
    )
    drawn = [panel for index, run in enumerate(runs) for panel in panels(run.record, index)]
    scripts = [get_plotlyjs(), DRAW_SCRIPT] if drawn else []
    return document(title, body, data=panel_data(drawn) if drawn else None, scripts=scripts)


def _scores(named: Sequence[tuple[str, ReportedRun]]) -> Markup:
    records = [(name, run.record) for name, run in named]
    distances = hd95_table(records)
    return join(
        section("dice", "Dice per organ and modality", dice_table(records)),
        section("hd95", "Distance between surfaces (HD95)", distances) if distances is not None else None,
    )


def _compared(named: Sequence[tuple[str, ReportedRun]]) -> Markup:
    return join(comparison_section(named), _scores(named))


def _details(name: str, run: ReportedRun, index: int, *, single: bool) -> Markup:
    record = run.record
    parts = (
        ("curves", "Learning curves", curves_section(record, index)),
        ("overlays", "Contours on test slices", overlays_section(run.overlays, run.overlays_problem, record)),
        ("aggregator", "What the aggregator saw of one site", aggregator_section(run.view, run.view_problem)),
        ("privacy", "What was protected and what was not", privacy_section(run)),
        ("cost", "Cost", cost_section(record)),
        ("provenance", "Provenance", provenance_section(run)),
        ("limits", "Limits of these figures", limits_section(run)),
    )
    sections = [section(f"{key}-{index}", heading, content) for key, heading, content in parts]
    return join(sections) if single else tag("article", tag("h1", name), headline(run), sections)


def _names(runs: Sequence[ReportedRun]) -> list[str]:
    """Run names, with the folder's name behind where two are the same."""
    names = [run.record.name for run in runs]
    return [
        name if names.count(name) == 1 else f"{name} ({run.folder.resolve().name})"
        for name, run in zip(names, runs, strict=True)
    ]
