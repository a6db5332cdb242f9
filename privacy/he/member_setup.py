"""A site's steps G0 and G1: one group key for all, from site to site. Each takes a state and returns the next one.

Run by a site, through `privacy.he.member`, which checks the order. The key of a run that any site holds is the key of
the run. Only where nobody holds one and no round is completed, the key counts that the lowest-named site made for this
case. A peer whose message is refused is excluded and named; what the aggregator must not do raises HostileInputError.

It does not protect against a peer that gives the key away: every holder can read every upload that it sees.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from privacy.entropy import Entropy
from privacy.errors import HostileInputError, TooFewSurvivorsError
from privacy.he.distribution import SealedKey, open_from_peer, seal_for_peers
from privacy.he.errors import GroupKeyLostError
from privacy.he.key_holder import GroupKey
from privacy.he.member_state import MemberState
from privacy.he.messages import GroupKeyConfirmation, GroupKeyOffer, setup_context
from privacy.he.model_state import model_tag
from privacy.he.parameters import HeParameters
from privacy.secagg.channels import SessionChannels
from privacy.secagg.client_state import ClientFloors
from privacy.secagg.envelope import Admitted, digest_of_set
from privacy.secagg.seat import Seat

_NOTHING = SealedKey(sealed=b"", wraps={})


@dataclass(frozen=True, kw_only=True)
class Site:
    """What a site brings to every step beside its state: its seat, its settings, and what opens the stored key."""

    seat: Seat
    parameters: HeParameters
    floors: ClientFloors
    entropy: Entropy
    open_key: Callable[[], GroupKey] = field(repr=False)


def offer(state: MemberState, site: Site, channels: SessionChannels) -> tuple[MemberState, bytes, bytes]:
    """G0: what this site holds, sealed to every confirmed peer, and where it stands; and the sealed key."""
    key, candidate = (site.open_key(), False) if state.established else (None, False)
    if key is None and not state.completed and state.name < min(channels.peers, default=state.name + "0"):
        key, candidate = GroupKey.generate(site.parameters), True
    dealt = _NOTHING if key is None else seal_for_peers(key, channels=channels, entropy=site.entropy)
    body = GroupKeyOffer(
        claim="none" if key is None else "candidate" if candidate else "holds",
        fingerprint=b"" if key is None else key.fingerprint,
        sealed_key=b"" if key is None else hashlib.sha256(dealt.sealed).digest(),
        wraps=dealt.wraps,
        parameters=site.parameters.digest,
        completed=state.completed,
        model_tag=b"" if key is None else _tag(state, key),
    )
    message, digest = site.seat.sign(body, context=_context(state, site), previous=channels.confirmation)
    following = replace(
        state,
        stage="OFFERED",
        session=channels.session,
        group_key=b"" if key is None else key.to_bytes(),
        fingerprint=b"" if key is None else key.fingerprint,
        own_digest=digest,
        standings={},
        tags={},
        members=(),
        excluded={},
        announcement=b"",
    )
    return following, message, dealt.sealed


def accept_offers(
    state: MemberState, site: Site, channels: SessionChannels, offers: Iterable[bytes], sealed_keys: Iterable[bytes]
) -> tuple[MemberState, bytes]:
    """G1: the key of the run, taken over from a peer where this site does not hold it."""
    context, excluded = _context(state, site), dict[str, str]()
    admitted = site.seat.admit(offers, GroupKeyOffer, context=context, own_digest=state.own_digest, excluded=excluded)
    counted = _counted(admitted, site, channels, excluded)
    fingerprint = _agreed_fingerprint(counted)
    _require_enough(len(counted), site, channels, what="sites offered under the same parameters")
    group_key = state.group_key
    if state.fingerprint != fingerprint:
        by_digest = {hashlib.sha256(sealed).digest(): sealed for sealed in sealed_keys}
        group_key = _taken_over(counted, site, channels, by_digest, fingerprint).to_bytes()
    offers_digest = digest_of_set(
        "G0", context=context, digests={sender: found.digest for sender, found in admitted.items()}
    )
    message, digest = site.seat.sign(
        GroupKeyConfirmation(fingerprint=fingerprint), context=context, previous=offers_digest
    )
    following = replace(
        state,
        stage="CONFIRMED",
        group_key=group_key,
        fingerprint=fingerprint,
        own_digest=digest,
        offers_digest=offers_digest,
        standings={name: body.completed for name, body in counted.items()},
        # A candidate that lost has tagged its model under a key that nobody uses.
        tags={name: body.model_tag for name, body in counted.items() if body.fingerprint == fingerprint},
        members=tuple(sorted(counted)),
        excluded=excluded,
    )
    return following, message


def accept_confirmations(
    state: MemberState, site: Site, channels: SessionChannels, confirmations: Iterable[bytes]
) -> MemberState:
    """Hold the key for the run, once enough sites confirmed the same one and the same offers."""
    excluded = dict(state.excluded)
    admitted = site.seat.admit(
        confirmations,
        GroupKeyConfirmation,
        context=_context(state, site),
        own_digest=state.own_digest,
        excluded=excluded,
    )
    others = sorted(name for name, found in admitted.items() if found.body.fingerprint != state.fingerprint)
    if others:
        raise HostileInputError(
            f"{', '.join(others)} confirmed another group key than this site holds", party=others[0]
        )
    members = []
    for name, found in admitted.items():
        if found.previous != state.offers_digest:
            excluded[name] = f"{name}: was shown other offers than this site"
        elif name in state.members:
            members.append(name)
    _require_enough(len(members), site, channels, what="sites confirmed the group key")
    return replace(state, stage="READY", established=1, members=tuple(sorted(members)), excluded=excluded)


def _counted(
    admitted: Mapping[str, Admitted[GroupKeyOffer]], site: Site, channels: SessionChannels, excluded: dict[str, str]
) -> dict[str, GroupKeyOffer]:
    """The offers of this site and of the peers that share its session and its parameters."""
    counted = {}
    for name, found in sorted(admitted.items()):
        if name != site.seat.name:
            if name not in channels.peers:
                excluded[name] = f"{name}: no keys are confirmed with this site"
                continue
            if found.previous != channels.peers[name].confirmation:
                excluded[name] = f"{name}: does not follow the key confirmation that this site accepted"
                continue
            if found.body.parameters != site.parameters.digest:
                excluded[name] = f"{name}: has other parameters of encryption than this site"
                continue
        counted[name] = found.body
    return counted


def _agreed_fingerprint(offers: Mapping[str, GroupKeyOffer]) -> bytes:
    completed = max(body.completed for body in offers.values())
    for claim in ("holds", "candidate"):
        found = {name: body.fingerprint for name, body in offers.items() if body.claim == claim}
        if len(set(found.values())) > 1:
            keys = sorted(set(found.values()))
            parties = [", ".join(sorted(name for name in found if found[name] == key)) for key in keys]
            raise HostileInputError(f"different group keys are offered for one run, by {' and by '.join(parties)}")
        if found and (claim == "holds" or not completed):
            return next(iter(found.values()))
    if completed:
        parties = sorted(name for name, body in offers.items() if body.completed)
        raise GroupKeyLostError(
            f"the group key of this run is lost: {', '.join(parties)} completed up to {completed} rounds, and none of "
            f"{', '.join(offers)} holds the key. Nobody can decrypt its sums; start a new run"
        )
    raise HostileInputError(f"none of {', '.join(offers)} offered a group key; the first of them should have made one")


def _taken_over(
    offers: Mapping[str, GroupKeyOffer],
    site: Site,
    channels: SessionChannels,
    sealed_keys: Mapping[bytes, bytes],
    fingerprint: bytes,
) -> GroupKey:
    """The key from the first dealer whose sealed key is here and opens."""
    failed: HostileInputError | None = None
    for dealer, body in offers.items():
        wrap, sealed = body.wraps.get(site.seat.name), sealed_keys.get(body.sealed_key)
        if dealer == site.seat.name or body.fingerprint != fingerprint or wrap is None or sealed is None:
            continue
        try:
            return open_from_peer(
                sealed,
                wrap,
                dealer=dealer,
                channels=channels,
                parameters=site.parameters,
                fingerprint=fingerprint,
            )
        except HostileInputError as error:
            failed = failed or error
    if failed is not None:
        raise failed
    raise HostileInputError("no sealed group key arrived that is meant for this site and that an offer signs")


def _require_enough(count: int, site: Site, channels: SessionChannels, *, what: str) -> None:
    # The threshold counts everybody with whom keys are confirmed: an aggregator cannot lower it by leaving offers out.
    floor = max(site.floors.min_cohort, site.floors.threshold_for(max(2, len(channels.peers) + 1)))
    if count < floor:
        raise TooFewSurvivorsError(f"{count} {what}, at least {floor} are needed")


def _tag(state: MemberState, key: GroupKey) -> bytes:
    return model_tag(key.to_bytes(), run=state.run, completed=state.completed, model_hash=state.model_hash)


def _context(state: MemberState, site: Site) -> bytes:
    return setup_context(state.run, session_context=site.seat.session_context)
