"""What a folder still lacks before its owner can take part, each point in plain words with what to do about it.

    check_site            keys, rules, data, roster, the way to the aggregator
    check_aggregator      TLS, roster, nodes
    check_consortium      keys, members, the newest version

Run by whoever owns the folder, on files that this program made or adopted. Nothing is changed, and nobody is asked
unless `connect` is. A folder that passes has what it needs; whether others have theirs is for their own check.
"""

import email
import email.utils
import os
import shutil
import socket
import ssl
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from privacy.errors import HostileInputError, MisuseError
from privacy.secagg.identity import Identity
from privacy.secagg.roster import Roster, verify_roster
from secfed.data.readers import DataSet
from secfed.data.site_data import read_site_data, unlabelled_by_task
from secfed.errors import ConfigError, SecfedError
from secfed.provenance import code_digest
from secfed.provisioning import certificates
from secfed.provisioning.aggregator_service import AGGREGATOR_FILE, load_aggregator_file
from secfed.provisioning.approvals import Approvals
from secfed.provisioning.consortium import CONSORTIUM_FILE, current_members, load_consortium_file, newest_roster
from secfed.provisioning.files import (
    ANCHOR_FILE,
    CA_FILE,
    CA_KEY_FILE,
    CONSORTIUM_KEY_FILE,
    IDENTITY_FILE,
    NODE_KEY_FILE,
    NODES_FILE,
    REQUEST_SUFFIX,
    ROSTER_FILE,
    ROUNDING_FILE,
    SERVER_FILE,
    SERVER_KEY_FILE,
    SIMULATED_NOISE_FILE,
)
from secfed.provisioning.fingerprint import fingerprint
from secfed.provisioning.node_list import verify_node_list
from secfed.provisioning.site_folder import load_node_private_key
from secfed.site_config import SITE_FILE, SiteFile, load_site_file

Status = Literal["ok", "soon", "missing", "wrong"]
SOON_DAYS = 14
"""A roster or certificate that ends within this many days is pointed out."""
LEAST_FREE_BYTES = 2**30
CONNECT_SECONDS = 10.0
AHEAD_SECONDS, BEHIND_SECONDS = 4.0, 290.0
"""Within what clocks may differ: Flower 1.41 refuses requests from 5 s in the future, and from 305 s in the past."""
MAX_ANSWER_BYTES = 2**16
_DAY_SECONDS = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class Point:
    """One thing that was looked at; `todo` says who must do what, empty where nothing is to be done."""

    status: Status
    what: str
    todo: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {"status": self.status, "what": self.what, "todo": self.todo}


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Every point of one folder; `kind` is "site", "aggregator" or "consortium"."""

    kind: str
    name: str
    points: tuple[Point, ...]

    @property
    def ready(self) -> bool:
        """Whether nothing is missing or wrong."""
        return not any(point.status in ("missing", "wrong") for point in self.points)

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "kind": self.kind,
            "name": self.name,
            "ready": self.ready,
            "points": [point.as_dict() for point in self.points],
        }


def check(folder: Path, *, connect: bool = False) -> Checked:
    """Look at a folder of any of the three kinds; with `connect` a site also calls the aggregator.

    Raises:
        ConfigError: the folder is none of the three.
    """
    kinds = {SITE_FILE: "site", AGGREGATOR_FILE: "aggregator", CONSORTIUM_FILE: "consortium"}
    kind = next((kind for name, kind in kinds.items() if (folder / name).exists()), None)
    if kind is None:
        raise ConfigError(
            f"{folder}: no folder of this program: it holds none of {', '.join(kinds)}. "
            "`secfed provision site`, `aggregator` and `init` make one each"
        )
    points: Iterator[Point]
    if kind == "site":
        name, points = _owner(folder, SITE_FILE, lambda: load_site_file(folder).name), check_site(folder, connect)
    elif kind == "aggregator":
        name, points = "aggregator", check_aggregator(folder)
    else:
        name = _owner(folder, CONSORTIUM_FILE, lambda: load_consortium_file(folder).name)
        points = check_consortium(folder)
    return Checked(kind=kind, name=name, points=tuple(points))


def require_ready(folder: Path, *, kind: str) -> None:
    """Raise ConfigError, with every missing or wrong point and what to do, unless this is a `kind`'s ready folder."""
    found = check(folder)
    if found.kind != kind:
        raise ConfigError(f"{folder}: the folder of the kind '{found.kind}', and '{kind}' is needed")
    if not found.ready:
        lacking = [point for point in found.points if point.status in ("missing", "wrong")]
        told = "\n".join(f"  {point.what}\n    -> {point.todo}" for point in lacking)
        raise ConfigError(f"{folder} is not ready:\n{told}")


def check_site(folder: Path, connect: bool) -> Iterator[Point]:
    """A site's folder, from its file to the aggregator's door."""
    try:
        site = load_site_file(folder)
    except ConfigError as error:
        yield Point(status="wrong", what=str(error), todo=f"Correct {SITE_FILE}.")
        return
    yield Point(status="ok", what=f"{SITE_FILE}: site '{site.name}' of '{site.consortium}'")
    yield from _private(folder, (IDENTITY_FILE, ROUNDING_FILE, NODE_KEY_FILE), made_by="secfed provision site")
    yield from _simulated(folder, site)
    yield from _whole_keys(folder, site)
    yield from _data(site)
    roster = _roster(folder)
    if isinstance(roster, Point):
        yield roster
    else:
        yield from _term(roster)
        yield _membership(folder, site, roster)
    yield _approval(folder, site)
    yield from _authority(folder)
    yield from _room(folder)
    if site.superlink is None:
        yield Point(
            status="missing",
            what=f"{SITE_FILE} names no aggregator",
            todo=f'Put superlink = "HOST:PORT" into {SITE_FILE}, as the consortium gave it.',
        )
    elif connect:
        yield call_aggregator(site.superlink, folder / CA_FILE)


def check_aggregator(folder: Path) -> Iterator[Point]:
    """An aggregator's folder: its file, its TLS key and certificate, the roster and the nodes."""
    try:
        service = load_aggregator_file(folder)
    except ConfigError as error:
        yield Point(status="wrong", what=str(error), todo=f"Correct {AGGREGATOR_FILE}.")
        return
    yield Point(status="ok", what=f"{AGGREGATOR_FILE}: serves '{service.consortium}' at {', '.join(service.hosts)}")
    yield from _private(folder, (SERVER_KEY_FILE,), made_by="secfed provision aggregator")
    yield from _server_certificate(folder)
    roster = _roster(folder)
    if isinstance(roster, Point):
        yield roster
        return
    yield from _term(roster)
    yield _nodes(folder, roster)


def check_consortium(folder: Path) -> Iterator[Point]:
    """A consortium's folder: its keys, its members, its newest version."""
    settings = load_consortium_file(folder)
    yield from _private(folder, (CONSORTIUM_KEY_FILE, CA_KEY_FILE), made_by="secfed provision init")
    try:
        anchor = (folder / ANCHOR_FILE).read_bytes()
        yield Point(status="ok", what=f"anchor {fingerprint(anchor)}: read this out to sites that ask")
        members = current_members(folder, settings)
        roster = newest_roster(folder)
    except OSError as error:
        yield Point(status="missing", what=f"{error.filename}: {error.strerror}", todo="Restore it from a copy.")
        return
    except (HostileInputError, ConfigError) as error:
        yield Point(status="wrong", what=str(error), todo="Sign the next version: secfed provision sign.")
        return
    if roster is None:
        yield Point(
            status="missing",
            what="no version of the roster was signed",
            todo="Give the sites' requests to `secfed provision sign`.",
        )
        return
    yield Point(status="ok", what=f"version {roster.version} names {', '.join(roster.names)}")
    yield from _term(roster)
    if set(roster.names) != set(members):
        yield Point(
            status="wrong",
            what=f"members are {', '.join(sorted(members))}, which is not what the newest version says",
            todo="Sign the next version: secfed provision sign.",
        )


def _owner(folder: Path, file: str, read: Any) -> str:
    try:
        return str(read())
    except SecfedError:
        return str(folder / file)


def _private(folder: Path, names: tuple[str, ...], *, made_by: str) -> Iterator[Point]:
    if stat.S_IMODE(folder.stat().st_mode) & 0o077:
        yield Point(status="wrong", what=f"{folder} can be entered by others", todo=f"chmod 700 {folder}")
    for name in names:
        path = folder / name
        if not path.exists():
            yield Point(status="missing", what=f"no {name}", todo=f"`{made_by}` makes it.")
        elif not os.access(path, os.R_OK):
            yield Point(status="wrong", what=f"{name} cannot be read by this user", todo=f"chown it: {path}")
        elif stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield Point(status="wrong", what=f"{name} can be read by others", todo=f"chmod 600 {path}")
        else:
            yield Point(status="ok", what=f"{name} is its owner's alone")


def _simulated(folder: Path, site: SiteFile) -> Iterator[Point]:
    if (folder / SIMULATED_NOISE_FILE).exists():
        yield Point(
            status="wrong",
            what=f"{SIMULATED_NOISE_FILE}: a simulation's folder, whose noise hides nobody",
            todo="Make a real site's folder: secfed provision site.",
        )
    if not site.durable_state:
        yield Point(
            status="wrong",
            what="durable_state = false is for simulations: after a kill the site could mask two updates alike",
            todo=f"Remove it from {SITE_FILE}.",
        )


def _whole_keys(folder: Path, site: SiteFile) -> Iterator[Point]:
    if (folder / IDENTITY_FILE).exists():
        try:
            Identity.from_bytes((folder / IDENTITY_FILE).read_bytes(), name=site.name)
        except (MisuseError, OSError) as error:
            yield Point(
                status="wrong",
                what=f"{IDENTITY_FILE}: {error}",
                todo="Restore it from a copy, or make a new folder and have the old key revoked.",
            )
    if (folder / NODE_KEY_FILE).exists():
        try:
            load_node_private_key(folder)
        except ConfigError as error:
            yield Point(status="wrong", what=str(error), todo="Remove it and run `secfed provision site` again.")


def _data(site: SiteFile) -> Iterator[Point]:
    for data in site.data:
        try:
            found = read_site_data(data)
        except SecfedError as error:
            yield Point(status="wrong", what=f"data '{data.name}': {error}", todo=f"Correct [[data]] in {SITE_FILE}.")
            continue
        if not found.training:
            yield Point(
                status="wrong",
                what=f"data '{data.name}': {data.folder} has no training cases",
                todo=f"Point folder in {SITE_FILE} to the scans.",
            )
        else:
            yield Point(
                status="ok",
                what=f"data '{data.name}': {len(found.training)} training and {len(found.validation)} validation cases"
                f"{_unlabelled(found)}",
            )


def _unlabelled(data_set: DataSet) -> str:
    """What a run will not learn from these labels, so that a misspelt organ shows before one starts."""
    return "".join(
        f"; {task}: unlabelled are {', '.join(organs)}"
        for task, organs in unlabelled_by_task(data_set).items()
        if organs
    )


def _roster(folder: Path) -> Roster | Point:
    for name in (ROSTER_FILE, ANCHOR_FILE):
        if not (folder / name).exists():
            return Point(
                status="missing",
                what=f"no {name}",
                todo="Send the request to the consortium; with the folder that comes back: secfed provision accept.",
            )
    try:
        anchor = (folder / ANCHOR_FILE).read_bytes()
        return verify_roster((folder / ROSTER_FILE).read_bytes(), anchor=anchor, now=int(time.time()))
    except (HostileInputError, OSError) as error:
        return Point(
            status="wrong",
            what=f"{ROSTER_FILE}: {error}",
            todo="If the date above is right, ask the consortium for a newer version; else set this machine's clock.",
        )


def _term(roster: Roster) -> Iterator[Point]:
    days = (roster.expires - time.time()) / _DAY_SECONDS
    end = datetime.fromtimestamp(roster.expires, UTC).strftime("%Y-%m-%d")
    yield Point(
        status="soon" if days < SOON_DAYS else "ok",
        what=f"roster version {roster.version} of '{roster.consortium}' holds until {end}, {int(days)} days",
        todo="The consortium should sign the next version now." if days < SOON_DAYS else "",
    )


def _membership(folder: Path, site: SiteFile, roster: Roster) -> Point:
    request = folder / f"{site.name}{REQUEST_SUFFIX}"
    if site.name not in roster:
        return Point(
            status="wrong",
            what=f"the roster does not name '{site.name}', but {', '.join(roster.names)}",
            todo=f"Send {request} to the consortium, or ask why this site was taken out.",
        )
    try:
        own = Identity.from_bytes((folder / IDENTITY_FILE).read_bytes(), name=site.name).public_key
    except (OSError, MisuseError):
        return Point(status="missing", what="no identity to compare with the roster", todo="See above.")
    if roster.public_key(site.name) != own:
        return Point(
            status="wrong",
            what=f"the roster names '{site.name}' with another key than this folder's",
            todo=f"Send {request} to the consortium.",
        )
    return Point(status="ok", what=f"'{site.name}' is a member, among {len(roster.members)}")


def _approval(folder: Path, site: SiteFile) -> Point:
    """Whether the reviewer has signed for what is installed; a site may connect before that, and refuses every run."""
    if site.reviewer is None:
        return Point(
            status="missing",
            what=f"{SITE_FILE} names no reviewer, so no code is approved and every run is refused",
            todo=f'Make a reviewer\'s key (secfed site reviewer-key) and put reviewer = "..." into {SITE_FILE}.',
        )
    try:
        found = Approvals.of(folder, site).all()
    except ConfigError as error:
        return Point(status="wrong", what=str(error), todo="The reviewer looks at it; every run is refused until then.")
    code = code_digest()
    by = [approval.by for approval in found if approval.code == code]
    if not by:
        return Point(
            status="soon",
            what=f"the installed program (code {code[:12]}) is not approved here, so every run is refused",
            todo="Before the first run the reviewer signs for it: secfed site approve.",
        )
    return Point(status="ok", what=f"the installed program (code {code[:12]}) is approved by {by[-1]}")


def _authority(folder: Path) -> Iterator[Point]:
    path = folder / CA_FILE
    if not path.exists():
        yield Point(status="missing", what=f"no {CA_FILE}", todo="It comes with the roster: secfed provision accept.")
        return
    try:
        end = certificates.valid_until(path.read_bytes())
    except ValueError as error:
        yield Point(status="wrong", what=f"{CA_FILE}: {error}", todo="Accept the consortium's folder again.")
        return
    if end < datetime.now(UTC):
        yield Point(status="wrong", what=f"{CA_FILE} ended on {end:%Y-%m-%d}", todo="Ask the consortium for a new one.")
    else:
        yield Point(status="ok", what=f"{CA_FILE}: the aggregator's certificate is checked against it, and no other")


def _room(folder: Path) -> Iterator[Point]:
    free = shutil.disk_usage(folder).free
    if free < LEAST_FREE_BYTES:
        yield Point(
            status="wrong",
            what=f"{free / 2**20:.0f} MiB are free where the site's folder is; a round must never find the disk full",
            todo="Make room: 1 GiB and more.",
        )


def _server_certificate(folder: Path) -> Iterator[Point]:
    if not (folder / SERVER_FILE).exists() or not (folder / CA_FILE).exists():
        yield Point(
            status="missing",
            what=f"no {SERVER_FILE}",
            todo="Send server.csr to the consortium; with the folder that comes back: secfed provision accept.",
        )
        return
    certificate, authority = ((folder / name).read_bytes() for name in (SERVER_FILE, CA_FILE))
    key = folder / SERVER_KEY_FILE
    now = datetime.now(UTC)
    problem = certificates.certificate_problem(
        certificate, authority=authority, key=key.read_bytes() if key.exists() else None, now=now
    )
    if problem is not None:
        yield Point(
            status="wrong",
            what=f"{SERVER_FILE}: {problem}",
            todo="Have the consortium sign server.csr again: secfed provision sign --aggregator server.csr.",
        )
        return
    end = certificates.valid_until(certificate)
    soon = (end - now).days < SOON_DAYS
    yield Point(
        status="soon" if soon else "ok",
        what=f"{SERVER_FILE} holds until {end:%Y-%m-%d}",
        todo="Have the consortium sign server.csr again." if soon else "",
    )


def _nodes(folder: Path, roster: Roster) -> Point:
    todo = "Accept the consortium's newest folder: secfed provision accept."
    if not (folder / NODES_FILE).exists():
        return Point(status="missing", what=f"no {NODES_FILE}", todo=todo)
    try:
        nodes = verify_node_list((folder / NODES_FILE).read_bytes(), anchor=(folder / ANCHOR_FILE).read_bytes())
    except HostileInputError as error:
        return Point(status="wrong", what=f"{NODES_FILE}: {error}", todo=todo)
    if nodes.version != roster.version:
        return Point(
            status="wrong",
            what=f"{NODES_FILE} is of version {nodes.version}, the roster of version {roster.version}",
            todo=todo,
        )
    return Point(status="ok", what=f"{len(nodes.nodes)} SuperNodes may connect: {', '.join(n for n, _ in nodes.nodes)}")


def call_aggregator(address: str, authority: Path) -> Point:
    """Open a TLS connection as the SuperNode would, and say in plain words what stands in its way."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not authority.exists():
        return Point(status="missing", what=f"{address} was not called: there is no {CA_FILE}", todo="See above.")
    try:
        context = ssl.create_default_context(cafile=str(authority))
        with (
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host) as connection,
        ):
            return _clocks(address, connection, host)
    except ssl.SSLCertVerificationError as error:
        return Point(status="wrong", what=f"{address}: {error.verify_message}", todo=_certificate_todo(error))
    except ssl.SSLError as error:
        return Point(
            status="wrong",
            what=f"{address} answers without TLS, or with one that is too old: {error.reason}",
            todo="The aggregator must look at its reverse proxy.",
        )
    except TimeoutError:
        return Point(
            status="wrong",
            what=f"{address} did not answer within {CONNECT_SECONDS:g} s",
            todo="Ask your network team whether outgoing connections to it are allowed.",
        )
    except OSError as error:
        return Point(
            status="wrong",
            what=f"{address}: {error.strerror or error}",
            todo="Check the address with the consortium, and whether the aggregator runs.",
        )


def _clocks(address: str, connection: ssl.SSLSocket, host: str) -> Point:
    """Compare clocks by the Date that every HTTP answer carries: Flower refuses nodes whose clock is off."""
    connection.sendall(f"HEAD / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < MAX_ANSWER_BYTES and (more := connection.recv(4096)):
        answer += more
    answers = Point(status="ok", what=f"{address} answers, with a certificate of the consortium")
    headers = email.message_from_bytes(answer.partition(b"\r\n")[2])
    try:
        theirs = email.utils.parsedate_to_datetime(headers.get("Date", "")).timestamp()
    except ValueError:
        return answers
    ahead = time.time() - theirs
    if -BEHIND_SECONDS <= ahead <= AHEAD_SECONDS:
        return answers
    word = "ahead of" if ahead > 0 else "behind"
    return Point(
        status="wrong",
        what=f"{address} answers, and this machine's clock is {abs(ahead):.0f} s {word} the aggregator's",
        todo="Set the clock of whichever is off, by NTP: with such a difference the SuperLink refuses this node.",
    )


def _certificate_todo(error: ssl.SSLCertVerificationError) -> str:
    text = error.verify_message.lower()
    if "expired" in text:
        return "If this machine's clock is right, the aggregator must have the consortium sign server.csr again."
    if "not yet valid" in text:
        return "Set this machine's clock: by it, the certificate lies in the future."
    if "hostname" in text or "ip address" in text:
        return "The aggregator must ask for a certificate with this host: secfed provision aggregator --host."
    return "Do not connect: this is not the consortium's aggregator, or your ca.crt is not the consortium's."
