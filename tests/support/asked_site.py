"""Put a request to one site and look at its answer: real apps, the site's folder, and nothing else of a run.

Tests import it by name, because `tests/support` is on pytest's path.
"""

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from flwr.app import Message
from small_federation import train

import clients.app
from privacy import cbor
from secfed.engines.in_process import InProcessGrid
from secfed.messages import (
    REFUSAL_REASONS,
    Refusal,
    Request,
    decode_reply,
    decode_request,
    encode_request,
)

LIMIT = 2**22


@dataclass(frozen=True)
class Moment:
    """A request, and the site's folder as it was just before it."""

    request: Request
    folder: Path


def record(job, *, node, folder, intercept=None):
    """Run a job and return what one node was asked, by (stage, round); `intercept` sees all requests first."""
    moments = {}

    def remember(asked, message):
        seen = message if intercept is None else intercept(asked, message)
        if asked == node and isinstance(seen, Message):
            request = decode_request(message.content, max_vector_length=LIMIT, max_attachment_bytes=LIMIT)
            copy = folder / f"{request.stage}-{request.binding.server_round}"
            shutil.copytree(job.site_folders[node - 1000], copy, dirs_exist_ok=True)
            moments[request.stage, request.binding.server_round] = Moment(request, copy)
        return seen

    train(job, intercept=remember)
    return moments


def ask(folder, request, *, message_type=None, content=None):
    """The site's reply to one request, as it comes off the wire, and its records."""
    with InProcessGrid(clients.app.app, [folder]) as grid:
        records = encode_request(request) if content is None else content
        message = Message(records, dst_node_id=1000, message_type=message_type or request.stage.message_type)
        (reply,) = grid.pull_messages(grid.push_messages([message]))
    assert not reply.has_error()
    return decode_reply(reply.content, max_vector_length=LIMIT, max_attachment_bytes=LIMIT), reply.content


def state_of(folder):
    """All that the site remembers, by file."""
    return {str(path): path.read_bytes() for path in sorted((folder / "state").rglob("*")) if path.is_file()}


def log_of(folder):
    return [json.loads(line) for line in (folder / "books" / "site.log").read_text().splitlines()]


def assert_refused(folder, request, reason, because, **more):
    """The site says `reason` and nothing else, notes why for itself, and keeps its state."""
    before = state_of(folder)
    answer, records = ask(folder, request, **more)
    assert isinstance(answer, Refusal)
    assert answer.reason == reason
    assert state_of(folder) == before
    assert because in log_of(folder)[-1]["error"]
    assert list(records) == ["secfed"]
    assert list(records["secfed"]) == ["header"]
    header = cbor.from_cbor(records["secfed"]["header"])
    assert set(header) == {"version", "kind", "stage", "run", "session", "round", "sequence", "site", "reason"}
    assert header["reason"] in REFUSAL_REASONS


def rebound(request, **changes):
    return dataclasses.replace(request, binding=dataclasses.replace(request.binding, **changes))
