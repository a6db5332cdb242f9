"""What a deployment costs: secure rounds over SuperLink and SuperNodes beside plain Flower FedAvg of the same model.

Four sites and the aggregator as real processes on loopback, TLS and node authentication on. Every run trains the demo's
U-Net on the same scans by the same code. Plain FedAvg is Flower's own strategy under stock SuperNodes, with its default
of one evaluation a round, and without. Seconds are per round, the first left out, and all figures are of one machine
that all parties share: ratios say more than seconds. `--large` sends 100 million parameters to all sites and back, or
with `--width` fewer, through Flower's memory or with `--database` through its database, which is the default.

    python -m benchmarks.deployment --json bench/deployment.json
    python -m benchmarks.deployment --large --json bench/deployment-large.json
    python -m benchmarks.deployment --large --width 200 --database
"""

import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.demo_plan import demo_tree
from benchmarks.loopback import Loopback
from benchmarks.rows import Row, parser, publish
from secfed.aggregator_files import INITIAL
from secfed.deployment.aggregator_side import CONNECTION, home_of
from secfed.deployment.flower import environment, flwr, program
from secfed.deployment.ports import free_port
from secfed.parameters import load_vector

NAMES = ("ct-a", "ct-b", "ct-c", "ct-d")
ROUNDS, QUICK_ROUNDS = 8, 4
LARGE_WIDTH = 400
LARGE_PARAMETERS = 100_000_000
RATIO_TARGET = 1.5
PATIENCE_SECONDS = 1800.0
_PROJECT = """
[project]
name = "fedavg-yardstick"
version = "1.0.0"
description = "Plain FedAvg of the demo's model"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "secfed"

[tool.flwr.app.components]
serverapp = "yardstick.server:app"
clientapp = "yardstick.client:app"

[tool.flwr.app.config]
plan = ""
out = ""
start = ""
sites = 0
rounds = 0
evaluate = 1.0
"""


def main() -> None:
    """Measure and publish."""
    made = parser(__doc__ or "")
    made.add_argument("--rounds", type=int, help=f"rounds of each run (default {ROUNDS})")
    made.add_argument("--large", action="store_true", help="one round of 100 million parameters instead")
    made.add_argument("--width", type=int, default=LARGE_WIDTH, help="channels of its first level: 200 for 25 million")
    made.add_argument("--database", action="store_true", help="its messages pass Flower's database")
    given = made.parse_args()
    rounds = given.rounds or (QUICK_ROUNDS if given.quick else ROUNDS)
    with tempfile.TemporaryDirectory(prefix="secfed-deployment-") as folder:
        if given.large:
            rows = large_model(Path(folder), width=given.width, database=given.database)
        else:
            rows = compare(Path(folder), rounds=rounds, quick=given.quick)
    publish(rows, path=given.json)
    if any(row.met is False for row in rows):
        sys.exit(1)


def comparable_plan(rounds: int, *, training: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """The demo's plan for sites with four cases, in what plain FedAvg can do too: weights, no optimiser's moments."""
    return demo_tree(
        rounds=rounds,
        federation={"stage_timeout_seconds": 600.0},
        training={"optimizer_state": "keep", "batch_cases": 4, **training},
        **changes,
    )


def compare(root: Path, *, rounds: int, quick: bool) -> list[Row]:
    """Secure rounds, this project's plain ones, and plain Flower's, one after the other on one SuperLink."""
    steps = {"steps_per_round": 4} if quick else {}
    note = f"{rounds - 1} rounds after the first" + (", 4 steps a round instead of 28" if quick else "")
    with Loopback(root / "secure", NAMES) as world:
        world.root.mkdir(parents=True)
        both = {'protection = ["masked"]': 'protection = ["masked", "plain"]'}
        world.provision(cases=4, changes=both)
        world.start_all()
        masked = trained(world, comparable_plan(rounds, training=steps), name="masked")
        plain = trained(world, comparable_plan(rounds, training=steps, protection={"mode": "plain"}), name="plain")
    with Loopback(root / "flower", NAMES) as stock:
        stock.root.mkdir(parents=True)
        stock.provision(cases=4)
        plan = (root / "secure" / "aggregator" / "runs" / "plain" / "plan.json").resolve()
        start = plan.with_name(INITIAL)
        stock.start_aggregator()
        start_stock_nodes(stock)
        evaluated = flower_rounds(stock, plan=plan, start=start, rounds=rounds, evaluate=1.0)
        alone = flower_rounds(stock, plan=plan, start=start, rounds=rounds, evaluate=0.0)
    per = {
        "masked, secfed": [entry["seconds"] for entry in masked[1:]],
        "plain, secfed": [entry["seconds"] for entry in plain[1:]],
        "FedAvg, Flower, train and evaluate": evaluated,
        "FedAvg, Flower, train alone": alone,
    }
    medians = {name: statistics.median(seconds) for name, seconds in per.items()}
    rows = [
        Row(measure=f"seconds per round: {name}", value=value, unit="s", note=note) for name, value in medians.items()
    ]
    exchanges = masked[-1]["exchanges"]
    ratio = medians["masked, secfed"] / medians["FedAvg, Flower, train and evaluate"]
    rows += [
        Row(measure="exchanges per round: masked, secfed", value=exchanges, unit="exchanges", note=note),
        Row(
            measure="seconds per exchange: masked, secfed",
            value=medians["masked, secfed"] / exchanges,
            unit="s",
            note="training included; a SuperNode asks every 3 s where it found nothing",
        ),
        Row(
            measure="secure round over plain round",
            value=ratio,
            unit="ratio",
            target=f"<= {RATIO_TARGET}",
            met=ratio <= RATIO_TARGET,
            note="plain: Flower's FedAvg as it comes, train and evaluate, stock SuperNodes",
        ),
        Row(
            measure="secure round over a plain round without evaluation",
            value=medians["masked, secfed"] / medians["FedAvg, Flower, train alone"],
            unit="ratio",
            note=note,
        ),
    ]
    return rows


def trained(world: Loopback, plan: Mapping[str, Any], *, name: str) -> list[dict[str, Any]]:
    """The journal of a run that was trained to its end; raises RuntimeError where it was not."""
    done = world.train(plan, name=name, timeout=PATIENCE_SECONDS)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr}\n{world.everything_said()}")
    lines = (world.run_folder(name) / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if entry["event"] == "round"]


def start_stock_nodes(world: Loopback) -> None:
    """Flower's own SuperNodes with its own ClientApp processes, for the same node keys."""
    for name in world.names:
        folder = world.site(name)
        command = [
            program("flower-supernode"),
            "--superlink", f"127.0.0.1:{world.port}",
            "--root-certificates", str(folder / "ca.crt"),
            "--auth-supernode-private-key", str(folder / "node.key"),
            "--host", "127.0.0.1",
            "--port", str(free_port()),
            "--node-config", f'site-folder="{folder.resolve()}"',
        ]  # fmt: skip
        kept = world.environment
        world.environment = {**kept, **environment(folder / "stock-home"), "OMP_NUM_THREADS": "1"}
        world.start(name, command)
        world.environment = kept
    world.wait_for(lambda: all("SuperNode ID" in world.said(name) for name in world.names), "stock nodes are connected")


def flower_rounds(world: Loopback, *, plan: Path, start: Path, rounds: int, evaluate: float) -> list[float]:
    """Seconds of each round after the first, of plain Flower's FedAvg."""
    app = _write_yardstick(world.root / "fedavg")
    out = world.root / f"fedavg-{evaluate:g}.json"
    settings = {
        "plan": str(plan),
        "out": str(out),
        "start": str(start),
        "sites": len(world.names),
        "rounds": rounds,
        "evaluate": evaluate,
    }
    text = " ".join(f"{key}={json.dumps(value)}" for key, value in settings.items())
    flwr("run", str(app), CONNECTION, "--run-config", text, home=home_of(world.aggregator))
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := _noted(out))["done"]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"plain FedAvg did not end\n{world.everything_said()}")
        time.sleep(0.5)
    # The first mark is before the first round, of the initial model.
    seconds = [later - earlier for earlier, later in itertools.pairwise(found["marks"])]
    return seconds[1:]


def _noted(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = (
        json.loads(out.read_text(encoding="utf-8")) if out.exists() else {"marks": [], "done": False}
    )
    return found


def large_channels(width: int) -> list[int]:
    """Of the four levels of the large U-Net, which has 630 parameters for each square of its width."""
    return [width, 2 * width, 4 * width, 8 * width]


def large_model(root: Path, *, width: int, database: bool) -> list[Row]:
    """One masked round of a large model: 100 million parameters for a width of 400, a quarter for half of it.

    Flower's database carried 25 million in two of two tries, 50 and 75 million in three of three, and 100 million in
    one of three, in 179 s: SQLite's lock was held for longer than Flower waits.
    """
    with Loopback(root, NAMES) as world:
        world.provision(cases=1, keep_models_in_memory=not database)
        world.start_all()
        plan = comparable_plan(
            1,
            model={"channels": large_channels(width)},
            training={"steps_per_round": 1, "batch_size": 1, "batch_cases": 1},
        )
        started = time.monotonic()
        (entry,) = trained(world, plan, name="large")
        seconds = time.monotonic() - started
        _, layout, _ = load_vector(world.run_folder("large") / INITIAL)
    return [
        Row(
            measure="parameters of the large model",
            value=layout.num_parameters,
            unit="float32 values",
            target=f">= {LARGE_PARAMETERS:,}" if width == LARGE_WIDTH else None,
            met=layout.num_parameters >= LARGE_PARAMETERS if width == LARGE_WIDTH else None,
            note="through Flower's database"
            if database
            else "Flower's messages in memory: keep_models_in_memory = true in aggregator.toml",
        ),
        Row(measure="masked round of a large model", value=entry["seconds"], unit="s", note=f"{seconds:.0f} s in all"),
        Row(
            measure="bytes up over all sites and the setup",
            value=entry["bytes_up"],
            unit="bytes",
            note=f"survivors: {', '.join(entry['survivors'])}",
        ),
    ]


def _write_yardstick(folder: Path) -> Path:
    source = Path(__file__).with_name("flower_fedavg")
    package = folder / "yardstick"
    package.mkdir(parents=True, exist_ok=True)
    for name in ("__init__.py", "client.py", "server.py"):
        (package / name).write_bytes((source / name).read_bytes())
    (folder / "pyproject.toml").write_text(_PROJECT, encoding="utf-8")
    return folder


if __name__ == "__main__":
    main()
