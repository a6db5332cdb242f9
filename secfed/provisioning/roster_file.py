"""The consortium's roster as it lies in a folder of a site or of the aggregator, verified against the anchor there."""

import time
from pathlib import Path

from privacy.errors import HostileInputError
from privacy.secagg.roster import Roster, verify_roster
from secfed.errors import ConfigError
from secfed.provisioning.files import ANCHOR_FILE, ROSTER_FILE


def load_roster(folder: Path) -> Roster:
    """The roster in a folder, as it holds today; raises ConfigError that says what to do."""
    try:
        anchor, signed = ((folder / name).read_bytes() for name in (ANCHOR_FILE, ROSTER_FILE))
        return verify_roster(signed, anchor=anchor, now=int(time.time()))
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}: see `secfed provision check {folder}`") from error
    except HostileInputError as error:
        raise ConfigError(f"{folder / ROSTER_FILE}: {error}") from error
