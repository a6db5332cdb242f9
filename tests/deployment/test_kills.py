"""kill -9 at every stage, of every process: runs end on the model of an undisturbed run with the same participation."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from deployed import deployment, small_plan
from flwr.app import Context, RecordDict

import aggregator.app
import clients.app
from benchmarks.loopback import children
from secfed.audit.verify import verify_run
from secfed.audit_log import check_log
from secfed.checkpoint import Checkpoints
from secfed.config import TrainingPlan
from secfed.engines.in_process import InProcessGrid
from secfed.parameters import load_vector

pytestmark = pytest.mark.deployment

NAMES = ("ct-a", "ct-b", "ct-c", "ct-d")
STAGES = (
    "query.join",
    "query.encapsulate",
    "query.confirm",
    "query.share",
    "train",
    "query.agree",
    "query.unmask",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with deployment(tmp_path_factory.mktemp("killed"), NAMES) as found:
        found.start_all()
        yield found


def plan(name, *, rounds):
    return small_plan(name=name, federation={"rounds": rounds, "stage_timeout_seconds": 45.0})


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
    for site in NAMES:
        folder = Path(
            shutil.copytree(world.site(site), tmp_path / site, ignore=shutil.ignore_patterns("state", "node"))
        )
        text = (folder / "site.toml").read_text()
        (folder / "site.toml").write_text(text.replace('protection = ["masked"]', 'protection = ["plain"]'))
        folders.append(folder)
    by_node = {1000 + index: site for index, site in enumerate(NAMES)}

    def absent(node, message):
        server_round = int(message.metadata.group_id)
        # A site that drops out after training has trained: its optimiser goes on, and its update is not in the sum.
        return message if server_round == 0 or by_node[node] in took_part[server_round] else None

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
    for site in NAMES:
        assert not check_log(world.site(site) / "books" / "audit.jsonl").problems
        answered = [
            (entry["session"], entry["round"], entry["stage"])
            for entry in world.audit(site)
            if entry["event"] == "answered" and entry["stage"] in ("train", "unmask")
        ]
        assert len(answered) == len(set(answered)), f"{site} answered one round of a session twice"
    assert (final_model(world.run_folder(name)) == replayed(world, name, tmp_path)).all()


def message_process(world, name):
    """The process that answers a message now, below the site's worker."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        below = children(world.service_pid(name, "worker_process"))
        if below:
            return below[0]
        time.sleep(0.002)
    raise AssertionError(f"no process answered for {name}")


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_message_process_costs_its_site_a_round_at_most(world, stage, tmp_path):
    name = f"process-{stage.removeprefix('query.')}"
    before = {site: world.log_length(site) for site in NAMES}
    running = world.train_beside(plan(name, rounds=2), name=name)
    world.when_received("ct-b", stage, after=before["ct-b"])
    os.kill(message_process(world, "ct-b"), signal.SIGKILL)
    assert running.wait(timeout=300) == 0, world.everything_said()
    check_run(world, name, tmp_path, rounds=2)
    assert "process ended early" in [entry["event"] for entry in world.audit("ct-b")]


def test_killed_supernodes_come_back_and_the_run_goes_on(world, tmp_path):
    rounds = 24
    running = world.train_beside(plan("supernodes", rounds=rounds), name="supernodes")
    for number, stage in enumerate(STAGES[3:]):
        site = NAMES[number]
        world.when_received(site, stage, after=world.log_length(site), seconds=300)
        node = world.service_pid(site, "flower-supernode")
        os.kill(node, signal.SIGKILL)
        after = world.log_length(site)
        world.when_received(site, "query.join", after=after, seconds=300)
    assert running.wait(timeout=900) == 0, world.everything_said()
    check_run(world, "supernodes", tmp_path, rounds=rounds)
    survivors = [set(entry["survivors"]) for entry in world.journal("supernodes")]
    assert survivors[-1] == set(NAMES)
    assert any(len(found) == 3 for found in survivors)


def test_a_killed_superlink_loses_no_round(world, tmp_path):
    running = world.train_beside(plan("superlink", rounds=6), name="superlink")
    world.when_received("ct-a", "train", after=world.log_length("ct-a"))
    os.kill(world.service_pid("aggregator", "flower-superlink"), signal.SIGKILL)
    status = running.wait(timeout=600)
    if status:
        resumed = world.train(plan("superlink", rounds=6), name="superlink", resume=True)
        assert resumed.returncode == 0, f"{resumed.stderr}\n{world.everything_said()}"
    check_run(world, "superlink", tmp_path, rounds=6)


@pytest.mark.parametrize("moment", ["train", "query.agree", "query.unmask"])
def test_a_killed_serverapp_goes_on_from_its_last_round(world, moment, tmp_path):
    name = f"serverapp-{moment.removeprefix('query.')}"
    running = world.train_beside(plan(name, rounds=3), name=name)
    world.when_received("ct-a", moment, after=world.log_length("ct-a"))
    outcome = json.loads((world.run_folder(name) / "outcome.json").read_text())
    os.kill(outcome["process"], signal.SIGKILL)
    assert running.wait(timeout=300) != 0
    resumed = world.train(plan(name, rounds=3), name=name, resume=True)
    assert resumed.returncode == 0, f"{resumed.stderr}\n{world.everything_said()}"
    check_run(world, name, tmp_path, rounds=3)
