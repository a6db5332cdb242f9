"""Keys and roster for a consortium: each site's identity is made in its own folder; only the public half leaves it.

`provision_simulation` plays every site and the consortium in one process, for experiments on one machine. Its
identities come from OS entropy like real ones, but one machine holds them all: it demonstrates the protocol and
protects nobody from the owner of that machine.

Protects nothing by itself: a site folder must be readable by its owner only (files are created with mode 0600).
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from privacy.secagg.identity import Identity
from privacy.secagg.roster import Member, Roster, generate_consortium_key, sign_roster
from privacy.streams import derive_key
from secfed.site_config import SiteFile, save_site_file

IDENTITY_FILE = "identity.key"
ROSTER_FILE = "roster.cbor"
ANCHOR_FILE = "anchor.pub"
ROUNDING_FILE = "rounding.key"
SIMULATED_NOISE_FILE = "simulated-noise.key"
"""Stands in simulated sites only: their noise follows from the run's seed and is no guarantee to anybody."""
YEAR_SECONDS = 365 * 24 * 3600


def write_private(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file that only its owner may read; `durable` means whole and on the disk, whatever happens meanwhile.

    Otherwise the file is overwritten in place: a kill in that instant may leave it damaged.
    """
    target = path.with_name(f".{path.name}.{os.getpid()}") if durable else path
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    if durable:
        target.replace(path)


def make_identity(folder: Path, *, name: str, rounding_key: bytes) -> bytes:
    """Create a site's long-term key unless it has one; returns the public half (32 bytes)."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    path = folder / IDENTITY_FILE
    if not path.exists():
        write_private(path, Identity.generate(name).to_bytes())
    write_private(folder / ROUNDING_FILE, rounding_key)
    return Identity.from_bytes(path.read_bytes(), name=name).public_key


def provision_simulation(
    *, seed: int, sites: Mapping[Path, SiteFile], aggregator_folder: Path, consortium: str = "simulation"
) -> None:
    """Provision every site folder and the aggregator's copy of the roster.

    The keys for stochastic rounding and for the noise of differential privacy are derived from the run's seed, so that
    a seed gives one model; at a real site both come from OS entropy. Simulated noise guarantees nothing.
    """
    members = []
    for folder, site in sites.items():
        rounding = derive_key(seed.to_bytes(32, "big"), label="simulation rounding", context={"site": site.name})
        public_key = make_identity(folder, name=site.name, rounding_key=rounding)
        noise = derive_key(seed.to_bytes(32, "big"), label="simulated noise", context={"site": site.name})
        write_private(folder / SIMULATED_NOISE_FILE, noise)
        members.append(Member(name=site.name, public_key=public_key))
        save_site_file(folder, site)
    aggregator_folder.mkdir(parents=True, exist_ok=True)
    if len(members) < 2:
        # One participant has nobody to be masked among: its plan is plain, and there is no consortium to speak of.
        return
    consortium_key = generate_consortium_key()
    roster = Roster(
        consortium=consortium,
        version=1,
        expires=int(time.time()) + YEAR_SECONDS,
        members=tuple(sorted(members, key=lambda member: member.name)),
    )
    signed = sign_roster(roster, consortium_key)
    anchor = consortium_key.public_key().public_bytes_raw()
    for folder in (*sites, aggregator_folder):
        (folder / ROSTER_FILE).write_bytes(signed)
        (folder / ANCHOR_FILE).write_bytes(anchor)
