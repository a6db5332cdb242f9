"""The aggregator's own folder: where sites reach it, its TLS key, its request for a certificate.

Run at the aggregator, which nobody trusts: it is given no key of a site and none of the consortium, and its TLS key
protects the sites' messages from the network only.

    aggregator.toml  server.key  server.csr                    made here
    roster.cbor  anchor.pub  ca.crt  server.crt  nodes.cbor    from the consortium (secfed.provisioning.adoption)
    superlink/  runs/                                          kept by `secfed aggregator run`
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tomli_w
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field, ValidationError

from secfed.config import SiteName, describe_validation_error
from secfed.config_table import Table
from secfed.errors import ConfigError
from secfed.provisioning import certificates
from secfed.provisioning.files import SERVER_KEY_FILE, SERVER_REQUEST_FILE, make_private_folder, write_private
from secfed.provisioning.fingerprint import fingerprint

AGGREGATOR_FILE = "aggregator.toml"
LOOPBACK = ("localhost", "127.0.0.1")
Port = Annotated[int, Field(ge=1, le=65535)]


class AggregatorFile(Table):
    """`aggregator.toml`: the consortium that it serves, by which hosts sites reach it, and where its SuperLink listens.

    The SuperLink also answers whoever starts runs and registers nodes, so it listens on loopback by default and only
    the paths that sites need are passed on by a reverse proxy (docs/deploy.md). `keep_models_in_memory` keeps Flower's
    messages in memory instead of in its database, which very large models overburden; a kill of the SuperLink then ends
    the run, which `--resume` starts again from the last finished round.
    """

    consortium: SiteName
    hosts: Annotated[tuple[str, ...], Field(min_length=1)]
    listen: str = "127.0.0.1"
    port: Port = 8443
    keep_models_in_memory: bool = False


@dataclass(frozen=True, kw_only=True)
class NewAggregator:
    """The request for a certificate, and its fingerprint."""

    request: Path
    fingerprint: str


def make_aggregator_folder(folder: Path, *, consortium: str, hosts: Sequence[str], port: int) -> NewAggregator:
    """Make the TLS key and the request; a key that is there stays.

    Raises:
        ConfigError: a host that is none, or a folder of another consortium.
    """
    # The aggregator's own processes reach the SuperLink on loopback, by the same certificate.
    named = [*hosts, *(own for own in LOOPBACK if own not in hosts)]
    wanted = _parse({"consortium": consortium, "hosts": named, "port": port}, origin="the new aggregator")
    make_private_folder(folder)
    key_path = folder / SERVER_KEY_FILE
    key = (
        certificates.from_pem(key_path.read_bytes(), origin=str(key_path))
        if key_path.exists()
        else certificates.make_ec_key(ec.SECP256R1())
    )
    request = certificates.make_server_request(wanted.hosts, key)
    path = folder / AGGREGATOR_FILE
    if path.exists():
        known = load_aggregator_file(folder)
        if known.consortium != consortium:
            raise ConfigError(f"{path} serves '{known.consortium}', not '{consortium}': take another folder")
        wanted = known.model_copy(update={"hosts": wanted.hosts, "port": wanted.port})
    path.write_text(tomli_w.dumps(wanted.model_dump(mode="json")), encoding="utf-8")
    if not key_path.exists():
        write_private(key_path, certificates.to_pem(key))
    (folder / SERVER_REQUEST_FILE).write_bytes(request)
    return NewAggregator(request=folder / SERVER_REQUEST_FILE, fingerprint=fingerprint(request))


def load_aggregator_file(folder: Path) -> AggregatorFile:
    """Read `aggregator.toml`; raises ConfigError that names the file and the key."""
    path = folder / AGGREGATOR_FILE
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file: `secfed provision aggregator {folder} --consortium NAME --host HOST` makes one"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: not a readable TOML file: {error}") from error
    return _parse(tree, origin=str(path))


def _parse(tree: dict[str, object], *, origin: str) -> AggregatorFile:
    try:
        return AggregatorFile.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(describe_validation_error(error, AggregatorFile, origin=origin)) from None
