"""The aggregator's side of one round: it fixes who takes part, adds, and unmasks the sum when enough clients agree.

Run by the untrusted aggregator, through `privacy.secagg.server`, whose docstring lists the order of calls. The round
keeps ONE accumulator: uploads are added as they arrive and are not stored, and one that arrives after `request_unmask`
is discarded.

Unmasking can fail because of one client (its shares or its wrap contradict its commitments): HostileInputError then
names it in `party`, and a new round runs without it, with fresh secrets.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from privacy.errors import HostileInputError, MisuseError
from privacy.secagg import sealing, shamir
from privacy.secagg.admission import admit_each, require_enough, require_first
from privacy.secagg.envelope import NO_PREVIOUS, Admitted, digest_of_set, open_envelope
from privacy.secagg.masks import remove_masks
from privacy.secagg.messages import MaskedInput, RoundAnnouncement, ShareMessage, UnmaskReply, UnmaskRequest
from privacy.secagg.roster import Roster
from privacy.streams import Words, little_endian_bytes

RoundStage: TypeAlias = Literal["SHARES", "UPLOADS", "UNMASKING", "FINISHED"]


@dataclass(frozen=True, kw_only=True)
class AggregateSum:
    """The sum of the survivors' vectors modulo 2^32, shape (vector_length,).

    `dropped` were invited and uploaded nothing in time. `excluded` gives the reason for every refused message by
    sender; a survivor can stand there too, when its upload counted and its unmask reply was refused.
    """

    total: Words
    survivors: tuple[str, ...]
    dropped: tuple[str, ...]
    excluded: Mapping[str, str]


class SecAggRound:
    """One round; build it with `SecAggServer.begin_round` (privacy.secagg.server)."""

    def __init__(self, announcement: RoundAnnouncement, *, roster: Roster, setup_digests: Mapping[str, bytes]) -> None:
        self._announced = announcement
        self._roster = roster
        self._setup_digests = setup_digests
        self._stage: RoundStage = "SHARES"
        self._dealers: dict[str, Admitted[ShareMessage]] = {}
        self._cohort_digest = NO_PREVIOUS
        self._headers: dict[str, bytes] = {}
        self._header_digests: dict[str, bytes] = {}
        self._total: Words = np.zeros(announcement.vector_length, dtype=np.uint32)
        self.excluded: dict[str, str] = {}

    @property
    def announcement(self) -> bytes:
        """R0, for every invited client."""
        return self._announced.to_bytes()

    @property
    def cohort(self) -> tuple[str, ...]:
        """U1, sorted by name: the clients whose shares were relayed."""
        return tuple(sorted(self._dealers))

    @property
    def uploaded(self) -> tuple[str, ...]:
        """Whose upload is in the sum so far, sorted by name."""
        return tuple(sorted(self._headers))

    def collect_shares(self, messages: Iterable[bytes]) -> tuple[bytes, ...]:
        """R1 of the invited; fixes U1 and returns what every member of U1 receives.

        Where two clients refuse each other (one failed the other's key confirmation), the one with more such conflicts
        leaves, and of two equals the one later in the roster.
        """
        self._require("SHARES")

        def check(found: Admitted[ShareMessage]) -> None:
            if found.previous != self._setup_digests.get(found.sender):
                raise HostileInputError("was not invited, or follows another key confirmation", party=found.sender)

        admitted = admit_each(
            messages,
            ShareMessage,
            context=self._announced.share_context,
            roster=self._roster,
            check=check,
            excluded=self.excluded,
        )
        dealers = {name: found for name, (found, _) in admitted.items()}
        self._remove_conflicts(dealers)
        require_enough(len(dealers), self._announced.threshold, what="clients shared secrets")
        self._dealers, self._stage = dealers, "UPLOADS"
        self._cohort_digest = digest_of_set(
            "U1",
            context=self._announced.share_context,
            digests={name: found.digest for name, found in dealers.items()},
        )
        return tuple(admitted[name][1] for name in sorted(dealers))

    def add_upload(self, header: bytes, masked: Words) -> str:
        """R2 of one client: add its vector to the accumulator and return its name.

        `masked` is uint32 of shape (vector_length,), as the words arrived.

        Raises:
            HostileInputError: refused, late or repeated; the accumulator is unchanged.
        """
        if self._stage == "SHARES":
            raise MisuseError("add_upload comes after collect_shares")
        found = open_envelope(header, MaskedInput, context=self._announced.context, roster=self._roster)
        sender = found.sender
        if self._stage != "UPLOADS":
            raise HostileInputError("the upload arrived after the survivors were fixed: discarded", party=sender)
        require_first(sender, self._header_digests)
        if sender not in self._dealers or found.previous != self._cohort_digest:
            raise HostileInputError("masked for another set of clients than was relayed to it", party=sender)
        if masked.dtype != np.uint32 or masked.shape != self._total.shape or found.body.length != masked.size:
            raise HostileInputError(
                f"the upload is {masked.dtype} of shape {masked.shape}, announced was uint32 of {self._total.shape}",
                party=sender,
            )
        if hashlib.sha256(little_endian_bytes(masked)).digest() != found.body.vector_digest:
            raise HostileInputError("the vector is not the one that the header signs", party=sender)
        np.add(self._total, masked, out=self._total)
        self._headers[sender], self._header_digests[sender] = header, found.digest
        return sender

    def request_unmask(self) -> bytes:
        """R4: fix U2 as those who uploaded, and ask them for shares.

        Raises:
            TooFewSurvivorsError: fewer than the threshold uploaded; nothing can be unmasked.
        """
        self._require("UPLOADS")
        require_enough(len(self._headers), self._announced.threshold, what="clients uploaded")
        self._stage = "UNMASKING"
        headers = tuple(self._headers[name] for name in self.uploaded)
        return UnmaskRequest(context=self._announced.context, headers=headers).to_bytes()

    def finish(self, replies: Iterable[bytes]) -> AggregateSum:
        """R5: reconstruct what the masks came from, check every commitment, and unmask the sum.

        Raises:
            TooFewSurvivorsError: fewer than the threshold sent valid replies; nothing is unmasked.
            HostileInputError: `party` dealt shares or wrapped secrets that contradict its commitments.
        """
        self._require("UNMASKING")
        survivors = self.uploaded
        admitted = self._admit_replies(replies)
        require_enough(len(admitted), self._announced.threshold, what="clients sent valid unmask replies")
        context = self._announced.share_context
        seeds = []
        for name in survivors:
            seed = self._combine({holder: reply.seed_shares[name] for holder, reply in admitted.items()})
            expected = sealing.commit_secret(seed, kind="self seed", owner=name, context=context)
            if not sealing.matches(self._dealers[name].body.seed_commitment, expected):
                raise HostileInputError("dealt shares that do not give the self seed it committed to", party=name)
            seeds.append(seed)
        pair_secrets: dict[tuple[str, str], bytes] = {}
        for name in sorted(set(self.cohort) - set(survivors)):
            wrap_key = self._combine({holder: reply.wrap_shares[name] for holder, reply in admitted.items()})
            pair_secrets.update(self._open_dropped(name, wrap_key=wrap_key))
        remove_masks(self._total, self_seeds=seeds, pair_secrets=pair_secrets, context=self._announced.context)
        self._stage = "FINISHED"
        silent = set(self._announced.invited) - set(survivors)
        return AggregateSum(
            total=self._total,
            survivors=survivors,
            dropped=tuple(sorted(silent - set(self.excluded))),
            excluded=dict(self.excluded),
        )

    def _remove_conflicts(self, dealers: dict[str, Admitted[ShareMessage]]) -> None:
        while True:
            refused_by = {
                name: {
                    other
                    for other in dealers
                    if other != name
                    and (other not in dealers[name].body.peers or name not in dealers[other].body.peers)
                }
                for name in dealers
            }
            worst = max(refused_by, key=lambda name: (len(refused_by[name]), name), default=None)
            if worst is None or not refused_by[worst]:
                return
            self.excluded[worst] = f"no confirmed keys between it and {sorted(refused_by[worst])}"
            del dealers[worst]

    def _admit_replies(self, replies: Iterable[bytes]) -> dict[str, UnmaskReply]:
        digest = digest_of_set("U2", context=self._announced.context, digests=self._header_digests)

        def check(found: Admitted[UnmaskReply]) -> None:
            if found.sender not in self._headers or found.previous != digest:
                raise HostileInputError("answers another survivor set than was asked about", party=found.sender)
            self._check_reply(found)

        admitted = admit_each(
            replies,
            UnmaskReply,
            context=self._announced.context,
            roster=self._roster,
            check=check,
            excluded=self.excluded,
        )
        return {name: found.body for name, (found, _) in admitted.items()}

    def _check_reply(self, found: Admitted[UnmaskReply]) -> None:
        holder, reply, survivors = found.sender, found.body, set(self._headers)
        if set(reply.seed_shares) != survivors or set(reply.wrap_shares) != set(self._dealers) - survivors:
            raise HostileInputError("gives shares of other clients than it was asked for", party=holder)
        for dealer, share in (*reply.seed_shares.items(), *reply.wrap_shares.items()):
            body = self._dealers[dealer].body
            kind: sealing.ShareKind = "seed share" if dealer in survivors else "wrap share"
            if dealer == holder:
                commitment = body.own_share_commitment
            elif kind == "seed share":
                commitment = body.peers[holder].seed_share_commitment
            else:
                commitment = body.peers[holder].wrap_share_commitment
            expected = sealing.commit_share(
                share, kind=kind, dealer=dealer, holder=holder, context=self._announced.share_context
            )
            if not sealing.matches(commitment, expected):
                raise HostileInputError(f"gives a {kind} that {dealer} did not deal", party=holder)

    def _combine(self, shares: Mapping[str, bytes]) -> bytes:
        by_index = {self._roster.index(holder): share for holder, share in shares.items()}
        return shamir.combine(by_index, threshold=self._announced.threshold)

    def _open_dropped(self, name: str, *, wrap_key: bytes) -> dict[tuple[str, str], bytes]:
        body, context = self._dealers[name].body, self._announced.share_context
        expected = sealing.commit_secret(wrap_key, kind="wrap key", owner=name, context=context)
        if not sealing.matches(body.wrap_commitment, expected):
            raise HostileInputError("dealt shares that do not give the wrap key it committed to", party=name)
        opened = sealing.open_wrap(body.wrapped_pair_secrets, wrap_key=wrap_key, owner=name, context=context)
        result = {}
        for survivor in self._headers:
            secret = opened.get(survivor, b"")
            committed = sealing.commit_pair_secret(secret, one=name, other=survivor, context=context)
            if not sealing.matches(body.peers[survivor].pair_commitment, committed):
                raise HostileInputError(f"wrapped another pair secret with {survivor} than it committed to", party=name)
            result[survivor, name] = secret
        return result

    def _require(self, stage: RoundStage) -> None:
        if self._stage != stage:
            raise MisuseError(f"this call belongs to {stage}, but the round is at {self._stage}")
