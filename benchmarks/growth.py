"""How the cost of a masked round grows with the cohort and with the length: fits, and a figure of the measurements."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from benchmarks.rows import Row

FEW_CLIENTS = 5
"""The cohort of the measurements at different lengths."""

Quantity: TypeAlias = Literal["upload", "server"]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One mark of the figure: CPU seconds of one client's upload and of the server."""

    side: str
    clients: int
    length: int
    upload: float
    server: float


def growth_rows(points: Sequence[Point], *, cohort_length: int) -> list[Row]:
    """Growth in the cohort's size, a straight line with a start (encoding and hashing); exponents in the length."""
    cohorts = [point for point in points if point.side == "secfed" and point.length == cohort_length]
    cohorts = [point for point in cohorts if point.clients != FEW_CLIENTS]
    lengths = [
        point
        for point in points
        if point.side == "secfed" and point.clients == FEW_CLIENTS and point.length >= 1_000_000
    ]
    n_note = f"{cohort_length:,} parameters, n = {', '.join(str(point.clients) for point in cohorts)}; CPU"
    l_note = f"n = {FEW_CLIENTS}, {', '.join(f'{point.length:,}' for point in lengths)} parameters; CPU, 1 is linear"
    return [
        _straight("growth in n, one client's upload step", cohorts, "upload", n_note),
        _straight("growth in n, server", cohorts, "server", n_note),
        _exponent("exponent in length, one client's upload step", lengths, "upload", l_note),
        _exponent("exponent in length, server", lengths, "server", l_note),
    ]


def draw(points: Sequence[Point], *, cohort_length: int, path: Path) -> None:
    """A self-contained HTML page: cost against the cohort's size and against the length, both axes logarithmic."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(
        rows=1,
        cols=2,
        subplot_titles=(f"{cohort_length:,} parameters", f"{FEW_CLIENTS} clients"),
        horizontal_spacing=0.1,
    )
    for side, colour in (("secfed", "#1f6f8b"), ("SecAgg+", "#c8553d")):
        for what in get_args(Quantity):
            for column in (1, 2):
                chosen = [
                    point for point in points if point.side == side and (point.clients == FEW_CLIENTS) == (column == 2)
                ]
                chosen = [point for point in chosen if column == 2 or point.length == cohort_length]
                figure.add_trace(
                    go.Scatter(
                        x=[point.clients if column == 1 else point.length for point in chosen],
                        y=_seconds(chosen, what).tolist(),
                        mode="lines+markers",
                        name=f"{side}, {'one client' if what == 'upload' else 'server'}",
                        showlegend=column == 1,
                        line={"color": colour, "dash": "solid" if what == "upload" else "dot"},
                    ),
                    row=1,
                    col=column,
                )
    figure.update_xaxes(type="log", title_text="clients", row=1, col=1, tickvals=[10, 20, 50, 100])
    figure.update_xaxes(type="log", title_text="parameters", row=1, col=2)
    figure.update_yaxes(type="log", title_text="CPU seconds per round", row=1, col=1)
    figure.update_yaxes(type="log", row=1, col=2)
    figure.update_layout(
        title="Secure aggregation, cost of one round", template="plotly_white", legend={"orientation": "h", "y": -0.18}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.write_html(path, include_plotlyjs=True)


def _straight(measure: str, points: Sequence[Point], what: Quantity, note: str) -> Row:
    """Milliseconds per further client, and how far the measured values lie from that line."""
    clients, seconds = np.array([point.clients for point in points]), _seconds(points, what)
    # Weights make the fit one of relative errors.
    slope, start = np.polyfit(clients, seconds, 1, w=1 / seconds)
    off = float(np.max(np.abs(start + slope * clients - seconds) / seconds))
    full = f"{note}: {start:.3f} s + {slope:.4f} s per client, off by at most {off:.0%}"
    return Row(measure=measure, value=1000 * float(slope), unit="ms per client", note=full)


def _exponent(measure: str, points: Sequence[Point], what: Quantity, note: str) -> Row:
    slope, _ = np.polyfit(np.log([point.length for point in points]), np.log(_seconds(points, what)), 1)
    return Row(measure=measure, value=float(slope), unit="1", note=note)


def _seconds(points: Sequence[Point], what: Quantity) -> npt.NDArray[np.float64]:
    return np.array([point.upload if what == "upload" else point.server for point in points])
