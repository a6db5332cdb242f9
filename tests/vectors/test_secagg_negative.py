"""Every published message with a defect is refused by the real state machines, which stay as they were."""

import copy

import numpy as np
import pytest
from secagg_files import read_negative, read_session
from secagg_replay import ReplayedAggregator, ReplayedClient, client_calls, in_order, roster_of, round_of

from privacy import errors
from privacy.secagg.blame import convict

ENTRIES = {entry["name"]: entry for entry in read_negative()}
OF_CLIENTS = [name for name, entry in ENTRIES.items() if entry["receiver"] not in ("aggregator", "anybody")]
OF_SETUP = [
    name
    for name, entry in ENTRIES.items()
    if entry["receiver"] == "aggregator" and entry["step"] == "collect_confirmations"
]
OF_ROUNDS = [
    name
    for name, entry in ENTRIES.items()
    if entry["receiver"] == "aggregator" and entry["step"] != "collect_confirmations"
]
OF_EVIDENCE = [name for name, entry in ENTRIES.items() if entry["receiver"] == "anybody"]


def defective(entry, inputs):
    """The honest inputs of a step with the entry's changes."""
    changed = copy.deepcopy(inputs)
    for field, value in entry.get("changed", {}).items():
        changed[field] = {**inputs[field], **value} if isinstance(value, dict) else value
    for field, names in entry.get("missing", {}).items():
        changed[field] = {name: message for name, message in changed[field].items() if name not in names}
    for field, messages in entry.get("extra", {}).items():
        # Names beyond the last one sort behind all others.
        extra = {f"~{place}": message for place, message in enumerate(messages)}
        changed[field] = {**changed[field], **extra}
    return changed


def expect_refusal(entry, act):
    expected = entry["expected"]
    with pytest.raises(getattr(errors, expected["error"])) as caught:
        act()
    assert type(caught.value).__name__ == expected["error"]
    assert caught.value.party == expected["party"]
    assert expected["reason"] in str(caught.value)


def test_names_are_unique():
    assert len(ENTRIES) == len(read_negative())


@pytest.mark.parametrize("name", OF_CLIENTS)
def test_a_client_refuses(name):
    entry = ENTRIES[name]
    expected, record = entry["expected"], read_session(entry["session"])
    replayed = ReplayedClient(record, entry["receiver"])
    for call in client_calls(record, entry["receiver"]):
        if (call.round_number, call.step) == (entry["round"], entry["step"]):
            break
        replayed.act(call)
    else:
        pytest.fail(f"{entry['receiver']} takes no step {entry['step']} in round {entry['round']}")
    bad = call.__class__(call.round_number, call.step, defective(entry, call.inputs), None)
    assert bad.inputs != call.inputs
    before = replayed.client.to_bytes()
    if expected["outcome"] == "refused":
        expect_refusal(entry, lambda: replayed.act(bad))
        assert replayed.client.to_bytes() == before
        # Nothing was used up: the honest message is accepted afterwards.
        assert replayed.act(call) == call.expected
    else:
        replayed.act(bad)
        assert expected["reason"] in replayed.client.excluded[expected["party"]]
        assert expected["party"] not in replayed.client._state.setup_digests
        assert list(replayed.client.excluded) == [expected["party"]]


@pytest.mark.parametrize("name", OF_SETUP)
def test_the_aggregator_excludes_from_the_session(name):
    entry = ENTRIES[name]
    expected, record = entry["expected"], read_session(entry["session"])
    aggregator = ReplayedAggregator(record)
    aggregator.set_up(until=entry["step"])
    relayed = aggregator.server.collect_confirmations(in_order(defective(entry, {"S2": record["setup"]["S2"]})["S2"]))
    assert relayed == tuple(in_order(record["setup"]["S2"]))
    assert expected["reason"] in aggregator.server.excluded[expected["party"]]


def snapshot(round_):
    return (round_.messages, round_.uploaded, round_._total.tolist(), dict(round_.excluded), dict(round_.guilty))


@pytest.mark.parametrize("name", OF_ROUNDS)
def test_the_aggregator_refuses(name):
    entry = ENTRIES[name]
    expected, record = entry["expected"], read_session(entry["session"])
    found = round_of(record, entry["round"])
    aggregator = ReplayedAggregator(record)
    aggregator.set_up()
    uploaded = tuple(entry["uploaded_before"]) if "uploaded_before" in entry else None
    round_ = aggregator.play(entry["round"], until=entry["step"], uploaded=uploaded)
    if entry.get("survivors_fixed"):
        round_.request_agreement()
    before = snapshot(round_)
    match entry["step"]:
        case "add_upload":
            inputs = defective(entry, {key: found[key] for key in ("R2_headers", "masked_vectors")})
            masked = np.array(inputs["masked_vectors"]["west"], dtype=np.uint32)
            expect_refusal(entry, lambda: round_.add_upload(inputs["R2_headers"]["west"], masked))
            assert snapshot(round_) == before
        case "add_complaint":
            [complaint] = entry["changed"]["R2_complaints"].values()
            if expected["outcome"] == "guilty":
                assert round_.add_complaint(complaint) == expected["party"]
                assert expected["reason"] in round_.guilty[expected["party"]]
            else:
                expect_refusal(entry, lambda: round_.add_complaint(complaint))
                assert snapshot(round_) == before
        case "collect_shares":
            round_.collect_shares(in_order(defective(entry, {"R1": found["R1"]})["R1"]))
            assert expected["reason"] in round_.excluded[expected["party"]]
            assert round_.cohort == tuple(sorted(set(found["R1"]) - {expected["party"]}))
        case "collect_agreements":
            inputs = defective(entry, {"R3_agreements": found["R3_agreements"]})
            round_.collect_agreements(in_order(inputs["R3_agreements"]))
            assert expected["reason"] in round_.excluded[expected["party"]]
            assert round_.agreed == tuple(sorted(set(found["R3_agreements"]) - {expected["party"]}))
        case "finish":
            replies = in_order(defective(entry, {"R4_replies": found["R4_replies"]})["R4_replies"])
            if expected["outcome"] == "refused":
                expect_refusal(entry, lambda: round_.finish(replies))
                # The masked sum is untouched, and good replies still open it.
                assert round_._total.tolist() == before[2]
                replies = in_order(found["R4_replies"])
            result = round_.finish(replies)
            assert result.total.tolist() == found["aggregate"]["total"]
            if expected["party"]:
                assert expected["reason"] in result.excluded[expected["party"]]
        case step:
            pytest.fail(f"no such step: {step}")


@pytest.mark.parametrize("name", OF_EVIDENCE)
def test_evidence_that_proves_nothing_convicts_nobody(name):
    entry = ENTRIES[name]
    expect_refusal(
        entry, lambda: convict(entry["changed"]["evidence"], roster=roster_of(read_session(entry["session"])))
    )
