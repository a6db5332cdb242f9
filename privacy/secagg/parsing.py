"""The checks that every parser of the protocol is made of: exact fields, exact sizes, valid names.

Run by every party on untrusted bytes; whatever is not exactly right raises HostileInputError.
"""

from privacy.cbor import Encodable
from privacy.errors import HostileInputError, MisuseError
from privacy.secagg.roster import require_name


def exactly(fields: Encodable, *names: str) -> list[Encodable]:
    """The values of a map that has exactly these keys, in this order."""
    if not isinstance(fields, dict) or set(fields) != set(names):
        raise HostileInputError(f"expected exactly the fields {sorted(names)}")
    return [fields[name] for name in names]


def sized(value: bytes, size: int) -> bytes:
    """The bytes, if there are exactly `size`."""
    if len(value) != size:
        raise HostileInputError(f"a field has {len(value)} bytes, expected {size}")
    return value


def parse_name(value: Encodable) -> str:
    """A name as rosters accept it."""
    if not isinstance(value, str):
        raise HostileInputError("a name is no text")
    try:
        return require_name(value)
    except MisuseError as error:
        raise HostileInputError(str(error)) from error


def sorted_names(items: list[Encodable], *, what: str) -> tuple[str, ...]:
    """Names in order, each once."""
    found = tuple(parse_name(item) for item in items)
    if list(found) != sorted(set(found)):
        raise HostileInputError(f"the {what} are not sorted, or one is named twice")
    return found


def bytes_by_name(value: Encodable, size: int) -> dict[str, bytes]:
    """A map from names to byte strings of one size."""
    if not isinstance(value, dict):
        raise wrong_type("a map by name")
    result = {}
    for name, item in value.items():
        if not isinstance(item, bytes):
            raise wrong_type("a map by name")
        result[parse_name(name)] = sized(item, size)
    return result


def byte_strings(items: list[Encodable], *, what: str) -> tuple[bytes, ...]:
    """A list of byte strings."""
    parsed = tuple(item for item in items if isinstance(item, bytes))
    if len(parsed) != len(items):
        raise wrong_type(what)
    return parsed


def wrong_type(what: str) -> HostileInputError:
    """The error for a field of another type or version."""
    return HostileInputError(f"{what}: a field has the wrong type or version")
