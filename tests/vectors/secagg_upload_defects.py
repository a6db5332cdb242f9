"""Defects from R2 on: uploads, complaints, agreement, replies, evidence. Functions give entries of negative.json."""

from collections.abc import Iterator
from typing import Any

from secagg_defects import PlayedSession, altered, defect, flipped
from secagg_session import Record, body_of

from privacy.cbor import from_cbor, to_cbor
from privacy.secagg.envelope import digest_of_set


def uploads(three: PlayedSession, four: PlayedSession) -> Iterator[Record]:
    record = four.rounds[1]
    honest = record["R2_headers"]["west"]
    before = ("east", "north", "south")

    def case(name: str, reason: str, message: bytes = honest, **more: Any) -> Record:
        changed = {"R2_headers": {"west": message}, **more.pop("changed", {})}
        fields = {"party": "west", "uploaded": before, **more}
        return defect(
            f"upload: {name}", four, (1, "aggregator", "add_upload"), changed=changed, reason=reason, **fields
        )

    words = record["masked_vectors"]["west"]
    yield case("wrong root", "not the one that the header signs", four.with_body(honest, root=bytes(32)))
    yield case("wrong length in the header", "announced was", four.with_body(honest, length=6))
    yield case("wrong signature", "not by the key in the roster", flipped(honest))
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


def complaints(three: PlayedSession, _: PlayedSession) -> Iterator[Record]:
    record = three.rounds[2]
    honest = record["R2_complaints"]["north"]
    secrets = {(pair["first"], pair["second"]): pair["seal_secret"] for pair in record["pairs"]}

    def case(name: str, message: bytes, reason: str, **more: Any) -> Record:
        return defect(
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


def agreement_requests(three: PlayedSession, four: PlayedSession) -> Iterator[Record]:
    record = four.rounds[1]
    headers = record["R2_headers"]

    def case(name: str, reason: str, session: PlayedSession = four, number: int = 1, **more: Any) -> Record:
        changes = more.pop("changes")
        return defect(
            f"agreement request: {name}",
            session,
            (number, "east", "agree"),
            changed={"R3_request": altered(session.rounds[number]["R3_request"], **changes)},
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
        changes={"headers": [*in_order[:3], flipped(in_order[3])]},
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
        error="OpenedBeforeError",
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


def agreements(three: PlayedSession, four: PlayedSession) -> Iterator[Record]:
    record = four.rounds[1]
    agreements = [record["R3_agreements"][name] for name in sorted(record["R3_agreements"])]

    def case(name: str, reason: str, *, session: PlayedSession = four, **more: Any) -> Record:
        changes = more.pop("changes")
        return defect(
            f"unmask request: {name}",
            session,
            (1, "east", "unmask"),
            changed={"R4_request": altered(session.rounds[1]["R4_request"], **changes)},
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
        changes={"agreements": [*agreements[:3], flipped(west)]},
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
    yield defect(
        "agreement on other survivors, at the aggregator",
        four,
        (1, "aggregator", "collect_agreements"),
        changed={"R3_agreements": {"west": other}},
        outcome="excluded",
        party="west",
        reason="another survivor set",
    )


def replies(three: PlayedSession, four: PlayedSession) -> Iterator[Record]:
    def case(name: str, session: PlayedSession, message: bytes, reason: str) -> Record:
        return defect(
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
        four.with_body(honest, seed_shares={**shares, "west": flipped(shares["west"])}),
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
    yield case("wrong signature", four, flipped(honest), "not by the key in the roster")
    yield case("follows other uploads", four, four.forge(honest, previous=bytes(32)), "another survivor set")
    yield case(
        "t - 1 valid ones",
        three,
        flipped(three.rounds[1]["R4_replies"]["east"]),
        "1 clients sent valid unmask replies",
    )


def evidence(three: PlayedSession, _: PlayedSession) -> Iterator[Record]:
    convicted = three.rounds[4]
    honest: Any = from_cbor(convicted["evidence"])

    def case(name: str, reason: str, *, party: str | None = None, **changes: Any) -> Record:
        return defect(
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
    invitation = altered(convicted["R0_invitation"], roster=bytes(32))
    elsewhere = altered(convicted["R0_announcement"], invitation=invitation)
    yield case("of another roster", "of another roster", announcement=elsewhere)
