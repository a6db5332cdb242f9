"""A run that is killed at any moment leaves no process behind, and --resume gives the model of an undisturbed run."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tomli_w
from small_federation import config, digest, provision, train, tree

from secfed.provenance import source_root
from secfed.results import RunRecord

ROUNDS = 10
PATIENCE_SECONDS = 300


def start(toml, out, *more):
    """The real program in a session of its own, so that whatever it starts can be found."""
    command = [sys.executable, "-m", "secfed.cli", "run", str(toml), "--out", str(out), "--cores", "2", "--json", *more]
    return subprocess.Popen(
        command,
        cwd=source_root(),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def members_of(session):
    """Living processes of a session, zombies left out."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(after_name[3]) == session and after_name[0] != "Z":
            found.append(int(path.parent.name))
    return found


def lines(path):
    return path.read_text().count("\n") if path.exists() else 0


def wait_until(process, holds):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert process.poll() is None, f"the run ended before it could be killed: {process.communicate()}"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def kill(process, *, group):
    """SIGKILL to the program, or to everything that it started as well; then nothing of it may live on."""
    # The moment within a round is not chosen: every one must do.
    time.sleep(random.SystemRandom().uniform(0, 0.3))
    if group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    deadline = time.monotonic() + 15
    while members_of(process.pid):
        assert time.monotonic() < deadline, f"processes outlive the run: {members_of(process.pid)}"
        time.sleep(0.05)
    process.communicate()


@pytest.mark.study
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
def test_a_killed_run_leaves_no_process_and_resumes_to_the_same_model(scans, tmp_path):
    # Enough rounds that a worker which outlives the run does not end with its work.
    changes = {"federation": {"rounds": ROUNDS, "validate_every": 10}}
    undisturbed = provision(tmp_path / "undisturbed", config(scans, **changes))
    train(undisturbed)

    toml, out = tmp_path / "run.toml", tmp_path / "run"
    toml.write_text(tomli_w.dumps(tree(scans, **changes)))
    journal = out / "jobs/federated/aggregator/journal.jsonl"
    stops = [
        (lambda: (out / "cache").exists() and any((out / "cache").iterdir()), False),
        (lambda: lines(journal) >= 1, False),
        (lambda: lines(journal) >= 4, True),
    ]
    more = []
    for reached, group in stops:
        process = start(toml, out, *more)
        wait_until(process, reached)
        kill(process, group=group)
        assert not (out / "run.json").exists()
        more = ["--resume"]

    process = start(toml, out, *more)
    output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, errors
    assert json.loads(output)["run"] == str(out)
    job = RunRecord.load(out).job("federated")
    assert job.model_hash == digest(undisturbed)
    assert job.rounds == ROUNDS
    assert [json.loads(line)["round"] for line in journal.read_text().splitlines()] == list(range(1, ROUNDS + 1))
