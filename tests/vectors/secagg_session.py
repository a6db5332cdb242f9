"""Plays a whole session with predictable secrets and records every message and every value in between.

The real client and the real aggregator do the work; what is recorded beside their messages is computed with the same
functions that they call. `tests/vectors/test_secagg_independent.py` computes it all once more without them.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from insecure_stand_ins import Encapsulation, InsecureSeededEntropy, insecure_stand_ins

from privacy.cbor import from_cbor
from privacy.errors import HostileInputError, ProvenCheatingError
from privacy.merkle import vector_root
from privacy.secagg import masks, sealing
from privacy.secagg.client import SecAggClient
from privacy.secagg.client_state import ClientFloors
from privacy.secagg.envelope import digest_of_set, open_envelope, seal_envelope
from privacy.secagg.identity import Identity
from privacy.secagg.key_agreement import (
    PairContext,
    SessionKeys,
    confirmation_tag,
    first_chain_key,
    pair_secret,
    ratchet,
    seal_secret,
)
from privacy.secagg.messages import ShareMessage, session_context
from privacy.secagg.requests import RoundAnnouncement, RoundInvitation
from privacy.secagg.roster import Member, Roster, sign_roster
from privacy.secagg.server import SecAggServer
from privacy.streams import SUITE, Words, derive_key, little_endian_bytes

Record: TypeAlias = dict[str, Any]
Encapsulations: TypeAlias = dict[str, dict[str, Encapsulation]]
Forgery: TypeAlias = Callable[[ShareMessage, bytes], ShareMessage]


def digest_of(message: bytes) -> bytes:
    """The SHA-256 of a message's signed part."""
    fields = from_cbor(message)
    assert isinstance(fields, list) and isinstance(fields[0], bytes)
    return hashlib.sha256(fields[0]).digest()


def body_of(message: bytes) -> dict[str, Any]:
    """The fields of a message's body."""
    fields: Any = from_cbor(message)
    body: dict[str, Any] = from_cbor(fields[0])[5]  # type: ignore[index,assignment]
    return body


def document_hash(label: str) -> bytes:
    """A hash that stands for a model, a plan or a policy."""
    return hashlib.sha256(label.encode()).digest()


@dataclass(frozen=True, kw_only=True)
class SessionPlan:
    """What a session is made of; `members` are all in the roster, `clients` those that take part."""

    name: str
    members: tuple[str, ...]
    clients: tuple[str, ...]
    session: bytes
    floors: ClientFloors


@dataclass(frozen=True, kw_only=True)
class RoundPlan:
    """What a round is made of. `silent_from_upload` share but do not upload; `forge` changes a dealer's R1."""

    number: int
    about: str
    invited: tuple[str, ...]
    threshold: int
    model: str
    previous: bytes
    vectors: Mapping[str, Sequence[int]]
    silent_from_upload: tuple[str, ...] = ()
    forge: Mapping[str, Forgery] = field(default_factory=dict)
    evidence: tuple[bytes, ...] = ()


class SessionPlayer:
    """One session; `setup` and `rounds` are what the vector file says."""

    def __init__(self, plan: SessionPlan, encapsulations: Encapsulations) -> None:
        self.plan = plan
        consortium_seed = self._entropy("consortium").token_bytes(32)
        self.consortium_key = Ed25519PrivateKey.from_private_bytes(consortium_seed)
        self.identities = {
            name: Identity.from_bytes(self._entropy(f"{name} identity").token_bytes(32), name=name)
            for name in plan.members
        }
        self.roster = Roster(
            consortium="consortium",
            version=1,
            expires=2_000_000_000,
            members=tuple(Member(name, identity.public_key) for name, identity in self.identities.items()),
        )
        self.entropy = {name: self._entropy(name) for name in plan.clients}
        self.clients = {
            name: SecAggClient.create(
                identity=self.identities[name],
                roster=self.roster,
                session=plan.session,
                floors=plan.floors,
                entropy=self.entropy[name],
            )
            for name in plan.clients
        }
        self.session_keys = {
            name: SessionKeys(exchange=source.drawn[0], encapsulation=source.drawn[1])
            for name, source in self.entropy.items()
        }
        self._encapsulations = encapsulations
        self.server = SecAggServer(roster=self.roster, session=plan.session)
        self.chain_keys: dict[tuple[str, str], bytes] = {}
        self.rounds: list[Record] = []
        self.setup = self._set_up()

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every pair of clients, in the order of names."""
        names = self.plan.clients
        return [(first, second) for first in names for second in names if first < second]

    def record(self) -> Record:
        """The vector file."""
        return {
            "suite": SUITE,
            "given": {
                "session": self.plan.session,
                "floors": {
                    name: value
                    for name, value in asdict(self.plan.floors).items()
                    if name in ("min_cohort", "min_threshold")
                },
                "roster": {
                    "consortium": self.roster.consortium,
                    "version": self.roster.version,
                    "expires": self.roster.expires,
                    "members": list(self.roster.names),
                },
                "consortium_private_key": self.consortium_key.private_bytes_raw(),
                "identity_private_keys": {name: identity.to_bytes() for name, identity in self.identities.items()},
                "exchange_private_keys": {name: keys.exchange for name, keys in self.session_keys.items()},
                "encapsulation_seeds": {name: keys.encapsulation for name, keys in self.session_keys.items()},
            },
            "setup": self.setup,
            "rounds": self.rounds,
        }

    def _entropy(self, purpose: str) -> InsecureSeededEntropy:
        return InsecureSeededEntropy(f"secfed test vectors / {self.plan.name} / {purpose}")

    def _set_up(self) -> Record:
        public = {name: keys.advertisement().encapsulation_key for name, keys in self.session_keys.items()}
        clients = self.clients
        advertised = {name: client.advertise_keys() for name, client in clients.items()}
        relayed = self.server.collect_advertisements(advertised.values())
        encapsulated = {}
        for name, client in clients.items():
            own = {public[peer]: found for peer, found in self._encapsulations.get(name, {}).items()}
            with insecure_stand_ins(polynomials=self._entropy("none"), encapsulations=own):
                encapsulated[name] = client.encapsulate_keys(relayed)
        relayed = self.server.collect_encapsulations(encapsulated.values())
        confirmed = {name: client.confirm_keys(relayed) for name, client in clients.items()}
        pair_keys = {(first, second): clients[first]._state.chain_keys[second] for first, second in self.pairs}
        relayed = self.server.collect_confirmations(confirmed.values())
        for client in clients.values():
            client.accept_confirmations(relayed)
        return {
            "consortium_public_key": self.consortium_key.public_key().public_bytes_raw(),
            "signed_roster": sign_roster(self.roster, self.consortium_key),
            "roster_digest": self.roster.digest,
            "session_context": session_context(self.plan.session, self.roster),
            "S0": advertised,
            "S0_digests": {name: digest_of(message) for name, message in advertised.items()},
            "S1": encapsulated,
            "S1_digests": {name: digest_of(message) for name, message in encapsulated.items()},
            "S2": confirmed,
            "S2_digests": {name: digest_of(message) for name, message in confirmed.items()},
            "pairs": [self._pair(first, second, key) for (first, second), key in pair_keys.items()],
        }

    def _pair(self, first: str, second: str, key: bytes) -> Record:
        context = session_context(self.plan.session, self.roster)
        keys = {name: self.session_keys[name].advertisement() for name in (first, second)}
        exchanged = X25519PrivateKey.from_private_bytes(self.session_keys[first].exchange).exchange(
            X25519PublicKey.from_public_bytes(keys[second].exchange_key)
        )
        found = self._encapsulations[first][second]
        pair_context = PairContext(
            session=context, first=first, second=second, first_keys=keys[first], second_keys=keys[second]
        )
        derived = pair_context.derive(
            exchange_secret=exchanged, encapsulated_secret=found.shared_secret, ciphertext=found.ciphertext
        )
        assert derived == key
        self.chain_keys[first, second] = first_chain_key(key, session=context)
        return {
            "first": first,
            "second": second,
            "exchange_secret": exchanged,
            "encapsulated_secret": found.shared_secret,
            "first_keys_digest": hashlib.sha256(keys[first].exchange_key + keys[first].encapsulation_key).digest(),
            "second_keys_digest": hashlib.sha256(keys[second].exchange_key + keys[second].encapsulation_key).digest(),
            "ciphertext_digest": hashlib.sha256(found.ciphertext).digest(),
            "pair_key": key,
            "confirmation_key": derive_key(key, label="confirmation", context={"session": context}),
            "first_tag": confirmation_tag(key, sender=first, recipient=second, session=context),
            "second_tag": confirmation_tag(key, sender=second, recipient=first, session=context),
            "chain_key_0": self.chain_keys[first, second],
        }

    def play(self, plan: RoundPlan) -> Record:
        """One round, however far it comes; its record is also appended to `rounds`."""
        round_ = self.server.invite(round_number=plan.number, invited=plan.invited, threshold=plan.threshold)
        invited = RoundInvitation.from_bytes(round_.invitation)
        shares, dealt = {}, {}
        for name in plan.invited:
            polynomials = self._entropy(f"{name} polynomials {plan.number}")
            with insecure_stand_ins(polynomials=polynomials):
                honest = self.clients[name].share(round_.invitation)
            self_seed, wrap_key = self.entropy[name].drawn[-2:]
            shares[name] = self._forged(name, honest, plan, invited.context)
            dealt[name] = self._dealt(
                self_seed, wrap_key, polynomials.drawn, dealer=name, plan=plan, context=invited.context
            )
        round_.collect_shares(shares.values())
        announcement = round_.announce(
            model_hash=document_hash(plan.model),
            plan_hash=document_hash("plan"),
            policy_hash=document_hash("policy"),
            vector_length=len(plan.vectors[plan.invited[0]]),
            previous=plan.previous,
        )
        context = RoundAnnouncement.from_bytes(announcement).context
        record: Record = {
            "about": plan.about,
            "number": plan.number,
            "given": {
                "invited": list(plan.invited),
                "threshold": plan.threshold,
                "model_hash": document_hash(plan.model),
                "plan_hash": document_hash("plan"),
                "policy_hash": document_hash("policy"),
                "previous": plan.previous,
                "vectors": {name: list(vector) for name, vector in plan.vectors.items()},
            },
            "R0_invitation": round_.invitation,
            "invitation_context": invited.context,
            "pairs": [
                self._round_pair(first, second, plan, shares_context=invited.context, context=context)
                for first, second in self.pairs
                if {first, second} <= set(plan.invited)
            ],
            "dealers": dealt,
            "R1": shares,
            "R1_digests": {name: digest_of(message) for name, message in shares.items()},
            "cohort_digest": digest_of_set(
                "U1",
                context=invited.context,
                digests={name: digest_of(message) for name, message in shares.items()},
            ),
            "R0_announcement": announcement,
            "announcement_context": context,
        }
        self.rounds.append(record)
        for name in plan.invited:
            mask = masks.self_mask(dealt[name]["self_seed"], context=context, vector_index=0)
            dealt[name] |= {"self_mask_key": mask._key, "self_mask": mask.words(len(plan.vectors[name]))}
        uploads: dict[str, tuple[bytes, Words]] = {}
        for name in plan.invited:
            if name in plan.silent_from_upload:
                continue
            complaint = self.clients[name].accept(announcement, round_.shares)
            if complaint is not None:
                record["R2_complaints"] = {name: complaint}
                continue
            uploads[name] = self.clients[name].mask(np.array(plan.vectors[name], dtype=np.uint32))
        record["masked_vectors"] = {name: masked for name, (_, masked) in uploads.items()}
        record["roots"] = {name: vector_root(masked) for name, (_, masked) in uploads.items()}
        record["R2_headers"] = {name: header for name, (header, _) in uploads.items()}
        record["R2_header_digests"] = {name: digest_of(header) for name, (header, _) in uploads.items()}
        for header, masked in uploads.values():
            round_.add_upload(header, masked)
        for complaint in record.get("R2_complaints", {}).values():
            round_.add_complaint(complaint)
            record["guilty"] = sorted(round_.guilty)
            try:
                round_.request_agreement()
            except HostileInputError:
                return record
        self._open(record, plan, round_, context)
        return record

    def _open(self, record: Record, plan: RoundPlan, round_: Any, context: bytes) -> None:
        request = round_.request_agreement(plan.evidence)
        record["R3_request"] = request
        record["survivors_digest"] = digest_of_set("U2", context=context, digests=record["R2_header_digests"])
        record["R3_agreements"] = {name: self.clients[name].agree(request) for name in record["R2_headers"]}
        receipt = self.clients[min(record["R2_headers"])].receipt
        assert receipt is not None
        record["receipt"] = receipt.to_json()
        round_.collect_agreements(record["R3_agreements"].values())
        release = round_.request_unmask()
        record["R4_request"] = release
        record["R4_replies"] = {name: self.clients[name].unmask(release) for name in record["R2_headers"]}
        try:
            result = round_.finish(record["R4_replies"].values())
        except ProvenCheatingError as error:
            record["evidence"] = error.evidence
            record["guilty"] = sorted(round_.guilty)
            return
        record["aggregate"] = {
            "survivors": list(result.survivors),
            "dropped": list(result.dropped),
            "total": [int(word) for word in result.total],
            "little_endian_bytes": little_endian_bytes(result.total).tobytes(),
            "root": vector_root(result.total),
        }

    def _forged(self, name: str, honest: bytes, plan: RoundPlan, context: bytes) -> bytes:
        """What a corrupt dealer sends instead; its own state says that it sent that."""
        if name not in plan.forge:
            return honest
        found = open_envelope(honest, ShareMessage, context=context, roster=self.roster)
        forged, digest = seal_envelope(
            plan.forge[name](found.body, context),
            context=context,
            sender=name,
            previous=found.previous,
            sign=self.identities[name].sign,
        )
        client = self.clients[name]
        opened = client._state.round
        assert opened is not None
        client._state = replace(client._state, round=replace(opened, own_shares=forged, own_shares_digest=digest))
        return forged

    def _dealt(
        self,
        self_seed: bytes,
        wrap_key: bytes,
        coefficients: Sequence[bytes],
        *,
        dealer: str,
        plan: RoundPlan,
        context: bytes,
    ) -> Record:
        """`coefficients` come in the order drawn: seed then wrap key, first half then second, highest power first."""
        each = plan.threshold - 1
        assert len(coefficients) == 4 * each
        halves = [list(coefficients[start : start + each]) for start in range(0, 4 * each, each)]
        opened = self.clients[dealer]._state.round
        assert opened is not None
        return {
            "self_seed": self_seed,
            "wrap_key": wrap_key,
            "seed_coefficients": {"first_half": halves[0], "second_half": halves[1]},
            "wrap_coefficients": {"first_half": halves[2], "second_half": halves[3]},
            "own_seed_share": opened.seed_shares[dealer],
            "wrap_encryption_key": sealing._wrap_key(wrap_key, owner=dealer, context=context)[0],
            "seal_keys": {
                holder: {
                    kind.replace(" ", "_"): sealing._seal_key(
                        kind, seal_secret=secret, dealer=dealer, holder=holder, context=context
                    )[0]
                    for kind in ("seed share", "wrap share")
                }
                for holder, secret in opened.seal_secrets.items()
            },
        }

    def _round_pair(self, first: str, second: str, plan: RoundPlan, *, shares_context: bytes, context: bytes) -> Record:
        chain = ratchet(self.chain_keys[first, second], from_round=0, to_round=plan.number)
        secret = pair_secret(chain, session=self.plan.session, round_number=plan.number)
        seal = seal_secret(chain, session=self.plan.session, round_number=plan.number)
        mask = masks.pair_mask(secret, context=context, vector_index=0)
        return {
            "first": first,
            "second": second,
            "chain_key": chain,
            "pair_secret": secret,
            "seal_secret": seal,
            "pair_commitment": sealing.commit_pair_secret(secret, one=first, other=second, context=shares_context),
            "seal_commitment": sealing.commit_seal_secret(seal, one=first, other=second, context=shares_context),
            "pair_mask_key": mask._key,
            "pair_mask": mask.words(len(plan.vectors[first])),
        }
