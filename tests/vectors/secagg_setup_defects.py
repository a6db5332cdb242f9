"""Defects of any message, shown on an S2, and defects of the setup. Each function gives entries of negative.json."""

from collections.abc import Iterator
from typing import Any

from secagg_defects import PlayedSession, defect, flipped, split_message
from secagg_session import Record, body_of

from privacy.cbor import from_cbor, to_cbor

_GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493


def envelopes(three: PlayedSession, _: PlayedSession) -> Iterator[Record]:
    """What is wrong with any message, shown on an S2."""
    honest = three.setup["S2"]["west"]
    signed_part, signature = split_message(honest)
    where = (0, "east", "accept_confirmations")

    def excluded(name: str, message: bytes, reason: str) -> Record:
        return defect(
            name, three, where, changed={"S2": {"west": message}}, party="west", outcome="excluded", reason=reason
        )

    def refused(name: str, message: bytes, reason: str) -> Record:
        return defect(name, three, where, changed={"S2": {"west": message}}, reason=reason)

    suite = from_cbor(signed_part)[0]  # type: ignore[index]
    yield excluded("wrong suite", three.forge(honest, suite=str(suite).replace("/2", "/1")), "expected 'S2")
    yield excluded("wrong kind of message", three.forge(honest, kind="S1 key encapsulation"), "expected 'S2")
    yield excluded("wrong session", three.forge(honest, context=bytes(32)), "another session, round or announcement")
    yield excluded("wrong signature", to_cbor([signed_part, flipped(signature)]), "not by the key in the roster")
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
    yield defect(
        "sender twice",
        three,
        where,
        extra={"S2": [honest]},
        party="west",
        reason="two messages of one step",
    )
    yield defect("own message missing", three, where, missing={"S2": ["east"]}, reason="own message is missing")
    other = three.with_body(three.setup["S2"]["east"], tags={})
    yield defect("own message changed", three, where, changed={"S2": {"east": other}}, reason="own message is missing")
    yield defect(
        "sender twice, at the aggregator",
        three,
        (0, "aggregator", "collect_confirmations"),
        extra={"S2": [honest]},
        party="west",
        outcome="excluded",
        reason="the first one counts",
    )
    yield defect(
        "member that was silent before",
        three,
        (0, "aggregator", "collect_confirmations"),
        extra={"S2": [three.forge(honest, sender="centre")]},
        party="centre",
        outcome="excluded",
        reason="does not follow",
    )


def setup(three: PlayedSession, _: PlayedSession) -> Iterator[Record]:
    setup = three.setup

    def excluded(name: str, step: tuple[str, str], message: bytes, party: str, reason: str, **more: Any) -> Record:
        receiver = more.pop("receiver", "east")
        return defect(
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
    wrong = three.with_body(setup["S2"]["west"], tags={**tags, "east": flipped(tags["east"])})
    yield excluded("wrong tag", s2, wrong, "west", "key confirmation failed")
    reflected = body_of(setup["S2"]["east"])["tags"]["west"]
    mirror = three.with_body(setup["S2"]["west"], tags={**tags, "east": reflected})
    yield excluded("the receiver's own tag", s2, mirror, "west", "key confirmation failed")
