"""The aggregator's folder: what it was given, and what it keeps.

    plan.json  sites.json  initial.safetensors  roster.cbor  anchor.pub      given, before the first round
    simulated                                                                given in experiments on one machine
    checkpoints/  journal.jsonl  transcript/  aggregator-view.json           kept
    evidence/  half-opened.json                                              kept, where something went wrong
    audit.jsonl  outcome.json                                                kept, in a deployment

Runs at the aggregator. It holds no key and no image: every file here may be read by the auditor.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from privacy.secagg.roster import Roster, verify_roster
from secfed.aggregator_files import ANCHOR, INITIAL, JOURNAL, OUTCOME, PLAN, ROSTER, SIMULATED, SITES, VIEW
from secfed.audit_log import AuditLog
from secfed.config import TrainingPlan
from secfed.errors import RunFolderError
from secfed.parameters import ParameterLayout, load_vector
from secfed.whole_file import write_whole


class AggregatorFolder:
    """One job's folder at the aggregator, opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def durable(self) -> bool:
        """Whether the transcript is forced to the disk: not where one machine plays every party of an experiment."""
        return not (self.folder / SIMULATED).exists()

    def plan(self) -> TrainingPlan:
        """The plan that this job trains."""
        return TrainingPlan.model_validate_json(self._read(PLAN))

    def initial_model(self) -> tuple[npt.NDArray[np.float32], ParameterLayout]:
        """The model before the first round, shape (layout.size,)."""
        vector, layout, _ = load_vector(self.folder / INITIAL)
        return vector, layout

    def site_names(self) -> tuple[str, ...]:
        """Who is to take part, sorted; in a masked run these are the roster's members."""
        return tuple(sorted(json.loads(self._read(SITES))))

    def roster(self) -> Roster:
        """The consortium's roster, verified."""
        return verify_roster(self.signed_roster(), anchor=self._read(ANCHOR), now=int(time.time()))

    def signed_roster(self) -> bytes:
        """The roster as the consortium signed it."""
        return self._read(ROSTER)

    def append(self, entry: dict[str, Any]) -> None:
        """Add a line to the journal, durably."""
        with (self.folder / JOURNAL).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def journal(self) -> list[dict[str, Any]]:
        """All whole lines of the journal; a line that a kill cut short is left out."""
        return read_journal(self.folder / JOURNAL)

    def note_outcome(self, status: str, reason: str = "") -> None:
        """Say how the run stands, for whoever follows it from another process: "running", "done" or "failed"."""
        data = json.dumps({"status": status, "reason": reason, "process": os.getpid()}).encode()
        write_whole(self.folder / OUTCOME, data, durable=self.durable)

    def audit(self, event: str, **details: Any) -> None:
        """A line in the run's audit log; experiments on one machine keep none."""
        if self.durable:
            AuditLog(self.folder).append(event, **details)

    def rewind(self, *, completed: int) -> None:
        """Drop journal entries of rounds past the last checkpoint: they will be run again."""
        path = self.folder / JOURNAL
        if not path.exists():
            return
        kept = [entry for entry in self.journal() if entry.get("round", 0) <= completed]
        write_whole(path, "".join(json.dumps(entry) + "\n" for entry in kept).encode(), durable=self.durable)

    def show_upload(self, *, site: str, server_round: int, protection: str, counts: list[int]) -> None:
        """Keep what one site's upload looked like from here: counts of the top byte of its integers."""
        view = {
            "site": site,
            "round": server_round,
            "protection": protection,
            "masked_counts": counts,
            "entries": sum(counts),
        }
        (self.folder / VIEW).write_text(json.dumps(view), encoding="utf-8")

    def _read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise RunFolderError(f"{self.folder / name}: cannot be read: {error.strerror}") from error


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The journal's whole lines, oldest first; empty before the first."""
    if not path.exists():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue
    return entries
