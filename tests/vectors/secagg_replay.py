"""Feeds published messages to the real state machines, from the first step to any step asked for.

Nothing here knows the seeds: private keys, drawn secrets and coefficients are read from the files. A client is stored
and restored before every step.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from insecure_stand_ins import Encapsulation, InsecureRecordedEntropy, insecure_stand_ins
from secagg_session import body_of

from privacy.secagg.client import SecAggClient
from privacy.secagg.client_state import ClientFloors
from privacy.secagg.identity import Identity
from privacy.secagg.roster import Roster, verify_roster
from privacy.secagg.server import SecAggServer
from privacy.secagg.server_round import SecAggRound

Record: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """One step of a client: the fields that it reads, and what it must return."""

    round_number: int
    step: str
    inputs: Record
    expected: Any


def roster_of(record: Record) -> Roster:
    """The roster, verified as a site would."""
    key = Ed25519PrivateKey.from_private_bytes(record["given"]["consortium_private_key"])
    anchor = key.public_key().public_bytes_raw()
    return verify_roster(record["setup"]["signed_roster"], anchor=anchor, now=1_900_000_000)


def client_calls(record: Record, name: str) -> Iterator[Call]:
    """Every step that a client takes; after its own forged R1 a corrupt one takes none."""
    setup = record["setup"]
    yield Call(0, "advertise_keys", {}, setup["S0"][name])
    yield Call(0, "encapsulate_keys", {"S0": setup["S0"]}, setup["S1"][name])
    yield Call(0, "confirm_keys", {"S1": setup["S1"]}, setup["S2"][name])
    yield Call(0, "accept_confirmations", {"S2": setup["S2"]}, None)
    for found in record["rounds"]:
        if name not in found["given"]["invited"]:
            continue
        number = found["number"]
        if name in found.get("guilty", ()):
            return
        yield Call(number, "share", {"R0_invitation": found["R0_invitation"]}, found["R1"][name])
        complaint = found.get("R2_complaints", {}).get(name)
        if complaint is None and name not in found["R2_headers"]:
            continue
        yield Call(number, "accept", {"R0_announcement": found["R0_announcement"], "R1": found["R1"]}, complaint)
        if complaint is not None:
            continue
        upload = (found["R2_headers"][name], found["masked_vectors"][name])
        yield Call(number, "mask", {"vector": found["given"]["vectors"][name]}, upload)
        if "R3_request" not in found:
            continue
        yield Call(number, "agree", {"R3_request": found["R3_request"]}, found["R3_agreements"][name])
        yield Call(number, "unmask", {"R4_request": found["R4_request"]}, found["R4_replies"][name])


class ReplayedClient:
    """A client that draws what the file says it drew."""

    def __init__(self, record: Record, name: str) -> None:
        given = record["given"]
        self._record, self._name = record, name
        self._roster = roster_of(record)
        self._identity = Identity.from_bytes(given["identity_private_keys"][name], name=name)
        self._drawn = InsecureRecordedEntropy(
            [
                given["exchange_private_keys"][name],
                given["encapsulation_seeds"][name],
                *self._dealt("self_seed", "wrap_key"),
            ]
        )
        self.client = SecAggClient.create(
            identity=self._identity,
            roster=self._roster,
            session=given["session"],
            floors=ClientFloors(**given["floors"]),
            entropy=self._drawn,
        )

    def restore(self) -> SecAggClient:
        """The client as a fresh process finds it."""
        self.client = SecAggClient.from_bytes(
            self.client.to_bytes(), identity=self._identity, roster=self._roster, entropy=self._drawn
        )
        return self.client

    def act(self, call: Call) -> Any:
        """Take one step on the restored state."""
        client, inputs = self.restore(), call.inputs
        with insecure_stand_ins(
            polynomials=InsecureRecordedEntropy(self._coefficients(call.round_number)),
            encapsulations=self._encapsulations(),
        ):
            match call.step:
                case "advertise_keys":
                    return client.advertise_keys()
                case "accept":
                    return client.accept(inputs["R0_announcement"], in_order(inputs["R1"]))
                case "mask":
                    header, masked = client.mask(np.array(inputs["vector"], dtype=np.uint32))
                    return header, masked.tolist()
                case "encapsulate_keys" | "confirm_keys" | "accept_confirmations" as setup:
                    [messages] = inputs.values()
                    return getattr(client, setup)(in_order(messages))
                case step:
                    [message] = inputs.values()
                    return getattr(client, step)(message)

    def _dealt(self, *fields: str) -> Iterator[bytes]:
        for found in self._record["rounds"]:
            if self._name in found["dealers"]:
                yield from (found["dealers"][self._name][field] for field in fields)

    def _coefficients(self, number: int) -> Iterator[bytes]:
        for found in self._record["rounds"]:
            if found["number"] == number:
                for secret in ("seed_coefficients", "wrap_coefficients"):
                    for half in ("first_half", "second_half"):
                        yield from found["dealers"][self._name][secret][half]

    def _encapsulations(self) -> dict[bytes, Encapsulation]:
        """By public key; the shared secret is what the recipient decapsulates."""
        result = {}
        setup = self._record["setup"]
        for peer, ciphertext in body_of(setup["S1"][self._name])["ciphertexts"].items():
            private = MLKEM768PrivateKey.from_seed_bytes(self._record["given"]["encapsulation_seeds"][peer])
            shared = private.decapsulate(ciphertext)
            result[private.public_key().public_bytes_raw()] = Encapsulation(ciphertext, shared)
        return result


class ReplayedAggregator:
    """The aggregator, which draws nothing."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self.server = SecAggServer(roster=roster_of(record), session=record["given"]["session"])
        self.round: SecAggRound | None = None

    def set_up(self, *, until: str = "") -> None:
        """S0 to S2, up to but without the step named."""
        for step, field in (
            ("collect_advertisements", "S0"),
            ("collect_encapsulations", "S1"),
            ("collect_confirmations", "S2"),
        ):
            if step == until:
                return
            getattr(self.server, step)(in_order(self._record["setup"][field]))

    def play(self, number: int, *, until: str = "", uploaded: tuple[str, ...] | None = None) -> SecAggRound:
        """One round from its invitation on, up to but without the step named; None means everybody uploads."""
        found = round_of(self._record, number)
        given = found["given"]
        self.round = round_ = self.server.invite(
            round_number=number, invited=given["invited"], threshold=given["threshold"]
        )
        assert round_.invitation == found["R0_invitation"]
        if until == "collect_shares":
            return round_
        round_.collect_shares(in_order(found["R1"]))
        announcement = round_.announce(
            model_hash=given["model_hash"],
            plan_hash=given["plan_hash"],
            policy_hash=given["policy_hash"],
            previous=given["previous"],
            vector_length=len(next(iter(given["vectors"].values()))),
        )
        assert announcement == found["R0_announcement"]
        for name, header in found["R2_headers"].items():
            if uploaded is None or name in uploaded:
                round_.add_upload(header, np.array(found["masked_vectors"][name], dtype=np.uint32))
        if until in ("add_upload", "add_complaint"):
            return round_
        for complaint in found.get("R2_complaints", {}).values():
            round_.add_complaint(complaint)
        if until == "request_agreement":
            return round_
        earlier = [
            item["evidence"] for item in self._record["rounds"] if "evidence" in item and item["number"] < number
        ]
        assert round_.request_agreement(earlier) == found["R3_request"]
        if until == "collect_agreements":
            return round_
        round_.collect_agreements(in_order(found["R3_agreements"]))
        assert round_.request_unmask() == found["R4_request"]
        return round_


def round_of(record: Record, number: int) -> Record:
    """The record of one round."""
    found: Record = next(item for item in record["rounds"] if item["number"] == number)
    return found


def in_order(messages: Mapping[str, bytes]) -> list[bytes]:
    """One step's messages, by name."""
    return [messages[name] for name in sorted(messages)]
