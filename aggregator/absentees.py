"""Connected sites outside the session, and in which round to ask each of them again.

Runs at the aggregator. A site that failed to join (it hung, crashed, or answered garbage) may be well again later, but
asking it means a new session for everybody, and waiting for it if it still hangs: so the pause doubles each time. A
site whose policy declined the plan is not asked again in this job. A site that is new, or that left a session, is asked
in the next round.
"""

from collections.abc import Collection

FIRST_PAUSE_ROUNDS = 2
LONGEST_PAUSE_ROUNDS = 64


class Absentees:
    """The nodes that failed to join, by the round of their next chance."""

    def __init__(self) -> None:
        self._declined: set[int] = set()
        self._pauses: dict[int, int] = {}
        self._chances: dict[int, int] = {}

    def note(
        self, asked: Collection[int], *, joined: Collection[int], declined: Collection[int], server_round: int
    ) -> None:
        """What came of a session's opening in that round."""
        self._declined |= set(declined)
        for node in asked:
            if node in joined:
                self._pauses.pop(node, None)
                self._chances.pop(node, None)
            else:
                pause = min(2 * self._pauses.get(node, FIRST_PAUSE_ROUNDS // 2), LONGEST_PAUSE_ROUNDS)
                self._pauses[node], self._chances[node] = pause, server_round + pause

    def due(self, nodes: Collection[int], *, server_round: int) -> bool:
        """Whether one of these nodes, which are outside the session, should be asked now."""
        return any(node not in self._declined and self._chances.get(node, 0) <= server_round for node in nodes)
