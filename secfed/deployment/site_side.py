"""A site's side of a deployment: Flower's SuperNode, and the worker that answers its messages, both watched.

    SuperNode   TLS to the aggregator, node key, process isolation; answers nothing itself
    worker      secfed.deployment.site_worker: the site's own program, one process a message

Run at the site by `secfed site run`. The SuperNode's Runtime API listens on loopback; a secret that is made anew at
each start keeps other users of the machine out. Nothing is started for a folder that does not pass `secfed provision
check`.
"""

import hashlib
import secrets
import socket
import sys
from pathlib import Path

from secfed.audit_log import AuditLog
from secfed.deployment.flower import environment, program
from secfed.deployment.ports import free_port
from secfed.deployment.supervisor import Service, Supervisor
from secfed.provenance import code_digest, versions
from secfed.provisioning.check import call_aggregator, require_ready
from secfed.provisioning.files import CA_FILE, NODE_KEY_FILE, ROSTER_FILE, write_private
from secfed.site_config import SiteFile, load_site_file

NODE_FOLDER = "node"
SECRET_FILE = "superexec.secret"  # noqa: S105 - a file's name
NODE_REFUSED = "[code: 2004]"
"""What Flower 1.41's SuperNode prints where the SuperLink does not know its key."""
NODE_LET_IN = "SuperNode ID"
"""What it prints once the SuperLink has let it in."""
WORKER_MODULE = "secfed.deployment.worker_process"
DRAIN_SECONDS = 900.0
"""How long a message in progress may go on after SIGTERM: a round of training."""


def site_log(folder: Path, site: SiteFile) -> AuditLog:
    """The site's audit log, with the fields that its policy lets in."""
    return AuditLog(folder / "books", fields=site.policy.log_fields)


def supervise_site(folder: Path) -> Supervisor:
    """A supervisor for the site's two processes; nothing is started yet.

    Raises:
        ConfigError: the folder lacks something; the message says what, and what to do.
    """
    folder = folder.resolve()
    require_ready(folder, kind="site")
    site = load_site_file(folder)
    node = folder / NODE_FOLDER
    node.mkdir(exist_ok=True, mode=0o700)
    write_private(node / SECRET_FILE, secrets.token_bytes(32))
    port = free_port()
    door = f"127.0.0.1:{port}"
    env = environment(node / "flwr-home")
    # torch would keep what it compiled, and take it from there again, where every user of the machine may write.
    env["TORCHINDUCTOR_CACHE_DIR"] = str(node / "compiled")
    supernode = Service(
        name="supernode",
        command=[
            program("flower-supernode"),
            "--superlink", str(site.superlink),
            "--root-certificates", str(folder / CA_FILE),
            "--auth-supernode-private-key", str(folder / NODE_KEY_FILE),
            "--isolation", "process",
            "--host", "127.0.0.1",
            "--port", str(port),
            "--superexec-auth-secret-file", str(node / SECRET_FILE),
        ],
        environment=env,
        ready=lambda: listens(port),
        announce=lambda lines: f"connected to {site.superlink}." if NODE_LET_IN in lines else "",
        explain=lambda lines: why_not_connected(lines, address=str(site.superlink), authority=folder / CA_FILE),
    )  # fmt: skip
    worker = Service(
        name="worker",
        command=[sys.executable, "-m", WORKER_MODULE, str(folder), door],
        environment=env,
        patience_seconds=DRAIN_SECONDS,
        takes_along="supernode",
    )
    return Supervisor([supernode, worker], logs=node / "logs", log=site_log(folder, site))


def why_not_connected(lines: str, *, address: str, authority: Path) -> str:
    """What keeps a SuperNode away that has just ended, and who must do what; `lines` are the last of its log."""
    found = call_aggregator(address, authority)
    if found.status != "ok":
        return f"{found.what}. {found.todo}"
    if NODE_REFUSED in lines:
        return (
            f"{address} answers and does not let this site's node in: it was not admitted yet, or was taken out, or "
            "node.key is not the key that the consortium signed. The aggregator sees that with `secfed aggregator "
            "sites`; the consortium knows whether this site is a member"
        )
    return f"{address} answers; what ended the SuperNode stands in its log, node/logs/supernode.log"


def note_start(folder: Path) -> None:
    """A line in the site's audit log: who starts, with what program, under which roster."""
    site = load_site_file(folder)
    site_log(folder, site).append(
        "started",
        side="site",
        name=site.name,
        consortium=site.consortium,
        version=versions()["secfed"],
        code=code_digest(),
        roster=hashlib.sha256((folder / ROSTER_FILE).read_bytes()).hexdigest(),
    )


def note_stop(folder: Path) -> None:
    """A line in the site's audit log."""
    site_log(folder, load_site_file(folder)).append("stopped", side="site")


def listens(port: int) -> bool:
    """Whether somebody listens on loopback."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
