"""The network between one site and the aggregator is cut for longer than a stage, and healed: the run goes on, whole.

The site runs in a network namespace of its own; its only way out is a pair of virtual interfaces that the test takes
down. Needs root and iproute2.
"""

import contextlib
import os
import shutil
import subprocess
import time

import pytest
from deployed import Deployment, own_plan
from undisturbed import check_run

pytestmark = [
    pytest.mark.deployment,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and iproute2"),
]

NAMES = ("ct-a", "ct-b", "ct-c", "ct-d")
SPACE = f"secfed-{os.getpid()}"
OUTSIDE, INSIDE = f"sfo{os.getpid() % 100000}", f"sfi{os.getpid() % 100000}"
HOST, SITE = "10.213.77.1", "10.213.77.2"


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)


@contextlib.contextmanager
def network():
    """A namespace with a cable to this one; skips where root may not do that, as in many containers."""
    if subprocess.run(["ip", "netns", "add", SPACE], check=False).returncode:
        pytest.skip("this machine does not let root make network namespaces")
    try:
        try:
            ip("link", "add", OUTSIDE, "type", "veth", "peer", "name", INSIDE, "netns", SPACE)
            ip("addr", "add", f"{HOST}/30", "dev", OUTSIDE)
            ip("link", "set", OUTSIDE, "up")
            ip("-n", SPACE, "addr", "add", f"{SITE}/30", "dev", INSIDE)
            for device in (INSIDE, "lo"):
                ip("-n", SPACE, "link", "set", device, "up")
            ip("netns", "exec", SPACE, "true")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this machine does not let root join network namespaces: {error}")
        yield
    finally:
        ip("netns", "del", SPACE)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with network(), Deployment(tmp_path_factory.mktemp("cut"), NAMES, host=HOST) as found:
        found.provision()
        found.start_aggregator()
        for name in NAMES[:3]:
            found.start_site(name)
        found.start_site(NAMES[3], within=["ip", "netns", "exec", SPACE])
        found.wait_for(lambda: all("SuperNode ID" in found.node_said(name) for name in NAMES), "all are connected")
        yield found


@pytest.mark.parametrize("stage", ["train", "query.agree"])
def test_a_cut_and_healed_network_costs_its_site_the_rounds_of_the_cut(world, stage, tmp_path):
    name, rounds = f"cut-{stage.removeprefix('query.')}", 12
    plan = own_plan(name, rounds=rounds, stage_seconds=20.0)
    running = world.train_beside(plan, name=name)
    world.when_received("ct-d", stage, after=world.log_length("ct-d"))
    ip("link", "set", OUTSIDE, "down")
    time.sleep(60)
    # The address went with the link.
    ip("link", "set", OUTSIDE, "up")
    assert running.wait(timeout=900) == 0, world.everything_said()
    survivors = [set(entry["survivors"]) for entry in world.journal(name)]
    assert set(NAMES[:3]) in survivors
    assert survivors[-1] == set(NAMES)
    check_run(world, name, tmp_path, rounds=rounds)
