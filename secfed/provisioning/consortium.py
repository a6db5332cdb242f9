"""Whoever vouches for the members: founds the consortium, signs the next roster, takes members out.

    found_consortium          keys, anchor, certificate authority
    sign_next                 requests in, members out -> rosters/VERSION/, which goes to all sites and the aggregator

Run by the consortium, on a machine that neither the aggregator nor a site controls; the folder holds its private keys.
Every version lists all members. A member that was taken out stays out of the versions that follow; until the version
that it was in expires, sites that have not received a newer one still accept it: hand out new versions quickly, and
keep the term short.
"""

import shutil
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import tomli_w
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, ValidationError

from privacy.errors import HostileInputError, MisuseError
from privacy.secagg.roster import Member, Roster, generate_consortium_key, require_name, sign_roster, verify_roster
from secfed.config import SiteName, describe_validation_error
from secfed.config_table import Table
from secfed.errors import ConfigError
from secfed.provisioning import certificates
from secfed.provisioning.files import (
    ANCHOR_FILE,
    CA_FILE,
    CA_KEY_FILE,
    CONSORTIUM_KEY_FILE,
    NODES_FILE,
    REQUEST_SUFFIX,
    ROSTER_FILE,
    SERVER_FILE,
    SERVER_REQUEST_FILE,
    make_private_folder,
    write_private,
)
from secfed.provisioning.fingerprint import fingerprint
from secfed.provisioning.join_request import JoinRequest, read_join_request
from secfed.provisioning.node_list import NodeList, sign_node_list

CONSORTIUM_FILE = "consortium.toml"
MEMBERS = "members"
REVOKED = "revoked"
ROSTERS = "rosters"
DAY_SECONDS = 24 * 3600


class ConsortiumFile(Table):
    """`consortium.toml`: the name, and for how many days a roster and the aggregator's certificate hold."""

    name: SiteName
    roster_days: Annotated[int, Field(ge=1, le=3650)] = 90
    certificate_days: Annotated[int, Field(ge=1, le=certificates.SERVER_DAYS)] = certificates.SERVER_DAYS


@dataclass(frozen=True, kw_only=True)
class Release:
    """A signed version, as it stands in `folder`; `added` and `revoked` name what changed."""

    folder: Path
    roster: Roster
    anchor: bytes
    added: tuple[str, ...]
    revoked: tuple[str, ...]
    has_server: bool


def settings_for(*, name: str, roster_days: int) -> ConsortiumFile:
    """Settings of a new consortium; raises ConfigError that names what was not accepted."""
    try:
        return ConsortiumFile(name=name, roster_days=roster_days)
    except ValidationError as error:
        raise ConfigError(describe_validation_error(error, ConsortiumFile, origin="the new consortium")) from None


def found_consortium(folder: Path, settings: ConsortiumFile) -> bytes:
    """Make the keys of a new consortium; returns the anchor, 32 bytes, which every party gets by a way of its own.

    Raises:
        ConfigError: a consortium was founded in this folder already.
    """
    if (folder / CONSORTIUM_KEY_FILE).exists():
        raise ConfigError(f"{folder}: a consortium was founded here already; its key is never made a second time")
    make_private_folder(folder)
    key = generate_consortium_key()
    authority_key = certificates.make_ec_key(ec.SECP256R1())
    authority = certificates.make_authority(settings.name, authority_key, now=datetime.now(UTC))
    anchor = key.public_key().public_bytes_raw()
    (folder / CONSORTIUM_FILE).write_text(tomli_w.dumps(settings.model_dump()), encoding="utf-8")
    (folder / ANCHOR_FILE).write_bytes(anchor)
    write_private(folder / CA_KEY_FILE, certificates.to_pem(authority_key))
    (folder / CA_FILE).write_bytes(authority)
    # Last, because its presence says that everything else is there.
    write_private(folder / CONSORTIUM_KEY_FILE, key.private_bytes_raw())
    return anchor


def load_consortium_file(folder: Path) -> ConsortiumFile:
    """Read `consortium.toml`; raises ConfigError that names file and key."""
    path = folder / CONSORTIUM_FILE
    try:
        return ConsortiumFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(
            f"{folder}: no consortium was founded here: run `secfed provision init {folder} --consortium NAME` first"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: not a readable TOML file: {error}") from error
    except ValidationError as error:
        raise ConfigError(describe_validation_error(error, ConsortiumFile, origin=str(path))) from None


def read_request_file(path: Path, *, consortium: str) -> tuple[bytes, JoinRequest]:
    """A site's request from a file, for this consortium.

    Raises:
        ConfigError: no file, no request, or one for another consortium.
    """
    try:
        data = path.read_bytes()
        request = read_join_request(data)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except HostileInputError as error:
        raise ConfigError(f"{path}: {error}; ask the site for the file that `secfed provision site` made") from error
    if request.consortium != consortium:
        raise ConfigError(f"{path}: {request.name} asks to join '{request.consortium}', and this is '{consortium}'")
    return data, request


def sign_next(
    folder: Path,
    *,
    requests: Sequence[Path] = (),
    revoke: Sequence[str] = (),
    server_request: Path | None = None,
    days: int | None = None,
) -> Release:
    """Take requests in and members out, and sign the next version; nothing changes where anything is refused.

    Raises:
        ConfigError: a request that cannot be used, a name that is taken or unknown, or fewer than two members.
    """
    settings = load_consortium_file(folder)
    members = current_members(folder, settings)
    known = {request.name: request for _, request in members.values()}
    for name in revoke:
        if name not in members:
            raise ConfigError(f"--revoke {name}: no member of that name; members are {', '.join(sorted(members))}")
    incoming: dict[str, tuple[bytes, JoinRequest]] = {}
    for path in requests:
        data, request = read_request_file(path, consortium=settings.name)
        if request.name in incoming:
            raise ConfigError(f"{path}: two requests of one name, '{request.name}'")
        incoming[request.name] = (data, request)
    _refuse_taken_keys(folder, settings, members=members, incoming=incoming, leaving=set(revoke))
    staying = {name: found for name, found in members.items() if name not in revoke} | incoming
    version = max((number for number, _ in _versions(folder)), default=0) + 1
    now = int(time.time())
    roster = _roster(settings, [request for _, request in staying.values()], version=version, now=now, days=days)
    release = folder / ROSTERS / f"{version:04d}"
    draft = folder / ROSTERS / f".{version:04d}"
    _write_release(folder, draft, settings, roster, [request for _, request in staying.values()], server_request)
    for name in revoke:
        (folder / REVOKED).mkdir(exist_ok=True)
        kept = folder / REVOKED / f"{name}.{version:04d}{REQUEST_SUFFIX}"
        (folder / MEMBERS / f"{name}{REQUEST_SUFFIX}").replace(kept)
    (folder / MEMBERS).mkdir(exist_ok=True)
    for name, (data, _) in incoming.items():
        write_private(folder / MEMBERS / f"{name}{REQUEST_SUFFIX}", data)
    draft.replace(release)
    return Release(
        folder=release,
        roster=roster,
        anchor=(folder / ANCHOR_FILE).read_bytes(),
        added=tuple(sorted(name for name in incoming if known.get(name) != incoming[name][1])),
        revoked=tuple(revoke),
        has_server=(release / SERVER_FILE).exists(),
    )


def current_members(folder: Path, settings: ConsortiumFile) -> dict[str, tuple[bytes, JoinRequest]]:
    """The requests of all present members, by name."""
    found = [
        read_request_file(path, consortium=settings.name)
        for path in sorted((folder / MEMBERS).glob(f"*{REQUEST_SUFFIX}"))
    ]
    return {request.name: (data, request) for data, request in found}


def newest_roster(folder: Path) -> Roster | None:
    """The version that was signed last, or None before the first; raises HostileInputError where it has expired."""
    versions = _versions(folder)
    if not versions:
        return None
    signed = (max(versions)[1] / ROSTER_FILE).read_bytes()
    return verify_roster(signed, anchor=(folder / ANCHOR_FILE).read_bytes(), now=int(time.time()))


def _versions(folder: Path) -> list[tuple[int, Path]]:
    places = (folder / ROSTERS).iterdir() if (folder / ROSTERS).exists() else ()
    return [(int(place.name), place) for place in places if place.name.isdigit()]


def _refuse_taken_keys(
    folder: Path,
    settings: ConsortiumFile,
    *,
    members: dict[str, tuple[bytes, JoinRequest]],
    incoming: dict[str, tuple[bytes, JoinRequest]],
    leaving: set[str],
) -> None:
    gone = [
        read_request_file(path, consortium=settings.name)[1]
        for path in sorted((folder / REVOKED).glob(f"*{REQUEST_SUFFIX}"))
    ]
    gone += [members[name][1] for name in leaving]
    withdrawn = {key for request in gone for key in (request.identity_key, request.node_key)}
    for name, (_, request) in incoming.items():
        if withdrawn & {request.identity_key, request.node_key}:
            raise ConfigError(
                f"the request of '{name}' carries a key that was revoked: the site must make new ones, in a new folder"
            )
        known = members.get(name)
        if known is not None and name not in leaving and known[1].identity_key != request.identity_key:
            raise ConfigError(
                f"'{name}' is a member already, with another key ({fingerprint(known[1].identity_key)}): if the site "
                f"lost its key, take the old one out in the same step: --revoke {name}"
            )
        for other, (_, present) in {**members, **incoming}.items():
            if other != name and {present.identity_key, present.node_key} & {request.identity_key, request.node_key}:
                raise ConfigError(f"'{name}' and '{other}' have a key in common: one site must not count twice")


def _roster(
    settings: ConsortiumFile, requests: Sequence[JoinRequest], *, version: int, now: int, days: int | None
) -> Roster:
    members = sorted((Member(request.name, request.identity_key) for request in requests), key=lambda one: one.name)
    try:
        return Roster(
            consortium=require_name(settings.name),
            version=version,
            expires=now + DAY_SECONDS * (settings.roster_days if days is None else days),
            members=tuple(members),
        )
    except MisuseError as error:
        raise ConfigError(f"version {version} cannot be signed: {error}") from error


def _write_release(
    folder: Path,
    release: Path,
    settings: ConsortiumFile,
    roster: Roster,
    members: Sequence[JoinRequest],
    server_request: Path | None,
) -> None:
    key = Ed25519PrivateKey.from_private_bytes((folder / CONSORTIUM_KEY_FILE).read_bytes())
    nodes = NodeList(
        consortium=settings.name,
        version=roster.version,
        nodes=tuple(sorted((request.name, request.node_key) for request in members)),
    )
    server = _server_certificate(folder, settings, server_request)
    shutil.rmtree(release, ignore_errors=True)
    release.mkdir(parents=True)
    (release / ROSTER_FILE).write_bytes(sign_roster(roster, key))
    (release / NODES_FILE).write_bytes(sign_node_list(nodes, key))
    for name in (ANCHOR_FILE, CA_FILE):
        shutil.copyfile(folder / name, release / name)
    if server is not None:
        (release / SERVER_FILE).write_bytes(server)


def _server_certificate(folder: Path, settings: ConsortiumFile, request_file: Path | None) -> bytes | None:
    """A certificate for the newest request: the one given, which is kept, or the one that was kept before."""
    kept = folder / SERVER_REQUEST_FILE
    source = kept if request_file is None else request_file
    if request_file is None and not kept.exists():
        return None
    try:
        request = source.read_bytes()
        certificate = certificates.issue_server_certificate(
            request,
            authority=(folder / CA_FILE).read_bytes(),
            authority_key=certificates.from_pem((folder / CA_KEY_FILE).read_bytes(), origin=str(folder / CA_KEY_FILE)),
            now=datetime.now(UTC),
            days=settings.certificate_days,
        )
    except OSError as error:
        raise ConfigError(f"{source}: cannot be read: {error.strerror}") from error
    except HostileInputError as error:
        raise ConfigError(f"{source}: {error}") from error
    write_private(kept, request)
    return certificate
