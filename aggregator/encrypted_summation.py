"""Encrypted rounds: one exchange each, in which the sites step on the last sum and send what the next one is made of.

Setup takes five exchanges: keys between pairs of sites as in masked runs, then one group key for all, which the
aggregator relays sealed. A site that missed a sum is given a peer's sealed snapshot before its next round.

Runs at the aggregator, which is not trusted: it adds ciphertexts and sees neither an update nor a sum nor a model, but
who takes part, when, and whose models agree (privacy.he).
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aggregator.admission import STALE, UNREADABLE, Exchange, SiteChannel
from aggregator.encrypted_transcript import EncryptedTranscript
from aggregator.keyed_session import KeyedSession
from aggregator.sealed_model import SealedModel
from aggregator.summation import Costs, RolledBack, RoundDone, RoundTask, Uploads
from privacy.errors import HostileInputError, TooFewSurvivorsError
from privacy.fixed_point import VectorFormat
from privacy.he.group_server import EncryptedRound, GroupServer, PublishedSum
from privacy.he.layout import HEADER_BYTES, Envelope
from privacy.he.parameters import HeParameters
from privacy.he.requests import EncryptedAnnouncement
from privacy.secagg.roster import Roster
from privacy.secagg.threshold import default_threshold
from secfed.config import TrainingPlan
from secfed.errors import GroupKeyLost
from secfed.messages import Reply, Request, Stage
from secfed.parameters import ParameterLayout
from secfed.protected_vector import encryption_parameters
from secfed.provenance import code_digest
from secfed.server_optimizer import max_state_bytes

MAX_SEALED_KEY_BYTES = 2**20
SEALING_BYTES = 1024
"""More than sealing adds to a snapshot."""

_UNKNOWN = -1
_SHOWN_BYTES = 2**24


@dataclass(frozen=True, kw_only=True)
class EncryptedRecord:
    """What an encrypted job keeps over all its sessions."""

    roster: Roster
    signed_roster: bytes
    transcript: EncryptedTranscript


class EncryptedSummation(KeyedSession):
    """One session of an encrypted run with the sites."""

    def __init__(
        self,
        channel: SiteChannel,
        *,
        record: EncryptedRecord,
        model: SealedModel,
        plan: TrainingPlan,
        layout: ParameterLayout,
        slots: VectorFormat,
        min_cohort: int,
        initial: npt.NDArray[np.float32],
    ) -> None:
        super().__init__(
            channel,
            roster=record.roster,
            run=model.run,
            plan=plan,
            layout=layout,
            slots=slots,
            min_cohort=min_cohort,
            # Sites make the first model from the seed themselves, unless the plan names one.
            initial=None if plan.initial_model is None else initial,
        )
        self.model = model
        self.roster = record.roster
        self.transcript = record.transcript
        self.parameters = encryption_parameters(slots, plan.protection)
        self._signed_roster = record.signed_roster
        self._group: GroupServer | None = None
        self._key_confirmations: tuple[bytes, ...] = ()
        self._confirmed: set[int] = set()
        # On how many sums each site has certainly stepped; a site that may have lost its model counts as unknown.
        self._standing: dict[str, int] = {}

    def open(self, nodes: list[int], costs: Costs) -> None:
        """Keys between pairs of sites, then the group key; a site that fails a step is left out of the session.

        Raises:
            GroupKeyLost: every site of the roster answered, rounds are completed, and none holds the key.
            TooFewSurvivorsError: not enough sites answered a step.
        """
        confirmed = self.set_up(nodes, costs)
        group = GroupServer(
            roster=self.roster,
            session=self.session,
            run=self.run,
            parameters=self.parameters,
            confirmations=self.confirmations,
            minimum=self.min_cohort,
            last_round=self.model.number,
        )
        request = Request(stage=Stage.OFFER, binding=self.binding(), payloads=self.confirmations)
        offered = self.collect(dict.fromkeys(confirmed, request), costs, max_attachment_bytes=MAX_SEALED_KEY_BYTES)
        offers = group.collect_offers((reply.payload, reply.attachment or b"") for reply in offered.values())
        self._require_key(group)
        requests = {node: self._take_request(group, offers, name=self.names[node]) for node in offered}
        taken = self.collect(requests, costs)
        self._key_confirmations = group.collect_confirmations(reply.payload for reply in taken.values())
        costs.lost.update(group.excluded)
        # A site without the run's key has lost its history with it, whatever its books say.
        self._standing = {
            name: completed if name in group.holders or not completed else _UNKNOWN
            for name, completed in group.standings.items()
        }
        self._group = group
        self.transcript.begin_session(
            session=self.session,
            run=self.run,
            roster=self._signed_roster,
            plan=self.plan.model_dump_json().encode(),
            parameters=self.parameters.to_bytes(),
            setup=self.server.setup_messages,
            group_setup=group.setup_messages,
            completed=self.model.completed,
            code_digest=code_digest(),
        )

    def nodes(self) -> set[int]:
        """The nodes that take part: those that confirmed the group key and have not left since."""
        return {node for node, name in self.names.items() if name in self._ready_group().ready}

    def next_number(self) -> int:
        """Numbers rise over the whole run, because the sites remember the newest over sessions."""
        return self.model.next_number()

    def round(self, task: RoundTask, costs: Costs, *, seen: Uploads) -> RoundDone:
        """The sites step on the sum before and upload; what they upload is added as it arrives.

        Raises:
            RolledBack: the sites cannot read the sum before, whose round is to be run again.
        """
        self._restore_stale(task, costs)
        group, before = self._ready_group(), self.model.before
        round_ = group.announce(
            round_number=task.sequence,
            server_round=task.server_round,
            vector_length=self.slots.length,
            plan_hash=self.plan.digest(),
            invited=self._invited(),
            minimum=self._minimum(),
            before=before,
            previous=self.transcript.previous,
        )
        self.transcript.note_open(announcement=round_.announcement, server_round=task.server_round)
        try:
            self._train(task, round_, costs, seen=seen)
            published = round_.finish()
        except HostileInputError as error:
            self.transcript.abort_round(
                announcement=round_.announcement,
                headers=round_.headers,
                server_round=task.server_round,
                reason=str(error),
            )
            # Sites on another model than the largest group are brought back by a snapshot.
            for names in round_.models[1:]:
                self._standing.update(dict.fromkeys(names, _UNKNOWN))
            raise
        finally:
            costs.lost.update(round_.excluded)
        self.transcript.complete_round(published, server_round=task.server_round)
        self.model.advance(published)
        return RoundDone(survivors=published.contributors, metrics={})

    def end(self, costs: Costs) -> None:
        """The sites step on the last sum, show that they ended on one model, and erase the group key."""
        group, before = self._ready_group(), self.model.before
        if before is None:
            raise HostileInputError("the run has no sum to end on")
        server_round = self.model.completed + 1
        task = RoundTask(server_round=server_round, sequence=self.next_number(), validate=False, last=True)
        self._restore_stale(task, costs)
        ending = group.announce_end(
            round_number=task.sequence,
            server_round=server_round,
            plan_hash=self.plan.digest(),
            before=before,
            invited=self._invited(),
            minimum=self._minimum(),
            previous=self.transcript.previous,
        )
        self.transcript.note_open(announcement=ending.announcement, server_round=server_round)
        messages: list[bytes] = []
        exchange = self._ask(
            task,
            Stage.END,
            ending.announcement,
            costs,
            names=self._invited(),
            accept=lambda _, reply: messages.append(reply.payload),
        )
        try:
            self._require_readable(exchange)
            endings = ending.collect(messages)
        except HostileInputError as error:
            self.transcript.abort_round(
                announcement=ending.announcement, headers=(), server_round=server_round, reason=str(error)
            )
            raise
        finally:
            costs.lost.update(ending.excluded)
        self.transcript.complete_end(announcement=ending.announcement, endings=endings, server_round=server_round)
        self.model.end()
        # A site that misses this keeps its key until its owner deletes it; the model is final either way.
        request = Request(stage=Stage.FINISH, binding=self.binding(task), payloads=endings)
        exchange = self.channel.exchange(dict.fromkeys(exchange.answered, request), accept=lambda _, reply: None)
        costs.count(exchange, names=self.channel.names, protection=True)

    def _train(self, task: RoundTask, round_: EncryptedRound, costs: Costs, *, seen: Uploads) -> None:
        size = Envelope(
            parameters=self.parameters, fingerprint=self._ready_group().fingerprint, length=self.slots.length
        ).message_bytes
        adding = 0.0

        def accept(node: int, reply: Reply) -> None:
            nonlocal adding
            if reply.attachment is None:
                raise HostileInputError("sent no ciphertext", party=self.names[node])
            started = time.perf_counter()
            sender = round_.add_input(reply.payload, reply.attachment)
            self.transcript.keep_upload(sender, reply.attachment)
            adding += time.perf_counter() - started
            seen(sender, _even_bytes(reply.attachment, parameters=self.parameters))

        exchange = self._ask(
            task,
            Stage.TRAIN,
            round_.announcement,
            costs,
            names=round_.invited,
            accept=accept,
            fields={"validate": int(task.validate)},
            max_attachment_bytes=size,
        )
        costs.protection_seconds += adding
        self._require_readable(exchange)
        self.require(len(round_.uploaded), Stage.TRAIN, costs, threshold=round_.minimum)

    def _ask(
        self,
        task: RoundTask,
        stage: Stage,
        announcement: bytes,
        costs: Costs,
        *,
        names: Iterable[str],
        accept: Callable[[int, Reply], None],
        fields: Mapping[str, int] | None = None,
        max_attachment_bytes: int = 0,
    ) -> Exchange:
        """Announce to each site, with the sum before for those that may not have stepped on it."""
        nodes, before = self.node_of(), self.model.before
        headers = b"" if before is None else before.previous_round
        late = set() if before is None else set(_invited_to(before)) - set(before.contributors)
        requests = {}
        for name in names:
            total = None if before is None or self._standing.get(name, 0) >= task.server_round - 1 else before.total
            requests[nodes[name]] = Request(
                stage=stage,
                binding=self.binding(task),
                fields={**(fields or {}), "late": int(name in late)},
                payloads=(announcement, headers, *self._confirmations_for(nodes[name])),
                attachment=total,
            )
        exchange = self.channel.exchange(requests, accept=accept, max_attachment_bytes=max_attachment_bytes)
        costs.count(exchange, names=self.channel.names, protection=stage is not Stage.TRAIN)
        self._note(exchange, task)
        return exchange

    def _restore_stale(self, task: RoundTask, costs: Costs) -> None:
        """Ask a site that stands nearest to the present for a snapshot, and show it to those that missed a sum.

        Raises:
            RolledBack: nobody can step on the newest sum, but somebody on the one before.
            GroupKeyLost: nobody ever can.
            TooFewSurvivorsError: somebody may, who did not answer.
        """
        stale = [name for name in self._invited() if self._standing.get(name, 0) < task.server_round - 2]
        givers = sorted(set(self._invited()) - set(stale), key=lambda name: (-self._standing.get(name, 0), name))
        for giver in givers if stale else ():
            given = self._snapshot(task, giver, costs)
            if given is not None:
                self._restore(task, stale, given, costs, standing=self._standing.get(giver, 0))
                return
        if stale and all(self._standing.get(name, 0) < task.server_round - 2 for name in self._invited()):
            self._go_back()

    def _go_back(self) -> None:
        """No site here knows the sums up to the last but one: run the last round again, if one can step on that."""
        done = self.model.completed
        if missing := sorted(set(self.roster.names) - set(self.names.values())):
            raise TooFewSurvivorsError(
                f"no site that answered knows by which sums the model of round {done} comes about; "
                f"{', '.join(missing)} did not answer"
            )
        furthest = max(self._standing.get(name, 0) for name in self._invited())
        if furthest == _UNKNOWN or furthest < done - 2:
            raise GroupKeyLost(
                f"no site can step on the sums of this run any more: {done} rounds are completed, and whoever kept its "
                f"state has stepped on {max(furthest, 0)} of them. Start a new run; a site whose model files are whole "
                "can still export its last model"
            )
        self.model.roll_back()
        raise RolledBack(
            f"the sites that were to step on the sum of round {done} lost their state, and the others are a round "
            f"behind: round {done} is run again"
        )

    def _snapshot(self, task: RoundTask, giver: str, costs: Costs) -> Reply | None:
        node = self.node_of()[giver]
        request = Request(stage=Stage.SNAPSHOT, binding=self.binding(task), payloads=self._confirmations_for(node))
        given: list[Reply] = []
        exchange = self.channel.exchange(
            {node: request},
            accept=lambda _, reply: given.append(reply),
            max_attachment_bytes=max_state_bytes(self.layout, self.plan.federation) + SEALING_BYTES,
        )
        costs.count(exchange, names=self.channel.names, protection=True)
        self._confirmed.update(exchange.answered)
        if exchange.lost.get(node) == STALE:
            # It has its books and took over the key, and no longer knows what it stepped on.
            self._standing[giver] = _UNKNOWN
        self._leave(exchange.silent)
        return given[0] if given and given[0].attachment is not None else None

    def _restore(self, task: RoundTask, stale: list[str], given: Reply, costs: Costs, *, standing: int) -> None:
        nodes = self.node_of()
        requests = {
            nodes[name]: Request(
                stage=Stage.RESTORE,
                binding=self.binding(task),
                payloads=(given.payload, *self._confirmations_for(nodes[name])),
                attachment=given.attachment,
            )
            for name in stale
        }
        exchange = self.channel.exchange(requests, accept=lambda _, reply: None)
        costs.count(exchange, names=self.channel.names, protection=True)
        self._confirmed.update(exchange.answered)
        for node in exchange.answered:
            self._standing[self.names[node]] = standing
        # Who cannot be brought back has lost more than its model, and may join the next session.
        self._leave(exchange.lost)

    def _note(self, exchange: Exchange, task: RoundTask) -> None:
        """Learn from an announcement's answers who stands where, and who is in the session no longer."""
        self._confirmed.update(exchange.answered)
        for node in exchange.answered:
            self._standing[self.names[node]] = task.server_round - 1
        for node, reason in exchange.lost.items():
            if reason == STALE:
                self._standing[self.names[node]] = _UNKNOWN
        # Nobody waits twice for a silent site, and one that declines what it agreed to at the join has lost its state.
        self._leave((*exchange.silent, *exchange.declined))

    def _leave(self, nodes: Iterable[int]) -> None:
        """These are outside the session from now on, and may join the next one."""
        for node in nodes:
            self.names.pop(node, None)

    def _require_readable(self, exchange: Exchange) -> None:
        """Go back by one round where more than half of the sites cannot read the sum before.

        With fewer, a site that lies about it could drive the run back behind those that have stepped on the sum.
        """
        unreadable = [node for node, reason in exchange.lost.items() if reason == UNREADABLE]
        if 2 * len(unreadable) > len(exchange.answered) + len(exchange.lost):
            self.model.roll_back()
            raise RolledBack(
                f"{len(unreadable)} sites could not read the sum of round {self.model.completed + 1}: it is no sum of "
                "its contributors' updates, and its round is run again"
            )

    def _require_key(self, group: GroupServer) -> None:
        """Whether the run can go on under the keys that were offered.

        Raises:
            GroupKeyLost: it can never.
            TooFewSurvivorsError: not with the sites that answered.
        """
        standings = group.standings
        if group.holders or self.model.before is None:
            return
        missing = sorted(set(self.roster.names) - set(standings))
        if missing:
            raise TooFewSurvivorsError(
                f"none of {', '.join(standings)} holds the run's group key; {', '.join(missing)} did not answer"
            )
        furthest = max(standings.values())
        if furthest:
            raise GroupKeyLost(
                f"no site holds the group key of this run any more, and {furthest} rounds are completed: nobody can "
                "read its sums. Start a new run; a site whose model files are whole can still export its last model"
            )
        self.model.restart()

    def _take_request(self, group: GroupServer, offers: tuple[bytes, ...], *, name: str) -> Request:
        sealed = group.sealed_keys_for(name)
        return Request(
            stage=Stage.TAKE, binding=self.binding(), payloads=offers, attachment=sealed[0] if sealed else None
        )

    def _confirmations_for(self, node: int) -> tuple[bytes, ...]:
        """All confirmations of the key, with a site's first request after it took the key."""
        return () if node in self._confirmed else self._key_confirmations

    def _invited(self) -> tuple[str, ...]:
        here = set(self.names.values())
        return tuple(name for name in self._ready_group().ready if name in here)

    def _minimum(self) -> int:
        """How many of the invited a sum needs: the plan's threshold, and never fewer than its smallest cohort."""
        threshold = self.plan.protection.threshold or default_threshold(len(self._invited()))
        return min(len(self._invited()), max(threshold, self.min_cohort))

    def _ready_group(self) -> GroupServer:
        if self._group is None:
            raise HostileInputError("the session is not open")
        return self._group


def _even_bytes(ciphertext: bytes, *, parameters: HeParameters) -> npt.NDArray[np.uint8]:
    """Those of the first bytes that take all 256 values: the top byte of a residue of 54 bits takes 64 of them."""
    [width], [bits] = parameters.residue_bytes, parameters.modulus_bits[:-1]
    counted = min(len(ciphertext) - HEADER_BYTES, _SHOWN_BYTES) // width * width
    residues = np.frombuffer(ciphertext, np.uint8, count=counted, offset=HEADER_BYTES)
    return residues.reshape(-1, width)[:, : bits // 8].reshape(-1)


def _invited_to(published: PublishedSum) -> tuple[str, ...]:
    return EncryptedAnnouncement.from_bytes(published.announcement).invited
