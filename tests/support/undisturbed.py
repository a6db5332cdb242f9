"""What has to hold after a disturbed run of a deployment: above all, the model of an undisturbed one.

The model is compared, bit for bit, with that of a plain run on this machine in which each round has the sites that took
part in the deployed one.
"""

import shutil
from pathlib import Path

from flwr.app import Context, Error, RecordDict

import aggregator.app
import clients.app
from secfed.audit.verify import verify_run
from secfed.audit_log import check_log
from secfed.checkpoint import Checkpoints
from secfed.config import TrainingPlan
from secfed.engines.in_process import InProcessGrid
from secfed.parameters import load_vector

ABSENT = Error(5, "this site did not take part")
"""An answer, because silence would be waited for."""


def final_model(place):
    _, layout, _ = load_vector(place / "initial.safetensors")
    return Checkpoints(place / "checkpoints").load(layout).model


def replayed(world, name, tmp_path):
    """The model of a plain run on this machine in which each round has the sites that took part in the deployed one."""
    place = tmp_path / "aggregator"
    place.mkdir()
    deployed = TrainingPlan.model_validate_json((world.run_folder(name) / "plan.json").read_text())
    plain = deployed.model_copy(update={"protection": deployed.protection.model_copy(update={"mode": "plain"})})
    (place / "plan.json").write_text(plain.model_dump_json())
    (place / "simulated").touch()
    for file in ("sites.json", "initial.safetensors"):
        shutil.copy(world.run_folder(name) / file, place / file)
    took_part = {entry["round"]: set(entry["survivors"]) for entry in world.journal(name) if entry["event"] == "round"}
    folders = []
    for site in world.names:
        folder = Path(
            shutil.copytree(world.site(site), tmp_path / site, ignore=shutil.ignore_patterns("state", "node"))
        )
        text = (folder / "site.toml").read_text()
        (folder / "site.toml").write_text(text.replace('protection = ["masked"]', 'protection = ["plain"]'))
        folders.append(folder)
    by_node = {1000 + index: site for index, site in enumerate(world.names)}

    def absent(node, message):
        server_round = int(message.metadata.group_id)
        return message if server_round == 0 or by_node[node] in took_part[server_round] else ABSENT

    with InProcessGrid(clients.app.app, folders, intercept=absent) as grid:
        grid_context = Context(7, 1, {}, RecordDict(), {"run-dir": str(place)})
        aggregator.app.app(grid, grid_context)
    return final_model(place)


def check_run(world, name, tmp_path, *, rounds):
    """Everything that has to hold after a disturbed run."""
    done = [entry["round"] for entry in world.journal(name) if entry["event"] == "round"]
    assert done == list(range(1, rounds + 1))
    assert verify_run(world.run_folder(name), anchor=world.aggregator / "anchor.pub", receipts=()).verified
    assert not check_log(world.run_folder(name) / "audit.jsonl").problems
    for site in world.names:
        assert not check_log(world.site(site) / "books" / "audit.jsonl").problems
        answered = [
            (entry["session"], entry["round"], entry["stage"])
            for entry in world.audit(site)
            if entry["event"] == "answered" and entry["stage"] in ("train", "unmask")
        ]
        assert len(answered) == len(set(answered)), f"{site} answered one round of a session twice"
    assert (final_model(world.run_folder(name)) == replayed(world, name, tmp_path)).all()
