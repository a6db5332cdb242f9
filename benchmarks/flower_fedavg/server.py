"""The ServerApp: Flower's own FedAvg, with a line per round in a file that the benchmark reads."""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from secfed.parameters import load_vector

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train for as many rounds as asked, and note when each ended."""
    settings = context.run_config
    out = Path(str(settings["out"]))
    start, _, _ = load_vector(Path(str(settings["start"])))
    sites = int(str(settings["sites"]))
    marks: list[float] = []

    def mark(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        del server_round, arrays
        marks.append(time.time())
        out.write_text(json.dumps({"marks": marks, "done": False}), encoding="utf-8")
        return MetricRecord({"noted": 1.0})

    strategy = FedAvg(
        fraction_train=1.0,
        fraction_evaluate=float(str(settings["evaluate"])),
        min_train_nodes=sites,
        min_evaluate_nodes=sites,
        min_available_nodes=sites,
    )
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord([np.asarray(start)]),
        num_rounds=int(str(settings["rounds"])),
        evaluate_fn=mark,
    )
    out.write_text(json.dumps({"marks": marks, "done": True}), encoding="utf-8")
