"""Which SuperNodes may connect, and which of them do: what the consortium signed, brought to Flower's SuperLink.

Nodes that the consortium took out are removed at the aggregator's next start, or by `secfed aggregator admit`.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from secfed.deployment.aggregator_side import CONNECTION, SUPERLINK, aggregator_log, home_of
from secfed.deployment.flower import flwr
from secfed.provisioning.files import ANCHOR_FILE, NODES_FILE
from secfed.provisioning.join_request import load_node_key
from secfed.provisioning.node_list import NodeList, verify_node_list
from secfed.whole_file import write_whole

ADMITTED = "admitted.json"
_NEVER = "N/A"
"""What Flower gives for a moment that has not been."""


@dataclass(frozen=True, kw_only=True)
class Connection:
    """A site's SuperNode as the SuperLink sees it; `since` is when that changed, in UTC, empty where it never came."""

    site: str
    online: bool
    since: str
    todo: str


def connections(folder: Path) -> list[Connection]:
    """Every site that the consortium signed or that was let in before, by name.

    Raises:
        SecfedError: the SuperLink does not run.
    """
    folder = folder.resolve()
    wanted = {name: _digest(key) for name, key in _signed(folder).nodes}
    admitted = {entry["site"]: entry for entry in _admitted(folder)}
    nodes = {str(node["node-id"]): node for node in _listed(home_of(folder))}
    found = []
    for name in sorted({*wanted, *admitted}):
        entry = admitted.get(name)
        node = nodes.get("" if entry is None else entry["node"])
        online = node is not None and node["status"] == "online"
        if node is None or entry is None or wanted.get(name) != entry["key"]:
            todo = "not as the newest accepted version says: secfed aggregator admit"
        elif not online:
            todo = "at the site: secfed site run; secfed provision check --connect says what is in its way"
        else:
            todo = ""
        moment = _NEVER if node is None else str(node["online-at" if online else "offline-at"])
        found.append(Connection(site=name, online=online, since="" if moment == _NEVER else moment, todo=todo))
    return found


def admit_nodes(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Bring the SuperLink's list of nodes to what the consortium signed; returns who was admitted and who removed.

    Raises:
        SecfedError: the SuperLink does not run, or refused.
    """
    folder = folder.resolve()
    home, log = home_of(folder), aggregator_log(folder)
    wanted = {name: (_digest(key), key) for name, key in _signed(folder).nodes}
    registered = _registered(home)
    known = {entry["site"]: entry for entry in _admitted(folder) if entry["node"] in registered}
    added, removed = [], []
    for name, entry in sorted(known.items()):
        if wanted.get(name, ("",))[0] != entry["key"]:
            flwr("supernode", "unregister", entry["node"], CONNECTION, home=home)
            log.append("node removed", site=name, node=entry["node"])
            del known[name]
            removed.append(name)
            _remember(folder, known)
    for name, (digest, key) in wanted.items():
        if name in known:
            continue
        public = folder / SUPERLINK / "nodes" / f"{name}.pub"
        public.parent.mkdir(exist_ok=True)
        public.write_bytes(load_node_key(key).public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
        node = str(flwr("supernode", "register", str(public), CONNECTION, "--name", name, home=home)["node-id"])
        known[name] = {"site": name, "node": node, "key": digest}
        log.append("node admitted", site=name, node=node)
        added.append(name)
        _remember(folder, known)
    return tuple(added), tuple(removed)


def _signed(folder: Path) -> NodeList:
    return verify_node_list((folder / NODES_FILE).read_bytes(), anchor=(folder / ANCHOR_FILE).read_bytes())


def _digest(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


def _registered(home: Path) -> set[str]:
    return {str(node["node-id"]) for node in _listed(home)}


def _listed(home: Path) -> list[dict[str, Any]]:
    listed = flwr("supernode", "list", CONNECTION, home=home)
    return [node for node in listed.get("nodes", []) if node.get("status") != "unregistered"]


def _admitted(folder: Path) -> list[dict[str, str]]:
    path = folder / SUPERLINK / ADMITTED
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else []


def _remember(folder: Path, known: dict[str, dict[str, str]]) -> None:
    data = json.dumps([known[name] for name in sorted(known)], indent=1).encode()
    write_whole(folder / SUPERLINK / ADMITTED, data, durable=True)
