"""What privacy costs: accuracy against privacy, against centralised training, for CT and MRI segmentation together.

Trains every cell of a grid (benchmarks/configs/utility.toml) once per seed, tests it on patients that nobody trained
on, and writes study.json and report.html into the study's folder. A stopped study goes on where it was: a finished cell
is never trained twice, a half-written one is finished, a failed one is named and tried again. All noise comes from
seeds: it shows what a plan costs, and is no DP guarantee for anyone.

    python -m benchmarks.utility --scale standard
    python -m benchmarks.utility --scale standard --data /data/amos22     real scans in place of phantoms
    python -m benchmarks.utility --scale standard --tuning                other test patients, to choose settings with
    python -m benchmarks.utility --scale full --engine ray                Flower's simulation, run after run
"""

import argparse
import datetime
import json
import os
import sys
import time
from collections.abc import Collection, Sequence
from contextlib import chdir
from pathlib import Path

from benchmarks.rows import parser, publish
from benchmarks.utility.cells import Cell, cells_of
from benchmarks.utility.claims import with_claims
from benchmarks.utility.collect import collect
from benchmarks.utility.data import prepare_shared, shared_tasks, volumes
from benchmarks.utility.figures import draw_frontier
from benchmarks.utility.grid_file import Grid, load_grid
from benchmarks.utility.headline import headline
from benchmarks.utility.leaks import read_leakage
from benchmarks.utility.overlays import overlays_of
from benchmarks.utility.real_data import split_real
from benchmarks.utility.rows import rows_of
from benchmarks.utility.screen import Screen
from benchmarks.utility.worker import Outcome, RunOrder, Watch, completed, train_all
from secfed.display import counting_bar
from secfed.errors import SecfedError
from secfed.experiment.evaluation import save_overlays
from secfed.experiment.job_process import EngineName
from secfed.report import build_report
from secfed.study.record import FILE_NAME, OVERLAYS, CellRecord, StudyRecord

PAGE = "report.html"
GRID = Path(__file__).parent.parent / "configs" / "utility.toml"
STARTED = "started.json"
COLLECT_EVERY_SECONDS = 120.0


def main() -> None:
    """Train what is missing, collect what is there, and show it."""
    made = parser(__doc__ or "")
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("--grid", type=Path, default=GRID, help="the grid's file")
    made.add_argument("--scale", default="standard", help="smoke (minutes), standard (hours), full (a GPU)")
    made.add_argument("--out", type=Path, metavar="FOLDER", help="the study's folder; default: runs/utility-SCALE")
    made.add_argument("--cores", type=int, default=os.cpu_count() or 1, help="runs at a time")
    made.add_argument("--only", nargs="+", default=[], metavar="EXPERIMENT", help="these experiments alone")
    made.add_argument("--seeds", type=int, metavar="N", help="the first N seeds of the scale alone")
    made.add_argument("--engine", choices=("in_process", "ray"), default="in_process", help="ray: one run at a time")
    made.add_argument("--data", type=Path, metavar="FOLDER", help="real scans: AMOS22 or MM-WHS as downloaded")
    made.add_argument("--tuning", action="store_true", help="test on other patients, who are no test patients")
    made.add_argument("--leakage", type=Path, metavar="FILE", help="what `benchmarks.leakage --study FILE` wrote")
    made.add_argument("--figure", type=Path, metavar="FILE", help="write Dice against epsilon here, as SVG")
    made.add_argument("--markdown", type=Path, metavar="FILE", help="write the headline tables here")
    made.add_argument("--collect", action="store_true", help="train nothing; record and report what is there")
    given = made.parse_args()
    for name in ("json", "figure", "markdown", "leakage", "data", "grid"):
        # Paths of cells are relative to the study, those of the command line to where it was given.
        value = getattr(given, name)
        setattr(given, name, None if value is None else value.resolve())
    try:
        failed = _run(given)
    except SecfedError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from None
    if failed:
        raise SystemExit(1)


def _run(given: argparse.Namespace) -> int:
    """The number of cells that were asked for and are not complete at the end."""
    clock = time.monotonic()
    scale = "smoke" if given.quick else given.scale
    grid = load_grid(given.grid, scale=scale)
    kind = "-tuning" if given.tuning else "-real" if given.data else ""
    study = (given.out or Path("runs") / f"utility-{scale}{kind}").resolve()
    study.mkdir(parents=True, exist_ok=True)
    real = None if given.data is None else split_real(given.data, grid, study=study)
    cells = cells_of(grid, real=real, seeds=given.seeds, tuning=given.tuning)
    asked = {cell.experiment for cell in cells_of(grid, real=real, only=tuple(given.only), tuning=given.tuning)}
    # What earlier calls trained stays in the record, whatever this one is about.
    known = asked | {cell.experiment for cell in cells if completed(study, cell.run_key)}
    cells = [cell for cell in cells if cell.experiment in known]
    bench = Bench(grid, cells, asked=asked, study=study, leakage=given.leakage, clock=clock)
    if not given.collect:
        bench.train(cores=given.cores, engine=given.engine)
    record = bench.finish()
    publish(rows_of(record), path=given.json)
    if given.figure is not None:
        draw_frontier(record, path=given.figure)
    if given.markdown is not None:
        given.markdown.write_text(headline(record), encoding="utf-8")
    sys.stdout.write(f"{study / FILE_NAME}\n{study / PAGE}\n")
    wanted = {cell.key for cell in cells if cell.experiment in asked}
    return sum(cell.status != "complete" for cell in record.cells if cell.key in wanted)


class Bench:
    """One study's folder, what is to stand in it, and which experiments are to be trained now."""

    def __init__(
        self,
        grid: Grid,
        cells: Sequence[Cell],
        *,
        asked: Collection[str],
        study: Path,
        leakage: Path | None,
        clock: float,
    ) -> None:
        self.grid = grid
        self.cells = cells
        self.asked = asked
        self.study = study
        self.leakage = leakage
        self.outcomes: dict[str, Outcome] = {}
        self._clock = clock
        self._collected = clock

    def train(self, *, cores: int, engine: EngineName) -> None:
        """Prepare all data once, then train every run that is not complete."""
        with chdir(self.study):
            self._train(cores=cores, engine=engine)

    def _train(self, *, cores: int, engine: EngineName) -> None:
        orders = self._orders()
        configs = [order.config for order in orders]
        total = volumes(shared_tasks(configs, study=self.study))
        with counting_bar("Scans", total=total, quiet=not total) as advance:
            prepare_shared(configs, study=self.study, cores=cores, on_volume=lambda _: advance())
        done = sum(completed(self.study, order.key) for order in orders)
        with Screen(self._titles(), study=self.study, total=len(orders), done=done) as screen:

            def ended(slot: int, outcome: Outcome) -> None:
                self.outcomes[outcome.key] = outcome
                screen.ended(slot, outcome)
                if time.monotonic() - self._collected > COLLECT_EVERY_SECONDS:
                    # A stopped study has shown what it knew.
                    self._collected = time.monotonic()
                    self._record().save(self.study)

            watch = Watch(started=screen.started, ended=ended, working=screen.working)
            self.outcomes |= train_all(orders, study=self.study, cores=cores, engine=engine, watch=watch)

    def finish(self) -> StudyRecord:
        """Write the record, the pictures and the page."""
        with chdir(self.study):
            record = self._record()
            record.save(self.study)
            save_overlays(self.study / OVERLAYS, overlays_of(self._pictured(record), study=self.study))
            build_report([self.study], out=self.study / PAGE)
        return record

    def _record(self) -> StudyRecord:
        started = _remember_start(self.study)
        return with_claims(
            collect(
                self.grid,
                self.cells,
                self.outcomes,
                study=self.study,
                command=" ".join(["python -m benchmarks.utility", *sys.argv[1:]]),
                started=started,
                clock=self._clock,
                leakage=() if self.leakage is None else read_leakage(self.leakage),
            )
        )

    def _orders(self) -> list[RunOrder]:
        found = {
            cell.run_key: RunOrder(key=cell.run_key, config=cell.config, needs=cell.needs)
            for cell in self.cells
            if cell.config is not None and cell.experiment in self.asked
        }
        # Whoever starts from another run's model needs that run, which may stand behind it in the file.
        return sorted(found.values(), key=lambda order: order.needs is not None and order.needs not in found)

    def _titles(self) -> dict[str, str]:
        titles: dict[str, str] = {}
        for cell in self.cells:
            titles.setdefault(cell.run_key, f"{cell.experiment}: {cell.variant}, seed {cell.seed}")
        return titles

    def _pictured(self, record: StudyRecord) -> list[tuple[Cell, CellRecord]]:
        wanted = set(self.grid.table.pictured)
        first = min(self.grid.scale.seeds)
        known = {cell.key: cell for cell in record.cells}
        return [
            (cell, known[cell.key])
            for cell in self.cells
            if cell.seed == first and f"{cell.experiment}/{cell.variant}" in wanted
        ]


def _remember_start(study: Path) -> str:
    """When the study was first started; a resumed one keeps it."""
    path = study / STARTED
    if not path.exists():
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        path.write_text(json.dumps({"started": now}), encoding="utf-8")
    return str(json.loads(path.read_text(encoding="utf-8"))["started"])


if __name__ == "__main__":
    main()
