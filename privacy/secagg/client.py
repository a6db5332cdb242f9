"""The client's side of secure aggregation: one state machine per session.

Run by a site. Methods take UNVERIFIED bytes and return the bytes to send next:

    CREATED       advertise_keys        -> ADVERTISED      S0
    ADVERTISED    encapsulate_keys      -> ENCAPSULATED    S1
    ENCAPSULATED  confirm_keys          -> CONFIRMED       S2
    CONFIRMED     accept_confirmations  -> READY
    READY         begin_round           -> SHARED          R1
    SHARED        mask                  -> UPLOADED        R2, once per round
    UPLOADED      unmask                -> READY           R4, once per round
    SHARED or UPLOADED   begin_round of a later round -> SHARED; the open round and its secrets are given up

Anything else raises HostileInputError and changes nothing, because the order of steps is the aggregator's to drive and
so not to be trusted. **Store `to_bytes()` before sending what a method returned**: a client that forgets an upload
could be made to upload twice under one mask.

Source: Bonawitz et al. 2017 (eprint 2017/281), figure 4, with hybrid pair keys and wrapped pair secrets in place of the
shared X25519 key. It does not protect what the sum itself says about a client, and it has no consistency round (R3).
"""

import dataclasses
import hashlib
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NoReturn, Self, TypeVar

import numpy as np

from privacy.errors import HostileInputError, MisuseError, TooFewSurvivorsError
from privacy.secagg import key_agreement
from privacy.secagg.client_state import ClientFloors, ClientState, RoundState, Stage
from privacy.secagg.dealing import accept_shares, deal_shares
from privacy.secagg.envelope import NO_PREVIOUS, Admitted, Body, digest_of_set, open_envelope, seal_envelope
from privacy.secagg.identity import Identity
from privacy.secagg.key_agreement import PairContext, SessionKeys
from privacy.secagg.masks import apply_masks
from privacy.secagg.messages import (
    EXCHANGE_KEY_BYTES,
    KeyAdvertisement,
    KeyConfirmation,
    KeyEncapsulation,
    MaskedInput,
    RoundAnnouncement,
    ShareMessage,
    UnmaskReply,
    UnmaskRequest,
    session_context,
)
from privacy.secagg.roster import Roster
from privacy.secagg.sealing import matches
from privacy.streams import KEY_BYTES, Words, little_endian_bytes

BodyT = TypeVar("BodyT", bound=Body)


class SecAggClient:
    """One client in one session; build it with `create` or `from_bytes`."""

    def __init__(self, state: ClientState, *, identity: Identity, roster: Roster) -> None:
        if identity.name not in roster or roster.public_key(identity.name) != identity.public_key:
            raise MisuseError(
                f"the roster (version {roster.version}) does not list {identity.name!r} with this identity's key"
            )
        if state.name != identity.name or state.roster_digest != roster.digest:
            raise MisuseError(f"the state belongs to {state.name!r} or to another roster, not to {identity.name!r}")
        self._state = state
        self._identity = identity
        self._roster = roster
        self._session_context = session_context(state.session, roster)

    @classmethod
    def create(cls, *, identity: Identity, roster: Roster, session: bytes, floors: ClientFloors) -> Self:
        """A client at the start of a session; `session` is 16 to 32 bytes that no earlier session used.

        Raises:
            MisuseError: the identity is not in the roster, or the session has a wrong length.
        """
        keys = SessionKeys.generate()
        state = ClientState(
            stage="CREATED",
            name=identity.name,
            session=session,
            roster_digest=roster.digest,
            floors=floors,
            exchange_key=keys.exchange,
            encapsulation_key=keys.encapsulation,
            peer_keys={},
            setup_digests={},
            chain_keys={},
            excluded={},
        )
        return cls(state, identity=identity, roster=roster)

    @classmethod
    def from_bytes(cls, data: bytes, *, identity: Identity, roster: Roster) -> Self:
        """A client as `to_bytes` stored it.

        Raises:
            MisuseError: damaged bytes, or another site's, or another roster.
        """
        return cls(ClientState.from_bytes(data), identity=identity, roster=roster)

    def to_bytes(self) -> bytes:
        """Everything that the next process needs. The bytes hold secrets."""
        return self._state.to_bytes()

    @property
    def stage(self) -> Stage:
        """Where in the list of transitions the client stands."""
        return self._state.stage

    @property
    def last_round(self) -> int:
        """The newest round that the client shared secrets for; only later ones are accepted."""
        return self._state.last_round

    @property
    def peers(self) -> tuple[str, ...]:
        """From READY on, the clients with which pair keys are confirmed."""
        return tuple(sorted(self._state.chain_keys)) if self._state.stage in ("READY", "SHARED", "UPLOADED") else ()

    @property
    def excluded(self) -> Mapping[str, str]:
        """Clients whose setup messages were refused, with the reason; a client that was merely silent is not named."""
        return dict(self._state.excluded)

    @property
    def announcement(self) -> RoundAnnouncement | None:
        """What the open round is about, to be compared with the model and plan at hand before masking."""
        open_round = self._state.round
        return None if open_round is None else RoundAnnouncement.from_bytes(open_round.announcement)

    def __repr__(self) -> str:
        return f"SecAggClient(name={self._state.name!r}, stage={self.stage}, last_round={self.last_round}, <secret>)"

    def __reduce__(self) -> NoReturn:
        raise MisuseError("a SecAggClient cannot be pickled: it holds secrets; use to_bytes and a private file")

    def advertise_keys(self) -> bytes:
        """S0: fresh public keys, signed."""
        self._require("CREATED")
        message, digest = self._sign(self._session_keys().advertisement(), previous=NO_PREVIOUS)
        self._advance(stage="ADVERTISED", own_digest=digest)
        return message

    def encapsulate_keys(self, advertisements: Sequence[bytes]) -> bytes:
        """S1: given every client's S0 (own included), ciphertexts for the peers that come later in the roster.

        Raises:
            HostileInputError: own message missing or changed, a sender named twice, or bytes that name no member.
        """
        self._require("ADVERTISED")
        admitted, excluded = self._admit_setup(advertisements, KeyAdvertisement, expected=None)
        keys, ciphertexts = {}, {}
        for peer, advertisement in admitted.items():
            if peer > self._state.name:
                try:
                    keys[peer], ciphertexts[peer] = key_agreement.encapsulate_to(
                        advertisement.body, own=self._session_keys(), context=self._pair(peer, advertisement.body)
                    )
                except HostileInputError as error:
                    excluded[peer] = str(error)
        message, digest = self._sign(KeyEncapsulation(ciphertexts=ciphertexts), previous=self._state.own_digest)
        accepted = {peer: found for peer, found in admitted.items() if peer not in excluded}
        self._advance(
            stage="ENCAPSULATED",
            own_digest=digest,
            chain_keys=keys,
            peer_keys={p: found.body.exchange_key + found.body.encapsulation_key for p, found in accepted.items()},
            setup_digests={peer: found.digest for peer, found in accepted.items()},
            excluded=excluded,
        )
        return message

    def confirm_keys(self, encapsulations: Sequence[bytes]) -> bytes:
        """S2: given every client's S1 (own included), one confirmation tag per peer; erases the session's private keys.

        Raises:
            HostileInputError: own message missing or changed, a sender named twice, or bytes that name no member.
        """
        self._require("ENCAPSULATED")
        name = self._state.name
        admitted, excluded = self._admit_setup(encapsulations, KeyEncapsulation, expected=self._state.setup_digests)
        keys: dict[str, bytes] = {}
        for peer, encapsulation in admitted.items():
            try:
                if peer > name:
                    keys[peer] = self._state.chain_keys[peer]
                else:
                    keys[peer] = self._decapsulate(peer, encapsulation.body)
            except HostileInputError as error:
                excluded[peer] = str(error)
        tags = {
            peer: key_agreement.confirmation_tag(key, sender=name, recipient=peer, session=self._session_context)
            for peer, key in keys.items()
        }
        message, digest = self._sign(KeyConfirmation(tags=tags), previous=self._state.own_digest)
        self._advance(
            stage="CONFIRMED",
            own_digest=digest,
            exchange_key=b"",
            encapsulation_key=b"",
            peer_keys={},
            chain_keys=keys,
            setup_digests={peer: admitted[peer].digest for peer in keys},
            excluded=excluded,
        )
        return message

    def accept_confirmations(self, confirmations: Sequence[bytes]) -> None:
        """Given every client's S2 (own included), keep the peers whose tags match and name the others.

        Raises:
            HostileInputError: own message missing or changed, a sender named twice, or bytes that name no member.
        """
        self._require("CONFIRMED")
        name, session = self._state.name, self._session_context
        admitted, excluded = self._admit_setup(confirmations, KeyConfirmation, expected=self._state.setup_digests)
        keys = {}
        for peer, confirmation in admitted.items():
            pair_key = self._state.chain_keys[peer]
            expected = key_agreement.confirmation_tag(pair_key, sender=peer, recipient=name, session=session)
            if matches(confirmation.body.tags.get(name, b""), expected):
                keys[peer] = key_agreement.first_chain_key(pair_key, session=session)
            else:
                excluded[peer] = "key confirmation failed: the peer, or whoever relays, holds another key"
        self._advance(
            stage="READY",
            chain_keys=keys,
            setup_digests={peer: admitted[peer].digest for peer in keys},
            excluded=excluded,
        )

    def begin_round(self, announcement: bytes) -> bytes:
        """R1: shares for a round that this site's floors allow; ratchets every pair key past the round.

        Raises:
            HostileInputError: the announcement is malformed, for another session or roster, not newer than the last
                round, below a floor, or names too few confirmed peers.
        """
        self._require("READY", "SHARED", "UPLOADED")
        round_ = RoundAnnouncement.from_bytes(announcement)
        peers = self._check_announcement(round_)
        state, number = self._state, round_.round_number
        current = {
            peer: key_agreement.ratchet(key, from_round=state.chain_round, to_round=number)
            for peer, key in state.chain_keys.items()
        }
        pair_secrets = {
            p: key_agreement.pair_secret(current[p], session=state.session, round_number=number) for p in peers
        }
        seal_secrets = {
            p: key_agreement.seal_secret(current[p], session=state.session, round_number=number) for p in peers
        }
        self_seed, wrap_key = secrets.token_bytes(KEY_BYTES), secrets.token_bytes(KEY_BYTES)
        own_share, body = deal_shares(
            dealer=state.name,
            self_seed=self_seed,
            wrap_key=wrap_key,
            pair_secrets=pair_secrets,
            seal_secrets=seal_secrets,
            indices={member: self._roster.index(member) for member in (*peers, state.name)},
            threshold=round_.threshold,
            context=round_.share_context,
        )
        message, digest = self._sign(body, previous=state.own_digest, context=round_.share_context)
        self._advance(
            stage="SHARED",
            last_round=number,
            chain_keys={
                peer: key_agreement.ratchet(key, from_round=number, to_round=number + 1)
                for peer, key in current.items()
            },
            chain_round=number + 1,
            round=RoundState(
                announcement=announcement,
                own_shares_digest=digest,
                self_seed=self_seed,
                pair_secrets=pair_secrets,
                seal_secrets=seal_secrets,
                seed_shares={state.name: own_share},
                wrap_shares={},
            ),
        )
        return message

    def mask(self, shares: Sequence[bytes], vector: Words) -> tuple[bytes, Words]:
        """R2: given the R1 messages of U1 (own included), the signed header and the masked vector, both to be sent.

        `vector` is uint32 of shape (vector_length,), as `fixed_point.encode` returns it; it is not changed.

        Raises:
            MisuseError: the vector has another type or length than announced.
            HostileInputError: U1 is too small, lacks this client, or holds a message that does not verify; `party`
                names the peer whose message is to blame.
        """
        self._require("SHARED")
        open_round, round_ = self._open_round()
        if vector.dtype != np.uint32 or vector.shape != (round_.vector_length,):
            raise MisuseError(
                f"vector must be uint32 of shape ({round_.vector_length},), got {vector.dtype} of shape {vector.shape}"
            )
        name = self._state.name
        admitted = self._admit(shares, ShareMessage, context=round_.share_context)
        self._require_own(admitted, open_round.own_shares_digest)
        self._require_enough(len(admitted), round_, what="clients shared secrets")
        seed_shares, wrap_shares = dict(open_round.seed_shares), dict(open_round.wrap_shares)
        for peer in sorted(set(admitted) - {name}):
            if peer not in open_round.pair_secrets:
                raise HostileInputError("shared secrets, but was not invited or has no confirmed key here", party=peer)
            if admitted[peer].previous != self._state.setup_digests[peer]:
                raise HostileInputError("refers to another key confirmation than this client received", party=peer)
            seed_shares[peer], wrap_shares[peer] = accept_shares(
                admitted[peer].body,
                dealer=peer,
                holder=name,
                cohort=frozenset(admitted),
                pair_secret=open_round.pair_secrets[peer],
                seal_secret=open_round.seal_secrets[peer],
                context=round_.share_context,
            )
        cohort_digest = digest_of_set(
            "U1", context=round_.share_context, digests={peer: found.digest for peer, found in admitted.items()}
        )
        masked = apply_masks(
            vector,
            name=name,
            self_seed=open_round.self_seed,
            pair_secrets={peer: open_round.pair_secrets[peer] for peer in wrap_shares},
            context=round_.context,
        )
        header = MaskedInput(vector_digest=hashlib.sha256(little_endian_bytes(masked)).digest(), length=masked.size)
        message, digest = self._sign(header, previous=cohort_digest, context=round_.context)
        self._advance(
            stage="UPLOADED",
            round=dataclasses.replace(
                open_round,
                self_seed=b"",
                pair_secrets={},
                seal_secrets={},
                seed_shares=seed_shares,
                wrap_shares=wrap_shares,
                cohort_digest=cohort_digest,
                own_header_digest=digest,
            ),
        )
        return message, masked

    def unmask(self, request: bytes) -> bytes:
        """R4: for each survivor the share of its self seed, for each dropped client of U1 the share of its wrap key.

        Raises:
            HostileInputError: the survivors are too few, lack this client, are no subset of U1, or a header is not
                signed for this round and this U1.
        """
        self._require("UPLOADED")
        open_round, round_ = self._open_round()
        claimed = UnmaskRequest.from_bytes(request)
        if claimed.context != round_.context:
            raise HostileInputError("the request belongs to another round or announcement")
        admitted = self._admit(claimed.headers, MaskedInput, context=round_.context)
        self._require_own(admitted, open_round.own_header_digest)
        self._require_enough(len(admitted), round_, what="clients uploaded")
        for peer, header in admitted.items():
            if peer not in open_round.seed_shares:
                raise HostileInputError("named a survivor, but it shared no secrets in this round", party=peer)
            if header.previous != open_round.cohort_digest:
                raise HostileInputError("acted on other shares than this client was shown", party=peer)
        reply = UnmaskReply(
            seed_shares={peer: open_round.seed_shares[peer] for peer in admitted},
            wrap_shares={peer: share for peer, share in open_round.wrap_shares.items() if peer not in admitted},
        )
        survivors = digest_of_set(
            "U2", context=round_.context, digests={peer: found.digest for peer, found in admitted.items()}
        )
        message, _ = self._sign(reply, previous=survivors, context=round_.context)
        self._advance(stage="READY", round=None)
        return message

    def _check_announcement(self, round_: RoundAnnouncement) -> tuple[str, ...]:
        state, floors, size = self._state, self._state.floors, len(round_.invited)
        if round_.session != state.session or round_.roster_hash != self._roster.digest:
            raise HostileInputError("the announcement is for another session or another roster")
        if round_.round_number <= state.last_round:
            raise HostileInputError(
                f"round {round_.round_number} was announced, but round {state.last_round} is already past: "
                "only later rounds are accepted"
            )
        for member in round_.invited:
            self._roster.index(member)
        if state.name not in round_.invited:
            raise HostileInputError(f"the invited clients do not include {state.name!r}")
        if size < floors.min_cohort:
            raise HostileInputError(
                f"{size} clients are invited, this site's floor is min_cohort = {floors.min_cohort}"
            )
        lowest = floors.threshold_for(size)
        if not lowest <= round_.threshold <= size:
            raise HostileInputError(
                f"threshold = {round_.threshold} for {size} clients, this site accepts {lowest} to {size}"
            )
        if round_.vector_length > floors.max_vector_length:
            raise HostileInputError(
                f"vector length {round_.vector_length} exceeds this site's limit of {floors.max_vector_length}"
            )
        peers = tuple(peer for peer in round_.invited if peer in state.chain_keys)
        self._require_enough(len(peers) + 1, round_, what="invited clients have confirmed keys")
        return peers

    def _decapsulate(self, peer: str, encapsulation: KeyEncapsulation) -> bytes:
        ciphertext = encapsulation.ciphertexts.get(self._state.name)
        if ciphertext is None:
            raise HostileInputError("encapsulated no key to this client", party=peer)
        stored = self._state.peer_keys[peer]
        keys = KeyAdvertisement(exchange_key=stored[:EXCHANGE_KEY_BYTES], encapsulation_key=stored[EXCHANGE_KEY_BYTES:])
        own = self._session_keys()
        return key_agreement.decapsulate_from(keys, ciphertext, own=own, context=self._pair(peer, keys))

    def _pair(self, peer: str, peer_keys: KeyAdvertisement) -> PairContext:
        by_name = {self._state.name: self._session_keys().advertisement(), peer: peer_keys}
        first, second = sorted(by_name)
        return PairContext(
            session=self._session_context,
            first=first,
            second=second,
            first_keys=by_name[first],
            second_keys=by_name[second],
        )

    def _session_keys(self) -> SessionKeys:
        return SessionKeys(exchange=self._state.exchange_key, encapsulation=self._state.encapsulation_key)

    def _admit_setup(
        self, messages: Iterable[bytes], body_type: type[BodyT], *, expected: Mapping[str, bytes] | None
    ) -> tuple[dict[str, Admitted[BodyT]], dict[str, str]]:
        """The peers whose setup messages verify, and all exclusions so far; `expected` holds what they must follow."""
        excluded = dict(self._state.excluded)

        def exclude(error: HostileInputError) -> None:
            if error.party is None or error.party == self._state.name:
                raise error
            excluded[error.party] = str(error)

        admitted = self._admit(messages, body_type, context=self._session_context, refused=exclude)
        own = admitted.get(self._state.name)
        self._require_own(admitted, self._state.own_digest)
        if own is not None:
            del admitted[own.sender]
        for peer in sorted(admitted):
            if peer in excluded or (expected is not None and peer not in expected):
                del admitted[peer]
            elif admitted[peer].previous != (NO_PREVIOUS if expected is None else expected[peer]):
                excluded[peer] = "does not follow the message that this client accepted before"
                del admitted[peer]
        return admitted, excluded

    def _admit(
        self,
        messages: Iterable[bytes],
        body_type: type[BodyT],
        *,
        context: bytes,
        refused: Callable[[HostileInputError], None] | None = None,
    ) -> dict[str, Admitted[BodyT]]:
        admitted: dict[str, Admitted[BodyT]] = {}
        for data in messages:
            try:
                found = open_envelope(data, body_type, context=context, roster=self._roster)
            except HostileInputError as error:
                if refused is None:
                    raise
                refused(error)
                continue
            if found.sender in admitted:
                raise HostileInputError("sent, or was relayed with, two messages of one step", party=found.sender)
            admitted[found.sender] = found
        return admitted

    def _require_own(self, admitted: Mapping[str, Admitted[BodyT]], digest: bytes) -> None:
        own = admitted.get(self._state.name)
        if own is None or own.digest != digest:
            raise HostileInputError("this client's own message is missing or was changed by whoever relays")

    def _require_enough(self, count: int, round_: RoundAnnouncement, *, what: str) -> None:
        floor = max(round_.threshold, self._state.floors.min_cohort)
        if count < floor:
            raise TooFewSurvivorsError(f"{count} {what}, at least {floor} are needed")

    def _open_round(self) -> tuple[RoundState, RoundAnnouncement]:
        open_round = self._state.round
        if open_round is None:
            raise MisuseError(f"the stored state says {self._state.stage} but holds no round")
        return open_round, RoundAnnouncement.from_bytes(open_round.announcement)

    def _sign(self, body: Body, *, previous: bytes, context: bytes | None = None) -> tuple[bytes, bytes]:
        return seal_envelope(
            body,
            context=self._session_context if context is None else context,
            sender=self._state.name,
            previous=previous,
            sign=self._identity.sign,
        )

    def _require(self, *stages: Stage) -> None:
        if self._state.stage not in stages:
            raise HostileInputError(
                f"this step is legal in {' or '.join(stages)}, but the client is in {self._state.stage}: "
                "steps follow the order in privacy.secagg.client, each once"
            )

    def _advance(self, **changes: object) -> None:
        self._state = dataclasses.replace(self._state, **changes)  # type: ignore[arg-type]  # replace checks at run time
