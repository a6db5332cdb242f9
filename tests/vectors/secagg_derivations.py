"""One example of every derivation, with the exact bytes that go into it: from round 1 of the session of three."""

import hashlib
from collections.abc import Mapping
from typing import Any

from secagg_session import Record, SessionPlayer, body_of

from privacy.cbor import to_cbor
from privacy.streams import SUITE


def derivations(three: SessionPlayer) -> Record:
    """Keys, digests and associated data between east and west; `result` is what the session's file says elsewhere."""
    record = three.record()
    setup, played = record["setup"], record["rounds"][0]
    pair = next(row for row in setup["pairs"] if (row["first"], row["second"]) == ("east", "west"))
    common = next(row for row in played["pairs"] if (row["first"], row["second"]) == ("east", "west"))
    dealer = played["dealers"]["east"]
    session, shares, context = setup["session_context"], played["invitation_context"], played["announcement_context"]
    of_round = {"session": record["given"]["session"], "round": 1}
    seal = {"kind": "seed share", "dealer": "east", "holder": "west", "shares": shares}
    wrap = {"owner": "east", "shares": shares}
    mask = {"round": context, "vector": 0}
    pair_context = {
        "session": session,
        "first": "east",
        "second": "west",
        "first_keys": pair["first_keys_digest"],
        "second_keys": pair["second_keys_digest"],
        "ciphertext": pair["ciphertext_digest"],
    }
    dealt = body_of(played["R1"]["east"])
    row = dealt["peers"]["west"]
    both = sorted(("east", "west"))
    share = body_of(played["R4_replies"]["east"])["seed_shares"]["east"]
    return {
        "keys": [
            _key("pair key", pair_context, pair["exchange_secret"] + pair["encapsulated_secret"], pair["pair_key"]),
            _key("confirmation", {"session": session}, pair["pair_key"], pair["confirmation_key"]),
            _key("chain", {"session": session}, pair["pair_key"], pair["chain_key_0"]),
            _key("ratchet", {"from_round": 0}, pair["chain_key_0"], common["chain_key"]),
            _key("pair secret", of_round, common["chain_key"], common["pair_secret"]),
            _key("seal secret", of_round, common["chain_key"], common["seal_secret"]),
            _key("share seal", seal, common["seal_secret"], dealer["seal_keys"]["west"]["seed_share"]),
            _key("wrap", wrap, dealer["wrap_key"], dealer["wrap_encryption_key"]),
            _key("self mask", mask, dealer["self_seed"], dealer["self_mask_key"]),
            _key("pair mask", mask, common["pair_secret"], common["pair_mask_key"]),
        ],
        "digests": [
            _digest("session context", ["session", record["given"]["session"], setup["roster_digest"]]),
            _digest("invitation context", ["shares", played["R0_invitation"]]),
            _digest("announcement context", ["round", played["R0_announcement"]]),
            _digest("cohort, signed in R2", ["U1", shares, played["R1_digests"]]),
            _digest("survivors, signed in R3 and R4", ["U2", context, played["R2_header_digests"]]),
            _commitment("self seed", [shares, "east", dealer["self_seed"]], dealt["seed_commitment"]),
            _commitment("wrap key", [shares, "east", dealer["wrap_key"]], dealt["wrap_commitment"]),
            _commitment("seed share", [shares, "east", "east", share], dealt["own_share_commitment"]),
            _commitment("pair", [shares, both, common["pair_secret"]], row[0]),
            _commitment("seal", [shares, both, common["seal_secret"]], row[1]),
        ],
        "tags": [
            {
                "what": "S2 tag from east to west, HMAC-SHA256",
                "key": pair["confirmation_key"],
                "message": to_cbor([SUITE, "confirmation", "east", "west", session]),
                "result": pair["first_tag"],
            }
        ],
        "encryptions": [
            {
                "what": "east's share of its self seed for west, AES-256-GCM with a nonce of 12 zero bytes",
                "key": dealer["seal_keys"]["west"]["seed_share"],
                "associated_data": to_cbor([SUITE, "share seal", seal]),
                "result": row[2],
            },
            {
                "what": "east's wrapped pair secrets, likewise",
                "key": dealer["wrap_encryption_key"],
                "associated_data": to_cbor([SUITE, "wrap", wrap]),
                "plaintext": to_cbor(
                    {
                        other["second"] if other["first"] == "east" else other["first"]: other["pair_secret"]
                        for other in played["pairs"]
                        if "east" in (other["first"], other["second"])
                    }
                ),
                "result": dealt["wrapped"],
            },
        ],
    }


def _key(label: str, context: Mapping[str, Any], secret: bytes, result: bytes) -> Record:
    return {"label": label, "secret": secret, "info": to_cbor([SUITE, label, context]), "result": result}


def _digest(what: str, parts: list[Any]) -> Record:
    message = to_cbor([SUITE, *parts])
    return {"what": what, "message": message, "result": hashlib.sha256(message).digest()}


def _commitment(kind: str, parts: list[Any], result: bytes) -> Record:
    return {"what": f"commitment: {kind}", "message": to_cbor([SUITE, "commitment", kind, *parts]), "result": result}
