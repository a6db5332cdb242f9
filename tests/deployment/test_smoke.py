"""Three sites as real processes over TLS: a run verifies, strangers stay out, and everything drains."""

import json
import shutil
import subprocess

import pytest
from deployed import deployment, small_plan

from benchmarks.loopback import SECFED, command_line, descendants
from secfed.audit.verify import verify_run
from secfed.audit_log import check_log

NAMES = ("ct-a", "ct-b", "ct-c")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with deployment(tmp_path_factory.mktemp("deployed"), NAMES) as found:
        found.start_all()
        yield found


@pytest.fixture(scope="module")
def masked(world):
    done = world.train(small_plan(), name="run")
    assert done.returncode == 0, f"{done.stderr}\n{world.everything_said()}"
    return json.loads(done.stdout)


def test_a_masked_run_over_superlink_and_supernodes_is_done_and_verifies(world, masked):
    assert masked["rounds"] == 2
    assert [entry["survivors"] for entry in world.journal("run")] == [list(NAMES)] * 2
    assert verify_run(world.run_folder("run"), anchor=world.aggregator / "anchor.pub", receipts=()).verified
    # Setup, then three exchanges a round.
    assert world.journal("run")[1]["exchanges"] == 3


def test_each_side_s_audit_log_is_whole_and_says_what_left(world, masked):
    for name in NAMES:
        log = check_log(world.site(name) / "books" / "audit.jsonl")
        assert not log.problems
        events = [(entry["event"], entry.get("stage"), entry.get("round")) for entry in world.audit(name)]
        assert ("joined", None, None) in events
        assert [event[2] for event in events if event[:2] == ("answered", "train")] == [1, 2]
    log = check_log(world.run_folder("run") / "audit.jsonl")
    assert not log.problems


def test_a_bundle_that_is_not_approved_is_refused_until_it_is_and_none_of_its_code_runs(world, masked):
    approval = world.approvals("ct-a").all()[0]
    world.approvals("ct-a").withdraw(approval.bundle)
    joined = sum(entry["event"] == "joined" for entry in world.audit("ct-a"))
    running = world.train_beside(small_plan(name="reviewed", federation={"rounds": 1}), name="reviewed")
    try:
        world.wait_for(lambda: "bundle refused" in [entry["event"] for entry in world.audit("ct-a")], "ct-a refused")
        refused = [entry for entry in world.audit("ct-a") if entry["event"] == "bundle refused"]
        assert refused[0]["bundle"] == approval.bundle
        assert "secfed site approve" in refused[0]["reason"]
        assert sum(entry["event"] == "joined" for entry in world.audit("ct-a")) == joined
        world.wait_for(lambda: "error 7" in str(world.run_audit("reviewed")), "the aggregator was told")
    finally:
        world.approve("ct-a")
    # Nobody has to start anything again: the next attempt finds the approval.
    assert running.wait(timeout=240) == 0, world.everything_said()
    assert world.journal("reviewed")[-1]["survivors"] == list(NAMES)


def test_a_second_start_of_a_done_run_is_refused_by_name(world, masked):
    again = world.train(small_plan(), name="run", resume=True)
    assert again.returncode == 4
    assert "the run is done" in again.stderr
    other = world.train(small_plan(seed=4), name="run")
    assert other.returncode == 4
    assert "belongs to another plan" in other.stderr


def test_a_stranger_s_node_key_is_not_let_in(world, masked, tmp_path):
    # A fourth site of another consortium's making, with the right address and the right authority.
    stranger = tmp_path / "stranger"
    subprocess.run(["cp", "-r", str(world.site("ct-a")), str(stranger)], check=True)
    (stranger / "node.key").unlink()
    shutil.rmtree(stranger / "node")
    made = subprocess.run(
        [
            str(SECFED), "provision", "site", str(stranger), "--name", "ct-a", "--consortium", "abdomen",
            "--superlink", f"127.0.0.1:{world.port}", "--data", str(tmp_path),
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "keys are in" in made.stdout
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([str(SECFED), "site", "run", "--site", str(stranger)], timeout=12, check=False)
    log = (stranger / "node" / "logs" / "supernode.log").read_text()
    assert "SuperNode ID" not in log
    assert not (stranger / "books" / "audit.jsonl").exists() or "joined" not in {
        entry["event"] for entry in world.audit("ct-a")[-1:]
    }


def test_sigterm_drains_and_leaves_no_process(world, masked):
    below = [pid for name in (*NAMES, "aggregator") for pid in descendants(world.processes[name].pid)]
    assert len(below) >= 8
    for name in [*NAMES, "aggregator"]:
        assert world.end(name) == 0
    assert not [command_line(pid) for pid in below if command_line(pid)]
    for name in NAMES:
        assert world.audit(name)[-1]["event"] == "stopped"
