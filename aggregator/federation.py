"""A federation from its first round to its last: sessions, rounds, the server's step, checkpoints, the journal.

    new or resumed -> session open -> round -> step -> journal -> checkpoint -> next round ... -> done
                           ^            |
                           +-- failed --+    a round that fails is run again with fresh secrets, then in a new session

Runs at the aggregator. The journal names a round before its checkpoint is made, and a resumed run drops what the
journal says of rounds past the checkpoint: a kill at any point loses at most the round in progress, and no round stands
in the journal twice or not at all.
"""

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from flwr.serverapp import Grid

from aggregator.absentees import Absentees
from aggregator.admission import SiteChannel
from secfed.checkpoint import Checkpoints
from aggregator.folder import AggregatorFolder
from aggregator.half_opened import HalfOpened
from aggregator.masked_summation import MaskedRecord, MaskedSummation
from aggregator.misconduct import Misconduct
from aggregator.summation import Costs, PlainSummation, RoundSum, RoundTask, Summation, Uploads
from aggregator.transcript import Transcript
from privacy.errors import HostileInputError
from privacy.fixed_point import VectorFormat, decode_sum
from privacy.secagg.transcript import Retention
from secfed.aggregator_files import CHECKPOINTS, EVIDENCE, HALF_OPENED, TRANSCRIPT
from secfed.config import TrainingPlan
from secfed.errors import RoundAborted
from secfed.parameters import model_digest
from secfed.protected_vector import CohortAverage, unpack_sum, vector_format
from secfed.server_optimizer import ServerState, step

ATTEMPTS_PER_SESSION = 3
SESSIONS = 2


@dataclass(kw_only=True)
class _Open:
    """The session in use and the number of its next round; sequence numbers never repeat within a session."""

    summation: Summation
    sequence: int = 0


class Federation:
    """One job at the aggregator."""

    def __init__(self, grid: Grid, folder: AggregatorFolder) -> None:
        self.folder = folder
        self.plan: TrainingPlan = folder.plan()
        initial, self.layout = folder.initial_model()
        self.sites = folder.site_names()
        self.slots: VectorFormat = vector_format(self.layout, self.plan, cohort_size=len(self.sites))
        self.channel = SiteChannel(grid, timeout_seconds=self.plan.federation.stage_timeout_seconds)
        self.checkpoints = Checkpoints(folder.folder / CHECKPOINTS)
        self.record = self._open_record() if self.plan.protection.mode == "masked" else None
        self.state = self.checkpoints.load(self.layout) or ServerState.initial(initial, self.layout)
        self._known: set[int] = set()
        self._absentees = Absentees()
        folder.rewind(completed=self.state.completed)

    def run(self) -> ServerState:
        """Train to the last round.

        Raises:
            RoundAborted: a round failed in every attempt; the run can be resumed.
        """
        session: _Open | None = None
        while self.state.completed < self.plan.federation.rounds:
            session = self._round(session)
        return self.state

    def _round(self, session: _Open | None) -> _Open:
        server_round = self.state.completed + 1
        started = time.perf_counter()
        costs = Costs()
        reasons: list[str] = []
        for attempt in range(ATTEMPTS_PER_SESSION * SESSIONS):
            try:
                if session is None or self._somebody_waits(session):
                    session = self._open(costs)
                session.sequence += 1
                task = RoundTask(
                    server_round=server_round,
                    sequence=session.sequence,
                    model=self.state.model,
                    validate=self._validates(server_round),
                    last=server_round == self.plan.federation.rounds,
                )
                found = session.summation.sum_round(task, costs, seen=self._see(server_round))
                average = self._decode(found, server_round=server_round)
            except (HostileInputError, ValueError) as error:
                reasons.append(str(error))
                if session is None or attempt % ATTEMPTS_PER_SESSION == ATTEMPTS_PER_SESSION - 1:
                    session = None
                continue
            self.state = step(self.state, average, federation=self.plan.federation, layout=self.layout)
            if self.record is not None and found.messages is not None:
                self.record.transcript.complete_round(
                    found.messages,
                    server_round=server_round,
                    total=found.total,
                    model_after=model_digest(self.state.model, self.layout),
                )
            self._note(found, costs, average.metrics, seconds=time.perf_counter() - started, failed=reasons)
            self.checkpoints.save(self.state, self.layout)
            return session
        raise RoundAborted(
            f"round {server_round} failed {len(reasons)} times, last: {reasons[-1]}. Nothing was unmasked; "
            "the run can go on with --resume once enough sites answer"
        )

    def _decode(self, found: RoundSum, *, server_round: int) -> CohortAverage:
        """The mean of a round; a sum that was opened stands in the transcript even where it makes no sense."""
        try:
            return unpack_sum(decode_sum(found.total, vector_format=self.slots), slots=self.slots)
        except ValueError as error:
            if self.record is not None and found.messages is not None:
                self.record.transcript.abort_round(found.messages, server_round=server_round, reason=str(error))
            raise

    def _open(self, costs: Costs) -> _Open:
        minimum = self.plan.federation.min_cohort
        if self.record is not None:
            summation: Summation = MaskedSummation(
                self.channel,
                record=self.record,
                plan=self.plan,
                layout=self.layout,
                slots=self.slots,
                min_cohort=minimum,
            )
        else:
            summation = PlainSummation(
                self.channel,
                plan=self.plan,
                layout=self.layout,
                slots=self.slots,
                min_cohort=minimum,
                names=self.sites,
            )
        nodes = self.channel.connected() if self._known else self.channel.wait_for(len(self.sites))
        self._known.update(nodes)
        summation.open(nodes, costs, completed=self.state.completed, model=self.state.model)
        self._absentees.note(
            nodes, joined=summation.nodes(), declined=summation.declined, server_round=self.state.completed + 1
        )
        return _Open(summation=summation)

    def _open_record(self) -> MaskedRecord:
        folder, roster = self.folder.folder, self.folder.roster()
        return MaskedRecord(
            roster=roster,
            signed_roster=self.folder.signed_roster(),
            misconduct=Misconduct(folder / EVIDENCE, roster=roster),
            half_opened=HalfOpened(folder / HALF_OPENED, durable=self.folder.durable),
            transcript=Transcript(
                folder / TRANSCRIPT,
                retention=Retention(self.plan.protection.kept_rounds),
                durable=self.folder.durable,
            ),
        )

    def _somebody_waits(self, session: _Open) -> bool:
        """Whether a connected site is outside the session and should be asked to join."""
        outside = set(self.channel.connected()) - session.summation.nodes()
        return self._absentees.due(outside, server_round=self.state.completed + 1)

    def _validates(self, server_round: int) -> bool:
        every = self.plan.federation.validate_every
        return every > 0 and (server_round % every == 0 or server_round == self.plan.federation.rounds)

    def _see(self, server_round: int) -> Uploads:
        last = server_round == self.plan.federation.rounds

        def see(site: str, upload: npt.NDArray[np.uint32]) -> None:
            if last and site == self.sites[0]:
                counts = np.bincount(upload >> np.uint32(24), minlength=256).tolist()
                self.folder.show_upload(
                    site=site, server_round=server_round, protection=self.plan.protection.mode, counts=counts
                )

        return see

    def _note(self, found: RoundSum, costs: Costs, metrics: object, *, seconds: float, failed: list[str]) -> None:
        self.folder.append(
            {
                "event": "round",
                "round": self.state.completed,
                "survivors": list(found.survivors),
                "lost": costs.lost,
                "failed_attempts": failed,
                "metrics": metrics,
                "seconds": seconds,
                "protection_seconds": costs.protection_seconds,
                "exchanges": costs.exchanges,
                "bytes_up": costs.bytes_up,
                "bytes_down": costs.bytes_down,
            }
        )
