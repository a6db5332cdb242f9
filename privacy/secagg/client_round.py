"""The client's steps R1, R2 and R4 of one round. Each takes a state and returns the next one.

Run by a site, through `privacy.secagg.client`, which checks the order. The announcement is checked against the site's
floors before anything is dealt; a peer's message that does not verify raises HostileInputError with `party`, and the
round has to be run again without that peer.
"""

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from privacy.errors import HostileInputError, MisuseError, TooFewSurvivorsError
from privacy.secagg.client_state import ClientState, RoundState
from privacy.secagg.dealing import accept_shares, deal_shares
from privacy.secagg.envelope import Admitted, digest_of_set
from privacy.secagg.key_agreement import pair_secret, ratchet, seal_secret
from privacy.secagg.masks import apply_masks
from privacy.secagg.messages import MaskedInput, RoundAnnouncement, ShareMessage, UnmaskReply, UnmaskRequest
from privacy.secagg.seat import Seat
from privacy.streams import KEY_BYTES, Words, little_endian_bytes


def begin_round(state: ClientState, seat: Seat, announcement: bytes) -> tuple[ClientState, bytes]:
    """R1: shares for a round that the site's floors allow; every pair's ratchet moves past the round."""
    announced = RoundAnnouncement.from_bytes(announcement)
    peers = _check_announcement(state, seat, announced)
    number = announced.round_number
    current = {
        peer: ratchet(key, from_round=state.chain_round, to_round=number) for peer, key in state.chain_keys.items()
    }
    pair_secrets = {peer: pair_secret(current[peer], session=state.session, round_number=number) for peer in peers}
    seal_secrets = {peer: seal_secret(current[peer], session=state.session, round_number=number) for peer in peers}
    self_seed, wrap_key = secrets.token_bytes(KEY_BYTES), secrets.token_bytes(KEY_BYTES)
    own_share, body = deal_shares(
        dealer=seat.name,
        self_seed=self_seed,
        wrap_key=wrap_key,
        pair_secrets=pair_secrets,
        seal_secrets=seal_secrets,
        indices={member: seat.roster.index(member) for member in (*peers, seat.name)},
        threshold=announced.threshold,
        context=announced.share_context,
    )
    message, digest = seat.sign(body, context=announced.share_context, previous=state.own_digest)
    following = replace(
        state,
        stage="SHARED",
        last_round=number,
        chain_keys={peer: ratchet(key, from_round=number, to_round=number + 1) for peer, key in current.items()},
        chain_round=number + 1,
        round=RoundState(
            announcement=announcement,
            own_shares_digest=digest,
            self_seed=self_seed,
            pair_secrets=pair_secrets,
            seal_secrets=seal_secrets,
            seed_shares={seat.name: own_share},
            wrap_shares={},
        ),
    )
    return following, message


def mask(state: ClientState, seat: Seat, shares: Iterable[bytes], vector: Words) -> tuple[ClientState, bytes, Words]:
    """R2: check and open what U1 dealt, and mask the vector for U1; returns the header and the masked copy."""
    opened = _open_round(state)
    announced = RoundAnnouncement.from_bytes(opened.announcement)
    if vector.dtype != np.uint32 or vector.shape != (announced.vector_length,):
        raise MisuseError(
            f"vector must be uint32 of shape ({announced.vector_length},), got {vector.dtype} of shape {vector.shape}"
        )
    context = announced.share_context
    admitted = seat.admit(shares, ShareMessage, context=context, own_digest=opened.own_shares_digest)
    _require_enough(len(admitted), state, announced, what="clients shared secrets")
    seed_shares, wrap_shares = dict(opened.seed_shares), dict(opened.wrap_shares)
    peers = sorted(set(admitted) - {seat.name})
    for peer in peers:
        if peer not in opened.pair_secrets:
            raise HostileInputError("shared secrets, but was not invited or has no confirmed key here", party=peer)
        if admitted[peer].previous != state.setup_digests[peer]:
            raise HostileInputError("refers to another key confirmation than this client received", party=peer)
        seed_shares[peer], wrap_shares[peer] = accept_shares(
            admitted[peer].body,
            dealer=peer,
            holder=seat.name,
            cohort=frozenset(admitted),
            pair_secret=opened.pair_secrets[peer],
            seal_secret=opened.seal_secrets[peer],
            context=context,
        )
    masked = apply_masks(
        vector,
        name=seat.name,
        self_seed=opened.self_seed,
        pair_secrets={peer: opened.pair_secrets[peer] for peer in peers},
        context=announced.context,
    )
    header = MaskedInput(vector_digest=hashlib.sha256(little_endian_bytes(masked)).digest(), length=masked.size)
    cohort_digest = digest_of_set("U1", context=context, digests=_digests(admitted))
    message, digest = seat.sign(header, context=announced.context, previous=cohort_digest)
    following = replace(
        state,
        stage="UPLOADED",
        round=replace(
            opened,
            self_seed=b"",
            pair_secrets={},
            seal_secrets={},
            seed_shares=seed_shares,
            wrap_shares=wrap_shares,
            cohort_digest=cohort_digest,
            own_header_digest=digest,
        ),
    )
    return following, message, masked


def unmask(state: ClientState, seat: Seat, request: bytes) -> tuple[ClientState, bytes]:
    """R4: one kind of share for each client of U1, by whether it survived; the round's secrets are erased."""
    opened = _open_round(state)
    announced = RoundAnnouncement.from_bytes(opened.announcement)
    claimed = UnmaskRequest.from_bytes(request)
    if claimed.context != announced.context:
        raise HostileInputError("the request belongs to another round or announcement")
    admitted = seat.admit(claimed.headers, MaskedInput, context=announced.context, own_digest=opened.own_header_digest)
    _require_enough(len(admitted), state, announced, what="clients uploaded")
    for peer, header in admitted.items():
        if peer not in opened.seed_shares:
            raise HostileInputError("named a survivor, but it shared no secrets in this round", party=peer)
        if header.previous != opened.cohort_digest:
            raise HostileInputError("acted on other shares than this client was shown", party=peer)
    reply = UnmaskReply(
        seed_shares={peer: opened.seed_shares[peer] for peer in admitted},
        wrap_shares={peer: share for peer, share in opened.wrap_shares.items() if peer not in admitted},
    )
    survivors = digest_of_set("U2", context=announced.context, digests=_digests(admitted))
    message, _ = seat.sign(reply, context=announced.context, previous=survivors)
    return replace(state, stage="READY", round=None), message


def _check_announcement(state: ClientState, seat: Seat, announced: RoundAnnouncement) -> tuple[str, ...]:
    """The invited peers with which keys are confirmed, once every floor holds."""
    floors, size = state.floors, len(announced.invited)
    if announced.session != state.session or announced.roster_hash != seat.roster.digest:
        raise HostileInputError("the announcement is for another session or another roster")
    if announced.round_number <= state.last_round:
        raise HostileInputError(
            f"round {announced.round_number} was announced, but round {state.last_round} is already past: "
            "only later rounds are accepted"
        )
    for member in announced.invited:
        seat.roster.index(member)
    if seat.name not in announced.invited:
        raise HostileInputError(f"the invited clients do not include {seat.name!r}")
    if size < floors.min_cohort:
        raise HostileInputError(f"{size} clients are invited, this site's floor is min_cohort = {floors.min_cohort}")
    lowest = floors.threshold_for(size)
    if not lowest <= announced.threshold <= size:
        raise HostileInputError(
            f"threshold = {announced.threshold} for {size} clients, this site accepts {lowest} to {size}"
        )
    if announced.vector_length > floors.max_vector_length:
        raise HostileInputError(
            f"vector length {announced.vector_length} exceeds this site's limit of {floors.max_vector_length}"
        )
    peers = tuple(peer for peer in announced.invited if peer in state.chain_keys)
    _require_enough(len(peers) + 1, state, announced, what="invited clients have confirmed keys")
    return peers


def _require_enough(count: int, state: ClientState, announced: RoundAnnouncement, *, what: str) -> None:
    floor = max(announced.threshold, state.floors.min_cohort)
    if count < floor:
        raise TooFewSurvivorsError(f"{count} {what}, at least {floor} are needed")


def _open_round(state: ClientState) -> RoundState:
    if state.round is None:
        raise MisuseError(f"the stored state says {state.stage} but holds no round")
    return state.round


def _digests(admitted: Mapping[str, Admitted[ShareMessage]] | Mapping[str, Admitted[MaskedInput]]) -> dict[str, bytes]:
    return {sender: found.digest for sender, found in admitted.items()}
