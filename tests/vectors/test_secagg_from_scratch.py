"""Every byte of the published sessions follows from docs/test-vectors.md, without our own code."""

import hmac

import pytest
import secagg_from_scratch as scratch
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from secagg_files import SESSIONS, read_json, read_session

ROUNDS = [(name, number) for name, numbers in SESSIONS.items() for number in numbers]
# Their R1 is not what the documented derivations give: that is what these rounds are about.
FORGED = {("three_clients", 2): "west", ("three_clients", 4): "west"}


def test_the_reimplementation_imports_nothing_of_ours():
    assert "privacy" not in vars(scratch)
    assert not any(getattr(item, "__module__", "").startswith("privacy") for item in vars(scratch).values())


def set_up(name):
    record = read_session(name)
    ciphertexts = {
        (pair["first"], pair["second"]): body(record["setup"]["S1"][pair["first"]], pair["second"])
        for pair in record["setup"]["pairs"]
    }
    return record, scratch.Setup(record["given"], ciphertexts)


def body(message, recipient):
    """The ciphertext for one recipient is the byte string of 1088 bytes after the recipient's name."""
    name = scratch.cbor(recipient) + bytes.fromhex("590440")
    start = message.index(name) + len(name)
    return message[start : start + 1088]


def play(name, number):
    record, setup = set_up(name)
    found = next(item for item in record["rounds"] if item["number"] == number)
    return found, scratch.Round(setup, number, found["given"], found["dealers"])


@pytest.mark.parametrize("name", SESSIONS)
def test_setup_follows_from_private_keys_and_ciphertexts(name):
    record, setup = set_up(name)
    expected = record["setup"]
    assert expected["signed_roster"] == setup.signed_roster
    assert expected["roster_digest"] == setup.roster_digest
    assert expected["session_context"] == setup.session_context
    for step in ("S0", "S1", "S2"):
        assert expected[step] == {sender: messages[step] for sender, messages in setup.messages.items()}
        assert expected[f"{step}_digests"] == {
            sender: scratch.signed_part_digest(message) for sender, message in expected[step].items()
        }
    for pair in expected["pairs"]:
        names = (pair["first"], pair["second"])
        assert pair["pair_key"] == setup.pair_keys[names]
        assert pair["chain_key_0"] == setup.chain_keys[names]
        assert pair["first_tag"] == setup.tag(*names)
        assert pair["second_tag"] == setup.tag(*reversed(names))


@pytest.mark.parametrize(("name", "number"), ROUNDS)
def test_requests_and_shares_follow_from_what_was_drawn(name, number):
    expected, round_ = play(name, number)
    assert expected["R0_invitation"] == round_.invitation
    assert expected["invitation_context"] == round_.shares_context
    assert expected["R0_announcement"] == round_.announcement
    assert expected["announcement_context"] == round_.context
    for pair in expected["pairs"]:
        names = (pair["first"], pair["second"])
        assert pair["chain_key"] == round_.chain_key(*names)
        assert pair["pair_secret"] == round_.secret(*names, "pair secret")
        assert pair["seal_secret"] == round_.secret(*names, "seal secret")
        assert pair["pair_commitment"] == round_.common_commitment(*names, "pair")
        assert pair["seal_commitment"] == round_.common_commitment(*names, "seal")
    forger = FORGED.get((name, number))
    honest = {dealer: message for dealer, message in expected["R1"].items() if dealer != forger}
    assert honest == {dealer: round_.dealt(dealer) for dealer in honest}
    if forger:
        assert expected["R1"][forger] != round_.dealt(forger)
    for dealer, drawn in expected["dealers"].items():
        assert drawn["own_seed_share"] == round_.share(dealer, dealer, "seed share")
    digests = {dealer: scratch.signed_part_digest(message) for dealer, message in expected["R1"].items()}
    assert expected["cohort_digest"] == scratch.digest_of_set("U1", round_.shares_context, digests)


@pytest.mark.parametrize(("name", "number"), ROUNDS)
def test_uploads_follow_from_vectors_and_secrets(name, number):
    expected, round_ = play(name, number)
    for sender, header in expected["R2_headers"].items():
        masked = round_.masked(sender, expected["given"]["vectors"][sender])
        assert expected["masked_vectors"][sender] == masked
        fields = {"root": scratch.root_of_one_leaf(masked), "length": len(masked)}
        assert header == round_.envelope(sender, "R2 masked input", round_.context, expected["cohort_digest"], fields)


@pytest.mark.parametrize(("name", "number"), [(name, number) for name, number in ROUNDS if number != 2])
def test_agreement_and_replies_follow_from_uploads(name, number):
    expected, round_ = play(name, number)
    digests = {sender: scratch.signed_part_digest(header) for sender, header in expected["R2_headers"].items()}
    survivors_digest = scratch.digest_of_set("U2", round_.context, digests)
    assert expected["survivors_digest"] == survivors_digest
    suite = {"suite": scratch.SUITE, "context": round_.context}
    headers = [expected["R2_headers"][sender] for sender in sorted(digests)]
    evidence = [read_session(name)["rounds"][2]["evidence"]] if number == 5 else []
    assert expected["R3_request"] == scratch.cbor(suite | {"headers": headers, "evidence": evidence})
    agreements = {
        sender: round_.envelope(
            sender, "R3 survivor agreement", round_.context, survivors_digest, {"survivors": sorted(digests)}
        )
        for sender in digests
    }
    assert expected["R3_agreements"] == agreements
    assert expected["R4_request"] == scratch.cbor(
        suite | {"agreements": [agreements[sender] for sender in sorted(agreements)][: expected["given"]["threshold"]]}
    )
    dropped = [dealer for dealer in round_.names if dealer not in digests]
    for sender, reply in expected["R4_replies"].items():
        fields = {
            "seed_shares": {dealer: round_.share(dealer, sender, "seed share") for dealer in digests},
            "wrap_shares": {dealer: round_.share(dealer, sender, "wrap share") for dealer in dropped},
        }
        assert reply == round_.envelope(sender, "R4 unmask reply", round_.context, survivors_digest, fields)
    assert expected["receipt"] == {
        "site": min(digests),
        "session": round_.setup.given["session"].hex(),
        "round_number": number,
        "context": round_.context.hex(),
        "model_hash": expected["given"]["model_hash"].hex(),
        "previous": expected["given"]["previous"].hex(),
        "header_digest": digests[min(digests)].hex(),
        "survivors": sorted(digests),
        "survivors_digest": survivors_digest.hex(),
    }


def test_evidence_is_announcement_shares_and_replies():
    expected, _ = play("three_clients", 4)
    replies = [expected["R4_replies"][sender] for sender in sorted(expected["R4_replies"])][
        : expected["given"]["threshold"]
    ]
    fields = {"suite": scratch.SUITE, "announcement": expected["R0_announcement"], "replies": replies}
    assert expected["evidence"] == scratch.cbor(fields | {"shares": expected["R1"]["west"]})
    assert expected["guilty"] == ["west"]


def test_a_complaint_reveals_the_seal_secret():
    expected, round_ = play("three_clients", 2)
    fields = {"dealer": "west", "seal_secret": round_.secret("north", "west", "seal secret")}
    assert expected["R2_complaints"] == {
        "north": round_.envelope("north", "R2 complaint", round_.context, expected["cohort_digest"], fields)
    }


@pytest.mark.parametrize(("name", "number"), [(name, number) for name, number in ROUNDS if number not in (2, 4)])
def test_the_aggregate_is_the_sum_of_the_survivors(name, number):
    expected, _ = play(name, number)
    vectors = [expected["given"]["vectors"][sender] for sender in expected["aggregate"]["survivors"]]
    total = [sum(words) % 2**32 for words in zip(*vectors, strict=True)]
    assert expected["aggregate"]["total"] == total
    assert expected["aggregate"]["little_endian_bytes"] == scratch.words_bytes(total)
    assert expected["aggregate"]["root"] == scratch.root_of_one_leaf(total)


def test_every_example_of_a_derivation_holds():
    found = read_json("derivations.json")
    for row in found["keys"]:
        assert scratch.expand(row["secret"], row["info"]) == row["result"], row["label"]
    for row in found["digests"]:
        assert scratch.sha256(row["message"]) == row["result"], row["what"]
    for row in found["tags"]:
        assert hmac.digest(row["key"], row["message"], "sha256") == row["result"]
    for row in found["encryptions"]:
        plaintext = AESGCM(row["key"]).decrypt(bytes(12), row["result"], row["associated_data"])
        assert plaintext == row.get("plaintext", plaintext)


def test_the_examples_are_those_of_the_session():
    """The digests computed beside the derivations stand in the session's file too."""
    record = read_session("three_clients")
    played = record["rounds"][0]
    by_name = {row["what"]: row["result"] for row in read_json("derivations.json")["digests"]}
    assert by_name["session context"] == record["setup"]["session_context"]
    assert by_name["invitation context"] == played["invitation_context"]
    assert by_name["announcement context"] == played["announcement_context"]
    assert by_name["cohort, signed in R2"] == played["cohort_digest"]
    assert by_name["survivors, signed in R3 and R4"] == played["survivors_digest"]
