"""`python -m secfed.deployment.prepare AGGREGATOR_FOLDER RUN CONFIG`: a deployed run's folder before its first round.

Run at the aggregator, in a process of its own: the first model is made with torch, and neither the SuperLink nor the
ServerApp loads it. What is made once is never made again. The plan names the hash of its first model, so that sites
start from that one and no other.
"""

import json
import shutil
import sys
from pathlib import Path

from secfed.aggregator_files import ANCHOR, INITIAL, PLAN, ROSTER, SITES
from secfed.config import TrainingPlan
from secfed.deployment.run_place import READY, RUNS
from secfed.errors import RunFolderError, SecfedError
from secfed.experiment.start import starting_vector_of
from secfed.parameters import model_digest, save_vector
from secfed.plan_file import load_plan
from secfed.protected_vector import upload_bytes
from secfed.provisioning.roster_file import load_roster


def prepare_run(folder: Path, name: str, config: Path) -> Path:
    """Make, or find, the run's folder for this plan and this roster; returns it.

    Raises:
        RunFolderError: the folder belongs to another plan or to other sites.
        SecfedError: the plan or the aggregator's folder cannot be used.
    """
    roster = load_roster(folder)
    deployed = load_plan(config, sites=len(roster.names))
    vector, layout = starting_vector_of(deployed.plan, start_from=deployed.start_from)
    plan = deployed.plan.model_copy(update={"initial_model": model_digest(vector, layout).hex()})
    place = folder / RUNS / name
    if (place / READY).exists():
        _require_same(place, plan, roster.names)
        # A newer version of the roster with the same sites goes on with the run; sites hold the same version.
        for own in (ROSTER, ANCHOR):
            shutil.copyfile(folder / own, place / own)
        return place
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    for own in (ROSTER, ANCHOR):
        shutil.copyfile(folder / own, place / own)
    (place / PLAN).write_text(plan.model_dump_json(indent=1), encoding="utf-8")
    (place / SITES).write_text(json.dumps(list(roster.names)), encoding="utf-8")
    save_vector(place / INITIAL, vector, layout, metadata={"seed": str(plan.seed)})
    ready = {
        "run": plan.digest().hex(),
        "sites": list(roster.names),
        "upload_bytes": upload_bytes(layout, plan, cohort_size=len(roster.names)),
    }
    (place / READY).write_text(json.dumps(ready), encoding="utf-8")
    return place


def _require_same(place: Path, plan: TrainingPlan, sites: tuple[str, ...]) -> None:
    known = TrainingPlan.model_validate_json((place / PLAN).read_text(encoding="utf-8"))
    if known != plan:
        raise RunFolderError(f"{place}: belongs to another plan (see its {PLAN}): choose another --name")
    if tuple(json.loads((place / SITES).read_text(encoding="utf-8"))) != sites:
        raise RunFolderError(
            f"{place}: belongs to other sites than the roster names now ({', '.join(sites)}): choose another --name, "
            "and start from its newest model with start_from"
        )


def main() -> None:
    """Entry point; a problem becomes one line and its exit code."""
    folder, name, config = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    try:
        prepare_run(folder, name, config)
    except SecfedError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
