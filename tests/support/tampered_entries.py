"""What tests of tampering do to the entries of a transcript, whatever its protection."""

import hashlib

from hypothesis import strategies as st

from privacy.cbor import from_cbor, to_cbor
from privacy.errors import HostileInputError


class Files(list):
    """Entries whose repr stays short in a report of Hypothesis."""

    def __repr__(self):
        return f"<{len(self)} entries>"


def resigned(message, key):
    """The same message under another key."""
    [signed_part, _] = from_cbor(message)
    return to_cbor([signed_part, key.sign(signed_part)])


def sealed(payload):
    """An entry's file whose checksum fits, so that a change reaches the parsers behind it."""
    encoded = to_cbor(payload)
    return to_cbor([encoded, hashlib.sha256(encoded).digest()])


@st.composite
def mutations(draw):
    """A path of choices through the decoded entry, and what to put there."""
    return draw(st.lists(st.integers(0, 2**16), min_size=1, max_size=10)), draw(
        st.one_of(
            st.integers(0, 2**64 - 1),
            st.binary(max_size=70),
            st.text(max_size=10),
            st.just([]),
            st.just({}),
            st.lists(st.binary(max_size=40), max_size=3),
            st.dictionaries(st.sampled_from(["a", "b", "z"]), st.binary(max_size=40), max_size=2),
        )
    )


def mutate(value, path, new):
    """Replace what lies at the path; byte strings that hold CBOR are opened on the way and closed again."""
    if not path:
        return new
    if isinstance(value, dict) and value:
        key = sorted(value)[path[0] % len(value)]
        return {**value, key: mutate(value[key], path[1:], new)}
    if isinstance(value, list) and value:
        index = path[0] % len(value)
        return [*value[:index], mutate(value[index], path[1:], new), *value[index + 1 :]]
    if isinstance(value, bytes):
        try:
            inner = from_cbor(value)
        except HostileInputError:
            return new
        return to_cbor(mutate(inner, path, new)) if isinstance(inner, list | dict) else new
    return new
