"""Records between sites and aggregator: what was encoded comes back, and everything else is a BadMessage."""

import dataclasses

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from privacy import cbor
from secfed import messages
from secfed.messages import (
    REFUSAL_REASONS,
    BadMessage,
    Binding,
    Refusal,
    Reply,
    Request,
    Stage,
    decode_reply,
    decode_request,
    encode_refusal,
    encode_reply,
    encode_request,
)

LIMIT = 64
whole = st.integers(0, 2**64 - 1)
digests = st.binary(min_size=32, max_size=32)
bindings = st.builds(Binding, run=digests, session=digests, server_round=whole, sequence=whole)
stages = st.sampled_from(Stage)
names = st.text(max_size=40)
values = st.recursive(whole | st.binary(max_size=20) | names, lambda inner: st.lists(inner, max_size=3), max_leaves=5)


def vectors(dtype, elements):
    return st.none() | st.lists(elements, max_size=LIMIT).map(lambda found: np.array(found, dtype))


attachments = st.none() | st.binary(max_size=LIMIT)
requests = st.builds(
    Request,
    stage=stages,
    binding=bindings,
    fields=st.dictionaries(names, values, max_size=4),
    payloads=st.lists(st.binary(max_size=30), max_size=4).map(tuple),
    vector=vectors(np.float32, st.floats(width=32, allow_nan=False)),
    attachment=attachments,
)
replies = st.builds(
    Reply,
    stage=stages,
    binding=bindings,
    site=names,
    payloads=st.binary(max_size=30).map(lambda payload: (payload,)),
    vector=vectors(np.uint32, st.integers(0, 2**32 - 1)),
    attachment=attachments,
)
refusals = st.builds(Refusal, stage=stages, binding=bindings, site=names, reason=st.sampled_from(REFUSAL_REASONS))


def assert_same(found, expected):
    assert type(found) is type(expected)
    for field in dataclasses.fields(expected):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if field.name == "vector" and other is not None:
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        else:
            assert one == other


@given(requests)
def test_a_request_comes_back_as_it_was(request):
    assert_same(decode_request(encode_request(request), max_vector_length=LIMIT, max_attachment_bytes=LIMIT), request)


@given(replies)
def test_a_reply_comes_back_as_it_was(reply):
    assert_same(decode_reply(encode_reply(reply), max_vector_length=LIMIT, max_attachment_bytes=LIMIT), reply)


@given(refusals)
def test_a_refusal_comes_back_as_it_was(refusal):
    assert_same(decode_reply(encode_refusal(refusal), max_vector_length=LIMIT), refusal)


BINDING = Binding(run=bytes(32), session=bytes(32), server_round=1, sequence=2)
REPLY = Reply(stage=Stage.TRAIN, binding=BINDING, site="ct-a", payloads=(b"p",), vector=np.arange(5, dtype=np.uint32))
REQUEST = Request(stage=Stage.TRAIN, binding=BINDING, fields={"a": 1}, vector=np.zeros(5, np.float32))
REFUSAL = Refusal(stage=Stage.TRAIN, binding=BINDING, site="ct-a", reason="data")
HONEST = {
    "request": (encode_request, REQUEST, decode_request),
    "reply": (encode_reply, REPLY, decode_reply),
    "refusal": (encode_refusal, REFUSAL, decode_reply),
}


def header_of(records):
    return cbor.from_cbor(records["secfed"]["header"])


def with_header(records, header):
    records["secfed"]["header"] = cbor.to_cbor(header)
    return records


@pytest.mark.parametrize("kind", HONEST)
@given(data=st.data())
def test_a_header_with_any_field_missing_or_of_another_value_is_read_or_refused(kind, data):
    """Nothing but BadMessage is ever raised, and a field of another type is never accepted."""
    encode, message, decode = HONEST[kind]
    records = encode(message)
    header = header_of(records)
    name = data.draw(st.sampled_from(sorted(header)))
    if data.draw(st.booleans()):
        del header[name]
    else:
        header[name] = data.draw(values | st.dictionaries(names, values, max_size=2))
    same_type = name in header and type(header[name]) is type(header_of(encode(message))[name])
    try:
        decode(with_header(records, header), max_vector_length=LIMIT)
    except BadMessage:
        return
    assert same_type


@pytest.mark.parametrize("kind", HONEST)
def test_a_header_without_one_of_its_fields_is_refused(kind):
    encode, message, decode = HONEST[kind]
    for name in header_of(encode(message)):
        records = encode(message)
        header = header_of(records)
        del header[name]
        with pytest.raises(BadMessage):
            decode(with_header(records, header), max_vector_length=LIMIT)


@pytest.mark.parametrize("kind", HONEST)
def test_every_truncation_of_a_header_is_refused(kind):
    encode, message, decode = HONEST[kind]
    whole_header = encode(message)["secfed"]["header"]
    for length in range(len(whole_header)):
        records = encode(message)
        records["secfed"]["header"] = whole_header[:length]
        with pytest.raises(BadMessage):
            decode(records, max_vector_length=LIMIT)


@pytest.mark.parametrize("kind", HONEST)
@given(noise=st.binary(max_size=80))
def test_bytes_that_are_no_header_are_refused(kind, noise):
    encode, message, decode = HONEST[kind]
    records = encode(message)
    records["secfed"]["header"] = noise
    with pytest.raises(BadMessage):
        decode(records, max_vector_length=LIMIT)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": 0},
        {"kind": "greeting"},
        {"stage": "dance"},
        {"stage": []},
        {"stage": {}},
        {"run": bytes(31)},
        {"run": "r" * 32},
        {"session": bytes(33)},
        {"round": "1"},
        {"round": b"1"},
        {"sequence": [1]},
        {"site": 7},
        {"site": "s" * 257},
    ],
    ids=str,
)
def test_a_reply_s_header_with_a_wrong_value_is_refused(change):
    records = encode_reply(REPLY)
    with pytest.raises(BadMessage):
        decode_reply(with_header(records, {**header_of(records), **change}), max_vector_length=LIMIT)


def test_a_request_is_no_reply_and_a_reply_no_request():
    with pytest.raises(BadMessage):
        decode_reply(encode_request(REQUEST), max_vector_length=LIMIT)
    with pytest.raises(BadMessage):
        decode_request(encode_reply(REPLY), max_vector_length=LIMIT)


def test_a_refusal_may_only_give_a_public_reason():
    records = encode_refusal(REFUSAL)
    with pytest.raises(BadMessage, match="patient 7"):
        decode_reply(with_header(records, {**header_of(records), "reason": "patient 7"}), max_vector_length=LIMIT)


def record(array):
    return ArrayRecord({"vector": array})


def array(data=bytes(20), *, dtype="uint32", shape=(5,), stype="raw"):
    return Array(dtype=dtype, shape=shape, stype=stype, data=data)


@pytest.mark.parametrize(
    "vector",
    [
        record(array(dtype="float32")),
        record(array(dtype="float64")),
        record(array(dtype=">u4")),
        record(array(shape=(5, 1))),
        record(array(shape=())),
        record(array(shape=(-5,))),
        record(array(shape=(4,))),
        record(array(shape=(6,))),
        record(array(data=bytes(19))),
        record(array(stype="numpy.ndarray")),
        record(array(data=bytes(4 * (LIMIT + 1)), shape=(LIMIT + 1,))),
        ArrayRecord({"other": array()}),
        ArrayRecord({"vector": array(), "second": array()}),
        ArrayRecord(),
        MetricRecord({"vector": 1}),
        ConfigRecord({"vector": b""}),
    ],
)
def test_a_vector_of_another_type_shape_or_size_is_refused(vector):
    records = encode_reply(REPLY)
    records["vector"] = vector
    with pytest.raises(BadMessage, match="vector"):
        decode_reply(records, max_vector_length=LIMIT)


def bytes_array(data=bytes(20), *, dtype="uint8", shape=(20,), stype="raw"):
    return Array(dtype=dtype, shape=shape, stype=stype, data=data)


@pytest.mark.parametrize(
    "attachment",
    [
        ArrayRecord({"bytes": bytes_array(dtype="int8")}),
        ArrayRecord({"bytes": bytes_array(dtype="uint32", shape=(5,))}),
        ArrayRecord({"bytes": bytes_array(shape=(4, 5))}),
        ArrayRecord({"bytes": bytes_array(shape=())}),
        ArrayRecord({"bytes": bytes_array(shape=(-20,))}),
        ArrayRecord({"bytes": bytes_array(shape=(19,))}),
        ArrayRecord({"bytes": bytes_array(shape=(21,))}),
        ArrayRecord({"bytes": bytes_array(stype="numpy.ndarray")}),
        ArrayRecord({"bytes": bytes_array(bytes(LIMIT + 1), shape=(LIMIT + 1,))}),
        ArrayRecord({"vector": bytes_array()}),
        ArrayRecord({"bytes": bytes_array(), "second": bytes_array()}),
        ArrayRecord(),
        MetricRecord({"bytes": 1}),
        ConfigRecord({"bytes": b""}),
    ],
)
@pytest.mark.parametrize("kind", ["request", "reply"])
def test_an_attachment_of_another_type_shape_or_size_is_refused(kind, attachment):
    encode, message, decode = HONEST[kind]
    records = encode(message)
    records["attachment"] = attachment
    with pytest.raises(BadMessage, match="attachment"):
        decode(records, max_vector_length=LIMIT, max_attachment_bytes=LIMIT)


@pytest.mark.parametrize("kind", ["request", "reply"])
def test_an_attachment_is_read_only_where_one_is_expected(kind):
    encode, message, decode = HONEST[kind]
    records = encode(dataclasses.replace(message, attachment=b"12345"))
    assert decode(records, max_vector_length=LIMIT, max_attachment_bytes=5).attachment == b"12345"
    for limit in (0, 4):
        with pytest.raises(BadMessage, match=f"5 bytes is malformed or above the limit of {limit}"):
            decode(records, max_vector_length=LIMIT, max_attachment_bytes=limit)
    with pytest.raises(BadMessage, match="limit of 0"):
        decode(records, max_vector_length=LIMIT)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"header": "text"},
        {"header": [b"x"]},
        {"header": 3},
        {"payloads": b"x"},
        {"payloads": "x"},
        {"payloads": ["x"]},
        {"payloads": [1, 2]},
        {"payloads": [b""] * (messages.MAX_PAYLOADS + 1)},
        {"payloads": [b"1", b"2"]},
    ],
    ids=lambda config: str(config)[:40],
)
def test_a_record_with_parts_of_another_type_or_number_is_refused(config):
    header = encode_reply(REPLY)["secfed"]["header"]
    complete = {"header": header, "payloads": [b"p"], **config} if config else {}
    with pytest.raises(BadMessage):
        decode_reply(RecordDict({"secfed": ConfigRecord(complete)}), max_vector_length=LIMIT)


def test_parts_above_their_limits_are_refused_before_they_are_parsed(monkeypatch):
    monkeypatch.setattr(messages, "MAX_PAYLOAD_BYTES", 4)
    with pytest.raises(BadMessage, match="too long"):
        decode_reply(encode_reply(dataclasses.replace(REPLY, payloads=(b"12345",))), max_vector_length=LIMIT)
    monkeypatch.setattr(messages, "MAX_HEADER_BYTES", 20)
    with pytest.raises(BadMessage, match="header is missing or too long"):
        decode_reply(encode_reply(REPLY), max_vector_length=LIMIT)


def test_every_stage_has_a_message_type_of_its_own():
    types = [stage.message_type for stage in Stage]
    assert len(set(types)) == len(types)
    assert [found for found in types if not found.startswith("query.")] == ["train"]
