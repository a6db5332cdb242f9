"""A site's own books: what it notes for itself and never sends. One JSON line per entry, kept in the site's folder.

Runs at a site. The experiment on one machine reads the books of its simulated sites for the report; an aggregator
cannot. No secret and no voxel is written here.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from privacy.he.receipt import EncryptedReceipt
from privacy.secagg.receipt import Receipt

TIMINGS = "timings.jsonl"
LOG = "site.log"
RECEIPTS = "receipts.jsonl"
ROUNDS = "rounds.jsonl"
BUDGET = "budget.jsonl"
HISTOGRAM = "update-histogram.json"


class Books:
    """Append-only notes in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def log(self, event: str, **details: Any) -> None:
        """A line for the site's operators: refusals with their reason, errors with their text."""
        entry = {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "event": event, **details}
        self._append(LOG, entry)

    def timing(
        self,
        *,
        server_round: int,
        training_seconds: float,
        encoding_seconds: float,
        protection_seconds: float,
        samples: int,
    ) -> None:
        """How long this site trained, encoded (needed in every mode) and protected its update."""
        self._append(
            TIMINGS,
            {
                "round": server_round,
                "training_seconds": training_seconds,
                "encoding_seconds": encoding_seconds,
                "protection_seconds": protection_seconds,
                "samples": samples,
            },
        )

    def round(
        self,
        *,
        run: bytes,
        server_round: int,
        model_hash: bytes,
        contributors: Sequence[str],
        metrics: Mapping[str, float],
    ) -> None:
        """A round of an encrypted run that this site stepped on: what only sites see of it, the metrics too."""
        self._append(
            ROUNDS,
            {
                "run": run.hex(),
                "round": server_round,
                "model": model_hash.hex(),
                "contributors": list(contributors),
                "metrics": dict(metrics),
            },
        )

    def rounds(self, run: bytes | None = None) -> list[dict[str, Any]]:
        """The noted rounds of one run, or of all, one entry each in order; of a round noted twice the later note."""
        found: dict[tuple[str, int], dict[str, Any]] = {}
        for entry in self._lines(ROUNDS):
            if run is None or entry["run"] == run.hex():
                found[entry["run"], entry["round"]] = entry
        return [found[key] for key in sorted(found, key=lambda key: key[1])]

    def standing(self, run: bytes) -> tuple[int, bytes]:
        """How many rounds of an encrypted run this site stepped on, and the model's hash after them; 0 and nothing."""
        noted = self.rounds(run)
        return (int(noted[-1]["round"]), bytes.fromhex(noted[-1]["model"])) if noted else (0, b"")

    def budget(
        self,
        *,
        run: bytes,
        server_round: int,
        epsilon: float,
        delta: float,
        unit: str,
        relation: str,
        accountant: str,
        cap_epsilon: float,
        ledger: str,
        head: str,
        entries: int,
    ) -> None:
        """What a data set's patients have paid in all after this round, and the ledger's head, which pins it."""
        self._append(
            BUDGET,
            {
                "run": run.hex(),
                "round": server_round,
                "epsilon": epsilon,
                "delta": delta,
                "unit": unit,
                "relation": relation,
                "accountant": accountant,
                "cap_epsilon": cap_epsilon,
                "ledger": ledger,
                "ledger_head": head,
                "ledger_entries": entries,
            },
        )

    def ledger_heads(self) -> dict[str, tuple[int, str]]:
        """The newest noted head of each ledger, by its name: number of entries, digest of the last."""
        return {
            entry["ledger"]: (int(entry["ledger_entries"]), str(entry["ledger_head"])) for entry in self._lines(BUDGET)
        }

    def budgets(self) -> list[tuple[int, float]]:
        """Round and epsilon of every note of `budget`, in order."""
        return [(int(entry["round"]), float(entry["epsilon"])) for entry in self._lines(BUDGET)]

    def receipt(self, receipt: Receipt | EncryptedReceipt) -> None:
        """What this site agreed to in a round: held against the aggregator's transcript by whoever audits."""
        self._append(RECEIPTS, receipt.to_json())

    def histogram(self, encoded: npt.NDArray[np.uint32], *, server_round: int) -> None:
        """Counts of the top byte of the update BEFORE masking: shown beside what the aggregator saw."""
        counts = np.bincount(encoded >> np.uint32(24), minlength=256).tolist()
        path = self.folder / HISTOGRAM
        self.folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"round": server_round, "counts": counts}), encoding="utf-8")

    def _lines(self, name: str) -> Iterator[dict[str, Any]]:
        path = self.folder / name
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                entry = json.loads(line)
            except ValueError:
                # A kill may have cut the last line short.
                continue
            yield entry

    def _append(self, name: str, entry: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
