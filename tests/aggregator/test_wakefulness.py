"""Between two stages a node is asked again and again whether it is awake, and nothing else changes."""

import pytest
from flwr.app import Error, Message, RecordDict

import aggregator.wakefulness
from aggregator.admission import SiteChannel
from aggregator.wakefulness import LONGEST_SECONDS, MOST_NODES, MOST_UNANSWERED, Wakefulness
from secfed.engines.in_process import InProcessGrid
from secfed.messages import STAY_AWAKE, Binding, Reply, Request, Stage, encode_reply


class Clock:
    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch, tmp_path):
    found = Clock()
    monkeypatch.setattr(aggregator.wakefulness, "time", found)
    # Messages are made within a run.
    with InProcessGrid(SlowSite(), [tmp_path]):
        yield found


class QuietGrid:
    """Takes messages and gives the answers that a test puts there."""

    def __init__(self):
        self.pushed, self.answers = [], []

    def push_messages(self, messages):
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"m{len(self.pushed)}"
            self.pushed.append(message)
        return [message.metadata.message_id for message in messages]

    def pull_messages(self, message_ids):
        found, self.answers = self.answers, []
        return [answer for answer in found if answer.metadata.reply_to_message_id in message_ids]

    def answer(self, number, error=False):
        asked = self.pushed[number]
        self.answers.append(Message(Error(7) if error else RecordDict(), reply_to=asked))


def nodes_of(grid):
    return [message.metadata.dst_node_id for message in grid.pushed]


def test_whoever_answers_is_asked_again_while_the_exchange_lasts(clock):
    grid = QuietGrid()
    awake = Wakefulness(grid)
    awake.keep((1, 2))
    assert nodes_of(grid) == [1, 2]
    assert {message.metadata.message_type for message in grid.pushed} == {STAY_AWAKE}
    assert not any(len(message.content) for message in grid.pushed)
    grid.answer(1)
    clock.now += 1
    awake.renew()
    assert nodes_of(grid) == [1, 2, 2]
    clock.now += LONGEST_SECONDS
    grid.answer(2)
    awake.renew()
    assert nodes_of(grid) == [1, 2, 2]


def test_who_refuses_is_left_alone_and_who_is_silent_is_not_heaped_upon(clock):
    grid = QuietGrid()
    awake = Wakefulness(grid)
    for _ in range(5):
        awake.keep((1,))
    assert len(grid.pushed) == MOST_UNANSWERED
    grid.answer(0, error=True)
    clock.now += 1
    awake.renew()
    assert len(grid.pushed) == MOST_UNANSWERED


def test_many_nodes_may_sleep(clock):
    grid = QuietGrid()
    Wakefulness(grid).keep(range(MOST_NODES + 1))
    assert not grid.pushed


BINDING = Binding(run=bytes(32), session=bytes(32))


class SlowSite:
    """Answers requests, and counts what keeps it awake."""

    def __init__(self):
        self.awake = 0

    def __call__(self, message, context):
        if message.metadata.message_type == STAY_AWAKE:
            self.awake += 1
            return Message(RecordDict(), reply_to=message)
        return Message(encode_reply(Reply(stage=Stage.SHARE, binding=BINDING, site="ct-a")), reply_to=message)


@pytest.mark.parametrize("keep_awake", [True, False])
def test_an_exchange_is_the_same_with_and_without(tmp_path, keep_awake):
    site = SlowSite()
    request = Request(stage=Stage.SHARE, binding=BINDING)
    with InProcessGrid(site, [tmp_path]) as grid:
        channel = SiteChannel(grid, timeout_seconds=5, keep_awake=keep_awake)
        replies = []
        for _ in range(2):
            found = channel.exchange({1000: request}, accept=lambda _, reply: replies.append(reply.site))
            assert (found.answered, found.lost) == ((1000,), {})
    assert replies == ["ct-a", "ct-a"]
    # Not before it has answered something.
    assert site.awake == (1 if keep_awake else 0)
