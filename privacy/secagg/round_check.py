"""What an auditor checks of one round's signed messages, completed or aborted.

Everything here follows from the messages alone: who dealt, who uploaded, who agreed to which survivor set, what was
revealed, and that the revealed secrets are those that were committed to. Every problem is noted, not only the first.
The vectors are checked in `privacy.secagg.replay`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from privacy.errors import HostileInputError, PrivacyError
from privacy.secagg.blame import convict, judge
from privacy.secagg.envelope import Admitted, digest_of_set
from privacy.secagg.findings import Findings
from privacy.secagg.messages import Complaint, MaskedInput, ShareMessage, SurvivorAgreement, UnmaskReply
from privacy.secagg.opening import OpenedSecrets, check_reply, open_secrets
from privacy.secagg.requests import RoundAnnouncement, RoundInvitation
from privacy.secagg.session_check import SessionFacts, admit_all
from privacy.secagg.threshold import default_threshold
from privacy.secagg.transcript import RoundMessages


@dataclass(frozen=True, kw_only=True)
class RoundFacts:
    """What the signed messages of an announced round establish; `replies` counts the valid ones."""

    announced: RoundAnnouncement
    headers: Mapping[str, Admitted[MaskedInput]]
    survivors_digest: bytes
    agreed: tuple[str, ...]
    replies: int
    opened: OpenedSecrets | None

    @property
    def survivors(self) -> tuple[str, ...]:
        """U2, sorted by name."""
        return tuple(sorted(self.headers))

    @property
    def sum_opened(self) -> bool:
        """Whether enough shares were revealed to open the sum."""
        return self.replies >= self.announced.invitation.threshold


def check_round(
    messages: RoundMessages, session: SessionFacts, notes: Findings, *, previous: bytes, complete: bool
) -> RoundFacts | None:
    """Check the messages; `previous` is the digest of the entry before.

    None where the round was never announced or cannot be read, so that nothing was uploaded or can be checked.
    """
    try:
        invited = RoundInvitation.from_bytes(messages.invitation)
        announced = RoundAnnouncement.from_bytes(messages.announcement) if messages.announcement else None
    except HostileInputError as error:
        notes.fail(f"the round cannot be checked: {error}")
        return None
    _check_invitation(invited, session, notes)
    dealt = _check_shares(messages, invited, session, notes)
    if announced is None:
        later = messages.headers or messages.complaints or messages.agreements or messages.replies
        notes.require(not complete and not later, "there are messages of a round that was never announced")
        return None
    with notes.claim("the sites signed the record of everything before this round"):
        notes.require(announced.invitation == invited, "the announcement is for another invitation")
        if announced.previous != previous:
            notes.fail("the announcement names another entry as the one before")
    return _Announced(messages, announced, dealt, session, notes).check(complete=complete)


def check_evidence(evidence: bytes, session: SessionFacts, facts: RoundFacts | None, notes: Findings) -> None:
    """Whether an aborted round's evidence convicts somebody of having made that round fail."""
    try:
        conviction = convict(evidence, roster=session.roster)
    except PrivacyError as error:
        notes.fail(f"the evidence of the aborted round proves nothing: {error}")
        return
    if facts is None or conviction.context != facts.announced.context:
        notes.fail(f"the evidence against {conviction.party} is of another round")
    else:
        notes.add("proved", f"{conviction.party} made the round fail: {conviction.reason}")


def _check_invitation(invited: RoundInvitation, session: SessionFacts, notes: Findings) -> None:
    size, threshold = len(invited.invited), invited.threshold
    with notes.claim("the round belongs to its session, and its threshold is above half of the invited"):
        if invited.session != session.session or invited.roster_hash != session.roster.digest:
            notes.fail("the round was announced for another session or another roster")
        strangers = sorted(set(invited.invited) - set(session.setup_digests))
        notes.require(not strangers, f"{strangers} are invited but did not complete the setup")
        notes.require(size >= 2, f"{size} sites are invited: a sum over one is its update")
        if not size < 2 * threshold <= 2 * size:
            notes.fail(f"threshold = {threshold} for {size} sites: two survivor sets could be opened, or none")
    if size >= 2 and size < 2 * threshold < 2 * default_threshold(size):
        notes.add(
            "unchecked",
            f"threshold = {threshold} for {size} sites is below the default {default_threshold(size)}: it holds "
            f"against at most {2 * threshold - size - 1} sites that collude with the aggregator",
        )


def _check_shares(
    messages: RoundMessages, invited: RoundInvitation, session: SessionFacts, notes: Findings
) -> dict[str, Admitted[ShareMessage]]:
    def check(found: Admitted[ShareMessage]) -> None:
        if found.sender not in invited.invited or found.previous != session.setup_digests.get(found.sender):
            raise HostileInputError("was not invited, or follows another key confirmation", party=found.sender)

    if not messages.shares:
        return {}
    with notes.claim("every pair of dealers committed to the same pair secret, and each dealt to all others"):
        dealt = admit_all(
            messages.shares, ShareMessage, notes, context=invited.context, roster=session.roster, check=check
        )
        notes.require(len(dealt) >= invited.threshold, f"{len(dealt)} sites dealt shares, too few for the threshold")
        names = sorted(dealt)
        for one, other in ((one, other) for one in names for other in names if one < other):
            mine, theirs = dealt[one].body.peers.get(other), dealt[other].body.peers.get(one)
            if mine is None or theirs is None:
                notes.fail(f"{one} and {other} are summed together but did not both deal to the other")
            elif (mine.pair_commitment, mine.seal_commitment) != (theirs.pair_commitment, theirs.seal_commitment):
                notes.fail(f"{one} and {other} committed to different common secrets")
    return dealt


class _Announced:
    """The part of a round that follows its announcement."""

    def __init__(
        self,
        messages: RoundMessages,
        announced: RoundAnnouncement,
        dealt: Mapping[str, Admitted[ShareMessage]],
        session: SessionFacts,
        notes: Findings,
    ) -> None:
        self.messages = messages
        self.announced = announced
        self.bodies = {name: found.body for name, found in dealt.items()}
        self.roster = session.roster
        self.notes = notes
        self.shares_context = announced.invitation.context
        self.cohort_digest = digest_of_set(
            "U1", context=self.shares_context, digests={name: found.digest for name, found in dealt.items()}
        )

    def check(self, *, complete: bool) -> RoundFacts:
        """Complaints, uploads, agreements and replies, in this order."""
        threshold = self.announced.invitation.threshold
        self._check_complaints(complete=complete)
        self._check_shown_evidence()
        with self.notes.claim("every upload and every agreement is signed by its site, for this round and this model"):
            headers = self._check_headers()
            survivors = {name: found.digest for name, found in headers.items()}
            digest = digest_of_set("U2", context=self.announced.context, digests=survivors)
            agreed = self._check_agreements(headers, digest)
        replies = self._check_replies(headers, digest, enough_agreed=len(agreed) >= threshold)
        opened = None
        if complete:
            counts = (len(headers), len(agreed), len(replies))
            with self.notes.claim(
                "at least the threshold of sites uploaded, agreed to the one survivor set, and replied"
            ):
                if min(counts) < threshold:
                    self.notes.fail(
                        f"{counts[0]} sites uploaded, {counts[1]} agreed and {counts[2]} replied, "
                        f"the threshold is {threshold}"
                    )
            opened = self._open(replies, headers)
        return RoundFacts(
            announced=self.announced,
            headers=headers,
            survivors_digest=digest,
            agreed=tuple(sorted(agreed)),
            replies=len(replies),
            opened=opened,
        )

    def _check_complaints(self, *, complete: bool) -> None:
        complaints = admit_all(
            self.messages.complaints,
            Complaint,
            self.notes,
            context=self.announced.context,
            roster=self.roster,
            check=self._follows_cohort,
        )
        for name, found in complaints.items():
            try:
                guilty, reason = judge(found, dealers=self.bodies, context=self.shares_context)
            except PrivacyError as error:
                self.notes.fail(str(error))
                continue
            self.notes.add("proved", f"{guilty} broke the protocol: {reason}")
            if complete and guilty != name:
                self.notes.fail(f"the round was completed although {name} proved that {guilty} dealt bad shares")

    def _check_shown_evidence(self) -> None:
        for evidence in self.messages.evidence:
            try:
                convict(evidence, roster=self.roster)
            except PrivacyError as error:
                self.notes.fail(f"the evidence that was shown to the sites proves nothing: {error}")

    def _check_headers(self) -> dict[str, Admitted[MaskedInput]]:
        length = self.announced.vector_length

        def check(found: Admitted[MaskedInput]) -> None:
            self._follows_cohort(found)
            if found.body.length != length:
                raise HostileInputError(
                    f"uploaded {found.body.length} words, announced were {length}", party=found.sender
                )

        return admit_all(
            self.messages.headers,
            MaskedInput,
            self.notes,
            context=self.announced.context,
            roster=self.roster,
            check=check,
        )

    def _check_agreements(self, headers: Mapping[str, Admitted[MaskedInput]], digest: bytes) -> set[str]:
        def check(found: Admitted[SurvivorAgreement]) -> None:
            _require_survivor(found, headers, digest)
            if found.body.survivors != tuple(sorted(headers)):
                raise HostileInputError("names other survivors than it signed", party=found.sender)

        return set(
            admit_all(
                self.messages.agreements,
                SurvivorAgreement,
                self.notes,
                context=self.announced.context,
                roster=self.roster,
                check=check,
            )
        )

    def _check_replies(
        self, headers: Mapping[str, Admitted[MaskedInput]], digest: bytes, *, enough_agreed: bool
    ) -> dict[str, UnmaskReply]:
        def check(found: Admitted[UnmaskReply]) -> None:
            _require_survivor(found, headers, digest)
            check_reply(
                found.body,
                holder=found.sender,
                survivors=headers,
                dealers=self.bodies,
                context=self.shares_context,
            )

        with self.notes.claim("no more was revealed than seeds of survivors and wrap keys of the dropped, each once"):
            admitted = admit_all(
                self.messages.replies,
                UnmaskReply,
                self.notes,
                context=self.announced.context,
                roster=self.roster,
                check=check,
            )
            if self.messages.replies and not enough_agreed:
                self.notes.fail("shares were revealed before enough sites had agreed to the survivor set")
        return {name: found.body for name, found in admitted.items()}

    def _open(
        self, replies: Mapping[str, UnmaskReply], headers: Mapping[str, Admitted[MaskedInput]]
    ) -> OpenedSecrets | None:
        """The secrets of the round, where nothing before makes that impossible."""
        with self.notes.claim("the revealed secrets are those that their owners had committed to"):
            whole = all(set(self.bodies) - {name} <= set(body.peers) for name, body in self.bodies.items())
            if not whole or not set(headers) <= set(self.bodies):
                raise HostileInputError("the masks cannot be opened: shares are missing")
            return open_secrets(
                replies,
                survivors=headers,
                dealers=self.bodies,
                roster=self.roster,
                threshold=self.announced.invitation.threshold,
                context=self.shares_context,
            )
        return None

    def _follows_cohort(self, found: Admitted[MaskedInput] | Admitted[Complaint]) -> None:
        if found.sender not in self.bodies or found.previous != self.cohort_digest:
            raise HostileInputError("acted on other shares than this round's", party=found.sender)


def _require_survivor(
    found: Admitted[SurvivorAgreement] | Admitted[UnmaskReply],
    headers: Mapping[str, Admitted[MaskedInput]],
    digest: bytes,
) -> None:
    if found.sender not in headers or found.previous != digest:
        raise HostileInputError("signed another survivor set than the uploads of this round", party=found.sender)
