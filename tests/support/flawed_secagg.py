"""Deliberately flawed implementations: the real one with one defence taken out each.

A `Flaw` is a target (privacy parties made differently) and a list of functions that are replaced while it is attacked.
Every attack of the suite must succeed on one of them; an attack that succeeds nowhere proves nothing.
"""

import dataclasses
import hashlib
import secrets
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np

from privacy import fixed_point
from privacy.cbor import from_cbor
from privacy.fixed_point import VectorFormat
from privacy.merkle import leaf_digests, merkle_root
from privacy.secagg import blame, client_round, client_setup, masks, sealing, seat, server_round
from privacy.secagg.client import SecAggClient
from privacy.secagg.client_state import ClientFloors
from privacy.secagg.dealing import deal_shares
from privacy.secagg.differencing import NOTHING_OPENED
from privacy.secagg.envelope import Admitted, digest_of_set, open_envelope
from privacy.secagg.messages import UnmaskReply
from privacy.secagg.requests import RoundAnnouncement
from privacy.secagg.roster import Member, Roster
from privacy.secagg.server import SecAggRound, SecAggServer
from privacy.secagg.transcript import SUM
from privacy.streams import Keystream, derive_key
from secfed.audit.finding import AttackOn, Finding
from secfed.audit.target import Target
from secfed.audit.weak_seed import SEED_BITS, InsecureSeededEntropy


@dataclass(frozen=True)
class Flaw:
    name: str
    target: Target = dataclasses.field(default_factory=Target)
    replaced: tuple[tuple[Any, str, Any], ...] = ()

    def attacked_by(self, attack: AttackOn, seed: int = 0) -> Finding:
        with ExitStack() as stack:
            for where, name, replacement in self.replaced:
                stack.enter_context(mock.patch.object(where, name, replacement))
            return attack(self.target, seed)


def flawed_client(name: str, client: type[SecAggClient]) -> Flaw:
    return Flaw(name, Target(name=name, client=client))


class ForgetfulClient(SecAggClient):
    """Goes back to an earlier stage when the aggregator asks for its step again."""

    def _require(self, *stages):
        self.__dict__.setdefault("_kept", {})[self.stage] = self._state
        if self.stage not in stages:
            self._state = next((self._kept[stage] for stage in stages if stage in self._kept), self._state)
        super()._require(*stages)


class StoresLateClient(SecAggClient):
    """Stores its state after the upload was sent, so that a restart loses it."""

    def mask(self, vector):
        self._stale = self.to_bytes()
        return super().mask(vector)

    def to_bytes(self):
        return getattr(self, "_stale", None) if self.stage == "UPLOADED" else super().to_bytes()


class KeepsSecretsClient(SecAggClient):
    """Stores for ever what it needed for its upload."""

    def mask(self, vector):
        self._kept = super().to_bytes()
        return super().mask(vector)

    def to_bytes(self):
        return getattr(self, "_kept", None) or super().to_bytes()


class NeverMovesOnClient(SecAggClient):
    """Remembers no round number and never ratchets its keys."""

    def share(self, invitation):
        before = self._state
        message = super().share(invitation)
        self._state = dataclasses.replace(
            self._state, last_round=0, chain_keys=before.chain_keys, chain_round=before.chain_round
        )
        return message


class NoConsistencyClient(SecAggClient):
    """Reveals shares without asking whether anybody else agreed to the same survivors."""

    def unmask(self, request):
        self._require("AGREED")
        opened = self._state.round
        wrap_shares = {peer: share for peer, share in opened.wrap_shares.items() if peer not in opened.survivors}
        reply = UnmaskReply(
            seed_shares={peer: opened.seed_shares[peer] for peer in opened.survivors}, wrap_shares=wrap_shares
        )
        context = self.announcement.context
        survivors = digest_of_set("U2", context=context, digests=opened.survivors)
        message, _ = self._seat.sign(reply, context=context, previous=survivors)
        self._state = dataclasses.replace(self._state, stage="READY", round=None)
        return message


class NoFloors(ClientFloors):
    def threshold_for(self, cohort_size):
        return 1


class BlindRound(SecAggRound):
    """Adds whatever arrives, whether or not it is what was signed."""

    def add_upload(self, header, masked):
        found = open_envelope(header, server_round.MaskedInput, context=self._context(), roster=self._roster)
        if found.sender not in self._header_digests:
            self._total[: masked.size] += masked
            self._messages["headers"][found.sender] = header
            self._header_digests[found.sender] = found.digest
        return found.sender


class BlindServer(SecAggServer):
    def invite(self, **arguments):
        round_ = super().invite(**arguments)
        round_.__class__ = BlindRound
        return round_


class InsecureConstantSecrets:
    """Different session keys for every client, and then always the same secrets."""

    def __init__(self):
        self._key = secrets.token_bytes(64)

    def token_bytes(self, count):
        return self._key[:count]


def open_unverified(data, body_type, *, context, roster):
    """An envelope without a look at its signature or context."""
    signed_part, _ = from_cbor(data)
    _, kind, _, sender, previous, fields = from_cbor(signed_part)
    assert kind == body_type.KIND
    digest = hashlib.sha256(signed_part).digest()
    return Admitted(sender=sender, previous=previous, digest=digest, body=body_type.from_fields(fields))


def unverified_roster(signed, anchor):
    payload, _ = from_cbor(signed)
    _, consortium, version, expires, rows = from_cbor(payload)
    members = tuple(Member(name, key) for name, key in rows)
    return Roster(consortium=consortium, version=version, expires=expires, members=members)


def deal_for_two(**arguments):
    """Shares of which any two give the secret, whatever the threshold is said to be."""
    return deal_shares(**{**arguments, "threshold": 2})


def deal_for_one(**arguments):
    """Shares of which every one gives the secret."""
    return deal_shares(**{**arguments, "threshold": 1})


def mask_without_context(secret, *, context, vector_index):
    return Keystream(derive_key(secret, label="mask", context={"all": "rounds"}))


def add_narrow_streams(accumulator, streams):
    for stream, sign in streams:
        words = stream.words(accumulator.size) & np.uint32(2**28 - 1)
        accumulator += words if sign == 1 else np.uint32(0) - words


def context_without_model(announcement):
    blind = dataclasses.replace(announcement, model_hash=bytes(32))
    return hashlib.sha256(b"any model" + blind.to_bytes()).digest()


def encode_without_headroom(values, *, vector_format, rounding):
    return fixed_point.encode(
        values, vector_format=VectorFormat(segments=vector_format.segments, max_clients=1), rounding=rounding
    )


def audit_of_hashes_alone(run):
    """Compares the published sum with the published root, and recomputes nothing."""
    wrong = [entry for entry in run.rounds if merkle_root(leaf_digests(run.vectors[SUM])) != entry.sum_root]
    return tuple("the sum does not fit its root" for _ in wrong)


def share_without_a_look(reply, *, dealer, holder, dealt, context):
    return reply.seed_shares.get(dealer) or reply.wrap_shares.get(dealer)


def always_the_dealer(complaint, *, dealers, context):
    return complaint.body.dealer, "somebody complained"


def with_floors(change: Callable[[ClientFloors], ClientFloors]) -> Target:
    return Target(name="flawed", floors=change)


FORGETFUL = flawed_client("forgets what it answered", ForgetfulClient)
STORES_LATE = flawed_client("stores its state late", StoresLateClient)
NEVER_MOVES_ON = flawed_client("does not move on", NeverMovesOnClient)
KEEPS_SECRETS = flawed_client("erases nothing", KeepsSecretsClient)
NO_CONSISTENCY = flawed_client("skips the consistency round", NoConsistencyClient)
NO_FLOORS = Flaw("has no floors", with_floors(lambda floors: NoFloors(min_cohort=2)))
ANY_SECOND_SUM = Flaw(
    "opens any sum over a model", with_floors(lambda floors: dataclasses.replace(floors, second_sum="any"))
)
FORGETS_SUMS = Flaw("forgets sums of earlier sessions", Target(carry=lambda client: NOTHING_OPENED))
NO_CHANGE_FLOOR = Flaw(
    "has no floor on change", with_floors(lambda floors: dataclasses.replace(floors, min_cohort_change=1))
)
ROSTER_FROM_AGGREGATOR = Flaw("takes the roster from the aggregator", Target(read_roster=unverified_roster))
TRUSTING = Flaw(
    "checks no signature and no tag",
    replaced=(
        (seat, "open_envelope", open_unverified),
        (client_setup, "matches", lambda found, expected: True),
    ),
)
LOW_DEGREE = Flaw("shares secrets among two", replaced=((client_round, "deal_shares", deal_for_two),))
NO_SHARING = Flaw("gives its secrets to everybody", replaced=((client_round, "deal_shares", deal_for_one),))
SAME_MASKS = Flaw(
    "masks every round alike",
    Target(entropy=InsecureConstantSecrets),
    replaced=(
        (masks, "self_mask", mask_without_context),
        (masks, "pair_mask", mask_without_context),
        (client_round, "ratchet", lambda key, *, from_round, to_round: key),
        (client_round, "pair_secret", lambda key, *, session, round_number: key),
    ),
)
NARROW_MASKS = Flaw("masks with 28 bits", replaced=((masks, "add_streams", add_narrow_streams),))
SHORT_SEED = Flaw(
    "seeds its generator with 16 bits",
    Target(entropy=lambda: InsecureSeededEntropy(secrets.randbelow(2**SEED_BITS))),
)
CONSTANT_SECRETS = Flaw("draws the same secrets again", Target(entropy=InsecureConstantSecrets))
MODEL_BLIND = Flaw(
    "does not bind masks to the model",
    replaced=((RoundAnnouncement, "context", property(context_without_model)),),
)
NO_HEADROOM = Flaw("encodes without headroom", Target(encode=encode_without_headroom))
BLIND_SERVER = Flaw(
    "checks no commitment and no root",
    Target(server=BlindServer),
    replaced=((sealing, "matches", lambda found, expected: True),),
)
CREDULOUS_JUDGE = Flaw("believes every complaint", replaced=((server_round, "judge", always_the_dealer),))
CREDULOUS_JURY = Flaw("believes every share in evidence", replaced=((blame, "check_share", share_without_a_look),))
HASHES_ALONE = Flaw("audits hashes alone", Target(audit=audit_of_hashes_alone))
