"""A site that deals something else than it commits to, in a round that everybody else plays by the rules.

Run by the cheating site, which signs with its own key. The round is the aggregator's own state machine, so that whom it
blames is what a run would blame.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from privacy.errors import HostileInputError, MisuseError, ProvenCheatingError
from privacy.secagg.client_state import ClientState, RoundState
from privacy.secagg.dealing import deal_shares
from privacy.secagg.envelope import DIGEST_BYTES, open_envelope, seal_envelope
from privacy.secagg.messages import SEALED_SHARE_BYTES, ShareMessage
from privacy.secagg.requests import RoundInvitation
from privacy.secagg.roster import Roster
from privacy.secagg.sealing import seal_share, wrap_pair_secrets
from privacy.secagg.shamir import SHARE_BYTES
from privacy.streams import KEY_BYTES
from secfed.audit.consortium import MODEL, PLAN, Consortium


@dataclass(frozen=True, kw_only=True)
class Dealing:
    """What an honest client would deal, and the secrets that it comes from."""

    dealer: str
    body: ShareMessage
    secrets: RoundState
    invitation: RoundInvitation
    roster: Roster

    @property
    def peer(self) -> str:
        """The one holder that is dealt something else."""
        return min(self.body.peers)

    def with_sealed_seed_share(self, sealed: bytes) -> ShareMessage:
        """The same with other bytes for that one holder."""
        row = replace(self.body.peers[self.peer], sealed_seed_share=sealed)
        return replace(self.body, peers={**self.body.peers, self.peer: row})


Cheat: TypeAlias = Callable[[Dealing], ShareMessage]


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Whom the software blamed in a round, and whether evidence convicts the same party; `exact` where a sum came out.

    `blamed` holds names, those of honest sites included.
    """

    blamed: frozenset[str]
    convicted: frozenset[str]
    exact: bool


def share_that_does_not_open(honest: Dealing) -> ShareMessage:
    """Random bytes in the place of a sealed share."""
    return honest.with_sealed_seed_share(secrets.token_bytes(SEALED_SHARE_BYTES))


def share_not_committed_to(honest: Dealing) -> ShareMessage:
    """A properly sealed share that is not the one committed to."""
    sealed = seal_share(
        secrets.token_bytes(SHARE_BYTES),
        kind="seed share",
        seal_secret=honest.secrets.seal_secrets[honest.peer],
        dealer=honest.dealer,
        holder=honest.peer,
        context=honest.invitation.context,
    )
    return honest.with_sealed_seed_share(sealed)


def shares_of_another_seed(honest: Dealing) -> ShareMessage:
    """Every share as committed to, but the commitment to the seed is to another one."""
    return replace(honest.body, seed_commitment=secrets.token_bytes(DIGEST_BYTES))


def wrap_that_does_not_open(honest: Dealing) -> ShareMessage:
    """Random bytes in the place of the wrapped pair secrets."""
    return replace(honest.body, wrapped_pair_secrets=secrets.token_bytes(len(honest.body.wrapped_pair_secrets)))


def shares_of_another_wrap_key(honest: Dealing) -> ShareMessage:
    """Every share as committed to, but the commitment to the wrap key is to another one."""
    return replace(honest.body, wrap_commitment=secrets.token_bytes(DIGEST_BYTES))


def wrap_of_other_secrets(honest: Dealing) -> ShareMessage:
    """A wrap that opens, and holds other pair secrets than the commitments say."""
    wrap_key, context = secrets.token_bytes(KEY_BYTES), honest.invitation.context
    _, body = deal_shares(
        dealer=honest.dealer,
        self_seed=honest.secrets.self_seed,
        wrap_key=wrap_key,
        pair_secrets=honest.secrets.pair_secrets,
        seal_secrets=honest.secrets.seal_secrets,
        indices={name: honest.roster.index(name) for name in honest.invitation.invited},
        threshold=honest.invitation.threshold,
        context=context,
    )
    others = {peer: secrets.token_bytes(KEY_BYTES) for peer in honest.body.peers}
    wrapped = wrap_pair_secrets(others, wrap_key=wrap_key, owner=honest.dealer, context=context)
    return replace(body, wrapped_pair_secrets=wrapped)


def play_with(world: Consortium, cheat: Cheat, *, number: int, cheater: str, drops: bool) -> Judgement:
    """One round; `drops` says whether the cheater uploads nothing, so that its wrap is opened instead of its seed."""
    round_ = world.server.invite(round_number=number)
    dealt = {name: client.share(round_.invitation) for name, client in world.clients.items()}
    dealt[cheater] = _recommit(world, cheater, dealt[cheater], cheat, invitation=round_.invitation)
    round_.collect_shares(dealt.values())
    blamed = set(round_.excluded)
    announcement = round_.announce(model_hash=MODEL, plan_hash=PLAN, vector_length=world.vector_format.length)
    active = [name for name in round_.cohort if not (drops and name == cheater)]
    try:
        for name in active:
            client = world.clients[name]
            complaint = client.accept(announcement, round_.shares)
            if complaint is not None:
                blamed.add(round_.add_complaint(complaint))
                continue
            round_.add_upload(*client.mask(world.vectors[name]))
        request = round_.request_agreement()
        round_.collect_agreements([world.clients[name].agree(request) for name in round_.uploaded])
        release = round_.request_unmask()
        summed = round_.finish([world.clients[name].unmask(release) for name in round_.uploaded])
    except ProvenCheatingError as error:
        conviction = world.target.convict(error.evidence, roster=world.roster)
        return Judgement(
            blamed=frozenset({*blamed, error.party or ""}), convicted=frozenset({conviction.party}), exact=False
        )
    except HostileInputError as error:
        blamed.add(error.party or "")
        return Judgement(blamed=frozenset(blamed), convicted=frozenset(), exact=False)
    exact = bool((summed.total == world.total(summed.survivors)).all())
    return Judgement(blamed=frozenset(blamed), convicted=frozenset(), exact=exact)


def _recommit(world: Consortium, cheater: str, message: bytes, cheat: Cheat, *, invitation: bytes) -> bytes:
    """Sign what the cheat makes of the cheater's R1, and let its client believe that it dealt just that."""
    invited = RoundInvitation.from_bytes(invitation)
    state = ClientState.from_bytes(world.clients[cheater].to_bytes())
    if state.round is None:
        raise MisuseError(f"{cheater} has no open round to cheat in")
    honest = open_envelope(message, ShareMessage, context=invited.context, roster=world.roster)
    identity = world.identities[cheater]
    forged, digest = seal_envelope(
        cheat(Dealing(dealer=cheater, body=honest.body, secrets=state.round, invitation=invited, roster=world.roster)),
        context=invited.context,
        sender=cheater,
        previous=honest.previous,
        sign=identity.sign,
    )
    believing = replace(state, round=replace(state.round, own_shares_digest=digest))
    world.clients[cheater] = world.target.client.from_bytes(
        believing.to_bytes(), identity=identity, roster=world.roster
    )
    return forged
