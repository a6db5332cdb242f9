"""What one client deals to the others in R1, and how a holder checks what was dealt to it.

Run by clients; `open_shares` also by whoever judges a complaint. A holder checks what it can see: its own two shares,
the secrets that both know, and that the dealer dealt to everybody in the cohort. Whether all shares lie on one
polynomial shows only when they are combined.
"""

from collections.abc import Mapping

from privacy.errors import HostileInputError
from privacy.secagg import shamir
from privacy.secagg.messages import PeerShares, ShareMessage
from privacy.secagg.sealing import (
    ShareKind,
    commit_pair_secret,
    commit_seal_secret,
    commit_secret,
    commit_share,
    matches,
    open_share,
    seal_share,
    wrap_pair_secrets,
)


def deal_shares(
    *,
    dealer: str,
    self_seed: bytes,
    wrap_key: bytes,
    pair_secrets: Mapping[str, bytes],
    seal_secrets: Mapping[str, bytes],
    indices: Mapping[str, int],
    threshold: int,
    context: bytes,
) -> tuple[bytes, ShareMessage]:
    """The share of the self seed that the dealer keeps, and the message to all others.

    The dealer keeps no share of its wrap key: that key is asked for only when the dealer is gone. `indices` gives every
    holder's x coordinate, the dealer's included.
    """
    count = max(indices.values())
    seed_shares = shamir.split(self_seed, threshold=threshold, share_count=count)
    wrap_shares = shamir.split(wrap_key, threshold=threshold, share_count=count)

    def commit(share: bytes, kind: ShareKind, holder: str) -> bytes:
        return commit_share(share, kind=kind, dealer=dealer, holder=holder, context=context)

    def seal(share: bytes, kind: ShareKind, holder: str) -> bytes:
        secret = seal_secrets[holder]
        return seal_share(share, kind=kind, seal_secret=secret, dealer=dealer, holder=holder, context=context)

    peers = {}
    for peer, secret in pair_secrets.items():
        seed_share, wrap_share = seed_shares[indices[peer]], wrap_shares[indices[peer]]
        peers[peer] = PeerShares(
            pair_commitment=commit_pair_secret(secret, one=dealer, other=peer, context=context),
            seal_commitment=commit_seal_secret(seal_secrets[peer], one=dealer, other=peer, context=context),
            sealed_seed_share=seal(seed_share, "seed share", peer),
            sealed_wrap_share=seal(wrap_share, "wrap share", peer),
            seed_share_commitment=commit(seed_share, "seed share", peer),
            wrap_share_commitment=commit(wrap_share, "wrap share", peer),
        )
    own_share = seed_shares[indices[dealer]]
    return own_share, ShareMessage(
        wrapped_pair_secrets=wrap_pair_secrets(pair_secrets, wrap_key=wrap_key, owner=dealer, context=context),
        seed_commitment=commit_secret(self_seed, kind="self seed", owner=dealer, context=context),
        wrap_commitment=commit_secret(wrap_key, kind="wrap key", owner=dealer, context=context),
        own_share_commitment=commit(own_share, "seed share", dealer),
        peers=peers,
    )


def require_agreement(
    dealt: ShareMessage,
    *,
    dealer: str,
    holder: str,
    cohort: frozenset[str],
    pair_secret: bytes,
    seal_secret: bytes,
    context: bytes,
) -> None:
    """Check what two clients must have in common before either may be summed with the other.

    Raises:
        HostileInputError: the dealer left somebody of the cohort out, or committed to another secret than the holder
            has; `party` names it. Whoever relays could see this too.
    """
    uncovered = sorted(cohort - {dealer} - set(dealt.peers))
    if uncovered:
        raise HostileInputError(f"dealt no shares to {uncovered}, with whom it is to be summed", party=dealer)
    row = dealt.peers[holder]
    pair = commit_pair_secret(pair_secret, one=dealer, other=holder, context=context)
    seal = commit_seal_secret(seal_secret, one=dealer, other=holder, context=context)
    if not (matches(row.pair_commitment, pair) and matches(row.seal_commitment, seal)):
        raise HostileInputError("committed to another pair or seal secret than this client holds", party=dealer)


def open_shares(
    dealt: ShareMessage, *, dealer: str, holder: str, seal_secret: bytes, context: bytes
) -> tuple[bytes, bytes]:
    """The holder's share of the dealer's self seed and of its wrap key.

    Raises:
        HostileInputError: the dealer sealed other shares than it committed to; `party` names it.
    """
    row = dealt.peers[holder]

    def opened(sealed: bytes, commitment: bytes, kind: ShareKind) -> bytes:
        share = open_share(sealed, kind=kind, seal_secret=seal_secret, dealer=dealer, holder=holder, context=context)
        if not matches(commitment, commit_share(share, kind=kind, dealer=dealer, holder=holder, context=context)):
            raise HostileInputError(f"the {kind} is not the one that it committed to", party=dealer)
        return share

    return (
        opened(row.sealed_seed_share, row.seed_share_commitment, "seed share"),
        opened(row.sealed_wrap_share, row.wrap_share_commitment, "wrap share"),
    )
