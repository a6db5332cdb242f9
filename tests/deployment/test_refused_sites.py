"""Sites that may not take part, or not like this: both sides are told who must do what, and the others go on."""

import json
import subprocess
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from deployed import deployment, small_plan

from benchmarks.loopback import SECFED
from secfed.provisioning.adoption import adopt
from secfed.provisioning.certificates import make_authority, make_ec_key
from secfed.provisioning.consortium import sign_next

pytestmark = pytest.mark.deployment

NAMES = ("ct-a", "ct-b", "ct-c", "ct-d", "ct-e")
SLOW, GONE = "ct-d", "ct-e"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with deployment(tmp_path_factory.mktemp("refused"), NAMES) as found:
        found.start_all()
        yield found


def asked(world, *arguments):
    done = subprocess.run(
        [str(SECFED), "aggregator", *arguments], capture_output=True, text=True, check=True, env=world.environment
    )
    return json.loads(done.stdout)


def test_a_site_that_trusts_another_authority_does_not_connect_and_says_whose_fault_it_is(world):
    assert world.end(GONE) == 0
    path = world.site(GONE) / "ca.crt"
    right = path.read_bytes()
    other = make_ec_key(ec.SECP256R1())
    path.write_bytes(make_authority("another", other, now=datetime.now(UTC)))
    try:
        world.start_site(GONE)
        world.wait_for(lambda: "this is not the consortium's aggregator" in world.said(GONE), "the site says why")
        found = {one["site"]: one for one in asked(world, "sites", str(world.aggregator), "--json")["sites"]}
        assert [name for name, one in found.items() if one["online"]] == list(NAMES[:-1])
        assert "secfed site run" in found[GONE]["todo"]
    finally:
        world.end(GONE)
        path.write_bytes(right)


def test_a_revoked_site_is_put_out_and_one_with_an_old_roster_comes_back_when_it_has_the_new_one(world):
    before = world.node_said(GONE).count("SuperNode ID")
    world.start_site(GONE)
    world.wait_for(lambda: world.node_said(GONE).count("SuperNode ID") > before, "it is connected")
    release = sign_next(world.consortium, revoke=[GONE])
    for name in NAMES[:3]:
        adopt(world.site(name), release.folder, anchor_fingerprint=None)
    adopt(world.aggregator, release.folder, anchor_fingerprint=None)
    assert asked(world, "admit", str(world.aggregator), "--json") == {"admitted": [], "removed": [GONE]}
    plan = small_plan(name="new", federation={"rounds": 8, "stage_timeout_seconds": 30.0})
    running = world.train_beside(plan, name="new")
    try:
        world.wait_for(lambda: world.journal("new"), "a round is done", seconds=300)
        assert world.journal("new")[0]["survivors"] == list(NAMES[:3])
        assert "refused: roster" in world.journal("new")[0]["lost"].values()
        assert "holds version 1" in (world.site(SLOW) / "books" / "site.log").read_text()
        adopt(world.site(SLOW), release.folder, anchor_fingerprint=None)
        assert running.wait(timeout=600) == 0, world.everything_said()
    finally:
        world.processes.pop("train-new")
    assert world.journal("new")[-1]["survivors"] == list(NAMES[:4])
    # The node that was put out has no session with the SuperLink any more, and its operator reads why.
    world.wait_for(lambda: "was taken out" in world.said(GONE), "the site that was revoked says so")
