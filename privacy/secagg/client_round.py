"""The client's steps R1 to R4 of one round. Each takes a state and returns the next one.

Run by a site, through `privacy.secagg.client`, which checks the order. The invitation is checked against the site's
floors before anything is dealt, what the others dealt before anything is trained, and the survivor set before anything
is released. A message that does not verify raises HostileInputError with `party` and changes nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from privacy.entropy import Entropy
from privacy.errors import HostileInputError, MisuseError, TooFewSurvivorsError
from privacy.merkle import vector_root
from privacy.secagg.blame import convicted_in
from privacy.secagg.client_state import ClientState, RoundState
from privacy.secagg.dealing import deal_shares, open_shares, require_agreement
from privacy.secagg.envelope import Admitted, digest_of_set, open_envelope
from privacy.secagg.key_agreement import pair_secret, ratchet, seal_secret
from privacy.secagg.masks import apply_masks
from privacy.secagg.messages import Complaint, MaskedInput, ShareMessage, SurvivorAgreement, UnmaskReply
from privacy.secagg.receipt import Receipt
from privacy.secagg.requests import AgreementRequest, RoundAnnouncement, RoundInvitation, UnmaskRequest
from privacy.secagg.seat import Seat
from privacy.streams import KEY_BYTES, Words


def share(state: ClientState, seat: Seat, invitation: bytes, entropy: Entropy) -> tuple[ClientState, bytes]:
    """R1: shares for a round that the site's floors allow; every pair's ratchet moves past the round.

    Asked again for the very invitation that it answered last, a client repeats the same bytes: the answer may be lost.
    """
    if state.stage == "SHARED" and _open_round(state).invitation == invitation:
        return state, _open_round(state).own_shares
    invited = RoundInvitation.from_bytes(invitation)
    peers = _check_invitation(state, seat, invited)
    number = invited.round_number
    current = {
        peer: ratchet(key, from_round=state.chain_round, to_round=number) for peer, key in state.chain_keys.items()
    }
    pair_secrets = {peer: pair_secret(current[peer], session=state.session, round_number=number) for peer in peers}
    seal_secrets = {peer: seal_secret(current[peer], session=state.session, round_number=number) for peer in peers}
    self_seed, wrap_key = entropy.token_bytes(KEY_BYTES), entropy.token_bytes(KEY_BYTES)
    own_share, body = deal_shares(
        dealer=seat.name,
        self_seed=self_seed,
        wrap_key=wrap_key,
        pair_secrets=pair_secrets,
        seal_secrets=seal_secrets,
        indices={member: seat.roster.index(member) for member in (*peers, seat.name)},
        threshold=invited.threshold,
        context=invited.context,
    )
    message, digest = seat.sign(body, context=invited.context, previous=state.own_digest)
    following = replace(
        state,
        stage="SHARED",
        last_round=number,
        chain_keys={peer: ratchet(key, from_round=number, to_round=number + 1) for peer, key in current.items()},
        chain_round=number + 1,
        round=RoundState(
            invitation=invitation,
            own_shares=message,
            own_shares_digest=digest,
            self_seed=self_seed,
            pair_secrets=pair_secrets,
            seal_secrets=seal_secrets,
            seed_shares={seat.name: own_share},
            wrap_shares={},
            survivors={},
        ),
    )
    return following, message


def accept(
    state: ClientState, seat: Seat, announcement: bytes, shares: Iterable[bytes]
) -> tuple[ClientState, bytes | None]:
    """R2, first half: check and open what U1 dealt; a complaint where a dealer's shares contradict its commitments.

    A complaint ends this client's part in the round: it has revealed what seals its shares with that dealer.
    """
    opened = _open_round(state)
    announced = RoundAnnouncement.from_bytes(announcement)
    if announced.invitation.to_bytes() != opened.invitation:
        raise HostileInputError("the announced round is not the one that this client shared secrets for")
    if announced.vector_length > state.floors.max_vector_length:
        raise HostileInputError(
            f"vector length {announced.vector_length} exceeds this site's limit of {state.floors.max_vector_length}"
        )
    context = announced.invitation.context
    admitted = seat.admit(shares, ShareMessage, context=context, own_digest=opened.own_shares_digest)
    _require_enough(len(admitted), state, announced.invitation, what="clients shared secrets")
    cohort_digest = digest_of_set("U1", context=context, digests=_digests(admitted))
    seed_shares, wrap_shares = dict(opened.seed_shares), dict(opened.wrap_shares)
    peers = sorted(set(admitted) - {seat.name})
    for peer in peers:
        if peer not in opened.pair_secrets:
            raise HostileInputError("shared secrets, but was not invited or has no confirmed key here", party=peer)
        if admitted[peer].previous != state.setup_digests[peer]:
            raise HostileInputError("refers to another key confirmation than this client received", party=peer)
    for peer in peers:
        require_agreement(
            admitted[peer].body,
            dealer=peer,
            holder=seat.name,
            cohort=frozenset(admitted),
            pair_secret=opened.pair_secrets[peer],
            seal_secret=opened.seal_secrets[peer],
            context=context,
        )
    for peer in peers:
        secret = opened.seal_secrets[peer]
        try:
            seed_shares[peer], wrap_shares[peer] = open_shares(
                admitted[peer].body, dealer=peer, holder=seat.name, seal_secret=secret, context=context
            )
        except HostileInputError:
            complaint = Complaint(dealer=peer, seal_secret=secret)
            message, _ = seat.sign(complaint, context=announced.context, previous=cohort_digest)
            return replace(state, stage="READY", round=None), message
    following = replace(
        state,
        stage="ACCEPTED",
        round=replace(
            opened,
            announcement=announcement,
            own_shares=b"",
            pair_secrets={peer: opened.pair_secrets[peer] for peer in peers},
            seal_secrets={},
            seed_shares=seed_shares,
            wrap_shares=wrap_shares,
            cohort_digest=cohort_digest,
        ),
    )
    return following, None


def mask(state: ClientState, seat: Seat, vector: Words) -> tuple[ClientState, bytes, Words]:
    """R2, second half: mask the vector for U1; returns the header and the masked copy."""
    opened, announced = _announced_round(state)
    if vector.dtype != np.uint32 or vector.shape != (announced.vector_length,):
        raise MisuseError(
            f"vector must be uint32 of shape ({announced.vector_length},), got {vector.dtype} of shape {vector.shape}"
        )
    masked = apply_masks(
        vector,
        name=seat.name,
        self_seed=opened.self_seed,
        pair_secrets=opened.pair_secrets,
        context=announced.context,
    )
    header = MaskedInput(root=vector_root(masked), length=masked.size)
    message, digest = seat.sign(header, context=announced.context, previous=opened.cohort_digest)
    following = replace(
        state,
        stage="UPLOADED",
        round=replace(opened, self_seed=b"", pair_secrets={}, own_header_digest=digest),
    )
    return following, message, masked


def agree(state: ClientState, seat: Seat, request: bytes) -> tuple[ClientState, bytes]:
    """R3: sign the survivor set, once, if it is one that this client may help to open."""
    opened, announced = _announced_round(state)
    claimed = AgreementRequest.from_bytes(request)
    if claimed.context != announced.context:
        raise HostileInputError("the request belongs to another round or announcement")
    admitted = seat.admit(claimed.headers, MaskedInput, context=announced.context, own_digest=opened.own_header_digest)
    _require_enough(len(admitted), state, announced.invitation, what="clients uploaded")
    for peer, header in admitted.items():
        if peer not in opened.seed_shares:
            raise HostileInputError("named a survivor, but it shared no secrets in this round", party=peer)
        if header.previous != opened.cohort_digest:
            raise HostileInputError("acted on other shares than this client was shown", party=peer)
    convicted = convicted_in(claimed.evidence, context=state.opened.last_context, roster=seat.roster)
    state.opened.check(
        admitted,
        model_hash=announced.model_hash,
        convicted=convicted,
        second_sum=state.floors.second_sum,
        min_cohort_change=state.floors.min_cohort_change,
    )
    survivors = _digests(admitted)
    message, _ = seat.sign(
        SurvivorAgreement(survivors=tuple(sorted(survivors))),
        context=announced.context,
        previous=digest_of_set("U2", context=announced.context, digests=survivors),
    )
    following = replace(
        state, stage="AGREED", opened=state.opened.without(convicted), round=replace(opened, survivors=survivors)
    )
    return following, message


def unmask(state: ClientState, seat: Seat, request: bytes) -> tuple[ClientState, bytes]:
    """R4: one kind of share for each client of U1, by whether it survived; the round's secrets are erased."""
    opened, announced = _announced_round(state)
    claimed = UnmaskRequest.from_bytes(request)
    if claimed.context != announced.context:
        raise HostileInputError("the request belongs to another round or announcement")
    survivors = digest_of_set("U2", context=announced.context, digests=opened.survivors)
    agreeing: set[str] = set()
    for agreement in claimed.agreements:
        found = open_envelope(agreement, SurvivorAgreement, context=announced.context, roster=seat.roster)
        if found.sender not in opened.survivors or found.sender in agreeing:
            raise HostileInputError("is no survivor, or agrees twice", party=found.sender)
        if found.previous != survivors:
            raise HostileInputError("agreed to another survivor set than this client", party=found.sender)
        agreeing.add(found.sender)
    # The floor on cohorts is about who is summed, which R3 checked; what makes the set unique is the threshold.
    threshold = announced.invitation.threshold
    if len(agreeing) < threshold:
        raise TooFewSurvivorsError(
            f"{len(agreeing)} survivors agreed on the survivor set, at least {threshold} are needed"
        )
    reply = UnmaskReply(
        seed_shares={peer: opened.seed_shares[peer] for peer in opened.survivors},
        wrap_shares={peer: share for peer, share in opened.wrap_shares.items() if peer not in opened.survivors},
    )
    message, _ = seat.sign(reply, context=announced.context, previous=survivors)
    remembered = state.opened.including(
        opened.survivors,
        model_hash=announced.model_hash,
        context=announced.context,
        min_cohort_change=state.floors.min_cohort_change,
    )
    return replace(state, stage="READY", round=None, opened=remembered), message


def receipt(state: ClientState) -> Receipt:
    """What the site keeps of a round that it agreed to."""
    opened, announced = _announced_round(state)
    return Receipt(
        site=state.name,
        session=state.session,
        round_number=announced.round_number,
        context=announced.context,
        model_hash=announced.model_hash,
        previous=announced.previous,
        header_digest=opened.own_header_digest,
        survivors=tuple(sorted(opened.survivors)),
        survivors_digest=digest_of_set("U2", context=announced.context, digests=opened.survivors),
    )


def _check_invitation(state: ClientState, seat: Seat, invited: RoundInvitation) -> tuple[str, ...]:
    """The invited peers with which keys are confirmed, once every floor holds."""
    floors, size = state.floors, len(invited.invited)
    if invited.session != state.session or invited.roster_hash != seat.roster.digest:
        raise HostileInputError("the invitation is for another session or another roster")
    if invited.round_number <= state.last_round:
        raise HostileInputError(
            f"round {invited.round_number} was announced, but round {state.last_round} is already past: "
            "only later rounds are accepted"
        )
    for member in invited.invited:
        seat.roster.index(member)
    if seat.name not in invited.invited:
        raise HostileInputError(f"the invited clients do not include {seat.name!r}")
    if size < floors.min_cohort:
        raise HostileInputError(f"{size} clients are invited, this site's floor is min_cohort = {floors.min_cohort}")
    lowest = floors.threshold_for(size)
    if not lowest <= invited.threshold <= size:
        raise HostileInputError(
            f"threshold = {invited.threshold} for {size} clients, this site accepts {lowest} to {size}"
        )
    peers = tuple(peer for peer in invited.invited if peer in state.chain_keys)
    _require_enough(len(peers) + 1, state, invited, what="invited clients have confirmed keys")
    return peers


def _require_enough(count: int, state: ClientState, invited: RoundInvitation, *, what: str) -> None:
    floor = max(invited.threshold, state.floors.min_cohort)
    if count < floor:
        raise TooFewSurvivorsError(f"{count} {what}, at least {floor} are needed")


def _open_round(state: ClientState) -> RoundState:
    if state.round is None:
        raise MisuseError(f"the stored state says {state.stage} but holds no round")
    return state.round


def _announced_round(state: ClientState) -> tuple[RoundState, RoundAnnouncement]:
    opened = _open_round(state)
    return opened, RoundAnnouncement.from_bytes(opened.announcement)


def _digests(admitted: Mapping[str, Admitted[ShareMessage]] | Mapping[str, Admitted[MaskedInput]]) -> dict[str, bytes]:
    return {sender: found.digest for sender, found in admitted.items()}
