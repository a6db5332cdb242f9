"""The aggregator's side of a session: it relays the clients' keys, holds none, and opens rounds.

Run by the untrusted aggregator. Methods take UNVERIFIED bytes:

    SecAggServer   collect_advertisements -> collect_encapsulations -> collect_confirmations -> begin_round, per round
    SecAggRound    collect_shares -> add_upload, once per client -> request_unmask -> finish

It checks signatures against the roster so that it can name who is to blame; clients check everything again. A message
that does not verify is refused alone and its sender is named in `excluded`; only when fewer than the threshold remain
does a stage raise TooFewSurvivorsError. Calls in another order are MisuseError: this order is the aggregator's own.
"""

from collections.abc import Iterable
from typing import Literal, TypeAlias, TypeVar

from privacy.errors import HostileInputError, MisuseError, TooFewSurvivorsError
from privacy.secagg.admission import admit_each, require_enough
from privacy.secagg.envelope import NO_PREVIOUS, Admitted, Body
from privacy.secagg.messages import (
    KeyAdvertisement,
    KeyConfirmation,
    KeyEncapsulation,
    RoundAnnouncement,
    session_context,
)
from privacy.secagg.roster import Roster
from privacy.secagg.server_round import AggregateSum, SecAggRound
from privacy.secagg.threshold import default_threshold

__all__ = ["AggregateSum", "SecAggRound", "SecAggServer"]

BodyT = TypeVar("BodyT", bound=Body)
SessionStage: TypeAlias = Literal["ADVERTISEMENTS", "ENCAPSULATIONS", "CONFIRMATIONS", "READY"]


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
    ) -> SecAggRound:
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

        def check(found: Admitted[BodyT]) -> None:
            follows = NO_PREVIOUS if now == "ADVERTISEMENTS" else self._digests.get(found.sender)
            if found.previous != follows:
                raise HostileInputError("does not follow an accepted message of the step before", party=found.sender)

        admitted = admit_each(
            messages, body_type, context=self._context, roster=self._roster, check=check, excluded=self.excluded
        )
        require_enough(len(admitted), self._threshold, what=f"clients sent valid {now.lower()}")
        self._digests = {name: found.digest for name, (found, _) in admitted.items()}
        self._stage = then
        return tuple(admitted[name][1] for name in sorted(admitted))
