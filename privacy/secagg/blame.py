"""Who cheated: judgements from signed messages alone, which anyone can repeat.

Run by the aggregator, by clients that are asked to run a round again without somebody, and by the verifier. Two kinds:

- A complaint (R2): a client says that a dealer's sealed shares contradict the dealer's commitments, and reveals what
  opens them. Both had committed to that secret, so exactly one of the two is guilty.
- A conviction (R4): t holders signed shares that match a client's commitments one by one, and together give another
  secret than it committed to, or open a wrap that holds other secrets. Only the dealer can have made them so.

It does not find a client that uploads a false vector: masks hide a poisoned update as well as a good one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from privacy.cbor import from_cbor, to_cbor
from privacy.errors import HostileInputError
from privacy.secagg import sealing
from privacy.secagg.dealing import open_shares
from privacy.secagg.envelope import Admitted, open_envelope
from privacy.secagg.messages import Complaint, ShareMessage, UnmaskReply
from privacy.secagg.opening import check_share, open_wrap, require_seed
from privacy.secagg.parsing import byte_strings, exactly, wrong_type
from privacy.secagg.requests import RoundAnnouncement
from privacy.secagg.roster import Roster
from privacy.secagg.shamir import Recombiner
from privacy.streams import SUITE


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What convicts a dealer: the announcement of the round, the dealer's R1, and R4 replies of at least t holders."""

    announcement: bytes
    shares: bytes
    replies: tuple[bytes, ...]

    def to_bytes(self) -> bytes:
        """The evidence as it travels and stands in a transcript."""
        return to_cbor(
            {
                "suite": SUITE,
                "announcement": self.announcement,
                "shares": self.shares,
                "replies": self.replies,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse untrusted bytes.

        Raises:
            HostileInputError: not evidence of this suite.
        """
        match exactly(from_cbor(data), "suite", "announcement", "shares", "replies"):
            case [str(suite), bytes(announcement), bytes(shares), list(replies)] if suite == SUITE:
                return cls(
                    announcement=announcement,
                    shares=shares,
                    replies=byte_strings(replies, what="evidence"),
                )
        raise wrong_type("evidence")


@dataclass(frozen=True, kw_only=True)
class Conviction:
    """`party` cheated in the round whose announcement has the digest `context`, for the reason given."""

    party: str
    context: bytes
    reason: str


def convict(data: bytes, *, roster: Roster) -> Conviction:
    """Check evidence from anyone.

    Raises:
        HostileInputError: it proves nothing.
    """
    evidence = Evidence.from_bytes(data)
    announced = RoundAnnouncement.from_bytes(evidence.announcement)
    invitation = announced.invitation
    if invitation.roster_hash != roster.digest:
        raise HostileInputError("the evidence is of another roster, which numbers the holders of shares differently")
    dealt = open_envelope(evidence.shares, ShareMessage, context=invitation.context, roster=roster)
    dealer = dealt.sender
    replies: dict[str, UnmaskReply] = {}
    for message in evidence.replies:
        found = open_envelope(message, UnmaskReply, context=announced.context, roster=roster)
        replies[found.sender] = found.body
    dropped = {dealer in reply.wrap_shares for reply in replies.values()}
    if len(replies) < invitation.threshold or len(dropped) != 1:
        raise HostileInputError(
            f"evidence against {dealer}: {len(replies)} replies for one kind of share, "
            f"{invitation.threshold} are needed"
        )
    shares = {
        roster.index(holder): check_share(
            reply, dealer=dealer, holder=holder, dealt=dealt.body, context=invitation.context
        )
        for holder, reply in replies.items()
    }
    secret = Recombiner(sorted(shares), threshold=invitation.threshold).combine(shares)
    try:
        if dropped == {True}:
            peers = dealt.body.peers
            open_wrap(secret, dealer=dealer, dealt=dealt.body, peers=peers, context=invitation.context)
        else:
            require_seed(secret, dealer=dealer, dealt=dealt.body, context=invitation.context)
    except HostileInputError as error:
        return Conviction(party=dealer, context=announced.context, reason=error.reason)
    raise HostileInputError(f"evidence against {dealer}: its messages agree with each other")


def convicted_in(evidence: Sequence[bytes], *, context: bytes, roster: Roster) -> frozenset[str]:
    """Who is proven to have cheated in the round with that announcement digest.

    Raises:
        HostileInputError: a piece of evidence proves nothing.
    """
    found = [convict(item, roster=roster) for item in evidence]
    return frozenset(conviction.party for conviction in found if conviction.context == context)


def judge(complaint: Admitted[Complaint], *, dealers: Mapping[str, ShareMessage], context: bytes) -> tuple[str, str]:
    """The guilty party of a complaint, and why: the dealer or the client that complains.

    `context` is the invitation's digest, `dealers` holds the R1 bodies of U1.

    Raises:
        HostileInputError: the complaint names nobody in the round.
    """
    holder, body = complaint.sender, complaint.body
    if holder not in dealers or body.dealer not in dealers or holder == body.dealer:
        raise HostileInputError(f"complains about {body.dealer}, who dealt it no shares", party=holder)
    dealt, own = dealers[body.dealer], dealers[holder]
    if holder not in dealt.peers or body.dealer not in own.peers:
        raise HostileInputError(f"complains about {body.dealer}, with whom it shares nothing", party=holder)
    if dealt.peers[holder].seal_commitment != own.peers[body.dealer].seal_commitment:
        raise HostileInputError(f"and {body.dealer} committed to different seal secrets: no judgement", party=holder)
    committed = sealing.commit_seal_secret(body.seal_secret, one=holder, other=body.dealer, context=context)
    if not sealing.matches(own.peers[body.dealer].seal_commitment, committed):
        return holder, f"complained about {body.dealer} with another seal secret than it committed to"
    try:
        open_shares(dealt, dealer=body.dealer, holder=holder, seal_secret=body.seal_secret, context=context)
    except HostileInputError as error:
        return body.dealer, error.reason
    return holder, f"complained about {body.dealer}, whose shares are as committed"
