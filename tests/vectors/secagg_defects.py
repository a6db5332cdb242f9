"""Messages with one defect each, made from the honest ones of the published sessions.

A message that names a corrupt sender is signed with that sender's key, so that the defect, and not the signature, is
what gets it refused. Each entry says who receives it, at which step, and what must come of it:

- `refused`: the step raises, and the receiver's state is as before;
- `excluded`: the step goes on without the sender, which is named;
- `guilty`: a complaint that is judged against `party`.

A changed message is written as edits of the honest one, which keeps the file short and shows where the defect is.

`reason` is a part of our own error message; another implementation will word it differently.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from secagg_session import Record, SessionPlayer, body_of

from privacy.cbor import from_cbor, to_cbor
from privacy.secagg.envelope import digest_of_set

_GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493
_BLOCK = 32
_PARTS = ("suite", "kind", "context", "sender", "previous", "body")


def negative_vectors(three: SessionPlayer, four: SessionPlayer) -> list[Record]:
    """All of them, in the order of steps."""
    sessions = _Session(three), _Session(four)
    makers: tuple[Callable[[_Session, _Session], Iterator[Record]], ...] = (
        _envelopes,
        _setup,
        _invitations,
        _announcements,
        _shares,
        _uploads,
        _complaints,
        _agreement_requests,
        _agreements,
        _replies,
        _evidence,
    )
    by_name = {session.name: session for session in sessions}
    entries = [entry for maker in makers for entry in maker(*sessions)]
    return [_with_edits(entry, by_name[entry["session"]]) for entry in entries]


class _Session:
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
        parts: dict[str, Any] = dict(zip(_PARTS, from_cbor(_split(message)[0]), strict=True))  # type: ignore[arg-type]
        parts |= changes
        return self.sign(to_cbor([parts[name] for name in _PARTS]), signer or parts["sender"])

    def with_body(self, message: bytes, **changes: Any) -> bytes:
        """The message with other fields in its body, signed by its sender."""
        return self.forge(message, body={**body_of(message), **changes})


def _split(message: bytes) -> tuple[bytes, bytes]:
    match from_cbor(message):
        case [bytes(signed_part), bytes(signature)]:
            return signed_part, signature
    raise AssertionError("not a message")


def _altered(message: bytes, **changes: Any) -> bytes:
    """An unsigned message with other fields."""
    fields: Any = from_cbor(message)
    return to_cbor({**fields, **changes})


def _flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def _case(
    name: str,
    session: _Session,
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


def _with_edits(entry: Record, session: _Session) -> Record:
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


def _envelopes(three: _Session, _: _Session) -> Iterator[Record]:
    """What is wrong with any message, shown on an S2."""
    honest = three.setup["S2"]["west"]
    signed_part, signature = _split(honest)
    where = (0, "east", "accept_confirmations")

    def excluded(name: str, message: bytes, reason: str) -> Record:
        return _case(
            name, three, where, changed={"S2": {"west": message}}, party="west", outcome="excluded", reason=reason
        )

    def refused(name: str, message: bytes, reason: str) -> Record:
        return _case(name, three, where, changed={"S2": {"west": message}}, reason=reason)

    suite = from_cbor(signed_part)[0]  # type: ignore[index]
    yield excluded("wrong suite", three.forge(honest, suite=str(suite).replace("/2", "/1")), "expected 'S2")
    yield excluded("wrong kind of message", three.forge(honest, kind="S1 key encapsulation"), "expected 'S2")
    yield excluded("wrong session", three.forge(honest, context=bytes(32)), "another session, round or announcement")
    yield excluded("wrong signature", to_cbor([signed_part, _flipped(signature)]), "not by the key in the roster")
    yield excluded("signed by another member", three.forge(honest, signer="north"), "not by the key in the roster")
    scalar = int.from_bytes(signature[32:], "little") + _GROUP_ORDER
    malleable = signature[:32] + scalar.to_bytes(32, "little")
    yield excluded("signature with S + L", to_cbor([signed_part, malleable]), "not by the key in the roster")
    yield excluded("signature cut short", to_cbor([signed_part, signature[:63]]), "not by the key in the roster")
    yield excluded("previous of 31 bytes", three.forge(honest, previous=bytes(31)), "a digest has 32")
    yield excluded("wrong previous", three.forge(honest, previous=bytes(32)), "does not follow")
    yield excluded("body with one more field", three.with_body(honest, more=b""), "expected exactly the fields")
    yield excluded("body with a field of another type", three.with_body(honest, tags=[]), "wrong type")
    yield refused("unknown sender", three.forge(honest, sender="south", signer="west"), "is not in version 1")
    yield refused("truncated", honest[:-1], "the bytes end inside a value")
    yield refused("empty", b"", "the bytes end inside a value")
    yield refused("one byte more", honest + b"\x00", "1 bytes follow the end")
    yield refused("two messages in one", honest + honest, "bytes follow the end")
    yield refused("no signature", to_cbor([signed_part]), "array of signed part and signature")
    yield refused("length not in its shortest form", b"\x98\x02" + honest[1:], "shortest encoding")
    yield refused("array of indefinite length", b"\x9f" + honest[1:] + b"\xff", "indefinite")
    yield refused("tagged value", b"\xc0" + honest, "major type 6")
    yield refused("negative integer", b"\x20", "major type 1")
    yield refused("nested too deep", b"\x81" * 9 + b"\x00", "nested deeper")
    pair = sorted(body_of(honest)["tags"].items())
    rows = [to_cbor(name) + to_cbor(tag) for name, tag in pair]
    ordered, disordered = b"".join(rows), b"".join(reversed(rows))
    unsorted_map = three.sign(signed_part.replace(ordered, disordered), "west")
    yield refused("map keys in another order", unsorted_map, "not in bytewise order")
    repeated = three.sign(signed_part.replace(ordered, rows[0] + rows[0]), "west")
    yield refused("map key twice", repeated, "repeated")
    yield _case(
        "sender twice",
        three,
        where,
        extra={"S2": [honest]},
        party="west",
        reason="two messages of one step",
    )
    yield _case("own message missing", three, where, missing={"S2": ["east"]}, reason="own message is missing")
    other = three.with_body(three.setup["S2"]["east"], tags={})
    yield _case("own message changed", three, where, changed={"S2": {"east": other}}, reason="own message is missing")
    yield _case(
        "sender twice, at the aggregator",
        three,
        (0, "aggregator", "collect_confirmations"),
        extra={"S2": [honest]},
        party="west",
        outcome="excluded",
        reason="the first one counts",
    )
    yield _case(
        "member that was silent before",
        three,
        (0, "aggregator", "collect_confirmations"),
        extra={"S2": [three.forge(honest, sender="centre")]},
        party="centre",
        outcome="excluded",
        reason="does not follow",
    )


def _setup(three: _Session, _: _Session) -> Iterator[Record]:
    setup = three.setup

    def excluded(name: str, step: tuple[str, str], message: bytes, party: str, reason: str, **more: Any) -> Record:
        receiver = more.pop("receiver", "east")
        return _case(
            name,
            three,
            (0, receiver, step[1]),
            changed={step[0]: {party: message}},
            party=party,
            outcome="excluded",
            reason=reason,
        )

    s0, s1, s2 = ("S0", "encapsulate_keys"), ("S1", "confirm_keys"), ("S2", "accept_confirmations")
    keys = body_of(setup["S0"]["west"])
    low_order = three.with_body(setup["S0"]["west"], exchange_key=b"\x01" + bytes(31))
    yield excluded("X25519 key of low order", s0, low_order, "west", "low order")
    too_big = three.with_body(setup["S0"]["west"], encapsulation_key=b"\xff\xff" + keys["encapsulation_key"][2:])
    yield excluded("ML-KEM key with a coefficient of q or more", s0, too_big, "west", "ML-KEM-768 public key")
    short = three.with_body(setup["S0"]["west"], encapsulation_key=keys["encapsulation_key"][:-1])
    yield excluded("ML-KEM key cut short", s0, short, "west", "1183 bytes, expected 1184")
    ciphertexts = body_of(setup["S1"]["north"])["ciphertexts"]
    cut = three.with_body(setup["S1"]["north"], ciphertexts={"west": ciphertexts["west"][:-1]})
    yield excluded("ML-KEM ciphertext cut short", s1, cut, "north", "1087 bytes, expected 1088", receiver="west")
    none = three.with_body(setup["S1"]["north"], ciphertexts={})
    yield excluded("no ciphertext for the receiver", s1, none, "north", "encapsulated no key", receiver="west")
    yield excluded(
        "follows another S0", s1, three.forge(setup["S1"]["west"], previous=bytes(32)), "west", "does not follow"
    )
    tags = body_of(setup["S2"]["west"])["tags"]
    wrong = three.with_body(setup["S2"]["west"], tags={**tags, "east": _flipped(tags["east"])})
    yield excluded("wrong tag", s2, wrong, "west", "key confirmation failed")
    reflected = body_of(setup["S2"]["east"])["tags"]["west"]
    mirror = three.with_body(setup["S2"]["west"], tags={**tags, "east": reflected})
    yield excluded("the receiver's own tag", s2, mirror, "west", "key confirmation failed")


def _invitations(three: _Session, four: _Session) -> Iterator[Record]:
    def case(name: str, session: _Session, number: int, reason: str, /, *, error: str = "", **changes: Any) -> Record:
        raw = changes.pop("raw", None)
        message = raw or _altered(session.rounds[number]["R0_invitation"], **changes)
        return _case(
            f"invitation: {name}",
            session,
            (number, "east", "share"),
            changed={"R0_invitation": message},
            reason=reason,
            error=error or "HostileInputError",
        )

    honest = three.rounds[2]["R0_invitation"]
    yield case("wrong suite", three, 2, "is of suite", suite="secfed-secagg/1")
    yield case("wrong session", three, 2, "another session", session=bytes(16))
    yield case("session of 15 bytes", three, 2, "has no session", session=bytes(15))
    yield case("wrong roster", three, 2, "another roster", roster=bytes(32))
    yield case("a round that is past", three, 2, "only later rounds", round=1)
    yield case("round zero", three, 2, "out of range", round=0)
    yield case("more rounds skipped than a ratchet goes", three, 2, "may be skipped", round=5000)
    yield case("threshold zero", three, 2, "at least 1 is needed", threshold=0)
    yield case("threshold below the floor", four, 1, "this site accepts 3 to 4", threshold=2)
    yield case("threshold above the cohort", four, 1, "this site accepts 3 to 4", threshold=5)
    yield case("fewer clients than the floor", four, 1, "min_cohort = 3", invited=["east", "north"], threshold=2)
    yield case("receiver not invited", three, 2, "do not include 'east'", invited=["north", "west"])
    yield case("stranger invited", three, 2, "is not in version 1", invited=["east", "north", "south"])
    yield case("name twice", three, 2, "named twice", invited=["east", "north", "north"])
    yield case("names not sorted", three, 2, "not sorted", invited=["north", "east", "west"])
    yield case("name that no roster accepts", three, 2, "must be 1 to 31", invited=["East", "north"])
    yield case(
        "too few confirmed keys",
        three,
        2,
        "have confirmed keys",
        error="TooFewSurvivorsError",
        invited=["centre", "east"],
    )
    yield case("one byte more", three, 2, "bytes follow the end", raw=honest + b"\x00")
    yield case("truncated", three, 2, "end inside a value", raw=honest[:-1])
    yield case("one field more", three, 2, "expected exactly the fields", more=0)
    rows = sorted(from_cbor(honest).items(), key=lambda row: to_cbor(row[0]))  # type: ignore[union-attr]
    disordered = honest[:1] + b"".join(to_cbor(key) + to_cbor(value) for key, value in reversed(rows))
    yield case("map keys in another order", three, 2, "not in bytewise order", raw=disordered)


def _announcements(three: _Session, four: _Session) -> Iterator[Record]:
    honest = four.rounds[1]["R0_announcement"]

    def case(name: str, reason: str, **changes: Any) -> Record:
        return _case(
            f"announcement: {name}",
            four,
            (1, "east", "accept"),
            changed={"R0_announcement": _altered(honest, **changes)},
            reason=reason,
        )

    invitation = _altered(four.rounds[1]["R0_invitation"], threshold=4)
    yield case("wrong suite", "wrong type or version", suite="secfed-secagg/1")
    yield case("another invitation than was shared for", "not the one that this client shared", invitation=invitation)
    yield case("vector longer than the floor", "exceeds this site's limit", vector_length=2**28 + 1)
    yield case("no vector", "out of range", vector_length=0)
    yield case("model hash of 31 bytes", "31 bytes, expected 32", model=bytes(31))
    yield case("previous of 31 bytes", "31 bytes, expected 32", previous=bytes(31))
    other = three.rounds[1]["R0_announcement"]
    yield _case(
        "announcement: of another session",
        four,
        (1, "east", "accept"),
        changed={"R0_announcement": other},
        reason="not the one that this client shared",
    )


def _shares(three: _Session, four: _Session) -> Iterator[Record]:
    record = three.rounds[2]
    honest = record["R1"]["north"]
    where = (2, "east", "accept")

    def case(name: str, message: bytes, reason: str) -> Record:
        return _case(f"R1: {name}", three, where, changed={"R1": {"north": message}}, party="north", reason=reason)

    yield case("of another round", three.rounds[1]["R1"]["north"], "another session, round or announcement")
    yield case("wrong signature", _flipped(honest), "not by the key in the roster")
    yield case("follows another S2", three.forge(honest, previous=bytes(32)), "refers to another key confirmation")
    peers = body_of(honest)["peers"]
    row = peers["east"]
    yield case(
        "another pair secret",
        three.with_body(honest, peers={**peers, "east": [bytes(32), *row[1:]]}),
        "committed to another pair or seal secret",
    )
    yield case(
        "another seal secret",
        three.with_body(honest, peers={**peers, "east": [row[0], bytes(32), *row[2:]]}),
        "committed to another pair or seal secret",
    )
    yield case(
        "no shares for one of the cohort", three.with_body(honest, peers={"east": row}), "dealt no shares to ['west']"
    )
    yield case(
        "row of five",
        three.with_body(honest, peers={**peers, "east": row[:5]}),
        "wrong type",
    )
    yield _case(
        "R1: t - 1 of them",
        four,
        (1, "east", "accept"),
        missing={"R1": ["south", "west"]},
        error="TooFewSurvivorsError",
        reason="2 clients shared secrets, at least 3",
    )
    yield _case(
        "R1: sender twice", three, where, extra={"R1": [honest]}, party="north", reason="two messages of one step"
    )
    yield _case("R1: own message missing", three, where, missing={"R1": ["east"]}, reason="own message is missing")
    yield _case(
        "R1: of another round, at the aggregator",
        three,
        (2, "aggregator", "collect_shares"),
        changed={"R1": {"north": three.rounds[1]["R1"]["north"]}},
        outcome="excluded",
        party="north",
        reason="another session, round or announcement",
    )
    yield _case(
        "R1: another pair secret, at the aggregator",
        three,
        (2, "aggregator", "collect_shares"),
        changed={"R1": {"north": three.with_body(honest, peers={**peers, "west": [bytes(32), *peers["west"][1:]]})}},
        outcome="excluded",
        party="west",
        reason="has no common key with ['north']",
    )


def _uploads(three: _Session, four: _Session) -> Iterator[Record]:
    record = four.rounds[1]
    honest = record["R2_headers"]["west"]
    before = ("east", "north", "south")

    def case(name: str, reason: str, message: bytes = honest, **more: Any) -> Record:
        changed = {"R2_headers": {"west": message}, **more.pop("changed", {})}
        fields = {"party": "west", "uploaded": before, **more}
        return _case(f"upload: {name}", four, (1, "aggregator", "add_upload"), changed=changed, reason=reason, **fields)

    words = record["masked_vectors"]["west"]
    yield case("wrong root", "not the one that the header signs", four.with_body(honest, root=bytes(32)))
    yield case("wrong length in the header", "announced was", four.with_body(honest, length=6))
    yield case("wrong signature", "not by the key in the roster", _flipped(honest))
    yield case("shares of another cohort", "another set of clients", four.forge(honest, previous=bytes(32)))
    yield case(
        "header of another round",
        "another session, round or announcement",
        four.forge(honest, context=record["invitation_context"]),
    )
    changed_word = [int(words[0]) ^ 1, *(int(word) for word in words[1:])]
    yield case(
        "one word changed", "not the one that the header signs", changed={"masked_vectors": {"west": changed_word}}
    )
    yield case(
        "one word less", "announced was", changed={"masked_vectors": {"west": [int(word) for word in words[:4]]}}
    )
    yield case("second of one client", "second message of one step", uploaded=(*before, "west"))
    yield case("after the survivors were fixed", "arrived after the survivors were fixed", late=True)


def _complaints(three: _Session, _: _Session) -> Iterator[Record]:
    record = three.rounds[2]
    honest = record["R2_complaints"]["north"]
    secrets = {(pair["first"], pair["second"]): pair["seal_secret"] for pair in record["pairs"]}

    def case(name: str, message: bytes, reason: str, **more: Any) -> Record:
        return _case(
            f"complaint: {name}",
            three,
            (2, "aggregator", "add_complaint"),
            changed={"R2_complaints": {"north": message}},
            reason=reason,
            **{"party": "north", **more},
        )

    yield case("about itself", three.with_body(honest, dealer="north"), "who dealt it no shares")
    yield case("about a client outside the round", three.with_body(honest, dealer="centre"), "who dealt it no shares")
    yield case(
        "of a client that uploaded", three.forge(honest, sender="east"), "second", party="east", uploaded=("east",)
    )
    yield case("of another cohort", three.forge(honest, previous=bytes(32)), "another set of clients")
    yield case(
        "false: the shares are as committed",
        three.with_body(honest, dealer="east", seal_secret=secrets["east", "north"]),
        "whose shares are as committed",
        outcome="guilty",
    )
    yield case(
        "false: another seal secret",
        three.with_body(honest, seal_secret=bytes(32)),
        "another seal secret than it committed to",
        outcome="guilty",
    )
    yield case("true", honest, "does not open", outcome="guilty", party="west")


def _agreement_requests(three: _Session, four: _Session) -> Iterator[Record]:
    record = four.rounds[1]
    headers = record["R2_headers"]

    def case(name: str, reason: str, session: _Session = four, number: int = 1, **more: Any) -> Record:
        changes = more.pop("changes")
        return _case(
            f"agreement request: {name}",
            session,
            (number, "east", "agree"),
            changed={"R3_request": _altered(session.rounds[number]["R3_request"], **changes)},
            reason=reason,
            **more,
        )

    in_order = [headers[name] for name in sorted(headers)]
    yield case("wrong suite", "wrong type or version", changes={"suite": "secfed-secagg/1"})
    yield case("another announcement", "another round or announcement", changes={"context": bytes(32)})
    yield case(
        "t - 1 survivors",
        "2 clients uploaded, at least 3",
        error="TooFewSurvivorsError",
        changes={"headers": in_order[:2]},
    )
    yield case("receiver not among the survivors", "own message is missing", changes={"headers": in_order[1:]})
    yield case(
        "survivor twice", "two messages of one step", party="west", changes={"headers": [*in_order, in_order[3]]}
    )
    forged = four.forge(headers["west"], previous=bytes(32))
    yield case(
        "survivor that saw another cohort",
        "acted on other shares",
        party="west",
        changes={"headers": [*in_order[:3], forged]},
    )
    yield case(
        "header with a wrong signature",
        "not by the key in the roster",
        party="west",
        changes={"headers": [*in_order[:3], _flipped(in_order[3])]},
    )
    rerun = three.rounds[5]
    outsider = three.forge(rerun["R2_headers"]["north"], sender="west")
    names = [rerun["R2_headers"][name] for name in ("east", "north")]
    yield case(
        "survivor outside the cohort",
        "it shared no secrets",
        three,
        5,
        party="west",
        changes={"headers": [*names, outsider]},
    )
    yield case(
        "second sum over a model without evidence",
        "a sum over this model was opened before",
        three,
        5,
        changes={"evidence": []},
    )
    evidence: Any = from_cbor(three.rounds[4]["evidence"])
    forged = to_cbor({**evidence, "replies": evidence["replies"][:1]})
    yield case("evidence of t - 1 replies", "1 replies", three, 5, changes={"evidence": [forged]})
    yield case(
        "evidence with bytes after it",
        "bytes follow the end",
        three,
        5,
        changes={"evidence": [three.rounds[4]["evidence"] + b"\x00"]},
    )


def _agreements(three: _Session, four: _Session) -> Iterator[Record]:
    record = four.rounds[1]
    agreements = [record["R3_agreements"][name] for name in sorted(record["R3_agreements"])]

    def case(name: str, reason: str, *, session: _Session = four, **more: Any) -> Record:
        changes = more.pop("changes")
        return _case(
            f"unmask request: {name}",
            session,
            (1, "east", "unmask"),
            changed={"R4_request": _altered(session.rounds[1]["R4_request"], **changes)},
            reason=reason,
            **more,
        )

    west = record["R3_agreements"]["west"]
    fewer = digest_of_set(
        "U2",
        context=record["announcement_context"],
        digests={name: record["R2_header_digests"][name] for name in ("east", "north", "west")},
    )
    other = four.forge(west, previous=fewer, body={"survivors": ["east", "north", "west"]})
    yield case("wrong suite", "wrong type or version", changes={"suite": "secfed-secagg/1"})
    yield case("another announcement", "another round or announcement", changes={"context": bytes(32)})
    yield case(
        "t - 1 agreements",
        "2 survivors agreed",
        error="TooFewSurvivorsError",
        changes={"agreements": agreements[:2]},
    )
    yield case(
        "agreement on other survivors",
        "agreed to another survivor set",
        party="west",
        changes={"agreements": [*agreements[:3], other]},
    )
    yield case("agreement twice", "agrees twice", party="west", changes={"agreements": [*agreements[:3], west, west]})
    yield case(
        "agreement with a wrong signature",
        "not by the key in the roster",
        party="west",
        changes={"agreements": [*agreements[:3], _flipped(west)]},
    )
    dropped = three.forge(three.rounds[1]["R3_agreements"]["north"], sender="west")
    both = [three.rounds[1]["R3_agreements"][name] for name in ("east", "north")]
    yield case(
        "agreement of a client that dropped",
        "is no survivor",
        session=three,
        party="west",
        changes={"agreements": [*both, dropped]},
    )
    yield _case(
        "agreement on other survivors, at the aggregator",
        four,
        (1, "aggregator", "collect_agreements"),
        changed={"R3_agreements": {"west": other}},
        outcome="excluded",
        party="west",
        reason="another survivor set",
    )


def _replies(three: _Session, four: _Session) -> Iterator[Record]:
    def case(name: str, session: _Session, message: bytes, reason: str) -> Record:
        return _case(
            f"reply: {name}",
            session,
            (1, "aggregator", "finish"),
            changed={"R4_replies": {"east": message}},
            outcome="excluded" if session is four else "refused",
            error="TooFewSurvivorsError",
            party="east" if session is four else None,
            reason=reason,
        )

    honest = four.rounds[1]["R4_replies"]["east"]
    shares = body_of(honest)["seed_shares"]
    yield case(
        "both kinds of share for one client",
        four,
        four.with_body(honest, wrap_shares={"west": bytes(32)}),
        "both kinds of share",
    )
    yield case(
        "a share that was not dealt",
        four,
        four.with_body(honest, seed_shares={**shares, "west": _flipped(shares["west"])}),
        "that west did not deal",
    )
    less = {name: share for name, share in shares.items() if name != "west"}
    yield case("a share is missing", four, four.with_body(honest, seed_shares=less), "other clients than it was asked")
    yield case(
        "the other kind of share",
        four,
        four.with_body(honest, seed_shares=less, wrap_shares={"west": shares["west"]}),
        "other clients than it was asked",
    )
    yield case(
        "share of 31 bytes",
        four,
        four.with_body(honest, seed_shares={**shares, "west": bytes(31)}),
        "31 bytes, expected 32",
    )
    yield case("wrong signature", four, _flipped(honest), "not by the key in the roster")
    yield case("follows other uploads", four, four.forge(honest, previous=bytes(32)), "another survivor set")
    yield case(
        "t - 1 valid ones",
        three,
        _flipped(three.rounds[1]["R4_replies"]["east"]),
        "1 clients sent valid unmask replies",
    )


def _evidence(three: _Session, _: _Session) -> Iterator[Record]:
    convicted = three.rounds[4]
    honest: Any = from_cbor(convicted["evidence"])

    def case(name: str, reason: str, *, party: str | None = None, **changes: Any) -> Record:
        return _case(
            f"evidence: {name}",
            three,
            (4, "anybody", "convict"),
            changed={"evidence": to_cbor({**honest, **changes})},
            party=party,
            reason=reason,
        )

    yield case("against a client that did nothing wrong", "agree with each other", shares=convicted["R1"]["north"])
    yield case("t - 1 replies", "1 replies", replies=honest["replies"][:1])
    yield case("one reply twice", "1 replies", replies=[honest["replies"][0]] * 2)
    replies = convicted["R4_replies"]
    shares = body_of(replies["east"])["seed_shares"]
    lie = three.with_body(replies["east"], seed_shares={**shares, "west": bytes(32)})
    yield case(
        "a holder's share that was not dealt",
        "that west did not deal",
        party="east",
        replies=[lie, replies["north"]],
    )
    yield case(
        "shares of another round",
        "another session, round or announcement",
        party="west",
        shares=three.rounds[2]["R1"]["west"],
    )
    yield case("wrong suite", "wrong type or version", suite="secfed-secagg/1")
    invitation = _altered(convicted["R0_invitation"], roster=bytes(32))
    elsewhere = _altered(convicted["R0_announcement"], invitation=invitation)
    yield case("of another roster", "of another roster", announcement=elsewhere)
