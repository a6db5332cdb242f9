"""The published sessions, message by message, through the real clients and the real aggregator."""

import pytest
from generate_secagg import documents
from secagg_files import FOLDER, SESSIONS, read_negative, read_session
from secagg_replay import ReplayedAggregator, ReplayedClient, client_calls, in_order, round_of

from privacy.errors import HostileInputError, ProvenCheatingError
from privacy.secagg.blame import convict
from privacy.secagg.receipt import Receipt
from privacy.streams import SUITE

CLIENTS = [(session, name) for session in SESSIONS for name in read_session(session)["given"]["exchange_private_keys"]]


def test_regenerated_files_are_the_committed_ones():
    generated = documents()
    assert sorted(generated) == sorted(path.name for path in FOLDER.iterdir())
    for name, text in generated.items():
        assert (FOLDER / name).read_text() == text, f"{name} differs: see docs/test-vectors.md on how to regenerate"


@pytest.mark.parametrize("session", SESSIONS)
def test_the_files_are_for_this_suite(session):
    assert read_session(session)["suite"] == SUITE


@pytest.mark.parametrize(("session", "name"), CLIENTS)
def test_a_client_answers_with_the_published_messages(session, name):
    record = read_session(session)
    replayed = ReplayedClient(record, name)
    for call in client_calls(record, name):
        assert replayed.act(call) == call.expected, f"{call.step} of round {call.round_number}"
        if call.step == "share":
            # An answer may get lost: the same invitation gives the same bytes again.
            assert replayed.act(call) == call.expected
        if call.step == "agree" and name == min(round_of(record, call.round_number)["R2_headers"]):
            published = round_of(record, call.round_number)["receipt"]
            assert replayed.client.receipt == Receipt.from_json(published)


@pytest.mark.parametrize("session", SESSIONS)
def test_the_aggregator_opens_the_published_sums(session):
    record = read_session(session)
    aggregator = ReplayedAggregator(record)
    aggregator.set_up()
    for number in SESSIONS[session]:
        found = round_of(record, number)
        if "R3_request" not in found:
            round_ = aggregator.play(number, until="request_agreement")
            with pytest.raises(HostileInputError, match="does not open"):
                round_.request_agreement()
            assert list(round_.guilty) == found["guilty"]
            continue
        round_ = aggregator.play(number)
        if "evidence" in found:
            with pytest.raises(ProvenCheatingError) as caught:
                round_.finish(in_order(found["R4_replies"]))
            assert caught.value.evidence == found["evidence"]
            assert list(round_.guilty) == found["guilty"]
            continue
        result = round_.finish(in_order(found["R4_replies"]))
        assert result.total.tolist() == found["aggregate"]["total"]
        assert list(result.survivors) == found["aggregate"]["survivors"]
        assert list(result.dropped) == found["aggregate"]["dropped"]


def test_the_published_evidence_convicts():
    record = read_session("three_clients")
    found = round_of(record, 4)
    aggregator = ReplayedAggregator(record)
    conviction = convict(found["evidence"], roster=aggregator.server._roster)
    assert conviction.party == "west"
    assert conviction.context == found["announcement_context"]


def test_a_quarter_of_all_vectors_is_bad():
    fields = ("S0", "S1", "S2", "R1", "R2_headers", "R2_complaints", "R3_agreements", "R4_replies")
    single = ("R0_invitation", "R0_announcement", "R3_request", "R4_request", "evidence", "receipt", "aggregate")
    good = 0
    for session in SESSIONS:
        record = read_session(session)
        for part in (record["setup"], *record["rounds"]):
            good += sum(len(part.get(field, ())) for field in fields) + sum(field in part for field in single)
    assert len(read_negative()) >= (good + len(read_negative())) / 4
