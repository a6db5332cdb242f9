"""One self-contained HTML page for a run folder, for several side by side, or for a study."""

from secfed.report.page import build_report, study_tables

__all__ = ["build_report", "study_tables"]
