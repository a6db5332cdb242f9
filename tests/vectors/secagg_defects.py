"""How messages with one defect each are made from the honest ones of the published sessions.

A message that names a corrupt sender is signed with that sender's key, so that the defect, and not the signature, is
what gets it refused. Each entry says who receives it, at which step, and what must come of it:

- `refused`: the step raises, and the receiver's state is as before;
- `excluded`: the step goes on without the sender, which is named;
- `guilty`: a complaint that is judged against `party`.

A changed message is written as edits of the honest one, which keeps the file short and shows where the defect is.

`reason` is a part of our own error message; another implementation will word it differently.
"""

from collections.abc import Mapping
from typing import Any

from secagg_session import Record, SessionPlayer, body_of

from privacy.cbor import from_cbor, to_cbor

_BLOCK = 32
_PARTS = ("suite", "kind", "context", "sender", "previous", "body")


class PlayedSession:
    """A played session, and the means to sign what its members did not say."""

    def __init__(self, player: SessionPlayer) -> None:
        self.name = player.plan.name
        self.record = player.record()
        self.setup: Record = self.record["setup"]
        self.rounds = {found["number"]: found for found in self.record["rounds"]}
        self._identities = player.identities

    def sign(self, parts: bytes, signer: str) -> bytes:
        return to_cbor([parts, self._identities[signer].sign(parts)])

    def forge(self, message: bytes, *, signer: str | None = None, **changes: Any) -> bytes:
        """The message with other parts, signed by `signer` (default: by whom it names as sender)."""
        parts: dict[str, Any] = dict(zip(_PARTS, from_cbor(split_message(message)[0]), strict=True))  # type: ignore[arg-type]
        parts |= changes
        return self.sign(to_cbor([parts[name] for name in _PARTS]), signer or parts["sender"])

    def with_body(self, message: bytes, **changes: Any) -> bytes:
        """The message with other fields in its body, signed by its sender."""
        return self.forge(message, body={**body_of(message), **changes})


def split_message(message: bytes) -> tuple[bytes, bytes]:
    match from_cbor(message):
        case [bytes(signed_part), bytes(signature)]:
            return signed_part, signature
    raise AssertionError("not a message")


def altered(message: bytes, **changes: Any) -> bytes:
    """An unsigned message with other fields."""
    fields: Any = from_cbor(message)
    return to_cbor({**fields, **changes})


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def defect(
    name: str,
    session: PlayedSession,
    where: tuple[int, str, str],
    *,
    reason: str,
    changed: Mapping[str, Any] | None = None,
    extra: Mapping[str, list[bytes]] | None = None,
    missing: Mapping[str, list[str]] | None = None,
    party: str | None = None,
    outcome: str = "refused",
    error: str = "HostileInputError",
    uploaded: tuple[str, ...] = (),
    late: bool = False,
) -> Record:
    """`where` is the round (0 for the setup), the receiver and its step."""
    number, receiver, step = where
    entry: Record = {"name": name, "session": session.name, "round": number, "receiver": receiver, "step": step}
    for field, value in (("changed", changed), ("extra", extra), ("missing", missing)):
        if value:
            entry[field] = dict(value)
    if step in ("add_upload", "add_complaint"):
        entry |= {"uploaded_before": list(uploaded), "survivors_fixed": late}
    expected: Record = {"outcome": outcome}
    if outcome == "refused":
        expected["error"] = error
    return {**entry, "expected": {**expected, "party": party, "reason": reason}}


def with_edits(entry: Record, session: PlayedSession) -> Record:
    part = session.rounds[entry["round"]] if entry["round"] else session.setup

    def shortened(honest: Any, changed: Any) -> Any:
        if isinstance(changed, Mapping):
            return {name: shortened(honest[name], item) for name, item in changed.items()}
        return _edits(honest, changed) if isinstance(changed, bytes) else changed

    if "changed" not in entry:
        return entry
    changed = {field: shortened(part[field], value) for field, value in entry["changed"].items()}
    return {**entry, "changed": changed}


def _edits(old: bytes, new: bytes, offset: int = 0) -> list[Record]:
    """Splices that turn one into the other, in ascending order; blocks of 32 bytes that both have stay untouched."""
    if old == new:
        return []
    shorter = min(len(old), len(new))
    start = next((i for i in range(shorter) if old[i] != new[i]), shorter)
    same = next((i for i in range(shorter - start) if old[-1 - i] != new[-1 - i]), shorter - start)
    gone, come = old[start : len(old) - same], new[start : len(new) - same]
    for place in range(len(gone) - _BLOCK + 1):
        found = come.find(gone[place : place + _BLOCK])
        if found >= 0:
            before = _edits(gone[:place], come[:found], offset + start)
            after = _edits(gone[place + _BLOCK :], come[found + _BLOCK :], offset + start + place + _BLOCK)
            return before + after
    return [{"at": offset + start, "remove": len(gone), "insert": come}]
