"""Frozen dataclasses as the fields of a site's own file, and back: what client and member states are stored with.

Run by sites. A field is a number, bytes, text, a Literal, a tuple of texts, a map from text, another such dataclass, or
one of these or None. The bytes are the site's own, so damage is MisuseError; the encoding is `privacy.cbor`.

It does not protect the file: whoever stores a state that holds secrets keeps it private.
"""

import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal

from privacy.cbor import Encodable
from privacy.errors import MisuseError


def record_fields(record: Any) -> Encodable:
    """The fields as they are encoded; None becomes the empty list, for which there is no other use here."""
    if record is None:
        return []
    if is_dataclass(record):
        return {item.name: record_fields(getattr(record, item.name)) for item in fields(record)}
    return typing.cast(Encodable, record)


def restore_record(record_type: Any, found: Any) -> Any:
    """A record of that type from decoded fields; every field must be there and of its declared type.

    Raises:
        MisuseError: the fields are of another version, or damaged.
    """
    hints = typing.get_type_hints(record_type)
    if not isinstance(found, dict) or set(found) != set(hints):
        raise MisuseError(f"the stored {record_type.__name__} has other fields than this version")
    return record_type(**{name: _value(hint, found[name], name=name) for name, hint in hints.items()})


def _value(hint: Any, found: Any, *, name: str) -> Any:
    origin = typing.get_origin(hint)
    if origin is types.UnionType:
        return None if found == [] else _value(typing.get_args(hint)[0], found, name=name)
    if is_dataclass(hint):
        return restore_record(hint, found)
    if origin is tuple:
        if isinstance(found, list) and all(isinstance(item, str) for item in found):
            return tuple(found)
        accepted = False
    elif origin is Literal:
        accepted = found in typing.get_args(hint)
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        accepted = isinstance(found, dict) and all(
            isinstance(item, typing.get_args(hint)[1]) for item in found.values()
        )
    else:
        accepted = isinstance(found, hint)
    if not accepted:
        raise MisuseError(f"the stored field '{name}' has the wrong type")
    return found
