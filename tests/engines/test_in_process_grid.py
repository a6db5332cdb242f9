"""The in-process grid behaves as Flower's own: everything is serialised, and failures look as they do on the wire."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from small_federation import config, provision

from aggregator.federation import Federation
from aggregator.folder import AggregatorFolder
from secfed.engines import in_process
from secfed.engines.in_process import CLIENT_FAILED, NODE_UNAVAILABLE, InProcessGrid
from secfed.errors import RoundAborted, RunFolderError

APP = ClientApp()


@APP.query("echo")
def echo(message, context):
    context.state["count"] = ConfigRecord({"n": context.state.get("count", {"n": 0})["n"] + 1})
    content = RecordDict({"back": message.content["there"], "count": context.state["count"]})
    return Message(content, reply_to=message)


@APP.query("fail")
def fail(message, context):
    raise ValueError("what went wrong")


def message(node, kind="echo", value=b"x"):
    return Message(
        RecordDict({"there": ConfigRecord({"value": value})}), dst_node_id=node, message_type=f"query.{kind}"
    )


@pytest.fixture
def grid(tmp_path):
    with InProcessGrid(APP, [tmp_path / "a", tmp_path / "b"]) as found:
        yield found


def test_every_node_answers_with_its_own_context(grid):
    for count in (1, 2):
        replies = grid.send_and_receive([message(1000), message(1001)])
        assert sorted(reply.metadata.src_node_id for reply in replies) == [1000, 1001]
        assert [reply.content["count"]["n"] for reply in replies] == [count, count]


def test_nothing_is_shared_by_reference(grid):
    data = np.arange(4, dtype=np.uint32)
    sent = Message(
        RecordDict({"there": ArrayRecord({"v": Array(dtype="uint32", shape=(4,), stype="raw", data=data.tobytes())})}),
        dst_node_id=1000,
        message_type="query.echo",
    )
    (reply,) = grid.send_and_receive([sent])
    back = reply.content["back"]["v"]
    assert back.data == data.tobytes()
    assert back is not sent.content["there"]["v"]


def test_replies_name_the_message_that_they_answer(grid):
    first, second = message(1000), message(1001)
    ids = grid.push_messages([first, second])
    replies = [reply for _ in range(2) for reply in grid.pull_messages(ids)]
    assert {reply.metadata.reply_to_message_id: reply.metadata.src_node_id for reply in replies} == dict(
        zip(ids, (1000, 1001), strict=True)
    )
    assert list(grid.pull_messages(ids)) == []


def test_an_exception_of_the_app_is_error_2_from_its_node(grid):
    (reply,) = grid.send_and_receive([message(1000, "fail")])
    assert reply.has_error()
    assert reply.error.code == CLIENT_FAILED
    assert reply.metadata.src_node_id == 1000


def test_an_offline_node_is_error_5_from_the_superlink(grid):
    grid.offline.add(1001)
    assert list(grid.get_node_ids()) == [1000]
    (reply,) = grid.send_and_receive([message(1001)])
    assert reply.error.code == NODE_UNAVAILABLE
    assert reply.metadata.src_node_id == in_process.SUPERLINK_NODE


def test_an_intercepted_request_can_be_changed_answered_or_dropped(grid):
    grid.intercept = lambda node, found: message(node, value=b"changed")
    (reply,) = grid.send_and_receive([message(1000)])
    assert reply.content["back"]["value"] == b"changed"
    grid.intercept = lambda node, found: Error(8, "gone")
    (reply,) = grid.send_and_receive([message(1000)])
    assert reply.error.code == 8
    grid.intercept = lambda node, found: None
    assert list(grid.send_and_receive([message(1000)])) == []
    grid.intercept = None
    grid.intercept_reply = lambda node, found: None
    assert list(grid.send_and_receive([message(1000)])) == []


def test_the_engine_raises_what_the_server_raises(scans, tmp_path):
    job = provision(tmp_path, config(scans))
    for folder in job.site_folders:
        (folder / "roster.cbor").write_bytes(b"damaged")
    with pytest.raises(RoundAborted):
        in_process.run(job)


def test_an_aggregator_s_folder_without_its_plan_is_named(scans, tmp_path):
    job = provision(tmp_path, config(scans))
    (job.aggregator_folder / "plan.json").unlink()
    with InProcessGrid(APP, []) as grid, pytest.raises(RunFolderError, match=r"plan\.json"):
        Federation(grid, AggregatorFolder(job.aggregator_folder))
