"""How a site or the aggregator takes over what the consortium signed: checked, never older, all of it or nothing.

Run by both. The first time, whoever does it gives the anchor's fingerprint as the consortium told it by another way;
afterwards the anchor in the folder decides, and another one is refused. An older version is refused, so that nobody
brings back a member that was taken out.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from privacy.errors import HostileInputError, MisuseError
from privacy.secagg.identity import Identity
from privacy.secagg.roster import Roster, parse_unverified_roster, verify_roster
from secfed.errors import ConfigError
from secfed.provisioning import certificates
from secfed.provisioning.aggregator_service import AGGREGATOR_FILE, load_aggregator_file
from secfed.provisioning.files import (
    ANCHOR_FILE,
    CA_FILE,
    IDENTITY_FILE,
    NODES_FILE,
    ROSTER_FILE,
    SERVER_FILE,
    SERVER_KEY_FILE,
    write_private,
)
from secfed.provisioning.fingerprint import fingerprint, same_fingerprint
from secfed.provisioning.node_list import verify_node_list
from secfed.site_config import SITE_FILE, load_site_file

MAX_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """What a folder holds now, and the version that it held before, 0 for none."""

    roster: Roster
    before: int


def adopt(folder: Path, release: Path, *, anchor_fingerprint: str | None) -> Adopted:
    """Check a release of the consortium and copy what this folder needs of it.

    Raises:
        ConfigError: the release is not of this folder's consortium, is forged, expired or older than the one here, does
            not name this site with its key, or its certificate cannot be used.
    """
    is_site = (folder / SITE_FILE).exists()
    if not is_site and not (folder / AGGREGATOR_FILE).exists():
        raise ConfigError(f"{folder}: neither a site's folder ({SITE_FILE}) nor an aggregator's ({AGGREGATOR_FILE})")
    names = (ANCHOR_FILE, ROSTER_FILE, CA_FILE) + (() if is_site else (NODES_FILE, SERVER_FILE))
    found = {name: _read(release, name) for name in names}
    _check_anchor(folder, found[ANCHOR_FILE], told=anchor_fingerprint)
    try:
        roster = verify_roster(found[ROSTER_FILE], anchor=found[ANCHOR_FILE], now=int(time.time()))
    except HostileInputError as error:
        raise ConfigError(f"{release / ROSTER_FILE}: {error}") from error
    before = _version_here(folder)
    if roster.version < before:
        raise ConfigError(
            f"{release}: version {roster.version} of the roster, and {folder} has version {before} already: "
            "an older one would bring back members that were taken out"
        )
    consortium = load_site_file(folder).consortium if is_site else load_aggregator_file(folder).consortium
    if consortium is not None and roster.consortium != consortium:
        raise ConfigError(f"{release}: the roster is of '{roster.consortium}', and {folder} is of '{consortium}'")
    if is_site:
        _check_member(folder, roster)
    else:
        _check_service(folder, roster, found)
    for name, data in found.items():
        write_private(folder / name, data)
    return Adopted(roster=roster, before=before)


def _read(release: Path, name: str) -> bytes:
    path = release / name
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        hint = (
            "give the aggregator's request to `secfed provision sign --aggregator server.csr`"
            if name == SERVER_FILE
            else "take the whole folder that `secfed provision sign` wrote"
        )
        raise ConfigError(f"{path}: no such file: {hint}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: {len(data)} bytes, but at most {MAX_BYTES} are expected")
    return data


def _check_anchor(folder: Path, anchor: bytes, *, told: str | None) -> None:
    here = folder / ANCHOR_FILE
    if here.exists() and here.read_bytes() != anchor:
        raise ConfigError(
            f"the release is signed with another consortium key ({fingerprint(anchor)}) than the one in {here} "
            f"({fingerprint(here.read_bytes())}): do not go on before you have asked the consortium by telephone"
        )
    if told is not None and not same_fingerprint(anchor, told):
        raise ConfigError(
            f"--anchor-fingerprint: the release is signed with the key {fingerprint(anchor)}, and you were told "
            f"{told}: somebody may have changed the files on their way"
        )
    if not here.exists() and told is None:
        # The fingerprint is not shown: whoever only copied it would have compared nothing.
        raise ConfigError(
            "this folder has no anchor yet: ask the consortium by telephone for its anchor's fingerprint, and repeat "
            "with --anchor-fingerprint and what you were told"
        )


def _version_here(folder: Path) -> int:
    path = folder / ROSTER_FILE
    if not path.exists():
        return 0
    try:
        return parse_unverified_roster(path.read_bytes()).version
    except HostileInputError as error:
        raise ConfigError(f"{path}: {error}; move it away if you know why it is damaged") from error


def _check_member(folder: Path, roster: Roster) -> None:
    site = load_site_file(folder)
    if site.name not in roster:
        raise ConfigError(
            f"version {roster.version} of the roster does not name '{site.name}', but {', '.join(roster.names)}: "
            "send the consortium this site's request, or ask why it was taken out"
        )
    path = folder / IDENTITY_FILE
    try:
        own = Identity.from_bytes(path.read_bytes(), name=site.name).public_key
    except (OSError, MisuseError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if roster.public_key(site.name) != own:
        raise ConfigError(
            f"version {roster.version} of the roster names '{site.name}' with another key than the one in {path}: "
            "send the consortium the request of this folder"
        )


def _check_service(folder: Path, roster: Roster, found: Mapping[str, bytes]) -> None:
    try:
        nodes = verify_node_list(found[NODES_FILE], anchor=found[ANCHOR_FILE])
    except HostileInputError as error:
        raise ConfigError(f"{NODES_FILE}: {error}") from error
    if nodes.version != roster.version or tuple(name for name, _ in nodes.nodes) != roster.names:
        raise ConfigError(f"{NODES_FILE} is of version {nodes.version}, the roster of version {roster.version}")
    problem = certificates.certificate_problem(
        found[SERVER_FILE], authority=found[CA_FILE], key=_read(folder, SERVER_KEY_FILE), now=datetime.now(UTC)
    )
    if problem is not None:
        raise ConfigError(f"{SERVER_FILE}: {problem}")
