"""A full disk, a site that hangs, one that comes late: the others go on, and the site takes part again when it is well.

The site with the full disk lives on a file system of its own, which needs root; the rest does not.
"""

import contextlib
import errno
import os
import signal
import subprocess
import time

import pytest
from deployed import Deployment, own_plan
from undisturbed import check_run

from benchmarks.loopback import children, descendants

pytestmark = pytest.mark.deployment

NAMES = ("ct-a", "ct-b", "ct-c", "ct-d")
FULL, HUNG, LATE = "ct-b", "ct-c", "ct-d"
DISK_MIB = 1200
STAGE_SECONDS = 20.0


@contextlib.contextmanager
def small_disk(folder):
    """A file system in memory at `folder`; yields False where this user cannot mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=700", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(command, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("troubled")
    with small_disk(root / FULL) as mounted, Deployment(root, NAMES) as found:
        found.provision()
        found.small_disk = mounted
        found.start_aggregator()
        for name in NAMES:
            if name != LATE:
                found.start_site(name)
        found.wait_for(lambda: all("SuperNode ID" in found.node_said(n) for n in NAMES if n != LATE), "three are there")
        yield found


@pytest.fixture
def everybody(world):
    """The one that comes late is here too."""
    if LATE not in world.processes:
        world.start_site(LATE)
    world.wait_for(lambda: "SuperNode ID" in world.node_said(LATE), "the late one is there")
    return world


def plan(name, *, rounds):
    return own_plan(name, rounds=rounds, stage_seconds=STAGE_SECONDS)


def rounds_without(world, name, site):
    entries = [entry for entry in world.journal(name) if entry["event"] == "round"]
    return [entry["round"] for entry in entries if site not in entry["survivors"]]


def finish(world, running, name, tmp_path, *, rounds):
    """The run ends with everybody in it, and passes every check."""
    assert running.wait(timeout=900) == 0, world.everything_said()
    world.processes.pop(f"train-{name}")
    assert set(world.journal(name)[-1]["survivors"]) == set(NAMES)
    check_run(world, name, tmp_path, rounds=rounds)


def test_a_site_that_comes_late_takes_part_from_then_on(world, tmp_path):
    rounds = 6
    running = world.train_beside(plan("late", rounds=rounds), name="late")
    world.wait_for(lambda: len(world.journal("late")) >= 2, "two rounds are done without it", seconds=300)
    world.start_site(LATE)
    finish(world, running, "late", tmp_path, rounds=rounds)
    assert rounds_without(world, "late", LATE)[:2] == [1, 2]


def fill(folder):
    """Leave no room for another byte; returns the file that takes it."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass
    with pytest.raises(OSError) as failed, path.open("ab", buffering=0) as file:
        file.write(bytes(2**12))
    assert failed.value.errno == errno.ENOSPC
    return path


def test_a_full_disk_costs_its_site_rounds_and_nothing_that_was_written(everybody, tmp_path):
    world = everybody
    if not world.small_disk:
        pytest.skip("needs root, to mount a small file system")
    name, rounds = "full", 8
    running = world.train_beside(plan(name, rounds=rounds), name=name)
    world.when_received(FULL, "train", after=world.log_length(FULL), seconds=300)
    filler = fill(world.site(FULL))
    try:
        world.wait_for(lambda: rounds_without(world, name, FULL), "a round went on without it", seconds=300)
    finally:
        filler.unlink()
    finish(world, running, name, tmp_path, rounds=rounds)
    lost = [entry["lost"].get(FULL, "") for entry in world.journal(name)]
    assert "refused: storage" in lost
    # Nothing half written is left beside.
    assert [path.name for path in (world.site(FULL) / "state").glob(".*")] == []


@pytest.mark.parametrize(("stage", "who"), [("train", "its message's process"), ("query.agree", "all of it")])
def test_a_site_that_hangs_is_waited_for_once_and_its_late_answer_does_not_count(everybody, stage, who, tmp_path):
    world = everybody
    name, rounds = f"hung-{stage.removeprefix('query.')}", 12
    running = world.train_beside(plan(name, rounds=rounds), name=name)
    world.when_received(HUNG, stage, after=world.log_length(HUNG), seconds=300)
    if who == "all of it":
        frozen = [world.processes[HUNG].pid, *descendants(world.processes[HUNG].pid)]
    else:
        worker = world.service_pid(HUNG, "worker_process")
        deadline = time.monotonic() + 20
        while not (frozen := children(worker)):
            assert time.monotonic() < deadline
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        world.wait_for(lambda: rounds_without(world, name, HUNG), "a round went on without it", seconds=300)
    finally:
        for pid in frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    finish(world, running, name, tmp_path, rounds=rounds)
