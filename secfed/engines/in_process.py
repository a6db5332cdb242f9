"""The default engine: the real ClientApp and ServerApp over an own Flower `Grid`, with no Ray and no network.

Every message goes through the same protobuf serialisation as on the wire, so nothing is shared by reference, and every
node keeps one `Context`, as a SuperNode does. Messages are answered when they are pulled, one at a time, so that the
server streams. With several workers each site belongs to one worker process; results do not depend on their number,
because whatever a site remembers stands in its own folder.

Observed behaviour of Flower 1.41 that it keeps: an exception in a ClientApp is error 2 from the node itself; an
unavailable node is error 5 that carries the SuperLink's node id, so that only `reply_to_message_id` tells whose it is;
a silent node sends nothing at all.
"""

import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from flwr.app import Context, Error, Message, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.clientapp import ClientApp
from flwr.common.serde import (
    context_from_proto,
    context_to_proto,
    message_from_proto,
    message_to_proto,
)
from flwr.proto.message_pb2 import Context as ContextProto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

import aggregator.app
import clients.app
from secfed.engines.job import Job
from secfed.lifeline import stop_with_parent

SUPERLINK_NODE = 1
RUN_ID = 7
CLIENT_FAILED = 2
NODE_UNAVAILABLE = 5

Intercept = Callable[[int, Message], Message | Error | None]
"""Seam for tests: sees a request, returns it (changed or not), an Error to answer with, or None for silence."""


def run(job: Job, *, workers: int = 1) -> None:
    """Run a job to its last round; raises what the ServerApp raises (secfed.errors.RoundAborted among them)."""
    with InProcessGrid(clients.app.app, job.site_folders, workers=workers) as grid:
        context = Context(RUN_ID, SUPERLINK_NODE, {}, RecordDict(), {"run-dir": str(job.aggregator_folder)})
        aggregator.app.app(grid, context)


class InProcessGrid(Grid):
    """A grid whose nodes are site folders; node ids are 1000, 1001, ... in their order."""

    def __init__(
        self,
        client_app: ClientApp,
        site_folders: Sequence[Path],
        *,
        workers: int = 1,
        intercept: Intercept | None = None,
        intercept_reply: Intercept | None = None,
    ) -> None:
        _set_identity()
        self.client_app = client_app
        self.nodes = {1000 + index: folder for index, folder in enumerate(site_folders)}
        self.intercept = intercept
        self.intercept_reply = intercept_reply
        self.offline: set[int] = set()
        self._run = Run.create_empty(RUN_ID)
        self._contexts = {node: _node_context(node, folder) for node, folder in self.nodes.items()}
        self._pending: dict[str, Message] = {}
        self._futures: dict[str, tuple[Message, Future[bytes]]] = {}
        self._pools: list[ProcessPoolExecutor] = []
        if workers > 1:
            # One single-process pool per worker pins each site to one process, whose caches then stay warm.
            self._pools = [
                ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_start_worker)
                for _ in range(min(workers, len(self.nodes)))
            ]

    def __enter__(self) -> "InProcessGrid":
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools:
            pool.shutdown(wait=False, cancel_futures=True)

    def set_run(self, run: Run) -> None:
        """Flower's interface; the run has no meaning here."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Flower's interface for building a message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Nodes that are connected."""
        return [node for node in self.nodes if node not in self.offline]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages; a worker starts at once, an inline node answers when it is pulled."""
        identifiers = []
        for message in messages:
            message_id = uuid.uuid4().hex
            message.metadata.__dict__["_message_id"] = message_id
            identifiers.append(message_id)
            node = message.metadata.dst_node_id
            if self._pools and node not in self.offline and self.intercept is None:
                pool = self._pools[(node - 1000) % len(self._pools)]
                data = message_to_proto(message).SerializeToString()
                self._futures[message_id] = (message, pool.submit(_answer_in_worker, data, str(self.nodes[node])))
            else:
                self._pending[message_id] = message
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that are ready: at most one inline answer a call, and whatever workers have finished."""
        wanted = list(message_ids)
        replies: list[Message] = []
        for message_id in wanted:
            if message_id in self._futures and self._futures[message_id][1].done():
                message, future = self._futures.pop(message_id)
                replies.append(_collect(message, future))
        for message_id in wanted:
            if message_id in self._pending:
                reply = self._answer(self._pending.pop(message_id))
                if reply is not None:
                    replies.append(reply)
                break
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push, then pull until everything that will ever be answered is here (Flower's interface)."""
        waiting = set(self.push_messages(messages))
        replies: list[Message] = []
        while any(message_id in self._pending or message_id in self._futures for message_id in waiting):
            replies += self.pull_messages(waiting)
        return replies

    def _answer(self, message: Message) -> Message | None:
        node = message.metadata.dst_node_id
        if node in self.offline:
            return _superlink_error(message, Error(NODE_UNAVAILABLE, "Node Unavailable"))
        if self.intercept is not None:
            seen = self.intercept(node, message)
            if not isinstance(seen, Message):
                return None if seen is None else _superlink_error(message, seen)
            message = seen
        data = message_to_proto(message).SerializeToString()
        context = context_to_proto(self._contexts[node]).SerializeToString()
        answer, context = _call(self.client_app, data, context)
        self._contexts[node] = context_from_proto(ContextProto.FromString(context))
        reply = message_from_proto(MessageProto.FromString(answer))
        if self.intercept_reply is not None:
            changed = self.intercept_reply(node, reply)
            return changed if isinstance(changed, Message) else None
        return reply


def _call(app: ClientApp, message_data: bytes, context_data: bytes) -> tuple[bytes, bytes]:
    message = message_from_proto(MessageProto.FromString(message_data))
    context = context_from_proto(ContextProto.FromString(context_data))
    try:
        reply = app(message, context)
    except Exception as error:
        reply = Message(Error(CLIENT_FAILED, f"{type(error)}:<'{error}'>"), reply_to=message)
    return message_to_proto(reply).SerializeToString(), context_to_proto(context).SerializeToString()


def _answer_in_worker(message_data: bytes, site_folder: str) -> bytes:
    message = MessageProto.FromString(message_data)
    context = _node_context(message.metadata.dst_node_id, Path(site_folder))
    answer, _ = _call(clients.app.app, message_data, context_to_proto(context).SerializeToString())
    return answer


def _collect(message: Message, future: "Future[bytes]") -> Message:
    error = future.exception()
    if error is not None:
        return _superlink_error(message, Error(NODE_UNAVAILABLE, f"worker died: {error}"))
    return message_from_proto(MessageProto.FromString(future.result()))


def _start_worker() -> None:
    # Read when torch is imported, which is at the first training: sums must not depend on the number of cores.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    stop_with_parent()
    _set_identity()


def _set_identity() -> None:
    # A message cannot be built before the process has a task identity, and telemetry must stay off in every process.
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN_ID, SUPERLINK_NODE


def _node_context(node: int, folder: Path) -> Context:
    return Context(RUN_ID, node, {"site-folder": str(folder)}, RecordDict(), {})


def _superlink_error(message: Message, error: Error) -> Message:
    request = message.metadata
    metadata = Metadata(
        request.run_id,
        uuid.uuid4().hex,
        SUPERLINK_NODE,
        SUPERLINK_NODE,
        request.message_id,
        request.group_id,
        request.created_at,
        request.ttl,
        request.message_type,
    )
    return make_message(metadata=metadata, error=error)
