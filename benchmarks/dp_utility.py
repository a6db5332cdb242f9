"""What DP costs in Dice: a model pretrained on public phantoms, then trained on patients it never saw.

Trains one federation per cell of `benchmarks.dp_cells` through the code of `secfed run`, each in a folder named by the
hash of its configuration, so that a stopped benchmark goes on where it was and a finished cell is never trained twice.
Tested is the last model of each run on patients of the target population whom nobody trained on, 12 per protocol. Step
sizes were chosen on a third population group, never on these. All noise is seeded: not a DP guarantee for anyone.

    python -m benchmarks.dp_utility --scale standard --json bench/dp_utility.json --figure bench/dp_utility.svg
"""

import json
import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.dp_cells import (
    SMOKE,
    STANDARD,
    Cell,
    Scale,
    cell_config,
    data_config,
    pretraining_config,
    smoke_cells,
    standard_cells,
)
from benchmarks.lines import Line, draw_lines
from benchmarks.rows import Row, parser, publish
from clients.evaluation import evaluate_cases
from clients.private_contribution import trained_count
from secfed import results
from secfed.config import RunConfig
from secfed.data.cases import LABEL_MAPS
from secfed.display import RunDisplay, counting_bar
from secfed.engines.job import Job
from secfed.experiment.data import count_volumes, data_tasks, prepare_data, test_cases
from secfed.experiment.final_model import final_state
from secfed.experiment.job_process import MODEL
from secfed.experiment.plans import agreed_plan, job_specs
from secfed.experiment.run import run_experiment
from secfed.experiment.run_folder import CONFIG, RunFolder, resolved_toml
from secfed.experiment.start import starting_vector
from secfed.model import build_model, load_flat
from secfed.network import finished_model
from secfed.privacy_plan import priced
from secfed.results import FILE_NAME as RESULTS
from secfed.results import RunRecord

LABEL = "simulated noise: not a DP guarantee"
TARGET, AIMED_AT = 0.95, 8.0
LAST_DICE = "last-dice.json"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a cell came to: mean Dice over organs and test patients, of the averaged and of the last model."""

    cell: Cell
    dice: float
    last_dice: float
    epsilon: float | None
    delta: float
    noise_multiplier: float | None


def main() -> None:
    """Train what is missing and publish the rows."""
    made = parser(__doc__ or "")
    made.add_argument("--scale", choices=("smoke", "standard"), default="standard", help="smoke: everything, tiny")
    made.add_argument("--out", type=Path, default=Path("runs/dp-utility"), help="folder for data and runs")
    made.add_argument("--figure", type=Path, metavar="FILE", help="write Dice against epsilon here, as SVG")
    made.add_argument("--cores", type=int, default=os.cpu_count(), help="how many to use")
    given = made.parse_args()
    smoke = given.quick or given.scale == "smoke"
    bench = Bench(given.out / ("smoke" if smoke else "standard"), scale=SMOKE if smoke else STANDARD, cores=given.cores)
    cells = smoke_cells() if smoke else standard_cells()
    before, outcomes = bench.start_dice(), []
    for number, cell in enumerate(cells, 1):
        print(f"{number}/{len(cells)} {cell.group}: {cell.name}", flush=True)
        outcomes.append(bench.outcome(cell))
        print(f"    Dice {outcomes[-1].dice:.3f}", flush=True)
        # After every cell, so that a stopped benchmark has shown what it knows.
        publish(rows(outcomes, before=before), path=given.json)
    if given.figure is not None:
        title = f"Mean Dice of 8 organs, {LABEL}"
        draw_lines(lines(outcomes, before=before), title=title, path=given.figure)


class Bench:
    """The folder with the data, the pretrained model and a run per cell."""

    def __init__(self, folder: Path, *, scale: Scale, cores: int) -> None:
        self.folder = folder.resolve()
        self.scale = scale
        self.cores = cores

    def outcome(self, cell: Cell) -> Outcome:
        """Train and test a cell, or read what was found before."""
        config = cell_config(cell, self.scale, data=self._data(), start_from=self.pretrained())
        record = self._run(config)
        epsilon, delta, multiplier = _price(config)
        return Outcome(
            cell=cell,
            dice=_dice(record),
            last_dice=self._last_dice(config),
            epsilon=epsilon if cell.epsilon is not None else None,
            delta=delta,
            noise_multiplier=multiplier,
        )

    def pretrained(self) -> Path:
        """The model that knows the public phantoms only."""
        config = pretraining_config(self.scale, data=self._data())
        self._run(config)
        return self._folder(config) / MODEL

    def start_dice(self) -> float:
        """How well that model does on the target population before any patient is looked at."""
        return _dice(self._run(pretraining_config(self.scale, data=self._data())))

    def _data(self) -> Path:
        """Generate and preprocess everything once; later calls find it."""
        config = data_config(self.scale)
        marker = self.folder / "data.done"
        if not marker.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with counting_bar(
                "Phantoms", total=count_volumes(data_tasks(config, run_folder=self.folder)), quiet=False
            ) as advance:
                prepare_data(config, run_folder=self.folder, workers=self.cores, on_volume=lambda _: advance())
            marker.touch()
        return self.folder / "data"

    def _folder(self, config: RunConfig) -> Path:
        return self.folder / "cells" / config.run_digest()[:16]

    def _run(self, config: RunConfig) -> RunRecord:
        folder = self._folder(config)
        if (folder / RESULTS).exists():
            return RunRecord.load(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # A claimed folder that shares the preprocessed volumes of all cells.
        (folder / CONFIG).write_text(resolved_toml(config), encoding="utf-8")
        if not (folder / "cache").exists():
            (folder / "cache").symlink_to(self.folder / "cache", target_is_directory=True)
        with RunDisplay(config, quiet=False) as display:
            return run_experiment(
                config, out=folder, engine="in_process", resume=True, cores=self.cores, progress=display.progress
            )

    def _last_dice(self, config: RunConfig) -> float:
        """The mean Dice of the last round's model itself, where users get an average of models; kept beside the run."""
        if not config.federation.ema_decay:
            return _dice(self._run(config))
        kept = self._folder(config) / LAST_DICE
        if not kept.exists():
            kept.write_text(json.dumps(last_model_dice(config, folder=self._folder(config))), encoding="utf-8")
        return float(json.loads(kept.read_text(encoding="utf-8")))


def last_model_dice(config: RunConfig, *, folder: Path) -> float:
    """Mean Dice over organs of a finished run's last model, instead of the average that the run itself tested."""
    [spec] = job_specs(config)
    run = RunFolder(folder)
    folder_of_job = run.job_folder(spec.model)
    job = Job(model=spec.model, folder=folder_of_job, plan=spec.plan, site_names=tuple(spec.participants))
    state, layout = final_state(job)
    labels = LABEL_MAPS[config.task]
    vector, model_layout = finished_model(state.model, layout, plan=spec.plan, num_classes=labels.num_classes)
    network = build_model(spec.plan.model, num_classes=labels.num_classes)
    load_flat(network, vector, model_layout)
    cases = [case for _, case in test_cases(config, run_folder=folder)]
    scores = evaluate_cases(network, cases, plan=spec.plan, device=torch.device("cpu"))
    organs = [[s.dice for s in scores if s.organ == organ and math.isfinite(s.dice)] for organ in labels.organs]
    return statistics.fmean(statistics.fmean(found) for found in organs if found)


def rows(outcomes: Sequence[Outcome], *, before: float) -> list[Row]:
    """One row per cell and, against the same set-up without noise, the share of Dice and of what was learned.

    The share of Dice flatters: the pretrained model's part of it was never in danger.
    """
    made = [Row(measure="pretrained: before any patient", value=before, unit="Dice", note="no patient's data")]
    for outcome in outcomes:
        noise = "no DP"
        if outcome.epsilon is not None:
            noise = f"epsilon {outcome.epsilon:.3g}, delta {outcome.delta:g}, {LABEL}"
        note = f"{noise}; {outcome.cell.patients} patients, last model {outcome.last_dice:.3f}"
        made.append(
            Row(measure=f"{outcome.cell.group}: {outcome.cell.name}", value=outcome.dice, unit="Dice", note=note)
        )
    return made + _ratios(outcomes, before=before)


def _ratios(outcomes: Sequence[Outcome], *, before: float) -> list[Row]:
    line = {outcome.cell.epsilon: outcome.dice for outcome in outcomes if outcome.cell.group == "distributed"}
    if None not in line:
        return []
    made = []
    for epsilon in sorted((epsilon for epsilon in line if epsilon is not None), reverse=True):
        share = line[epsilon] / line[None]
        aimed = epsilon == AIMED_AT
        made.append(
            Row(
                measure=f"Dice at epsilon {epsilon:g} / same set-up without DP",
                value=share,
                unit="1",
                target=f">= {TARGET:g}" if aimed else None,
                met=share >= TARGET if aimed else None,
                note=LABEL,
            )
        )
        gain = (line[epsilon] - before) / (line[None] - before) if line[None] > before else math.nan
        made.append(Row(measure=f"what was learned at epsilon {epsilon:g}, of that", value=gain, unit="1", note=LABEL))
    return made


def lines(outcomes: Sequence[Outcome], *, before: float) -> list[Line]:
    """Dice against epsilon for shared and for local noise, with what no noise and no training give."""
    made = []
    for group, label in (("distributed", "noise shared by 8 sites"), ("local", "every site its own noise")):
        found = [(o.cell.epsilon, o.dice) for o in outcomes if o.cell.group == group and o.cell.epsilon is not None]
        if found:
            made.append(Line(label=label, points=tuple(sorted(found))))
    without = [o.dice for o in outcomes if o.cell.group == "distributed" and o.cell.epsilon is None]
    made += [Line(label="no DP, same set-up", level=level) for level in without]
    return [*made, Line(label="pretrained, before any patient", level=before)]


def _price(config: RunConfig) -> tuple[float, float, float | None]:
    """Epsilon and delta of the whole run by the accountant of record, and the noise multiplier of a step."""
    plan = agreed_plan(config)
    if not plan.privacy.guarantees:
        return math.inf, 0.0, None
    _, layout = starting_vector(config)
    _, spent = priced(plan, layout, dimension=trained_count(plan, layout), sites=len(config.sites))
    return spent.epsilon, spent.delta, plan.privacy.noise_multiplier


def _dice(record: RunRecord) -> float:
    found = results.score(record.results, model="federated", modality="MR")
    return math.nan if found is None else found.mean


if __name__ == "__main__":
    main()
