"""The aggregator's side of secure aggregation: it relays, adds and, when enough clients agree, unmasks the sum.

Run by the untrusted aggregator. It holds no key: it checks signatures against the roster so that it can name who is to
blame, and clients check everything again. Methods take UNVERIFIED bytes:

    SecAggServer   collect_advertisements -> collect_encapsulations -> collect_confirmations -> begin_round, per round
    SecAggRound    collect_shares -> add_upload, once per client -> request_unmask -> finish

A message that does not verify is refused alone and its sender is named in `excluded`; only when fewer than the
threshold remain does a stage raise TooFewSurvivorsError. The round keeps ONE accumulator: uploads are added as they
arrive and not stored, and one that arrives after `request_unmask` is discarded.

Unmasking can fail because of one client (its shares or its wrap contradict its commitments): HostileInputError then
names it in `party`, and a new round runs without it, with fresh secrets.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

import numpy as np

from privacy.errors import HostileInputError, MisuseError, TooFewSurvivorsError
from privacy.secagg import sealing, shamir
from privacy.secagg.envelope import NO_PREVIOUS, Admitted, Body, digest_of_set, open_envelope
from privacy.secagg.masks import remove_masks
from privacy.secagg.messages import (
    KeyAdvertisement,
    KeyConfirmation,
    KeyEncapsulation,
    MaskedInput,
    RoundAnnouncement,
    ShareMessage,
    UnmaskReply,
    UnmaskRequest,
    session_context,
)
from privacy.secagg.roster import Roster
from privacy.secagg.threshold import default_threshold
from privacy.streams import Words, little_endian_bytes

BodyT = TypeVar("BodyT", bound=Body)
UNKNOWN_SENDER = "(unknown sender)"

SessionStage: TypeAlias = Literal["ADVERTISEMENTS", "ENCAPSULATIONS", "CONFIRMATIONS", "READY"]
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


class SecAggServer:
    """Session setup: relays the clients' keys. `threshold` is for the setup stages; rounds bring their own."""

    def __init__(self, *, roster: Roster, session: bytes, threshold: int = 2) -> None:
        self._roster = roster
        self._session = session
        self._context = session_context(session, roster)
        self._threshold = threshold
        self._stage: SessionStage = "ADVERTISEMENTS"
        self._digests: dict[str, bytes] = {}
        self._last_round = 0
        self.excluded: dict[str, str] = {}

    @property
    def ready(self) -> tuple[str, ...]:
        """The clients that completed the setup, sorted by name; empty before that."""
        return tuple(sorted(self._digests)) if self._stage == "READY" else ()

    def collect_advertisements(self, messages: Iterable[bytes]) -> tuple[bytes, ...]:
        """S0 of all clients; returns what every sender receives."""
        return self._collect(messages, KeyAdvertisement, now="ADVERTISEMENTS", then="ENCAPSULATIONS")

    def collect_encapsulations(self, messages: Iterable[bytes]) -> tuple[bytes, ...]:
        """S1 of all clients; returns what every sender receives."""
        return self._collect(messages, KeyEncapsulation, now="ENCAPSULATIONS", then="CONFIRMATIONS")

    def collect_confirmations(self, messages: Iterable[bytes]) -> tuple[bytes, ...]:
        """S2 of all clients; returns what every sender receives."""
        return self._collect(messages, KeyConfirmation, now="CONFIRMATIONS", then="READY")

    def begin_round(
        self,
        *,
        round_number: int,
        model_hash: bytes,
        plan_hash: bytes,
        vector_length: int,
        policy_hash: bytes = bytes(32),
        invited: Iterable[str] | None = None,
        threshold: int | None = None,
    ) -> "SecAggRound":
        """R0: a round over `invited` (default: all that are ready) with `threshold` (default: floor(2 n / 3) + 1).

        Raises:
            MisuseError: setup is not complete, a round number is not newer, an invited client is not ready, or the
                threshold lies outside 1 to n.
            TooFewSurvivorsError: fewer than two clients are ready.
        """
        if self._stage != "READY":
            raise MisuseError(f"begin_round needs a complete setup, but the session awaits {self._stage}")
        names = tuple(sorted(set(self.ready if invited is None else invited)))
        strangers = sorted(set(names) - set(self.ready))
        if strangers:
            raise MisuseError(f"{strangers} are invited but did not complete the setup; ready are {list(self.ready)}")
        if len(names) < 2:
            raise TooFewSurvivorsError(f"{len(names)} clients for a round, at least 2 are needed")
        if round_number <= self._last_round:
            raise MisuseError(f"round_number = {round_number} must be above {self._last_round}")
        chosen = default_threshold(len(names)) if threshold is None else threshold
        if not 1 <= chosen <= len(names):
            raise MisuseError(f"threshold = {chosen} must lie between 1 and the {len(names)} invited clients")
        self._last_round = round_number
        announcement = RoundAnnouncement(
            session=self._session,
            round_number=round_number,
            roster_hash=self._roster.digest,
            model_hash=model_hash,
            plan_hash=plan_hash,
            policy_hash=policy_hash,
            invited=names,
            threshold=chosen,
            vector_length=vector_length,
        )
        return SecAggRound(
            announcement, roster=self._roster, setup_digests={name: self._digests[name] for name in names}
        )

    def _collect(
        self, messages: Iterable[bytes], body_type: type[BodyT], *, now: SessionStage, then: SessionStage
    ) -> tuple[bytes, ...]:
        if self._stage != now:
            raise MisuseError(f"this call belongs to {now}, but the session awaits {self._stage}")
        digests: dict[str, bytes] = {}
        relayed: dict[str, bytes] = {}
        for data in messages:
            try:
                found = open_envelope(data, body_type, context=self._context, roster=self._roster)
                follows = NO_PREVIOUS if now == "ADVERTISEMENTS" else self._digests.get(found.sender)
                _require_that(
                    found.previous == follows,
                    "does not follow an accepted message of the step before",
                    party=found.sender,
                )
                _require_first(found, digests)
            except HostileInputError as error:
                self.excluded[error.party or UNKNOWN_SENDER] = str(error)
                continue
            digests[found.sender], relayed[found.sender] = found.digest, data
        _require_enough(len(digests), self._threshold, what=f"clients sent valid {now.lower()}")
        self._digests, self._stage = digests, then
        return tuple(relayed[name] for name in sorted(relayed))


class SecAggRound:
    """One round; build it with `SecAggServer.begin_round`."""

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
        dealers: dict[str, Admitted[ShareMessage]] = {}
        relayed: dict[str, bytes] = {}
        for data in messages:
            try:
                found = open_envelope(data, ShareMessage, context=self._announced.share_context, roster=self._roster)
                _require_that(
                    found.previous == self._setup_digests.get(found.sender),
                    "was not invited, or follows another key confirmation",
                    party=found.sender,
                )
                _require_first(found, dealers)
            except HostileInputError as error:
                self.excluded[error.party or UNKNOWN_SENDER] = str(error)
                continue
            dealers[found.sender], relayed[found.sender] = found, data
        self._remove_conflicts(dealers)
        _require_enough(len(dealers), self._announced.threshold, what="clients shared secrets")
        self._dealers, self._stage = dealers, "UPLOADS"
        self._cohort_digest = digest_of_set(
            "U1",
            context=self._announced.share_context,
            digests={name: found.digest for name, found in dealers.items()},
        )
        return tuple(relayed[name] for name in sorted(dealers))

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
        _require_first(found, self._header_digests)
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
        _require_enough(len(self._headers), self._announced.threshold, what="clients uploaded")
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
        _require_enough(len(admitted), self._announced.threshold, what="clients sent valid unmask replies")
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
        admitted: dict[str, UnmaskReply] = {}
        for data in replies:
            try:
                found = open_envelope(data, UnmaskReply, context=self._announced.context, roster=self._roster)
                _require_that(
                    found.sender in self._headers and found.previous == digest,
                    "answers another survivor set than was asked about",
                    party=found.sender,
                )
                _require_first(found, admitted)
                self._check_reply(found)
            except HostileInputError as error:
                self.excluded[error.party or UNKNOWN_SENDER] = str(error)
                continue
            admitted[found.sender] = found.body
        return admitted

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


def _require_that(holds: bool, otherwise: str, *, party: str) -> None:
    if not holds:
        raise HostileInputError(otherwise, party=party)


def _require_first(found: Admitted[BodyT], earlier: Mapping[str, object]) -> None:
    _require_that(
        found.sender not in earlier, "sent a second message of one step; the first one counts", party=found.sender
    )


def _require_enough(count: int, threshold: int, *, what: str) -> None:
    if count < threshold:
        raise TooFewSurvivorsError(f"{count} {what}, the threshold is {threshold}: nothing is unmasked")
