"""The aggregator's side of an encrypted run: it relays one group key that it never sees, and adds ciphertexts.

Run by the untrusted aggregator. Methods take UNVERIFIED bytes:

    GroupServer      collect_offers -> collect_confirmations -> announce per round, or announce_end
    EncryptedRound   add_input, once per site -> finish
    EncryptedEnd     collect

It checks signatures against the roster so that it can name who is to blame; sites check everything again. A message
that does not verify is refused alone and its sender is named in `excluded`; only when too few remain does a stage raise
TooFewSurvivorsError, and then the same server round can be announced again under a later round number. Calls in another
order are MisuseError: this order is the aggregator's own.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

from privacy.errors import HostileInputError, MisuseError, TooFewSurvivorsError
from privacy.he.group_round import EncryptedEnd, EncryptedRound, PublishedSum, require_enough
from privacy.he.messages import GroupKeyConfirmation, GroupKeyOffer, setup_context
from privacy.he.parameters import HeParameters
from privacy.he.requests import EncryptedAnnouncement
from privacy.secagg.admission import admit_each
from privacy.secagg.envelope import NO_PREVIOUS, Admitted, digest_of_set, open_envelope
from privacy.secagg.messages import KeyConfirmation, session_context
from privacy.secagg.roster import Roster
from privacy.secagg.threshold import default_threshold

__all__ = ["EncryptedEnd", "EncryptedRound", "GroupServer", "PublishedSum"]

GroupStage: TypeAlias = Literal["OFFERS", "CONFIRMATIONS", "READY"]


class GroupServer:
    """One session of a run: relays offers and confirmations of the group key, and announces rounds.

    `confirmations` are the S2 messages of `SecAggServer.setup_messages`, `minimum` is for the setup stages;
    rounds bring their own.
    """

    def __init__(
        self,
        *,
        roster: Roster,
        session: bytes,
        run: bytes,
        parameters: HeParameters,
        confirmations: Iterable[bytes],
        minimum: int = 2,
        last_round: int = 0,
    ) -> None:
        self._roster, self._session, self._run, self._parameters = roster, session, run, parameters
        setup = session_context(session, roster)
        self._context = setup_context(run, session_context=setup)
        found = [open_envelope(data, KeyConfirmation, context=setup, roster=roster) for data in confirmations]
        self._setup_digests = {message.sender: message.digest for message in found}
        self._minimum, self._last_round = minimum, last_round
        self._stage: GroupStage = "OFFERS"
        self._offers: dict[str, GroupKeyOffer] = {}
        self._offers_digest = NO_PREVIOUS
        self._sealed: dict[str, bytes] = {}
        self._fingerprint = b""
        self._ready: tuple[str, ...] = ()
        self._messages: dict[str, tuple[bytes, ...]] = {}
        self.excluded: dict[str, str] = {}

    @property
    def ready(self) -> tuple[str, ...]:
        """The sites that confirmed the group key, sorted by name; empty before that."""
        return self._ready

    @property
    def fingerprint(self) -> bytes:
        """Which group key the sites confirmed; empty before that."""
        return self._fingerprint

    @property
    def standings(self) -> Mapping[str, int]:
        """The rounds that each site said in its offer to have completed."""
        return {name: body.completed for name, body in self._offers.items()}

    @property
    def holders(self) -> tuple[str, ...]:
        """The sites that said in their offers that they hold the run's key, sorted by name."""
        return tuple(sorted(name for name, body in self._offers.items() if body.claim == "holds"))

    @property
    def setup_messages(self) -> Mapping[str, tuple[bytes, ...]]:
        """The accepted G0 and G1 messages by step, for the transcript."""
        return dict(self._messages)

    def collect_offers(self, messages: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, ...]:
        """G0 of all sites, each with the sealed key beside it; returns what every sender receives.

        Raises:
            TooFewSurvivorsError: fewer valid offers than the minimum.
        """
        self._require("OFFERS")
        sealed = dict(messages)

        def check(found: Admitted[GroupKeyOffer]) -> None:
            if found.previous != self._setup_digests.get(found.sender):
                raise HostileInputError("does not follow the key confirmation that was relayed", party=found.sender)
            if found.body.parameters != self._parameters.digest:
                raise HostileInputError("has other parameters of encryption than this run", party=found.sender)

        admitted = admit_each(
            sealed, GroupKeyOffer, context=self._context, roster=self._roster, check=check, excluded=self.excluded
        )
        for name, (found, data) in list(admitted.items()):
            digest = hashlib.sha256(sealed[data]).digest() if found.body.claim != "none" else b""
            if digest != found.body.sealed_key:
                self.excluded[name] = f"{name}: the sealed key is not the one that the offer signs"
                del admitted[name]
        require_enough(len(admitted), self._minimum, what="sites sent valid offers")
        self._offers = {name: admitted[name][0].body for name in sorted(admitted)}
        self._sealed = {name: sealed[admitted[name][1]] for name in admitted}
        self._offers_digest = digest_of_set(
            "G0", context=self._context, digests={name: found.digest for name, (found, _) in admitted.items()}
        )
        relayed = tuple(admitted[name][1] for name in sorted(admitted))
        self._messages[GroupKeyOffer.KIND] = relayed
        self._stage = "CONFIRMATIONS"
        return relayed

    def sealed_keys_for(self, name: str) -> tuple[bytes, ...]:
        """What travels to a site beside the offers: nothing where it holds the key, otherwise one key sealed to it."""
        claims = {body.claim for body in self._offers.values()}
        claim = "holds" if "holds" in claims else "candidate"
        own = self._offers.get(name)
        if own is not None and own.claim == claim:
            return ()
        dealers = [dealer for dealer, body in self._offers.items() if body.claim == claim and name in body.wraps]
        return tuple(self._sealed[dealer] for dealer in dealers[:1])

    def collect_confirmations(self, messages: Iterable[bytes]) -> tuple[bytes, ...]:
        """G1 of all sites; returns what every sender receives.

        Raises:
            TooFewSurvivorsError: fewer than the minimum confirmed one and the same group key.
        """
        self._require("CONFIRMATIONS")

        def check(found: Admitted[GroupKeyConfirmation]) -> None:
            if found.sender not in self._offers or found.previous != self._offers_digest:
                raise HostileInputError("does not follow the offers that were relayed to it", party=found.sender)
            if found.body.fingerprint not in {body.fingerprint for body in self._offers.values()}:
                raise HostileInputError("confirms a group key that nobody offered", party=found.sender)

        admitted = admit_each(
            messages,
            GroupKeyConfirmation,
            context=self._context,
            roster=self._roster,
            check=check,
            excluded=self.excluded,
        )
        count = Counter(found.body.fingerprint for found, _ in admitted.values())
        fingerprint, _ = max(count.items(), key=lambda item: (item[1], item[0]), default=(b"", 0))
        for name in [name for name, (found, _) in admitted.items() if found.body.fingerprint != fingerprint]:
            self.excluded[name] = f"{name}: confirms another group key than most sites"
            del admitted[name]
        require_enough(len(admitted), self._minimum, what="sites confirmed one group key")
        self._fingerprint, self._ready = fingerprint, tuple(sorted(admitted))
        relayed = tuple(admitted[name][1] for name in self._ready)
        self._messages[GroupKeyConfirmation.KIND] = relayed
        self._stage, self._sealed = "READY", {}
        return relayed

    def announce(
        self,
        *,
        round_number: int,
        server_round: int,
        vector_length: int,
        plan_hash: bytes,
        policy_hash: bytes = bytes(32),
        invited: Iterable[str] | None = None,
        minimum: int | None = None,
        before: PublishedSum | None = None,
        previous: bytes = NO_PREVIOUS,
    ) -> "EncryptedRound":
        """E0: a round for `invited` (default: all that are ready), of whom `minimum` must upload.

        The default of `minimum` is floor(2 n / 3) + 1, the lowest that sites accept unless their floors say otherwise.
        `before` is the sum of the server round before this one; `previous` the digest of the transcript so far.

        Raises:
            MisuseError: setup is not complete, a round number is not newer, an invited site is not ready, or the
                numbers contradict each other.
            TooFewSurvivorsError: fewer than two sites are invited.
        """
        announced = self._announcement(
            "round",
            round_number=round_number,
            server_round=server_round,
            vector_length=vector_length,
            hashes=(plan_hash, policy_hash, previous),
            invited=invited,
            minimum=minimum,
            before=before,
        )
        follows = NO_PREVIOUS if before is None else before.inputs_digest
        return EncryptedRound(announced, roster=self._roster, parameters=self._parameters, follows=follows)

    def announce_end(
        self,
        *,
        round_number: int,
        server_round: int,
        plan_hash: bytes,
        before: PublishedSum,
        policy_hash: bytes = bytes(32),
        invited: Iterable[str] | None = None,
        minimum: int | None = None,
        previous: bytes = NO_PREVIOUS,
    ) -> "EncryptedEnd":
        """E0 for the end of the run: sites step on the last sum and say on which model they stand.

        `server_round` is the one after the last.

        Raises:
            MisuseError, TooFewSurvivorsError: as for `announce`.
        """
        announced = self._announcement(
            "end",
            round_number=round_number,
            server_round=server_round,
            vector_length=0,
            hashes=(plan_hash, policy_hash, previous),
            invited=invited,
            minimum=minimum,
            before=before,
        )
        return EncryptedEnd(announced, roster=self._roster, follows=before.inputs_digest)

    def _announcement(
        self,
        step: Literal["round", "end"],
        *,
        round_number: int,
        server_round: int,
        vector_length: int,
        hashes: tuple[bytes, bytes, bytes],
        invited: Iterable[str] | None,
        minimum: int | None,
        before: PublishedSum | None,
    ) -> EncryptedAnnouncement:
        self._require("READY")
        names = tuple(sorted(set(self._ready if invited is None else invited)))
        strangers = sorted(set(names) - set(self._ready))
        if strangers:
            raise MisuseError(f"{strangers} are invited but did not confirm the key; ready are {list(self._ready)}")
        if len(names) < 2:
            raise TooFewSurvivorsError(f"{len(names)} sites for a round, at least 2 are needed")
        if round_number <= self._last_round:
            raise MisuseError(f"round_number = {round_number} must be above {self._last_round}")
        earlier = None if before is None else EncryptedAnnouncement.from_bytes(before.announcement)
        announced = EncryptedAnnouncement(
            step=step,
            run=self._run,
            session=self._session,
            round_number=round_number,
            server_round=server_round,
            roster_hash=self._roster.digest,
            invited=names,
            minimum=default_threshold(len(names)) if minimum is None else minimum,
            plan_hash=hashes[0],
            policy_hash=hashes[1],
            parameters=self._parameters.digest,
            fingerprint=self._fingerprint,
            vector_length=vector_length,
            previous_round=NO_PREVIOUS if earlier is None else earlier.context,
            sum_root=NO_PREVIOUS if before is None else before.root,
            contributors=() if before is None else before.contributors,
            previous=hashes[2],
        )
        try:
            EncryptedAnnouncement.from_bytes(announced.to_bytes())
        except HostileInputError as error:
            raise MisuseError(f"no site would accept this announcement: {error}") from error
        if earlier is not None and earlier.server_round != server_round - 1:
            raise MisuseError(f"server round {server_round} cannot step on the sum of {earlier.server_round}")
        self._last_round = round_number
        return announced

    def _require(self, stage: GroupStage) -> None:
        if self._stage != stage:
            raise MisuseError(f"this call belongs to {stage}, but the session awaits {self._stage}")
