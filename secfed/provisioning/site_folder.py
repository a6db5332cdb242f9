"""A real site's folder: its keys, made here and nowhere else, its `site.toml` to be edited, its request to join.

Run at the site, by its own people. Of what is made here only the request leaves; keys that exist are never made again.
Whoever can read the folder is the site, for the consortium and for the aggregator.
"""

import json
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_ssh_private_key,
)
from pydantic import ValidationError

from privacy.entropy import SYSTEM_ENTROPY
from privacy.errors import MisuseError
from privacy.secagg.identity import Identity
from privacy.streams import KEY_BYTES
from secfed.config import describe_validation_error
from secfed.errors import ConfigError
from secfed.provisioning.files import (
    IDENTITY_FILE,
    NODE_KEY_FILE,
    REQUEST_SUFFIX,
    ROUNDING_FILE,
    SIMULATED_NOISE_FILE,
    make_private_folder,
    write_private,
)
from secfed.provisioning.fingerprint import fingerprint
from secfed.provisioning.join_request import make_join_request
from secfed.site_config import SITE_FILE, SiteFile, load_site_file


@dataclass(frozen=True, kw_only=True)
class NewSite:
    """What was made: the request's file and its fingerprint, to be told to the consortium by another way."""

    name: str
    request: Path
    fingerprint: str
    wrote_site_file: bool


def make_site_folder(
    folder: Path, *, name: str, consortium: str, superlink: str, data: Path, reviewer: bytes | None
) -> NewSite:
    """Make keys, `site.toml` and the request; what is there already stays as it is.

    Raises:
        ConfigError: the folder belongs to another site or consortium, or is a simulation's, or a value is not accepted.
    """
    if (folder / SIMULATED_NOISE_FILE).exists():
        raise ConfigError(f"{folder}: a simulated site's folder, whose noise hides nobody: make another one")
    wrote = not (folder / SITE_FILE).exists()
    text = site_file_text(
        name=name, consortium=consortium, superlink=superlink, data=data.absolute(), reviewer=reviewer
    )
    parse_new_site_file(text)
    make_private_folder(folder)
    if wrote:
        (folder / SITE_FILE).write_text(text, encoding="utf-8")
    site = load_site_file(folder)
    if (site.name, site.consortium) != (name, consortium):
        raise ConfigError(
            f"{folder / SITE_FILE} is of site '{site.name}' of '{site.consortium}', "
            f"not of '{name}' of '{consortium}': take another folder, one for each"
        )
    identity = _identity(folder, name)
    if not (folder / ROUNDING_FILE).exists():
        write_private(folder / ROUNDING_FILE, SYSTEM_ENTROPY.token_bytes(KEY_BYTES))
    request = make_join_request(
        consortium=consortium, created=int(time.time()), identity=identity, node_key=_node_key(folder)
    )
    path = folder / f"{name}{REQUEST_SUFFIX}"
    path.write_bytes(request)
    return NewSite(name=name, request=path, fingerprint=fingerprint(request), wrote_site_file=wrote)


def check_new_site(*, name: str, consortium: str, superlink: str, data: Path) -> None:
    """Raise ConfigError where a value would not be accepted, before anything is made."""
    parse_new_site_file(site_file_text(name=name, consortium=consortium, superlink=superlink, data=data, reviewer=None))


def load_node_private_key(folder: Path) -> ec.EllipticCurvePrivateKey:
    """The SuperNode's key; raises ConfigError that names the file."""
    path = folder / NODE_KEY_FILE
    try:
        key = load_ssh_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: no OpenSSH key that can be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ConfigError(f"{path}: a SuperNode's key is an EC key on P-384")
    return key


def parse_new_site_file(text: str) -> SiteFile:
    """What the text of a new `site.toml` says; raises ConfigError where an option was not accepted."""
    try:
        return SiteFile.model_validate(tomllib.loads(text))
    except ValidationError as error:
        raise ConfigError(describe_validation_error(error, SiteFile, origin="the new site")) from None


def site_file_text(*, name: str, consortium: str, superlink: str, data: Path, reviewer: bytes | None) -> str:
    """A `site.toml` with every rule of the policy at its default and a line on what it is for."""
    reviewed = f'reviewer = "{reviewer.hex()}"' if reviewer else '# reviewer = "64 hexadecimal digits"'
    return _TEMPLATE.format(
        name=_quoted(name),
        consortium=_quoted(consortium),
        superlink=_quoted(superlink),
        reviewer=reviewed,
        folder=_quoted(str(data)),
    )


def _quoted(text: str) -> str:
    # JSON's strings are TOML's basic strings, for everything that a name, an address or a path can hold.
    return json.dumps(text, ensure_ascii=False)


def _identity(folder: Path, name: str) -> Identity:
    path = folder / IDENTITY_FILE
    try:
        if not path.exists():
            write_private(path, Identity.generate(name).to_bytes())
        return Identity.from_bytes(path.read_bytes(), name=name)
    except MisuseError as error:
        raise ConfigError(f"{path}: {error}") from error


def _node_key(folder: Path) -> ec.EllipticCurvePrivateKey:
    path = folder / NODE_KEY_FILE
    if not path.exists():
        key = ec.generate_private_key(ec.SECP384R1())
        # The format that Flower's SuperNode reads.
        write_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    return load_node_private_key(folder)


_TEMPLATE = """\
# This site's own rules. No run can change them; what they do not allow is refused, and the reason stays here, in
# books/site.log. After a change: `secfed provision check` on this folder.

name = {name}
consortium = {consortium}
superlink = {superlink}    # the aggregator, as the consortium gave it
{reviewer}    # who approves the code that runs here: `secfed site approve`
# device = "auto"                   # "cpu", "cuda", or the first CUDA device where there is one
# devices = 2                       # how many train each batch together, or which: [0, 2]; not in private runs
# compile = true                    # torch.compile makes the network; needs a compiler; not in private runs

[[data]]
name = {name}
folder = {folder}    # or the CSV file of a table
cache = "cache"                     # preprocessed volumes: pixels of patients
# modality = "CT"                   # overrides what the layout says
# layout = "amos22"                 # only for a folder that could be two things
# organs = ["liver", "spleen"]      # only these count as drawn; the check of this folder says what is unlabelled

[policy]
protection = ["masked"]             # also possible: "encrypted"; "plain" shows the aggregator every update
encryption_schemes = ["bfv"]
min_cohort = 3                      # fewer sites open no sum
# min_threshold = 4                 # floor for the number of sites that can open one
min_cohort_change = 1               # two sums that differ in fewer sites are not opened
second_sum = "same survivors"
privacy = ["off", "clip_only", "local", "distributed", "silo"]
max_epsilon = 8.0                   # per patient, for all runs together, at max_delta; see `secfed site ledger`
max_delta = 1e-4
architectures = ["unet", "basic_unet"]
metrics = ["train_loss", "validation"]    # what may travel beside the update, inside the protected vector
max_parameters = 200000000
max_rounds = 10000
min_samples_per_round = 1           # an update over few slices shows them
"""
