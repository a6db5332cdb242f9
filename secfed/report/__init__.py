"""One self-contained HTML page for a run folder, or for several side by side."""

from secfed.report.page import build_report

__all__ = ["build_report"]
