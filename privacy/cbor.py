"""Deterministic CBOR (RFC 8949, section 4.2.1) of a small closed set of types: what gets hashed, signed and parsed.

Run by every party. The set is: unsigned integers below 2^64, byte strings, text, arrays, and maps with text keys. Each
value has exactly one encoding, so equal bytes and equal meaning are the same thing.

Encoding uses cbor2. Decoding does not: cbor2 also builds dates, regular expressions and shared references from tags,
and everything here is parsed before its signature can be checked. The decoder below knows the closed set only and
refuses every other encoding of it (longer lengths, unsorted or repeated keys, trailing bytes).
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import cbor2

from privacy.errors import HostileInputError, MisuseError

Encodable: TypeAlias = "int | bytes | str | Sequence[Encodable] | Mapping[str, Encodable]"

MAX_MESSAGE_BYTES = 4 * 2**20
"""No message of the protocol is longer: 256 parties need about 3 MB for the longest one, evidence against a dealer."""

_MAX_DEPTH = 8
_UNSIGNED, _BYTES, _TEXT, _ARRAY, _MAP = 0, 2, 3, 4, 5


def to_cbor(value: Encodable) -> bytes:
    """The one encoding of a value.

    Raises:
        MisuseError: a type or an integer lies outside the closed set.
    """
    _require_encodable(value)
    return cbor2.dumps(value, canonical=True)


def from_cbor(data: bytes, *, max_bytes: int = MAX_MESSAGE_BYTES) -> Encodable:
    """Parse untrusted bytes; arrays come back as lists, maps as dicts.

    Raises:
        HostileInputError: too long, not in the closed set, or not the one encoding of its value.
    """
    if not isinstance(data, bytes):
        raise HostileInputError(f"expected bytes, got {type(data).__name__}")
    if len(data) > max_bytes:
        raise HostileInputError(f"{len(data)} bytes are more than the {max_bytes} accepted")
    reader = _Reader(data)
    value = reader.value(depth=0)
    if reader.position != len(data):
        raise HostileInputError(f"{len(data) - reader.position} bytes follow the end of the value")
    return value


def _require_encodable(value: object) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if type(key) is not str:
                raise MisuseError(f"a map key has type {type(key).__name__}, only str is accepted")
            _require_encodable(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _require_encodable(inner)
    elif type(value) is int:
        if not 0 <= value < 2**64:
            raise MisuseError(f"integer {value} must lie in [0, 2^64)")
    elif type(value) not in (bytes, str):
        raise MisuseError(f"type {type(value).__name__} is not accepted: use int, bytes, str, list, tuple or a mapping")


class _Reader:
    """A position in untrusted bytes; every read is checked against the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def value(self, *, depth: int) -> Encodable:
        if depth > _MAX_DEPTH:
            raise HostileInputError(f"nested deeper than {_MAX_DEPTH} levels")
        major, argument = self._head()
        if major == _UNSIGNED:
            return argument
        if major == _BYTES:
            return self._take(argument)
        if major == _TEXT:
            return self._text(argument)
        if major == _ARRAY:
            self._require_room(argument)
            return [self.value(depth=depth + 1) for _ in range(argument)]
        if major == _MAP:
            return self._map(argument, depth=depth)
        raise HostileInputError(f"CBOR major type {major} is not accepted")

    def _map(self, length: int, *, depth: int) -> dict[str, Encodable]:
        self._require_room(2 * length)
        result: dict[str, Encodable] = {}
        last = b""
        for _ in range(length):
            start = self.position
            major, argument = self._head()
            if major != _TEXT:
                raise HostileInputError("a map key is no text")
            key = self._text(argument)
            encoded = self._data[start : self.position]
            if encoded <= last:
                raise HostileInputError("map keys are repeated or not in bytewise order")
            last = encoded
            result[key] = self.value(depth=depth + 1)
        return result

    def _head(self) -> tuple[int, int]:
        first = self._take(1)[0]
        major, short = first >> 5, first & 0x1F
        if short < 24:
            return major, short
        if short > 27:
            raise HostileInputError("indefinite or reserved CBOR lengths are not accepted")
        size = 1 << (short - 24)
        argument = int.from_bytes(self._take(size), "big")
        shortest = 24 if size == 1 else 1 << (4 * size)
        if argument < shortest:
            raise HostileInputError(f"{argument} is not in its shortest encoding")
        return major, argument

    def _text(self, length: int) -> str:
        try:
            return self._take(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise HostileInputError("text is not UTF-8") from error

    def _take(self, count: int) -> bytes:
        self._require_room(count)
        self.position += count
        return self._data[self.position - count : self.position]

    def _require_room(self, count: int) -> None:
        if count > len(self._data) - self.position:
            raise HostileInputError("the bytes end inside a value")
