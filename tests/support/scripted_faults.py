"""Faults by site, stage and round, and a clock that jumps while nobody does anything.

Tests import it by name, because `tests/support` is on pytest's path.
"""

import time

from small_federation import NAMES, Faults, train


class ScriptedFaults(Faults):
    """`plan` maps (site, message type, server round) to a kind of fault; each strikes once, setup is round 0."""

    def __init__(self, plan):
        super().__init__({})
        self.script = plan

    def _strikes(self, node, message_type, kinds):
        kind = self.script.get((NAMES[node], message_type, self.server_round))
        return self.script.pop((NAMES[node], message_type, self.server_round)) if kind in kinds else None

    def request(self, node, message):
        self.server_round = int(message.metadata.group_id)
        return super().request(node, message)


class JumpingClock:
    """Time passes only while somebody waits, so that a silent site costs a test nothing."""

    def __init__(self):
        self.now = 0.0
        self.perf_counter = time.perf_counter

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def train_with(job, faults):
    """Run the job under these faults."""
    return train(job, intercept=faults.request, intercept_reply=faults.reply)
