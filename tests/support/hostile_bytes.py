"""Strategies that damage a message: its bytes anywhere, or its fields at any depth with the encoding kept right."""

from typing import Any

from hypothesis import strategies as st

from privacy.cbor import from_cbor, to_cbor

ODD_VALUES: tuple[Any, ...] = (
    0,
    1,
    2**32,
    2**64 - 1,
    b"",
    bytes(32),
    bytes(31),
    bytes(5000),
    "",
    "a",
    "zz",
    "Not A Name",
    "n" * 32,
    [],
    [b"", 0],
    ["a", "a"],
    [["a"]],
    {},
    {"a": b""},
    {"a": {"a": 1}},
)


@st.composite
def damaged(draw: st.DrawFn, message: bytes) -> bytes:
    """Other bytes than the message, made from it."""
    start = draw(st.integers(0, len(message) - 1))
    end = draw(st.integers(start + 1, min(len(message), start + 64)))
    piece = message[start:end]
    found = draw(
        st.sampled_from(
            [
                message[:start],
                message[:start] + bytes([message[start] ^ (1 << draw(st.integers(0, 7)))]) + message[start + 1 :],
                message[:start] + message[end:],
                message[:end] + piece + message[end:],
                message[:start] + draw(st.binary(min_size=1, max_size=16)) + message[end:],
                message + draw(st.binary(min_size=1, max_size=16)),
            ]
        )
    )
    return found if found != message else message + b"\0"


@st.composite
def with_other_fields(draw: st.DrawFn, value: Any) -> Any:
    """The decoded value with one place in it changed, dropped, added or repeated."""
    others = st.sampled_from(ODD_VALUES)
    if isinstance(value, dict) and value and draw(st.integers(0, 3)):
        name = draw(st.sampled_from(sorted(value)))
        others = _other_maps(value, name)
    elif isinstance(value, list) and value and draw(st.integers(0, 3)):
        others = _other_lists(value, draw(st.integers(0, len(value) - 1)))
    elif isinstance(value, bytes) and value and draw(st.booleans()):
        others = damaged(value)
    elif isinstance(value, int) and draw(st.booleans()):
        others = st.sampled_from([0, value + 1, 2 * value, 2**63])
    return draw(others)


def _other_maps(value: dict[str, Any], name: str) -> st.SearchStrategy[Any]:
    rest = {key: item for key, item in value.items() if key != name}
    renamed = st.sampled_from(["zz", "", "Not A Name"]).map(lambda other: {**rest, other: value[name]})
    deeper = with_other_fields(value[name]).map(lambda item: {**value, name: item})
    return deeper | renamed | st.sampled_from([rest, {**value, "extra": 1}])


def _other_lists(value: list[Any], where: int) -> st.SearchStrategy[Any]:
    before, after = value[:where], value[where + 1 :]
    deeper = with_other_fields(value[where]).map(lambda item: [*before, item, *after])
    return deeper | st.sampled_from([[*before, *after], [*value, value[where]], value[::-1]])


@st.composite
def hostile(draw: st.DrawFn, message: bytes) -> bytes:
    """Noise, the message with damaged bytes, or a well-formed encoding of damaged fields."""
    kind = draw(st.sampled_from(["bytes", "fields", "fields", "noise"]))
    if kind == "bytes":
        return draw(damaged(message))
    if kind == "fields":
        return to_cbor(draw(with_other_fields(from_cbor(message))))
    return draw(st.binary(max_size=100))
