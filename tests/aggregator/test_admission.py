"""Late, repeated, misdirected and impersonated replies never count twice, and never stop the others."""

import shutil

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from small_federation import config, digest, journal, provision, server_context, train

import aggregator.app
import clients.app
from aggregator.admission import SiteChannel
from privacy.errors import HostileInputError
from secfed.engines.in_process import InProcessGrid
from secfed.messages import (
    Binding,
    Refusal,
    Reply,
    Request,
    Stage,
    decode_request,
    encode_refusal,
    encode_reply,
)


class RepeatingGrid(InProcessGrid):
    """A transport that delivers every reply again with each later pull."""

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.delivered = []

    def pull_messages(self, message_ids):
        replies = list(super().pull_messages(message_ids))
        again = list(self.delivered)
        self.delivered += replies
        return replies + again


@pytest.mark.parametrize("mode", ["masked", "plain"])
def test_replies_that_are_delivered_again_are_not_counted_twice(scans, tmp_path, mode):
    run_config = config(scans, protection={"mode": mode})
    once = provision(tmp_path / "once", run_config)
    train(once)
    job = provision(tmp_path / "again", run_config)
    with RepeatingGrid(clients.app.app, job.site_folders) as grid:
        aggregator.app.app(grid, server_context(job))
    assert digest(job) == digest(once)
    assert [len(entry["survivors"]) for entry in journal(job)] == [4, 4]


@pytest.mark.parametrize("mode", ["masked", "plain"])
def test_two_nodes_with_one_site_s_keys_count_as_one_site(scans, tmp_path, mode):
    run_config = config(scans, protection={"mode": mode})
    honest = provision(tmp_path / "honest", run_config)
    train(honest)
    job = provision(tmp_path / "cloned", run_config)
    clone = tmp_path / "clone"
    shutil.copytree(job.site_folders[1], clone)
    with InProcessGrid(clients.app.app, (*job.site_folders, clone)) as grid:
        aggregator.app.app(grid, server_context(job))
    assert [entry["survivors"] for entry in journal(job)] == [["ct-a", "ct-b", "mr-a", "mr-b"]] * 2
    assert "joined twice" in "".join(journal(job)[0]["lost"].values())
    assert digest(job) == digest(honest)


def test_a_site_outside_the_plain_run_s_list_is_not_admitted(scans, tmp_path):
    job = provision(tmp_path / "job", config(scans, protection={"mode": "plain"}))
    stranger = tmp_path / "stranger"
    shutil.copytree(job.site_folders[0], stranger)
    text = (stranger / "site.toml").read_text()
    (stranger / "site.toml").write_text(text.replace('name = "ct-a"', 'name = "stranger"', 1))
    with InProcessGrid(clients.app.app, (*job.site_folders, stranger)) as grid:
        aggregator.app.app(grid, server_context(job))
    assert [len(entry["survivors"]) for entry in journal(job)] == [4, 4]
    assert journal(job)[0]["lost"] == {"node 1004": "'stranger' is not a site of this run"}


def test_a_plain_upload_under_another_site_s_name_is_refused(scans, tmp_path):
    job = provision(tmp_path, config(scans, protection={"mode": "plain"}))

    def rename(node, reply):
        if node == 1003 and reply.metadata.message_type == "train":
            header = reply.content["secfed"]["header"]
            reply.content["secfed"]["header"] = header.replace(b"dmr-b", b"dct-a")
        return reply

    train(job, intercept_reply=rename)
    assert journal(job)[0]["survivors"] == ["ct-a", "ct-b", "mr-a"]
    assert "the node joined as 'mr-b'" in journal(job)[0]["lost"]["mr-b"]


# Below, one node answers one request by hand.

BINDING = Binding(run=bytes(32), session=bytes([1]) * 32, server_round=2, sequence=5)
REQUEST = Request(stage=Stage.SHARE, binding=BINDING, payloads=(b"x",))


def reply_with(**changes):
    return encode_reply(
        Reply(**{"stage": Stage.SHARE, "binding": BINDING, "site": "ct-a", "payloads": (b"p",), **changes})
    )


class OneAnswer:
    """A ClientApp in its shortest form: it answers with the records that it was given."""

    def __init__(self, records):
        self.records = records

    def __call__(self, message, context):
        assert decode_request(message.content, max_vector_length=0) == REQUEST
        if isinstance(self.records, Exception):
            raise self.records
        return Message(self.records, reply_to=message)


def exchange(tmp_path, records, accept=lambda node, reply: None):
    with InProcessGrid(OneAnswer(records), [tmp_path]) as grid:
        return SiteChannel(grid, timeout_seconds=5).exchange({1000: REQUEST}, accept=accept)


def test_an_answer_is_handed_over_with_its_node(tmp_path):
    seen = []
    outcome = exchange(tmp_path, reply_with(), accept=lambda node, reply: seen.append((node, reply.payload)))
    assert outcome.answered == (1000,)
    assert outcome.lost == {}
    assert seen == [(1000, b"p")]
    assert outcome.bytes_up > 0
    assert outcome.bytes_down > 0


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        (reply_with(stage=Stage.UNMASK), "answer to another stage, round or session"),
        (reply_with(binding=Binding(run=bytes(32), session=bytes([1]) * 32)), "answer to another stage, round or"),
        (
            reply_with(binding=Binding(run=bytes(32), session=bytes(32), server_round=2, sequence=5)),
            "answer to another",
        ),
        (encode_refusal(Refusal(stage=Stage.SHARE, binding=BINDING, site="ct-a", reason="data")), "refused: data"),
        (RecordDict(), "bad message"),
        (RecordDict({"secfed": ConfigRecord({"header": b"\xff"})}), "bad message"),
        (RecordDict({"secfed": ArrayRecord()}), "bad message"),
        (ValueError("secret"), "error 2"),
    ],
)
def test_every_other_answer_is_a_dropout_with_its_word(tmp_path, records, reason):
    outcome = exchange(tmp_path, records)
    assert outcome.answered == ()
    assert outcome.lost[1000].startswith(reason)
    assert "secret" not in outcome.lost[1000]
    assert outcome.bytes_up == 0


def test_an_answer_that_fails_the_caller_s_checks_is_a_dropout(tmp_path):
    def refuse(node, reply):
        raise HostileInputError("not what was agreed", party="ct-a")

    assert exchange(tmp_path, reply_with(), accept=refuse).lost == {1000: "ct-a: not what was agreed"}


def test_a_vector_where_none_belongs_is_refused_by_its_size(tmp_path):
    outcome = exchange(tmp_path, reply_with(vector=np.zeros(10, np.uint32)))
    assert "limit 0" in outcome.lost[1000]


def test_a_silent_node_ends_the_exchange_at_the_timeout_and_not_before_the_others(tmp_path):
    with InProcessGrid(
        OneAnswer(reply_with()), [tmp_path, tmp_path], intercept=lambda n, m: m if n == 1000 else None
    ) as g:
        outcome = SiteChannel(g, timeout_seconds=0.3).exchange(
            dict.fromkeys((1000, 1001), REQUEST), accept=lambda node, reply: None
        )
    assert outcome.answered == (1000,)
    assert outcome.lost == {1001: "silent"}
    assert 0.3 <= outcome.seconds < 5


def test_waiting_for_sites_ends_when_they_are_there_or_at_the_timeout(tmp_path):
    with InProcessGrid(OneAnswer(reply_with()), [tmp_path, tmp_path]) as grid:
        channel = SiteChannel(grid, timeout_seconds=0.3)
        assert channel.wait_for(2) == [1000, 1001]
        grid.offline.add(1001)
        assert channel.wait_for(2) == [1000]
