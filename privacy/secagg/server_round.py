"""The aggregator's side of one round: it fixes who takes part, adds, and unmasks the sum when enough clients agree.

Run by the untrusted aggregator, through `privacy.secagg.server`, whose docstring lists the order of calls. The round
keeps ONE accumulator: uploads are added as they arrive and are not stored, and one that arrives after
`request_agreement` is discarded.

A round can fail because of one client: its shares or its wrap contradict its commitments. ProvenCheatingError then
names it and carries the evidence, and a new round runs without it, with fresh secrets and never the same uploads.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from privacy.errors import HostileInputError, MisuseError, ProvenCheatingError
from privacy.merkle import leaf_digests, merkle_root
from privacy.secagg.admission import admit_each, require_enough, require_first
from privacy.secagg.blame import Evidence, judge
from privacy.secagg.envelope import NO_PREVIOUS, Admitted, digest_of_set, open_envelope
from privacy.secagg.masks import remove_masks
from privacy.secagg.messages import Complaint, MaskedInput, ShareMessage, SurvivorAgreement, UnmaskReply
from privacy.secagg.opening import check_reply, open_secrets
from privacy.secagg.requests import AgreementRequest, RoundAnnouncement, RoundInvitation, UnmaskRequest
from privacy.secagg.roster import Roster
from privacy.secagg.transcript import RoundMessages
from privacy.streams import Words

RoundStage: TypeAlias = Literal["SHARES", "ANNOUNCING", "UPLOADS", "AGREEING", "UNMASKING", "FINISHED"]


@dataclass(frozen=True, kw_only=True)
class AggregateSum:
    """The sum of the survivors' vectors modulo 2^32, shape (vector_length,).

    `dropped` were invited and uploaded nothing in time. `excluded` gives the reason for every refused message by
    sender; a survivor can stand there too, when its upload counted and a later message was refused.
    """

    total: Words
    survivors: tuple[str, ...]
    dropped: tuple[str, ...]
    excluded: Mapping[str, str]


class SecAggRound:
    """One round; build it with `SecAggServer.invite` (privacy.secagg.server).

    `excluded` gives the reason for every refused message by sender, `guilty` names who was found to cheat, and
    `upload_leaves` holds the Merkle leaves of every upload in the sum.
    """

    def __init__(self, invitation: RoundInvitation, *, roster: Roster, setup_digests: Mapping[str, bytes]) -> None:
        self._invited = invitation
        self._roster = roster
        self._setup_digests = setup_digests
        self._stage: RoundStage = "SHARES"
        self._announced: RoundAnnouncement | None = None
        self._total: Words = np.zeros(0, dtype=np.uint32)
        self._dealers: dict[str, Admitted[ShareMessage]] = {}
        self._cohort_digest = NO_PREVIOUS
        self._header_digests: dict[str, bytes] = {}
        self._messages: dict[str, dict[str, bytes]] = {
            step: {} for step in ("shares", "complaints", "headers", "agreements", "replies")
        }
        self._evidence: tuple[bytes, ...] = ()
        self.excluded: dict[str, str] = {}
        self.guilty: dict[str, str] = {}
        self.upload_leaves: dict[str, tuple[bytes, ...]] = {}

    @property
    def invitation(self) -> bytes:
        """R0, for every invited client."""
        return self._invited.to_bytes()

    @property
    def announced_model(self) -> bytes:
        """The hash of the model that was announced."""
        return self._announcement().model_hash

    @property
    def invited(self) -> tuple[str, ...]:
        """Who may share secrets for this round, sorted by name."""
        return self._invited.invited

    @property
    def cohort(self) -> tuple[str, ...]:
        """U1, sorted by name: the clients whose shares are relayed."""
        return tuple(sorted(self._dealers))

    @property
    def shares(self) -> tuple[bytes, ...]:
        """The R1 messages of U1, for every member of U1."""
        return self._sorted("shares")

    @property
    def uploaded(self) -> tuple[str, ...]:
        """Whose upload is in the sum so far, sorted by name; U2 once agreement was asked for."""
        return tuple(sorted(self._header_digests))

    @property
    def agreed(self) -> tuple[str, ...]:
        """U3, sorted by name: the survivors that signed the survivor set."""
        return tuple(sorted(self._messages["agreements"]))

    @property
    def messages(self) -> RoundMessages:
        """What a transcript keeps of the round, however far it came."""
        return RoundMessages(
            invitation=self.invitation,
            announcement=b"" if self._announced is None else self._announced.to_bytes(),
            shares=self._sorted("shares"),
            complaints=self._sorted("complaints"),
            headers=self._sorted("headers"),
            evidence=self._evidence,
            agreements=self._sorted("agreements"),
            replies=self._sorted("replies"),
        )

    def collect_shares(self, messages: Iterable[bytes]) -> None:
        """R1 of the invited; fixes U1.

        Where two clients refuse each other or committed to different common secrets, the one with more such conflicts
        leaves, and of two equals the one later in the roster.
        """
        self._require("SHARES")

        def check(found: Admitted[ShareMessage]) -> None:
            if found.previous != self._setup_digests.get(found.sender):
                raise HostileInputError("was not invited, or follows another key confirmation", party=found.sender)

        admitted = admit_each(
            messages,
            ShareMessage,
            context=self._invited.context,
            roster=self._roster,
            check=check,
            excluded=self.excluded,
        )
        dealers = {name: found for name, (found, _) in admitted.items()}
        self._remove_conflicts(dealers)
        require_enough(len(dealers), self._invited.threshold, what="clients shared secrets")
        self._dealers, self._stage = dealers, "ANNOUNCING"
        self._messages["shares"] = {name: admitted[name][1] for name in dealers}
        self._cohort_digest = digest_of_set(
            "U1", context=self._invited.context, digests={name: found.digest for name, found in dealers.items()}
        )

    def announce(
        self,
        *,
        model_hash: bytes,
        plan_hash: bytes,
        vector_length: int,
        policy_hash: bytes = bytes(32),
        previous: bytes = bytes(32),
    ) -> bytes:
        """R0, second half: what U1 is to sum; travels with `shares`. The accumulator is made here."""
        self._require("ANNOUNCING")
        self._announced = RoundAnnouncement(
            invitation=self._invited,
            model_hash=model_hash,
            plan_hash=plan_hash,
            policy_hash=policy_hash,
            vector_length=vector_length,
            previous=previous,
        )
        self._total = np.zeros(vector_length, dtype=np.uint32)
        self._stage = "UPLOADS"
        return self._announced.to_bytes()

    def add_upload(self, header: bytes, masked: Words) -> str:
        """R2 of one client: add its vector to the accumulator and return its name.

        `masked` is uint32 of shape (vector_length,), as the words arrived.

        Raises:
            HostileInputError: refused, late or repeated; the accumulator is unchanged.
        """
        found = open_envelope(header, MaskedInput, context=self._context(), roster=self._roster)
        sender = found.sender
        self._require_turn(sender, found.previous)
        if masked.dtype != np.uint32 or masked.shape != self._total.shape or found.body.length != masked.size:
            raise HostileInputError(
                f"the upload is {masked.dtype} of shape {masked.shape}, announced was uint32 of {self._total.shape}",
                party=sender,
            )
        leaves = leaf_digests(masked)
        if merkle_root(leaves) != found.body.root:
            raise HostileInputError("the vector is not the one that the header signs", party=sender)
        np.add(self._total, masked, out=self._total)
        self._messages["headers"][sender], self._header_digests[sender] = header, found.digest
        self.upload_leaves[sender] = leaves
        return sender

    def add_complaint(self, message: bytes) -> str:
        """R2 of a client that was dealt bad shares: judge it, note who is guilty in `guilty`, and return that name.

        Raises:
            HostileInputError: not a complaint of this round; nothing changes.
        """
        found = open_envelope(message, Complaint, context=self._context(), roster=self._roster)
        self._require_turn(found.sender, found.previous)
        bodies = {name: dealt.body for name, dealt in self._dealers.items()}
        party, reason = judge(found, dealers=bodies, context=self._invited.context)
        self._messages["complaints"][found.sender] = message
        self.guilty[party] = reason
        self.excluded[party] = f"{party}: {reason}"
        return party

    def request_agreement(self, evidence: Iterable[bytes] = ()) -> bytes:
        """R3: fix U2 as those who uploaded, and ask them to sign that set.

        `evidence` proves who cheated in an earlier round over the same model.

        Raises:
            HostileInputError: a dealer of this round was found guilty by a complaint; nothing is unmasked.
            TooFewSurvivorsError: fewer than the threshold uploaded; nothing can be unmasked.
        """
        self._require("UPLOADS")
        for party in sorted(set(self.guilty) - set(self._messages["complaints"])):
            raise HostileInputError(self.guilty[party], party=party)
        require_enough(len(self._header_digests), self._invited.threshold, what="clients uploaded")
        self._stage = "AGREEING"
        self._evidence = tuple(evidence)
        return AgreementRequest(
            context=self._context(), headers=self._sorted("headers"), evidence=self._evidence
        ).to_bytes()

    def collect_agreements(self, messages: Iterable[bytes]) -> None:
        """R3 of U2; fixes U3.

        Raises:
            TooFewSurvivorsError: fewer than the threshold agree; nothing can be unmasked.
        """
        self._require("AGREEING")
        admitted = admit_each(
            messages,
            SurvivorAgreement,
            context=self._context(),
            roster=self._roster,
            check=self._check_survivor,
            excluded=self.excluded,
        )
        require_enough(len(admitted), self._invited.threshold, what="survivors agreed on the survivor set")
        self._messages["agreements"] = {name: data for name, (_, data) in admitted.items()}
        self._stage = "UNMASKING"

    def request_unmask(self) -> bytes:
        """R4, for every member of U3: as many agreements as the threshold asks for."""
        self._require("UNMASKING")
        enough = self._sorted("agreements")[: self._invited.threshold]
        return UnmaskRequest(context=self._context(), agreements=enough).to_bytes()

    def finish(self, replies: Iterable[bytes]) -> AggregateSum:
        """R5: reconstruct what the masks came from, check every commitment, and unmask the sum.

        Raises:
            TooFewSurvivorsError: fewer than the threshold sent valid replies; nothing is unmasked.
            ProvenCheatingError: `party` dealt shares or wrapped secrets that contradict its commitments.
        """
        self._require("UNMASKING")
        survivors = self.uploaded
        dealers = {name: found.body for name, found in self._dealers.items()}

        def check(found: Admitted[UnmaskReply]) -> None:
            self._check_survivor(found)
            check_reply(
                found.body,
                holder=found.sender,
                survivors=survivors,
                dealers=dealers,
                context=self._invited.context,
            )

        admitted = admit_each(
            replies,
            UnmaskReply,
            context=self._context(),
            roster=self._roster,
            check=check,
            excluded=self.excluded,
        )
        require_enough(len(admitted), self._invited.threshold, what="clients sent valid unmask replies")
        self._messages["replies"] = {name: data for name, (_, data) in admitted.items()}
        try:
            opened = open_secrets(
                {name: found.body for name, (found, _) in admitted.items()},
                survivors=survivors,
                dealers=dealers,
                roster=self._roster,
                threshold=self._invited.threshold,
                context=self._invited.context,
            )
        except HostileInputError as error:
            raise self._proven(error) from error
        remove_masks(
            self._total,
            self_seeds=list(opened.self_seeds.values()),
            pair_secrets=opened.pair_secrets,
            context=self._context(),
        )
        self._stage = "FINISHED"
        silent = set(self._invited.invited) - set(survivors)
        return AggregateSum(
            total=self._total,
            survivors=survivors,
            dropped=tuple(sorted(silent - set(self.excluded))),
            excluded=dict(self.excluded),
        )

    def _proven(self, error: HostileInputError) -> HostileInputError:
        party = error.party
        if party is None:
            return error
        self.guilty[party] = error.reason
        evidence = Evidence(
            announcement=self.messages.announcement,
            shares=self._messages["shares"][party],
            replies=self._sorted("replies")[: self._invited.threshold],
        )
        return ProvenCheatingError(error.reason, party=party, evidence=evidence.to_bytes())

    def _check_survivor(self, found: Admitted[SurvivorAgreement] | Admitted[UnmaskReply]) -> None:
        digest = digest_of_set("U2", context=self._context(), digests=self._header_digests)
        if found.sender not in self._header_digests or found.previous != digest:
            raise HostileInputError("answers another survivor set than was asked about", party=found.sender)

    def _require_turn(self, sender: str, cohort_digest: bytes) -> None:
        """Whether this client may still upload or complain."""
        if self._stage != "UPLOADS":
            raise HostileInputError("the message arrived after the survivors were fixed: discarded", party=sender)
        require_first(sender, self._header_digests)
        require_first(sender, self._messages["complaints"])
        if sender not in self._dealers or cohort_digest != self._cohort_digest:
            raise HostileInputError("acted on another set of clients than was relayed to it", party=sender)

    def _remove_conflicts(self, dealers: dict[str, Admitted[ShareMessage]]) -> None:
        while True:
            refused_by = {
                name: {other for other in dealers if other != name and _in_conflict(dealers, name, other)}
                for name in dealers
            }
            worst = max(refused_by, key=lambda name: (len(refused_by[name]), name), default="")
            if not worst or not refused_by[worst]:
                return
            self.excluded[worst] = f"{worst}: has no common key with {sorted(refused_by[worst])}"
            del dealers[worst]

    def _announcement(self) -> RoundAnnouncement:
        if self._announced is None:
            raise MisuseError(f"the round is at {self._stage}: announce it first")
        return self._announced

    def _context(self) -> bytes:
        return self._announcement().context

    def _sorted(self, step: str) -> tuple[bytes, ...]:
        found = self._messages[step]
        return tuple(found[name] for name in sorted(found))

    def _require(self, stage: RoundStage) -> None:
        if self._stage != stage:
            raise MisuseError(f"this call belongs to {stage}, but the round is at {self._stage}")


def _in_conflict(dealers: Mapping[str, Admitted[ShareMessage]], one: str, other: str) -> bool:
    mine, theirs = dealers[one].body.peers.get(other), dealers[other].body.peers.get(one)
    if mine is None or theirs is None:
        return True
    return (mine.pair_commitment, mine.seal_commitment) != (theirs.pair_commitment, theirs.seal_commitment)
