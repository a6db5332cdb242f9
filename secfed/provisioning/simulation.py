"""A consortium for experiments on one machine, which plays every site, the aggregator and whoever signs the roster.

Its identities come from OS entropy like real ones, but one machine holds them all: it demonstrates the protocol and
protects nobody from the owner of that machine. Real sites are provisioned by `secfed.provisioning.site_folder`.
"""

import time
from collections.abc import Mapping
from pathlib import Path

from privacy.secagg.roster import Member, Roster, generate_consortium_key, sign_roster
from privacy.streams import derive_key
from secfed.provisioning.files import ANCHOR_FILE, ROSTER_FILE, SIMULATED_NOISE_FILE, make_identity, write_private
from secfed.site_config import SiteFile, save_site_file

YEAR_SECONDS = 365 * 24 * 3600


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
