"""What every benchmark writes: a JSON list of rows {measure, value, unit, target, met, note}."""

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure. `target` is None where nobody set one, and `met` is None with it."""

    measure: str
    value: float
    unit: str
    target: str | None = None
    met: bool | None = None
    note: str = ""


def parser(description: str) -> argparse.ArgumentParser:
    """The arguments that all benchmarks share."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--quick", action="store_true", help="measure the same thing smaller, within 5 minutes")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the rows here")
    return made


def publish(rows: Sequence[Row], *, path: Path | None) -> None:
    """Print the rows as a table, and write them where asked."""
    table = Table(title=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}")
    for name in ("measure", "value", "unit", "target", "met", "note"):
        table.add_column(name)
    for row in rows:
        met = "" if row.met is None else "yes" if row.met else "NO"
        table.add_row(row.measure, f"{row.value:.4g}", row.unit, row.target or "", met, row.note)
    Console().print(table)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
