"""The reverse proxy of docs/deploy.md, as it stands there: sites get through it, and everything else does not."""

import contextlib
import http.client
import re
import shutil
import ssl
from pathlib import Path

import pytest
from deployed import Deployment, small_plan

from secfed.deployment.ports import free_port

pytestmark = [
    pytest.mark.deployment,
    pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx"),
]
NAMES = ("ct-a", "ct-b", "ct-c")
DOCUMENT = Path(__file__).parents[2] / "docs" / "deploy.md"


def documented(world):
    """The server block of the document, with this test's places in it."""
    (block,) = re.findall(r"```nginx\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    for old, new in {
        "listen 443 ssl": f"listen 127.0.0.1:{world.public_port} ssl",
        "fl.example.org": "127.0.0.1",
        "/srv/secfed-aggregator": str(world.aggregator),
        "127.0.0.1:8443": f"127.0.0.1:{world.port}",
    }.items():
        assert old in block
        block = block.replace(old, new)
    return block


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("proxied")
    with Deployment(root, NAMES) as found:
        found.public_port = free_port()
        found.provision()
        found.start_aggregator()
        settings = root / "nginx.conf"
        settings.write_text(
            f"daemon off; pid {root}/nginx.pid; error_log stderr;\nevents {{}}\n"
            f"http {{ access_log off; client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;\n"
            f"fastcgi_temp_path {root}/f; uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;\n{documented(found)} }}\n"
        )
        found.start("nginx", ["nginx", "-c", str(settings), "-p", str(root)])
        for name in NAMES:
            found.start_site(name)
        found.wait_for(lambda: all("SuperNode ID" in found.node_said(name) for name in NAMES), "all are connected")
        yield found


def test_a_run_goes_through_the_proxy(world):
    done = world.train(small_plan(), name="proxied")
    assert done.returncode == 0, f"{done.stderr}\n{world.everything_said()}"
    assert [entry["survivors"] for entry in world.journal("proxied")] == [list(NAMES)] * 2


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/list-runs",
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/runtime/acquire-task",
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "/docs",
        "/openapi.json",
        "/health",
        "/",
    ],
)
def test_nothing_but_the_fleet_is_reached_from_outside(world, path):
    context = ssl.create_default_context(cafile=str(world.aggregator / "ca.crt"))
    connection = http.client.HTTPSConnection("127.0.0.1", world.public_port, context=context, timeout=20)
    with contextlib.closing(connection):
        connection.request("POST", path, body=b"")
        assert connection.getresponse().status == 404
