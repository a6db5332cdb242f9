"""The aggregator's side of a session: it relays the clients' keys, holds none, and opens rounds.

Run by the untrusted aggregator. Methods take UNVERIFIED bytes:

    SecAggServer   collect_advertisements -> collect_encapsulations -> collect_confirmations -> invite, per round
    SecAggRound    collect_shares -> announce -> add_upload or add_complaint, once per client -> request_agreement
                   -> collect_agreements -> request_unmask -> finish

It checks signatures against the roster so that it can name who is to blame; clients check everything again. A message
that does not verify is refused alone and its sender is named in `excluded`; only when fewer than the threshold remain
does a stage raise TooFewSurvivorsError. Calls in another order are MisuseError: this order is the aggregator's own.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias, TypeVar

from privacy.errors import HostileInputError, MisuseError, TooFewSurvivorsError
from privacy.secagg.admission import admit_each, require_enough
from privacy.secagg.envelope import NO_PREVIOUS, Admitted, Body
from privacy.secagg.messages import (
    KeyAdvertisement,
    KeyConfirmation,
    KeyEncapsulation,
    session_context,
)
from privacy.secagg.requests import RoundInvitation
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
        self._messages: dict[str, tuple[bytes, ...]] = {}
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

    @property
    def setup_messages(self) -> Mapping[str, tuple[bytes, ...]]:
        """The accepted S0, S1 and S2 messages by step, for the transcript."""
        return dict(self._messages)

    def invite(
        self, *, round_number: int, invited: Iterable[str] | None = None, threshold: int | None = None
    ) -> SecAggRound:
        """R0: a round for `invited` (default: all that are ready) with `threshold` (default: floor(2 n / 3) + 1).

        It may be opened while the round before it is being finished.

        Raises:
            MisuseError: setup is not complete, a round number is not newer, an invited client is not ready, or the
                threshold lies outside 1 to n.
            TooFewSurvivorsError: fewer than two clients are invited.
        """
        if self._stage != "READY":
            raise MisuseError(f"invite needs a complete setup, but the session awaits {self._stage}")
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
        invitation = RoundInvitation(
            session=self._session,
            round_number=round_number,
            roster_hash=self._roster.digest,
            invited=names,
            threshold=chosen,
        )
        return SecAggRound(invitation, roster=self._roster, setup_digests={name: self._digests[name] for name in names})

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
        relayed = tuple(admitted[name][1] for name in sorted(admitted))
        self._messages[body_type.KIND] = relayed
        return relayed
