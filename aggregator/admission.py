"""One exchange with the sites: requests out, unverified Flower messages in, admitted replies back.

Everything that can go wrong with a site (an error reply, silence until the timeout, garbage, a refusal, an answer for
another stage or round) has the same consequence, a dropout from this stage, and its own word in the log. Flower's error
replies may carry the SuperLink's node id, so replies are matched by the id of the message that they answer.

Runs at the aggregator. Checks form and binding only; signatures are checked by privacy.secagg.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid

from privacy.errors import HostileInputError
from secfed.messages import BadMessage, Refusal, Reply, Request, decode_reply, encode_request

TTL_MARGIN_SECONDS = 30.0
SILENT = "silent"
DECLINED = "refused: policy"
STALE = "refused: stale"
UNREADABLE = "refused: sum"


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """The outcome of one exchange: who answered, in order of arrival, and why the others dropped out here."""

    answered: tuple[int, ...]
    lost: dict[int, str]
    seconds: float
    bytes_up: int
    bytes_down: int

    @property
    def silent(self) -> tuple[int, ...]:
        """Who did not answer within the stage timeout; whoever answered wrongly is not silent."""
        return tuple(node for node, reason in self.lost.items() if reason == SILENT)

    @property
    def declined(self) -> tuple[int, ...]:
        """Whose own policy refused."""
        return tuple(node for node, reason in self.lost.items() if reason == DECLINED)


class SiteChannel:
    """Sends requests over a Flower grid and admits what comes back."""

    def __init__(self, grid: Grid, *, timeout_seconds: float) -> None:
        self.grid = grid
        self.timeout_seconds = timeout_seconds
        self.exchanges = 0
        self.names: dict[int, str] = {}
        """Who was behind a node in an earlier session: for messages to people, and for nothing else."""

    def connected(self) -> list[int]:
        """Nodes that Flower sees now."""
        return sorted(self.grid.get_node_ids())

    def wait_for(self, count: int) -> list[int]:
        """Connected nodes, once `count` of them are there or the stage timeout has passed."""
        deadline = time.monotonic() + self.timeout_seconds
        while len(nodes := self.connected()) < count and time.monotonic() < deadline:
            time.sleep(0.2)
        return nodes

    def exchange(
        self,
        requests: Mapping[int, Request],
        *,
        accept: Callable[[int, Reply], None],
        max_vector_length: int = 0,
        max_attachment_bytes: int = 0,
    ) -> Exchange:
        """Send one request per node and hand each admitted reply to `accept` as it arrives, until the stage timeout.

        `accept` raises HostileInputError for a reply that fails its own checks; the node then counts as dropped. A
        reply is not kept afterwards, so that memory does not grow with the number of sites.
        """
        started = time.perf_counter()
        self.exchanges += 1
        sent: dict[str, int] = {}
        messages, down = [], 0
        for node, request in requests.items():
            records = encode_request(request)
            down += sum(record.count_bytes() for record in records.values())
            message = Message(
                records,
                dst_node_id=node,
                message_type=request.stage.message_type,
                group_id=str(request.binding.server_round),
                ttl=self.timeout_seconds + TTL_MARGIN_SECONDS,
            )
            messages.append(message)
        pushed = list(self.grid.push_messages(messages))
        for message_id, node in zip(pushed, requests, strict=True):
            if message_id:
                sent[message_id] = node
        answered: list[int] = []
        lost = dict.fromkeys(set(requests) - set(sent.values()), "unreachable")
        up = 0
        for answer in self._arrivals(sent):
            answered_id = answer.metadata.reply_to_message_id
            if answered_id not in sent:
                continue
            node = sent.pop(answered_id)
            admitted = self._admit(answer, requests[node], max_vector_length, max_attachment_bytes)
            if isinstance(admitted, str):
                lost[node] = admitted
                continue
            try:
                accept(node, admitted)
            except HostileInputError as error:
                lost[node] = str(error)
                continue
            answered.append(node)
            up += sum(record.count_bytes() for record in answer.content.values())
        lost.update(dict.fromkeys(sent.values(), SILENT))
        return Exchange(
            answered=tuple(answered), lost=lost, seconds=time.perf_counter() - started, bytes_up=up, bytes_down=down
        )

    def _arrivals(self, sent: Iterable[str]) -> Iterator[Message]:
        # In the order of sending, so that a simulation takes the same course each time.
        waiting = dict.fromkeys(sent)
        deadline = time.monotonic() + self.timeout_seconds
        pause = 0.001
        while waiting and time.monotonic() <= deadline:
            found = False
            # One at a time: asked for all, a grid would hold every site's vector in memory at once.
            for message_id in tuple(waiting):
                if time.monotonic() > deadline:
                    return
                for answer in self.grid.pull_messages([message_id]):
                    found = True
                    waiting.pop(answer.metadata.reply_to_message_id, None)
                    yield answer
            if not found:
                time.sleep(pause)
                pause = min(0.2, 2 * pause)

    @staticmethod
    def _admit(answer: Message, request: Request, max_vector_length: int, max_attachment_bytes: int) -> Reply | str:
        if answer.has_error():
            return f"error {answer.error.code}"
        try:
            reply = decode_reply(
                answer.content, max_vector_length=max_vector_length, max_attachment_bytes=max_attachment_bytes
            )
        except BadMessage as error:
            return f"bad message: {error}"
        if reply.stage is not request.stage or reply.binding != request.binding:
            return "answer to another stage, round or session"
        if isinstance(reply, Refusal):
            return f"refused: {reply.reason}"
        return reply
