"""What the folders of site, aggregator and consortium are made of, and how a file is written that only its owner reads.

    site          site.toml  identity.key  rounding.key  node.key  NAME.request   made at the site
                  roster.cbor  anchor.pub  ca.crt                                 from the consortium
    aggregator    aggregator.toml  server.key  server.csr                         made at the aggregator
                  roster.cbor  anchor.pub  ca.crt  server.crt  nodes.cbor         from the consortium
    consortium    consortium.toml  consortium.key  anchor.pub  ca.key  ca.crt     made by whoever vouches for members
                  members/  revoked/  rosters/VERSION/

Read by every party.
"""

import os
from pathlib import Path

from privacy.secagg.identity import Identity
from secfed.whole_file import write_whole

IDENTITY_FILE = "identity.key"
ROSTER_FILE = "roster.cbor"
ANCHOR_FILE = "anchor.pub"
ROUNDING_FILE = "rounding.key"
SIMULATED_NOISE_FILE = "simulated-noise.key"
"""Stands in simulated sites only: their noise follows from the run's seed and is no guarantee to anybody."""
NODE_KEY_FILE = "node.key"
"""The EC key by which Flower's SuperLink tells the site's SuperNode from strangers; it signs nothing of ours."""
REQUEST_SUFFIX = ".request"
CA_FILE = "ca.crt"
CA_KEY_FILE = "ca.key"
CONSORTIUM_KEY_FILE = "consortium.key"
SERVER_KEY_FILE = "server.key"
SERVER_REQUEST_FILE = "server.csr"
SERVER_FILE = "server.crt"
NODES_FILE = "nodes.cbor"
PRIVATE = 0o600
"""The mode of what only its owner may read."""


def write_private(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file that only its owner may read; `durable` means whole and on the disk, whatever happens meanwhile.

    Otherwise the file is overwritten in place: a kill in that instant may leave it damaged.
    """
    if durable:
        write_whole(path, data, durable=True, mode=PRIVATE)
        return
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE), "wb") as file:
        file.write(data)


def make_private_folder(folder: Path) -> None:
    """Create a folder that only its owner may enter, or make the one that is there so."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)


def make_identity(folder: Path, *, name: str, rounding_key: bytes) -> bytes:
    """Create a site's long-term key unless it has one; returns the public half (32 bytes)."""
    make_private_folder(folder)
    path = folder / IDENTITY_FILE
    if not path.exists():
        write_private(path, Identity.generate(name).to_bytes())
    write_private(folder / ROUNDING_FILE, rounding_key)
    return Identity.from_bytes(path.read_bytes(), name=name).public_key
