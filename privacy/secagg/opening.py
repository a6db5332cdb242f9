"""From unmask replies to what the masks of a round came from: seeds of survivors, pair secrets with the dropped.

Run by the aggregator when it finishes a round, and by anyone who replays or disputes one: everything here is computed
from signed messages. Every share and every secret is checked against the commitment of the client that dealt it, so a
contradiction names its author: a holder that gives a wrong share, or a dealer whose shares give another secret.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from privacy.errors import HostileInputError
from privacy.secagg import sealing
from privacy.secagg.messages import ShareMessage, UnmaskReply
from privacy.secagg.roster import Roster
from privacy.secagg.shamir import Recombiner


@dataclass(frozen=True, kw_only=True)
class OpenedSecrets:
    """Self seeds by survivor, and pair secrets by (survivor, dropped)."""

    self_seeds: Mapping[str, bytes] = field(repr=False)
    pair_secrets: Mapping[tuple[str, str], bytes] = field(repr=False)


def check_reply(
    reply: UnmaskReply,
    *,
    holder: str,
    survivors: Collection[str],
    dealers: Mapping[str, ShareMessage],
    context: bytes,
) -> None:
    """Check that a reply gives exactly the shares that were asked for, each as its dealer committed to it.

    `context` is the invitation's digest.

    Raises:
        HostileInputError: it does not; `party` is the holder.
    """
    if set(reply.seed_shares) != set(survivors) or set(reply.wrap_shares) != set(dealers) - set(survivors):
        raise HostileInputError("gives shares of other clients than it was asked for", party=holder)
    for dealer in (*reply.seed_shares, *reply.wrap_shares):
        check_share(reply, dealer=dealer, holder=holder, dealt=dealers[dealer], context=context)


def check_share(reply: UnmaskReply, *, dealer: str, holder: str, dealt: ShareMessage, context: bytes) -> bytes:
    """The share of one dealer in one reply, checked against the dealer's own commitment.

    Raises:
        HostileInputError: there is none, or the dealer committed to another one; `party` is the holder.
    """
    kind: sealing.ShareKind = "seed share" if dealer in reply.seed_shares else "wrap share"
    share = reply.seed_shares.get(dealer) or reply.wrap_shares.get(dealer)
    if share is None or (dealer != holder and holder not in dealt.peers):
        raise HostileInputError(f"gives no share of {dealer}", party=holder)
    if dealer == holder:
        commitment = dealt.own_share_commitment
    elif kind == "seed share":
        commitment = dealt.peers[holder].seed_share_commitment
    else:
        commitment = dealt.peers[holder].wrap_share_commitment
    expected = sealing.commit_share(share, kind=kind, dealer=dealer, holder=holder, context=context)
    if not sealing.matches(commitment, expected):
        raise HostileInputError(f"gives a {kind} that {dealer} did not deal", party=holder)
    return share


def open_secrets(
    replies: Mapping[str, UnmaskReply],
    *,
    survivors: Collection[str],
    dealers: Mapping[str, ShareMessage],
    roster: Roster,
    threshold: int,
    context: bytes,
) -> OpenedSecrets:
    """Combine checked replies by holder, at least `threshold` of them; `context` is the invitation's digest.

    Raises:
        HostileInputError: a dealer's shares or its wrap contradict its commitments; `party` names it.
    """
    indices = {holder: roster.index(holder) for holder in replies}
    recombiner = Recombiner(sorted(indices.values()), threshold=threshold)
    self_seeds = {}
    for name in sorted(survivors):
        seed = recombiner.combine({indices[holder]: reply.seed_shares[name] for holder, reply in replies.items()})
        require_seed(seed, dealer=name, dealt=dealers[name], context=context)
        self_seeds[name] = seed
    pair_secrets: dict[tuple[str, str], bytes] = {}
    for name in sorted(set(dealers) - set(survivors)):
        key = recombiner.combine({indices[holder]: reply.wrap_shares[name] for holder, reply in replies.items()})
        for peer, secret in open_wrap(key, dealer=name, dealt=dealers[name], peers=survivors, context=context).items():
            pair_secrets[peer, name] = secret
    return OpenedSecrets(self_seeds=self_seeds, pair_secrets=pair_secrets)


def require_seed(seed: bytes, *, dealer: str, dealt: ShareMessage, context: bytes) -> None:
    """Raises HostileInputError where the dealer committed to another self seed."""
    expected = sealing.commit_secret(seed, kind="self seed", owner=dealer, context=context)
    if not sealing.matches(dealt.seed_commitment, expected):
        raise HostileInputError("dealt shares that do not give the self seed it committed to", party=dealer)


def open_wrap(
    wrap_key: bytes, *, dealer: str, dealt: ShareMessage, peers: Collection[str], context: bytes
) -> dict[str, bytes]:
    """The pair secrets that a dropped client wrapped for `peers`, each checked against its commitment.

    Raises:
        HostileInputError: the wrap key is not the one it committed to, or the wrap holds other secrets.
    """
    expected = sealing.commit_secret(wrap_key, kind="wrap key", owner=dealer, context=context)
    if not sealing.matches(dealt.wrap_commitment, expected):
        raise HostileInputError("dealt shares that do not give the wrap key it committed to", party=dealer)
    opened = sealing.open_wrap(dealt.wrapped_pair_secrets, wrap_key=wrap_key, owner=dealer, context=context)
    result = {}
    for peer in sorted(peers):
        secret = opened.get(peer, b"")
        committed = sealing.commit_pair_secret(secret, one=dealer, other=peer, context=context)
        if not sealing.matches(dealt.peers[peer].pair_commitment, committed):
            raise HostileInputError(f"wrapped another pair secret with {peer} than it committed to", party=dealer)
        result[peer] = secret
    return result
