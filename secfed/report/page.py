"""The whole page: one HTML file that works offline, for a researcher, a governance board and an auditor.

A content security policy inside the page forbids the network and every script but the two that are put here, so that
neither a library nor a hostile name in a run folder can send or run anything.
"""

import base64
import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from plotly.offline import get_plotlyjs

from secfed.errors import RunFolderError
from secfed.report.aggregator_view import aggregator_section
from secfed.report.comparison import comparison_section
from secfed.report.cost import cost_section
from secfed.report.curves import DRAW_SCRIPT, curves_section, panel_data, panels
from secfed.report.headline import headline
from secfed.report.markup import Child, Markup, join, tag
from secfed.report.overlays import overlays_section
from secfed.report.privacy import privacy_section
from secfed.report.reproduction import limits_section, provenance_section
from secfed.report.run_folder import ReportedRun, read_run_folder
from secfed.report.score_tables import dice_table, hd95_table
from secfed.report.stylesheet import STYLESHEET


def build_report(run_folders: Sequence[Path], *, out: Path) -> Path:
    """Write the page of one or several run folders to `out` and return it; the same folders give the same bytes.

    Raises:
        RunFolderError: no folder is given, one is given twice, or its `run.json` cannot be used.
    """
    if not run_folders:
        raise RunFolderError("a report needs at least one run folder, got none")
    if len({folder.resolve() for folder in run_folders}) < len(run_folders):
        raise RunFolderError(f"a run folder is given twice: {', '.join(map(str, run_folders))}")
    text = render([read_run_folder(folder) for folder in run_folders])
    handle, draft = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(draft).chmod(0o644)
        Path(draft).replace(out)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    return out


def render(runs: Sequence[ReportedRun]) -> str:
    """The page as text."""
    named = list(zip(_names(runs), runs, strict=True))
    title = "secfed report: " + ", ".join(name for name, _ in named)
    single = len(named) == 1
    sections = [_scores(named)] if single else [_section("comparison", "The runs compared", _compared(named))]
    details = [_details(name, run, index, single=single) for index, (name, run) in enumerate(named)]
    body = join(
        tag("header", tag("h1", title.removeprefix("secfed report: ")), tag("p", "secfed report", class_="kicker")),
        headline(runs[0]) if single else None,
        sections,
        details,
    )
    drawn = [panel for index, run in enumerate(runs) for panel in panels(run.record, index)]
    scripts = [get_plotlyjs(), DRAW_SCRIPT] if drawn else []
    return _document(title, body, panel_data(drawn) if drawn else None, scripts)


def _scores(named: Sequence[tuple[str, ReportedRun]]) -> Markup:
    records = [(name, run.record) for name, run in named]
    distances = hd95_table(records)
    return join(
        _section("dice", "Dice per organ and modality", dice_table(records)),
        _section("hd95", "Distance between surfaces (HD95)", distances) if distances is not None else None,
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
    sections = [_section(f"{key}-{index}", heading, content) for key, heading, content in parts]
    return join(sections) if single else tag("article", tag("h1", name), headline(run), sections)


def _section(key: str, heading: str, content: Child) -> Markup:
    return tag("section", tag("h2", heading), content, id=key)


def _names(runs: Sequence[ReportedRun]) -> list[str]:
    """Run names, with the folder's name behind where two are the same."""
    names = [run.record.name for run in runs]
    return [
        name if names.count(name) == 1 else f"{name} ({run.folder.resolve().name})"
        for name, run in zip(names, runs, strict=True)
    ]


def _document(title: str, body: Markup, data: Markup | None, scripts: Sequence[str]) -> str:
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{value}'" for value in hashes) or "'none'"
    policy = f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:"
    head = join(
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup(STYLESHEET)),
    )
    # The scripts stand last, so that all tables and figures are on the screen before the plots are drawn.
    last = join(data, [Markup(f"<script>{script}</script>") for script in scripts])
    page = tag("html", tag("head", head), tag("body", tag("main", body), last), lang="en")
    return f"<!DOCTYPE html>\n{page}\n"
