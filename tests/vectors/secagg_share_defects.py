"""Defects up to R1: invitations, announcements, shares. Each function gives entries of negative.json."""

from collections.abc import Iterator
from typing import Any

from secagg_defects import PlayedSession, altered, defect, flipped
from secagg_session import Record, body_of

from privacy.cbor import from_cbor, to_cbor


def invitations(three: PlayedSession, four: PlayedSession) -> Iterator[Record]:
    def case(
        name: str, session: PlayedSession, number: int, reason: str, /, *, error: str = "", **changes: Any
    ) -> Record:
        raw = changes.pop("raw", None)
        message = raw or altered(session.rounds[number]["R0_invitation"], **changes)
        return defect(
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


def announcements(three: PlayedSession, four: PlayedSession) -> Iterator[Record]:
    honest = four.rounds[1]["R0_announcement"]

    def case(name: str, reason: str, **changes: Any) -> Record:
        return defect(
            f"announcement: {name}",
            four,
            (1, "east", "accept"),
            changed={"R0_announcement": altered(honest, **changes)},
            reason=reason,
        )

    invitation = altered(four.rounds[1]["R0_invitation"], threshold=4)
    yield case("wrong suite", "wrong type or version", suite="secfed-secagg/1")
    yield case("another invitation than was shared for", "not the one that this client shared", invitation=invitation)
    yield case("vector longer than the floor", "exceeds this site's limit", vector_length=2**28 + 1)
    yield case("no vector", "out of range", vector_length=0)
    yield case("model hash of 31 bytes", "31 bytes, expected 32", model=bytes(31))
    yield case("previous of 31 bytes", "31 bytes, expected 32", previous=bytes(31))
    other = three.rounds[1]["R0_announcement"]
    yield defect(
        "announcement: of another session",
        four,
        (1, "east", "accept"),
        changed={"R0_announcement": other},
        reason="not the one that this client shared",
    )


def shares(three: PlayedSession, four: PlayedSession) -> Iterator[Record]:
    record = three.rounds[2]
    honest = record["R1"]["north"]
    where = (2, "east", "accept")

    def case(name: str, message: bytes, reason: str) -> Record:
        return defect(f"R1: {name}", three, where, changed={"R1": {"north": message}}, party="north", reason=reason)

    yield case("of another round", three.rounds[1]["R1"]["north"], "another session, round or announcement")
    yield case("wrong signature", flipped(honest), "not by the key in the roster")
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
    yield defect(
        "R1: t - 1 of them",
        four,
        (1, "east", "accept"),
        missing={"R1": ["south", "west"]},
        error="TooFewSurvivorsError",
        reason="2 clients shared secrets, at least 3",
    )
    yield defect(
        "R1: sender twice", three, where, extra={"R1": [honest]}, party="north", reason="two messages of one step"
    )
    yield defect("R1: own message missing", three, where, missing={"R1": ["east"]}, reason="own message is missing")
    yield defect(
        "R1: of another round, at the aggregator",
        three,
        (2, "aggregator", "collect_shares"),
        changed={"R1": {"north": three.rounds[1]["R1"]["north"]}},
        outcome="excluded",
        party="north",
        reason="another session, round or announcement",
    )
    yield defect(
        "R1: another pair secret, at the aggregator",
        three,
        (2, "aggregator", "collect_shares"),
        changed={"R1": {"north": three.with_body(honest, peers={**peers, "west": [bytes(32), *peers["west"][1:]]})}},
        outcome="excluded",
        party="west",
        reason="has no common key with ['north']",
    )
