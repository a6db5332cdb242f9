"""How the loss and the validation Dice of a job went, from whoever may know them.

Runs on the experimenter's machine, which plays every party. The aggregator of a masked or plain job learns the summed
metrics and writes them into its journal. In an encrypted job they stand inside the sum that only sites can read: then
they are taken from the books of the sites, as far as each of them went.
"""

from pathlib import Path
from typing import Any

from clients.books import ROUNDS, Books
from secfed.engines.job import SITES_FOLDER
from secfed.results import CurvePoint

BOOKS = "books"


def curve_points(model: str, folder: Path, journal: list[dict[str, Any]]) -> list[CurvePoint]:
    """The learning curves of the job in `folder`."""
    points = []
    for server_round, metrics in sorted(_metrics(folder, journal).items()):
        for name, value in metrics.items():
            metric, _, modality = name.rpartition("_") if name.startswith("validation_dice") else (name, "", "all")
            if metric in ("train_loss", "validation_dice"):
                points.append(
                    CurvePoint(
                        model=model,
                        round=server_round,
                        metric="train_loss" if metric == "train_loss" else "validation_dice",
                        modality=modality.upper() if modality != "all" else "all",
                        value=value,
                    )
                )
    return points


def newest_metrics(folder: Path, journal: list[dict[str, Any]]) -> dict[str, float]:
    """The metrics of the newest round that they are known of; of an encrypted job the one before the newest."""
    rounds = [entry for entry in journal if entry["event"] == "round"]
    if not rounds:
        return {}
    if rounds[-1]["metrics"]:
        return dict(rounds[-1]["metrics"])
    # Asked several times a second, so only the books that were written last are read.
    written = list((folder / SITES_FOLDER).glob(f"*/{BOOKS}/{ROUNDS}"))
    noted = Books(max(written, key=lambda path: path.stat().st_mtime_ns).parent).rounds() if written else []
    return dict(noted[-1]["metrics"]) if noted else {}


def _metrics(folder: Path, journal: list[dict[str, Any]]) -> dict[int, dict[str, float]]:
    found = {entry["round"]: entry["metrics"] for entry in journal if entry["event"] == "round" and entry["metrics"]}
    if not found:
        for site in sorted((folder / SITES_FOLDER).iterdir()):
            found |= {entry["round"]: entry["metrics"] for entry in Books(site / BOOKS).rounds()}
    return found
