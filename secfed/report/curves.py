"""Learning curves: Plotly panels for train loss, validation Dice and epsilon, and a table of last values for everybody.

Panels travel as JSON that the page's own script reads; the colours are CSS variables, so they follow dark mode.
"""

import json
import math
from typing import Any

from secfed.report.markup import Markup, caption, join, number, scrollable, tag
from secfed.report.naming import line_style, modality_name, model_name, ordered
from secfed.report.trust import METRICS_FROM_BOOKS
from secfed.results import SIMULATED_NOISE, CurvePoint, RunRecord

Series = dict[str, list[CurvePoint]]

_UNITS = {"train_loss": "loss", "validation_dice": "Dice", "epsilon": "epsilon"}
_TITLES = {"train_loss": "Training loss", "validation_dice": "Validation Dice", "epsilon": "Epsilon paid"}

DRAW_SCRIPT = """
(function () {
  "use strict";
  const panels = JSON.parse(document.getElementById("curve-data").textContent);
  const root = document.documentElement;
  function colour(name) { return getComputedStyle(root).getPropertyValue(name).trim(); }
  function draw() {
    const ink = colour("--ink-soft"), grid = colour("--rule");
    for (const panel of panels) {
      const traces = panel.traces.map(function (trace) {
        return {
          type: "scatter", mode: trace.x.length > 1 ? "lines+markers" : "markers", name: trace.name,
          x: trace.x, y: trace.y,
          line: {color: colour(trace.colour), dash: trace.dash, width: 2},
          marker: {color: colour(trace.colour), size: 4}
        };
      });
      const axis = {gridcolor: grid, zerolinecolor: grid, linecolor: grid, automargin: true, fixedrange: true};
      const layout = {
        height: 300, margin: {l: 48, r: 12, t: 8, b: 40}, showlegend: false, hovermode: "x unified",
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        font: {color: ink, family: "system-ui, sans-serif", size: 12},
        hoverlabel: {bgcolor: colour("--paper"), bordercolor: grid, font: {color: colour("--ink")}},
        xaxis: Object.assign({title: {text: "round"}, rangemode: "tozero"}, axis),
        yaxis: Object.assign({title: {text: panel.unit}, rangemode: "tozero"}, axis)
      };
      if (panel.unit === "Dice") { layout.yaxis.range = [0, 1]; }
      Plotly.react(panel.id, traces, layout, {displayModeBar: false, responsive: true});
    }
  }
  draw();
  for (const query of ["(prefers-color-scheme: dark)", "print"]) {
    window.matchMedia(query).addEventListener("change", draw);
  }
})();
"""


def panels(record: RunRecord, run: int) -> list[dict[str, Any]]:
    """What the script draws: one panel per measure and modality, none where there are no points."""
    drawn = []
    models = {point.model for point in record.curves}
    for index, (metric, modality) in enumerate(_measures(record)):
        traces = [
            {
                "name": model_name(model, record),
                "x": [point.round for point in points],
                "y": [_finite(point.value) for point in points],
                "colour": line_style(model, models).colour,
                "dash": line_style(model, models).dash,
            }
            for model, points in _series(record, metric, modality).items()
        ]
        unit = _UNITS[metric]
        drawn.append({"id": f"curve-{run}-{index}", "unit": unit, "traces": traces})
    return drawn


def panel_data(drawn: list[dict[str, Any]]) -> Markup:
    """The JSON that `DRAW_SCRIPT` reads. No '<' is left in it, so that no name can close the element."""
    text = json.dumps(drawn, allow_nan=False).replace("<", "\\u003c")
    return Markup(f'<script type="application/json" id="curve-data">{text}</script>')


def curves_section(record: RunRecord, run: int) -> Markup:
    """Legend, places for the panels, and the values after the last round."""
    if not record.curves:
        return tag("p", "This run recorded no learning curves.", class_="missing")
    measures = _measures(record)
    figures = [
        tag(
            "figure",
            tag("figcaption", _title(metric, modality), tag("small", _paid(record)) if metric == "epsilon" else None),
            tag("div", id=f"curve-{run}-{index}", class_="plot", role="img", aria_label=_title(metric, modality)),
        )
        for index, (metric, modality) in enumerate(measures)
    ]
    encrypted = any(job.protection == "encrypted" for job in record.jobs)
    return join(
        tag("p", METRICS_FROM_BOOKS, class_="note") if encrypted else None,
        _legend(record),
        tag("div", figures, class_="plots"),
        tag("noscript", tag("p", "The curves need JavaScript; every point is in run.json.", class_="missing")),
        _last_values(record, measures),
    )


def _measures(record: RunRecord) -> list[tuple[str, str]]:
    found = {(point.metric, point.modality) for point in record.curves}
    return sorted(found, key=lambda measure: (list(_UNITS).index(measure[0]), measure[1]))


def _series(record: RunRecord, metric: str, modality: str) -> Series:
    points = [point for point in record.curves if point.metric == metric and point.modality == modality]
    by_model: Series = {model: [] for model in ordered({point.model for point in points})}
    for point in sorted(points, key=lambda point: point.round):
        by_model[point.model].append(point)
    return by_model


def _title(metric: str, modality: str) -> str:
    measure = _TITLES[metric]
    return measure if modality == "all" else f"{measure}, {modality_name(modality)}"


def _paid(record: RunRecord) -> str:
    """Without delta, unit, relation and accountant an epsilon says nothing."""
    kinds = dict.fromkeys(
        f"at delta {job.privacy.delta:g} per {job.privacy.unit}, {job.privacy.relation}, {job.privacy.accountant}"
        + (f"; {SIMULATED_NOISE}" if job.privacy.simulated else "")
        for job in record.jobs
        if job.privacy is not None and job.privacy.epsilon is not None
    )
    return "; ".join(kinds)


def _of_epsilon(record: RunRecord) -> str:
    return f" Epsilon {paid}." if (paid := _paid(record)) else ""


def _legend(record: RunRecord) -> Markup:
    models = {point.model for point in record.curves}
    patterns = {"solid": None, "dash": "7 4", "dot": "2 3", "dashdot": "7 3 2 3", "longdash": "11 4"}
    items = []
    for model in ordered(models):
        style = line_style(model, models)
        line = tag(
            "line",
            x1=0,
            y1=6,
            x2=30,
            y2=6,
            stroke=f"var({style.colour})",
            stroke_width=2.5,
            stroke_dasharray=patterns.get(style.dash, "11 3 2 3"),
        )
        swatch = tag("svg", line, width=30, height=12, aria_hidden="true")
        items.append(tag("li", swatch, model_name(model, record)))
    return tag("ul", items, class_="legend")


def _last_values(record: RunRecord, measures: list[tuple[str, str]]) -> Markup:
    head = [tag("th", _title(metric, modality), scope="col") for metric, modality in measures]
    series = [_series(record, metric, modality) for metric, modality in measures]
    rows = []
    for model in ordered({point.model for point in record.curves}):
        points = [found[model][-1] if model in found else None for found in series]
        last = max(point.round for point in record.curves if point.model == model)
        cells = [
            tag(
                "td",
                number(None if point is None else point.value),
                tag("small", f"round {point.round}") if point is not None and point.round != last else None,
            )
            for point in points
        ]
        rows.append(tag("tr", tag("th", model_name(model, record), scope="row"), tag("td", str(last)), cells))
    table = tag(
        "table",
        caption(f"Values after the last round.{_of_epsilon(record)}"),
        tag("thead", tag("tr", tag("th", "Model", scope="col"), tag("th", "Round", scope="col"), head)),
        tag("tbody", rows),
        class_="scores",
    )
    return scrollable(table, "Values after the last round")


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
