"""A federation from its first round to its last: sessions, rounds, checkpoints, the journal.

    new or resumed -> session open -> round -> journal -> checkpoint -> next round ... -> end -> done
                           ^            |
                           +-- failed --+    a round that fails is run again with fresh secrets, then in a new session

Runs at the aggregator. What becomes of a round's uploads is the session's part (aggregator.summation), and where the
model lives the global model's: with the aggregator (open_model) or with the sites (sealed_model). The journal names a
round before its checkpoint is made, and a resumed run drops what the journal says of rounds past the checkpoint: a kill
at any point loses at most the round in progress, and no round stands in the journal twice or not at all.
"""

import time

import numpy as np
import numpy.typing as npt
from flwr.serverapp import Grid

from aggregator.absentees import Absentees
from aggregator.admission import SiteChannel
from aggregator.encrypted_summation import EncryptedRecord, EncryptedSummation
from aggregator.encrypted_transcript import EncryptedTranscript
from aggregator.folder import AggregatorFolder
from aggregator.half_opened import HalfOpened
from aggregator.masked_summation import MaskedRecord, MaskedSummation
from aggregator.misconduct import Misconduct
from aggregator.open_model import OpenModel
from aggregator.plain_summation import PlainSummation
from aggregator.sealed_model import SealedModel
from aggregator.summation import Costs, RolledBack, RoundDone, RoundTask, Summation, Uploads
from aggregator.transcript import Transcript
from privacy.errors import HostileInputError
from privacy.fixed_point import VectorFormat
from privacy.secagg.transcript import Retention
from secfed.aggregator_files import EVIDENCE, HALF_OPENED, TRANSCRIPT
from secfed.config import TrainingPlan
from secfed.errors import RoundAborted
from secfed.protected_vector import vector_format

ATTEMPTS_PER_SESSION = 3
SESSIONS = 2
MAX_REASON = 500
"""Characters of a failure's reason in the audit log."""


class Federation:
    """One job at the aggregator; `retry_seconds` is the pause before a failed round is tried again, doubled each time.

    In a deployment a failed round may be a restart or a network that heals; on one machine nothing changes by waiting.
    """

    def __init__(self, grid: Grid, folder: AggregatorFolder, *, retry_seconds: float = 0.0) -> None:
        self.folder = folder
        self.retry_seconds = retry_seconds
        self.plan: TrainingPlan = folder.plan()
        self.sites = folder.site_names()
        self.initial, self.layout = folder.initial_model()
        self.slots: VectorFormat = vector_format(self.layout, self.plan, cohort_size=len(self.sites))
        self.channel = SiteChannel(grid, timeout_seconds=self.plan.federation.stage_timeout_seconds)
        self.record: MaskedRecord | EncryptedRecord | None = None
        self.model: OpenModel | SealedModel
        if self.plan.protection.mode == "encrypted":
            self.record = self._encrypted_record()
            self.model = SealedModel(folder, rounds=self.plan.federation.rounds)
        else:
            self.record = self._masked_record() if self.plan.protection.mode == "masked" else None
            self.model = OpenModel(
                folder,
                plan=self.plan,
                initial=self.initial,
                layout=self.layout,
                slots=self.slots,
                transcript=None if self.record is None else self.record.transcript,
            )
        self._known: set[int] = set()
        self._absentees = Absentees()
        folder.rewind(completed=self.model.completed)

    def run(self) -> None:
        """Train to the last round and end the run.

        Raises:
            RoundAborted: a round failed in every attempt; the run can be resumed.
            GroupKeyLost: an encrypted run cannot go on.
        """
        session: Summation | None = None
        while not self.model.ended:
            session = self._advance(session)

    def _advance(self, session: Summation | None) -> Summation:
        """One round, or after the last one what ends the run."""
        completed, rounds = self.model.completed, self.plan.federation.rounds
        started = time.perf_counter()
        costs = Costs()
        reasons: list[str] = []
        for attempt in range(ATTEMPTS_PER_SESSION * SESSIONS):
            if attempt:
                time.sleep(self.retry_seconds * 2 ** (attempt - 1))
            try:
                if session is None or self._somebody_waits(session):
                    session = self._open(costs)
                done = self._go_on(session, costs, completed=completed)
            except RolledBack as error:
                self.folder.rewind(completed=self.model.completed)
                self._note("rolled back", costs, seconds=time.perf_counter() - started, reason=str(error))
                if session is None:
                    raise
                return session
            except (HostileInputError, ValueError) as error:
                reasons.append(str(error))
                self.folder.audit(
                    "round failed", run=self.plan.digest().hex(), round=completed + 1, reason=str(error)[:MAX_REASON]
                )
                if session is None or attempt % ATTEMPTS_PER_SESSION == ATTEMPTS_PER_SESSION - 1:
                    session = None
                continue
            self._note_done(done, costs, seconds=time.perf_counter() - started, failed=reasons)
            self.model.save()
            self._audit_done(done)
            return session
        what = f"round {completed + 1}" if completed < rounds else "the end of the run"
        raise RoundAborted(
            f"{what} failed {len(reasons)} times, last: {reasons[-1]}. Nothing was unmasked or decrypted; "
            "the run can go on with --resume once enough sites answer"
        )

    def _go_on(self, session: Summation, costs: Costs, *, completed: int) -> RoundDone | None:
        if self.model.completed != completed:
            raise RolledBack("nobody holds the group key, and nobody stepped on a sum: the run begins again")
        if completed == self.plan.federation.rounds:
            session.end(costs)
            return None
        return session.round(self._task(session, completed + 1), costs, seen=self._see(completed + 1))

    def _task(self, session: Summation, server_round: int) -> RoundTask:
        return RoundTask(
            server_round=server_round,
            sequence=session.next_number(),
            validate=self._validates(server_round),
            last=server_round == self.plan.federation.rounds,
        )

    def _open(self, costs: Costs) -> Summation:
        # At first everybody is waited for; later, whoever can make a round.
        enough = self.plan.federation.min_cohort if self._known else len(self.sites)
        nodes = self.channel.wait_for(enough)
        self._known.update(nodes)
        session = self._session()
        session.open(nodes, costs)
        self.folder.audit(
            "session opened",
            run=self.plan.digest().hex(),
            session=session.session.hex(),
            cohort=session.cohort(),
        )
        self._absentees.note(
            nodes, joined=session.nodes(), declined=session.declined, server_round=self.model.completed + 1
        )
        return session

    def _session(self) -> Summation:
        minimum = self.plan.federation.min_cohort
        match self.record, self.model:
            case MaskedRecord() as record, OpenModel() as model:
                return MaskedSummation(self.channel, record=record, model=model, min_cohort=minimum)
            case EncryptedRecord() as record, SealedModel() as model:
                return EncryptedSummation(
                    self.channel,
                    record=record,
                    model=model,
                    plan=self.plan,
                    layout=self.layout,
                    slots=self.slots,
                    min_cohort=minimum,
                    initial=self.initial,
                )
            case None, OpenModel() as model:
                return PlainSummation(self.channel, model=model, min_cohort=minimum, names=self.sites)
        raise TypeError(f"no session for {type(self.record).__name__} with {type(self.model).__name__}")

    def _masked_record(self) -> MaskedRecord:
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

    def _encrypted_record(self) -> EncryptedRecord:
        return EncryptedRecord(
            roster=self.folder.roster(),
            signed_roster=self.folder.signed_roster(),
            transcript=EncryptedTranscript(
                self.folder.folder / TRANSCRIPT,
                retention=Retention(self.plan.protection.kept_rounds),
                durable=self.folder.durable,
            ),
        )

    def _somebody_waits(self, session: Summation) -> bool:
        """Whether a connected site is outside the session and should be asked to join."""
        outside = set(self.channel.connected()) - session.nodes()
        return self._absentees.due(outside, server_round=self.model.completed + 1)

    def _validates(self, server_round: int) -> bool:
        every = self.plan.federation.validate_every
        return every > 0 and (server_round % every == 0 or server_round == self.plan.federation.rounds)

    def _see(self, server_round: int) -> Uploads:
        last = server_round == self.plan.federation.rounds

        def see(site: str, upload: npt.NDArray[np.uint8]) -> None:
            if last and site == self.sites[0]:
                self.folder.show_upload(
                    site=site,
                    server_round=server_round,
                    protection=self.plan.protection.mode,
                    counts=np.bincount(upload, minlength=256).tolist(),
                )

        return see

    def _note_done(self, done: RoundDone | None, costs: Costs, *, seconds: float, failed: list[str]) -> None:
        if done is None:
            self._note("end", costs, seconds=seconds, failed_attempts=failed)
            return
        self._note(
            "round",
            costs,
            seconds=seconds,
            survivors=list(done.survivors),
            failed_attempts=failed,
            metrics=dict(done.metrics),
        )

    def _audit_done(self, done: RoundDone | None) -> None:
        run = self.plan.digest().hex()
        if done is None:
            self.folder.audit("run ended", run=run, status="done", rounds=self.model.completed)
        else:
            self.folder.audit(
                "round done",
                run=run,
                round=self.model.completed,
                survivors=list(done.survivors),
                model="" if isinstance(self.model, SealedModel) else self.model.digest.hex(),
            )

    def _note(self, event: str, costs: Costs, *, seconds: float, **details: object) -> None:
        self.folder.append(
            {
                "event": event,
                "round": self.model.completed,
                "lost": costs.lost,
                **details,
                "seconds": seconds,
                "protection_seconds": costs.protection_seconds,
                "exchanges": costs.exchanges,
                "bytes_up": costs.bytes_up,
                "bytes_down": costs.bytes_down,
            }
        )
