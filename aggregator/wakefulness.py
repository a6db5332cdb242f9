"""Keeps SuperNodes asking between two stages, so that the next one does not find them asleep.

    request k   -> answered -> asks: empty message -> answered -> asks: request k + 1
    without it     answered -> asks: nothing       -> sleeps 3 s -> asks: request k + 1

Flower 1.41's SuperNode asks again at once after an answer and sleeps for three seconds where it then finds nothing, and
the next stage is never ready yet: every exchange would take three seconds more. So an empty message is queued behind
each request, and another one when it was answered, for as long as the exchange and at most `LONGEST_SECONDS`. It says
nothing, and the site's worker answers it without starting anything.

Runs at the aggregator, in a deployment only.
"""

import time
from collections.abc import Collection

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from secfed.messages import STAY_AWAKE

LONGEST_SECONDS = 30.0
"""A site that waits for longer than this for the others may as well sleep."""
MOST_NODES = 32
"""Each node asks about twice a second: for more of them, three seconds are cheaper."""
MOST_UNANSWERED = 2
LOOK_SECONDS = 0.25


class Wakefulness:
    """The empty messages of one run."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._sent: dict[str, int] = {}
        self._until = 0.0
        self._looked = 0.0

    def keep(self, nodes: Collection[int]) -> None:
        """Queue one behind what these nodes were just sent; call `renew` while waiting for them."""
        self._until = time.monotonic() + LONGEST_SECONDS
        if len(nodes) <= MOST_NODES:
            self._send(nodes)

    def renew(self) -> None:
        """Send another one to whoever answered the last."""
        now = time.monotonic()
        if not self._sent or now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        awake = []
        for answer in self._grid.pull_messages(tuple(self._sent)):
            node = self._sent.pop(answer.metadata.reply_to_message_id, None)
            if node is not None and not answer.has_error():
                awake.append(node)
        if now < self._until:
            self._send(awake)

    def _send(self, nodes: Collection[int]) -> None:
        unanswered = [*self._sent.values()]
        due = [node for node in nodes if unanswered.count(node) < MOST_UNANSWERED]
        messages = [
            Message(RecordDict(), dst_node_id=node, message_type=STAY_AWAKE, ttl=2 * LONGEST_SECONDS) for node in due
        ]
        if messages:
            for message_id, node in zip(self._grid.push_messages(messages), due, strict=True):
                if message_id:
                    self._sent[message_id] = node
