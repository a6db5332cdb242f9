"""The aggregator's side of a deployment: Flower's SuperLink and SuperExec, watched, and the nodes that may connect.

    SuperLink   TLS, node authentication, its state in a database, process isolation
    SuperExec   starts the ServerApp of a run in a process of its own, so that the run outlives a killed SuperLink

Run at the aggregator by `secfed aggregator run`. The SuperLink answers on one port: `/v1/fleet/` is for sites,
everything else is for this machine alone. It listens on loopback by default, and a reverse proxy passes the fleet paths
on (docs/deploy.md). The secret between the two is made anew at each start.

Which SuperNodes may connect is the part of `secfed.deployment.nodes`.
"""

import hashlib
import secrets
import socket
import ssl
from pathlib import Path

import tomli_w

from secfed.audit_log import AuditLog
from secfed.deployment.flower import environment, program
from secfed.deployment.supervisor import Service, Supervisor
from secfed.errors import SecfedError
from secfed.provenance import code_digest, versions
from secfed.provisioning.aggregator_service import AggregatorFile, load_aggregator_file
from secfed.provisioning.check import require_ready
from secfed.provisioning.files import (
    CA_FILE,
    ROSTER_FILE,
    SERVER_FILE,
    SERVER_KEY_FILE,
    write_private,
)

SUPERLINK = "superlink"
DATABASE = "state.db"
SECRET_FILE = "superexec.secret"  # noqa: S105 - a file's name
CONNECTION = "local"
HOME = "flwr-home"
DRAIN_SECONDS = 30.0


def aggregator_log(folder: Path) -> AuditLog:
    """The aggregator's audit log."""
    return AuditLog(folder)


def home_of(folder: Path) -> Path:
    """Flower's own files at the aggregator."""
    return folder / SUPERLINK / HOME


def supervise_aggregator(folder: Path) -> Supervisor:
    """A supervisor for SuperLink and SuperExec; nothing is started yet.

    Raises:
        ConfigError: the folder lacks something; the message says what, and what to do.
    """
    folder = folder.resolve()
    require_ready(folder, kind="aggregator")
    service = load_aggregator_file(folder)
    place = folder / SUPERLINK
    place.mkdir(exist_ok=True, mode=0o700)
    write_private(place / SECRET_FILE, secrets.token_bytes(32))
    _write_connection(folder, service)
    env = environment(home_of(folder))
    address = f"{service.listen}:{service.port}"
    superlink = Service(
        name="superlink",
        command=[
            program("flower-superlink"),
            "--host", service.listen,
            "--port", str(service.port),
            "--ssl-ca-certfile", str(folder / CA_FILE),
            "--ssl-certfile", str(folder / SERVER_FILE),
            "--ssl-keyfile", str(folder / SERVER_KEY_FILE),
            "--enable-supernode-auth",
            "--isolation", "process",
            "--superexec-auth-secret-file", str(place / SECRET_FILE),
            "--disable-runtime-dependency-installation",
            *(() if service.keep_models_in_memory else ("--database", str(place / DATABASE))),
        ],
        environment=env,
        ready=lambda: _answers(folder, service),
        patience_seconds=DRAIN_SECONDS,
    )  # fmt: skip
    superexec = Service(
        name="superexec",
        command=[
            program("flower-superexec"),
            "--runtime-api-address", address,
            "--root-certificates", str(folder / CA_FILE),
            "--superexec-auth-secret-file", str(place / SECRET_FILE),
        ],
        environment=env,
        patience_seconds=DRAIN_SECONDS,
    )  # fmt: skip
    return Supervisor([superlink, superexec], logs=place / "logs", log=aggregator_log(folder))


def note_start(folder: Path) -> None:
    """A line in the aggregator's audit log."""
    aggregator_log(folder).append(
        "started",
        side="aggregator",
        consortium=load_aggregator_file(folder).consortium,
        version=versions()["secfed"],
        code=code_digest(),
        roster=hashlib.sha256((folder / ROSTER_FILE).read_bytes()).hexdigest(),
    )


def note_stop(folder: Path) -> None:
    """A line in the aggregator's audit log."""
    aggregator_log(folder).append("stopped", side="aggregator")


def _write_connection(folder: Path, service: AggregatorFile) -> None:
    home = home_of(folder)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    connection = {"address": f"{service.listen}:{service.port}", "root-certificates": str(folder / CA_FILE)}
    text = tomli_w.dumps({"superlink": {"default": CONNECTION, CONNECTION: connection}})
    (home / "config.toml").write_text(text, encoding="utf-8")


def _answers(folder: Path, service: AggregatorFile) -> bool:
    context = ssl.create_default_context(cafile=str(folder / CA_FILE))
    try:
        with (
            socket.create_connection((service.listen, service.port), timeout=1.0) as connection,
            context.wrap_socket(connection, server_hostname=service.listen),
        ):
            return True
    except ssl.SSLCertVerificationError as error:
        raise SecfedError(
            f"the SuperLink's certificate does not name {service.listen}, where it listens: {error.verify_message}; "
            "ask for one that does: secfed provision aggregator --host"
        ) from error
    except OSError:
        return False
