"""Reads the committed sessions: hexadecimal fields become bytes again."""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "secagg"
SESSIONS = {"three_clients": (1, 2, 4, 5), "four_clients": (1,)}

_HEX = re.compile(r"(?:[0-9a-f]{2}){16,}")
"""Bytes of the protocol have 16 or more; no name or sentence looks like that."""


@functools.cache
def read_session(name: str) -> dict[str, Any]:
    """One session; shared between tests, so not to be changed."""
    return read_json(f"{name}.json")


def read_json(file: str) -> dict[str, Any]:
    """A file whose hexadecimal fields are bytes."""
    record: dict[str, Any] = _with_bytes(json.loads((FOLDER / file).read_text()))
    return record


@functools.cache
def read_negative() -> list[dict[str, Any]]:
    """The messages with a defect, whole again."""
    return [_whole(entry) for entry in json.loads((FOLDER / "negative.json").read_text())]


def apply_edits(honest: bytes, edits: Sequence[Mapping[str, Any]]) -> bytes:
    """Each edit removes bytes at a place of the honest message and inserts others there; places ascend."""
    result, position = b"", 0
    for edit in edits:
        result += honest[position : edit["at"]] + bytes.fromhex(edit["insert"])
        position = edit["at"] + edit["remove"]
    return result + honest[position:]


def _whole(entry: dict[str, Any]) -> dict[str, Any]:
    session = read_session(entry["session"])
    part = next((item for item in session["rounds"] if item["number"] == entry["round"]), session["setup"])

    def restored(honest: Any, changed: Any) -> Any:
        if isinstance(changed, dict):
            return {name: restored(honest[name], item) for name, item in changed.items()}
        return apply_edits(honest, changed) if isinstance(honest, bytes) else changed

    result = dict(entry)
    if "changed" in entry:
        result["changed"] = {field: restored(part[field], item) for field, item in entry["changed"].items()}
    if "extra" in entry:
        result["extra"] = {field: [bytes.fromhex(item) for item in items] for field, items in entry["extra"].items()}
    return result


def _with_bytes(value: Any, *, field: str = "") -> Any:
    if isinstance(value, dict):
        # A receipt is JSON itself, where bytes are text.
        return value if field == "receipt" else {key: _with_bytes(item, field=key) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_bytes(item) for item in value]
    return bytes.fromhex(value) if isinstance(value, str) and _HEX.fullmatch(value) else value
