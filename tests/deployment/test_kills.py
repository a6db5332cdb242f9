"""kill -9 at every stage, of every process: runs end on the model of an undisturbed run with the same participation."""

import json
import os
import signal
import time

import pytest
from deployed import deployment, own_plan
from undisturbed import check_run

from benchmarks.loopback import children

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


@pytest.fixture(autouse=True)
def nothing_goes_on(world):
    """A run that a failed test left behind would fight with the next one over the sites' sessions."""
    yield
    for name, process in [*world.processes.items()]:
        if name.startswith("train-"):
            if process.poll() is None:
                world.stop_run(name.removeprefix("train-"))
            world.processes.pop(name)


def plan(name, *, rounds):
    return own_plan(name, rounds=rounds, stage_seconds=45.0)


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
    rounds = 16
    running = world.train_beside(plan("supernodes", rounds=rounds), name="supernodes")
    for number, stage in enumerate(STAGES[3:]):
        site = NAMES[number]
        world.when_received(site, stage, after=world.log_length(site), seconds=300)
        node = world.service_pid(site, "flower-supernode")
        os.kill(node, signal.SIGKILL)
        # It is back once it trains again: in a new session, or in the old one where only its answer was lost.
        world.when_received(site, "train", after=world.log_length(site), seconds=300)
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
