"""The demo's figures: federated against centralised, GIN against none, the cost of masking, the time it takes.

Runs `secfed demo` once per seed (each seed draws its own patients, initial model and sampling), or reads run folders
that are there already. `--quick` runs one seed with a twelfth of the rounds: the same measures, untrained models.

    python -m benchmarks.demo --seeds 0 1 2 --json bench/demo.json
"""

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.rows import Row, parser, publish
from secfed import results
from secfed.results import RunRecord

QUICK_ROUNDS_DIVISOR = 12


def main() -> None:
    """Run or read the demos and publish the rows."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0], help="one demo each")
    arguments.add_argument("--runs", type=Path, nargs="+", help="finished demo folders to read instead of running")
    arguments.add_argument("--out", type=Path, default=Path("runs/benchmark-demo"), help="folder for the demos")
    given = arguments.parse_args()
    if given.runs:
        folders = list(given.runs)
    elif given.quick:
        folders = [_quick(given.out)]
    else:
        folders = [_demo(given.out / f"seed-{seed}", seed=seed) for seed in given.seeds]
    records = [RunRecord.load(folder) for folder in folders]
    publish(rows(records, quick=given.quick), path=given.json)


def rows(records: list[RunRecord], *, quick: bool) -> list[Row]:
    """Means over the runs; the note gives the single values."""
    note = "rounds cut to a twelfth: times only" if quick else f"{len(records)} seed(s)"
    ratios = [results.ratio(record) for record in records]
    gains = [results.gain(record, modality="MR") for record in records]
    shares = [job.protection_share() for record in records if (job := record.job("federated")) is not None]
    masking = [
        job.protection_seconds / record.provenance.seconds_total
        for record in records
        if (job := record.job("federated")) is not None
    ]
    seconds = [record.provenance.seconds_total for record in records]
    dice = {
        (model, modality): [
            found.mean
            for record in records
            if (found := results.score(record.results, model=model, modality=modality)) is not None
        ]
        for model in records[0].models()
        for modality in records[0].test_modalities()
    }
    made = [
        _row("federated / centralised Dice, same passes", ratios, "1", ">= 0.95", lambda value: value >= 0.95, note),
        _row("GIN minus none, MRI Dice", gains, "1", ">= 0.12", lambda value: value >= 0.12, note),
        _row("masking / demo's time", masking, "1", "< 0.02", lambda value: value < 0.02, note),
        _row("masking / federated job's time", shares, "1", None, None, note),
        _row("demo after set-up", seconds, "s", "< 480", lambda value: value < 480, note),
    ]
    for (model, modality), values in dice.items():
        made.append(_row(f"Dice {model} {modality}", values, "1", None, None, note))
    return made


def _row(
    measure: str,
    values: Sequence[float | None],
    unit: str,
    target: str | None,
    meets: Callable[[float], bool] | None,
    note: str,
) -> Row:
    known = [float(value) for value in values if value is not None]
    mean = statistics.fmean(known)
    listed = ", ".join(f"{value:.3f}" for value in known)
    met = None if meets is None else bool(meets(mean))
    return Row(measure=measure, value=mean, unit=unit, target=target, met=met, note=f"{note}: {listed}")


def _demo(folder: Path, *, seed: int) -> Path:
    command = [sys.executable, "-m", "secfed.cli", "demo", "--seed", str(seed), "--out", str(folder)]
    if (folder / "config.toml").exists():
        command.append("--resume")
    subprocess.run(command, check=True)
    return folder


def _quick(out: Path) -> Path:
    from importlib import resources

    from secfed.config import load_run_config
    from secfed.experiment.run_folder import resolved_toml

    with resources.as_file(resources.files("secfed") / "configs" / "demo.toml") as path:
        config = load_run_config(path)
    federation = config.federation
    fewer = federation.model_copy(update={"rounds": max(1, federation.rounds // QUICK_ROUNDS_DIVISOR)})
    folder = Path(tempfile.mkdtemp(dir=_made(out), prefix="quick-"))
    toml = folder / "quick.toml"
    toml.write_text(resolved_toml(config.model_copy(update={"federation": fewer})), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "secfed.cli", "run", str(toml), "--out", str(folder / "run")], check=True)
    return folder / "run"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    main()
