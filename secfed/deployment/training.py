"""A run of a deployment, from the aggregator's console: prepared, submitted to the SuperLink, followed to its end.

Run at the aggregator, beside `secfed aggregator run`. The run itself is a process of Flower's; whoever follows it may
stop following and come back. A run that ended early goes on from its last finished round.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from secfed import errors
from secfed.aggregator_files import OUTCOME
from secfed.deployment.aggregator_side import CONNECTION, aggregator_log, home_of
from secfed.deployment.bundle import RUN_FOLDER_KEY, bundle_bytes, bundle_digest, write_app
from secfed.deployment.flower import flwr
from secfed.deployment.run_place import FLOWER_RUNS, READY, RUNS, Progress, flower_runs, progress_of
from secfed.errors import ConfigError, GroupKeyLost, RoundAborted, RunFolderError, SecfedError
from secfed.provisioning.aggregator_service import AGGREGATOR_FILE, load_aggregator_file
from secfed.whole_file import write_whole

BUNDLE = "bundle"
POLL_SECONDS = 0.5
ASK_SECONDS = 30.0
"""How often Flower is asked whether the run's process still lives, where the run's folder does not say."""
DATABASE_BYTES = 1_000_000_000
"""What all sites' uploads of a round may hold together before Flower's database is in doubt: on one machine it carried
1.2 GB in three of three tries and 1.6 GB in one of three (python -m benchmarks.deployment --large --database)."""
PATIENT_ASKS = 10
"""How often in a row Flower may fail to answer before whoever follows gives up."""
_ENDED = frozenset({"finished"})


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended, "done" or "failed", and why."""

    status: str
    reason: str
    progress: Progress


def prepare(folder: Path, name: str, config: Path) -> Path:
    """Make or find the run's folder, in a process of its own (secfed.deployment.prepare).

    Raises:
        SecfedError: with the message and the exit code of what went wrong.
    """
    command = [sys.executable, "-m", "secfed.deployment.prepare", str(folder), name, str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        kinds: dict[int, type[SecfedError]] = {kind.exit_code: kind for kind in (ConfigError, RunFolderError)}
        raise kinds.get(done.returncode, SecfedError)(done.stderr.strip())
    return folder / RUNS / name


def storage_warning(folder: Path, place: Path) -> str | None:
    """What to say before a run whose messages Flower's database may not carry; None where it will, or is not used."""
    if load_aggregator_file(folder).keep_models_in_memory:
        return None
    ready = json.loads((place / READY).read_text(encoding="utf-8"))
    together = len(ready["sites"]) * ready.get("upload_bytes", 0)
    if together <= DATABASE_BYTES:
        return None
    return (
        f"a round's uploads are {together / 1e6:,.0f} MB together, and Flower's database may fail above "
        f"{DATABASE_BYTES / 1e6:,.0f} MB: set keep_models_in_memory = true in {AGGREGATOR_FILE}, and start "
        "`secfed aggregator run` anew"
    )


def start(folder: Path, place: Path) -> str:
    """Submit the run to the SuperLink; returns Flower's id.

    Raises:
        RunFolderError: the run is at work already, or is done.
        SecfedError: the SuperLink does not answer.
    """
    if (known := read_outcome(place)) is not None and known.status == "done":
        raise RunFolderError(f"{place}: the run is done; choose another --name")
    if (running := running_id(folder, place)) is not None:
        raise RunFolderError(f"{place}: at work already, as Flower's run {running}: follow it with --attach")
    (place / OUTCOME).unlink(missing_ok=True)
    app = write_app(folder / BUNDLE)
    setting = f'{RUN_FOLDER_KEY}="{place.resolve()}"'
    found = str(flwr("run", str(app), CONNECTION, "--run-config", setting, home=home_of(folder))["run-id"])
    before = flower_runs(place)
    write_whole(place / FLOWER_RUNS, json.dumps([*before, found]).encode(), durable=True)
    ready = json.loads((place / READY).read_text(encoding="utf-8"))
    aggregator_log(folder).append(
        "run started",
        run=ready["run"],
        flower_run=found,
        bundle=bundle_digest(bundle_bytes()),
        resumed=bool(before),
    )
    return found


def follow(folder: Path, place: Path, *, progress: Callable[[Progress], None]) -> Outcome:
    """Wait for the run's end, showing how far it is.

    Raises:
        RoundAborted: a round failed in every attempt; the run can go on with `start`.
        GroupKeyLost: an encrypted run cannot go on.
        SecfedError: the run's process ended without a word or for another reason, or Flower did not answer for minutes.
    """
    asked = time.monotonic()
    unanswered = 0
    while True:
        progress(progress_of(place))
        found = read_outcome(place)
        if found is not None and found.status == "done":
            return found
        if found is not None and found.status == "failed":
            kind, _, reason = found.reason.partition(": ")
            if kind == "SystemExit":
                raise SecfedError(
                    f"{place}: Flower ended the run's process, on SIGTERM or because its SuperLink did not answer in "
                    "time; the run goes on from its last finished round with --resume. Where superlink/logs/"
                    "superlink.log says that the database is locked, the model is too large for it: set "
                    f"keep_models_in_memory = true in {AGGREGATOR_FILE}"
                )
            known = {"RoundAborted": RoundAborted, "GroupKeyLost": GroupKeyLost}
            # Errors of this program explain themselves; of any other the kind is half of what it says.
            ours = isinstance(getattr(errors, kind, None), type)
            raise known.get(kind, SecfedError)(reason if ours and reason else found.reason)
        if time.monotonic() - asked >= ASK_SECONDS:
            asked = time.monotonic()
            try:
                ended = running_id(folder, place) is None
            except SecfedError:
                # The SuperLink may be busy, or on its way back after a kill: the run outlives that.
                unanswered += 1
                if unanswered == PATIENT_ASKS:
                    raise
                continue
            unanswered = 0
            if ended and (found is None or read_outcome(place) == found):
                raise SecfedError(
                    f"{place}: the run's process ended without a word, as after a kill; it goes on from its last "
                    "finished round with --resume"
                )
        time.sleep(POLL_SECONDS)


def stop(folder: Path, place: Path) -> str | None:
    """Ask Flower to end the run; returns its id, None where it is not at work. Finished rounds stay."""
    running = running_id(folder, place)
    if running is not None:
        flwr("stop", running, CONNECTION, home=home_of(folder))
    return running


def running_id(folder: Path, place: Path) -> str | None:
    """Flower's id of the run's newest process, where Flower does not say that it has ended."""
    ids = flower_runs(place)
    if not ids:
        return None
    listed = flwr("list", CONNECTION, "--run-id", ids[-1], home=home_of(folder)).get("runs", [])
    states = {str(run.get("run-id")): str(run.get("status", "")) for run in listed}
    state = states.get(ids[-1])
    return None if state is None or state.split(":")[0] in _ENDED else ids[-1]


def read_outcome(place: Path) -> Outcome | None:
    """What the run's own process said last; None where it has not begun."""
    try:
        found = json.loads((place / OUTCOME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Outcome(status=str(found["status"]), reason=str(found["reason"]), progress=progress_of(place))
