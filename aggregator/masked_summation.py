"""Secure aggregation over three exchanges a round after the setup: train, agree, unmask.

The shares of a round ride with the unmasking of the round before. A share exchange comes on top in a session's first
round, after a round that failed before its unmasking, and for sites that were silent when the others dealt.

Runs at the aggregator, which is not trusted: it relays what privacy.secagg signs and checks, and sees sums only.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from aggregator.admission import SiteChannel
from aggregator.half_opened import HalfOpened
from aggregator.keyed_session import KeyedSession
from aggregator.misconduct import Misconduct
from aggregator.open_model import OpenModel
from aggregator.summation import Costs, RoundDone, RoundSum, RoundTask, Uploads, top_bytes
from aggregator.transcript import Transcript
from privacy.errors import HostileInputError, ProvenCheatingError, TooFewSurvivorsError
from privacy.secagg.roster import Roster
from privacy.secagg.server import SecAggRound
from secfed.messages import Reply, Request, Stage
from secfed.provenance import code_digest


@dataclass(frozen=True, kw_only=True)
class MaskedRecord:
    """What a masked job keeps over all its sessions."""

    roster: Roster
    signed_roster: bytes
    misconduct: Misconduct
    half_opened: HalfOpened
    transcript: Transcript


class MaskedSummation(KeyedSession):
    """One session of secure aggregation with the sites."""

    def __init__(self, channel: SiteChannel, *, record: MaskedRecord, model: OpenModel, min_cohort: int) -> None:
        plan = model.plan
        super().__init__(
            channel,
            roster=record.roster,
            run=plan.digest(),
            plan=plan,
            layout=model.layout,
            slots=model.slots,
            min_cohort=min_cohort,
        )
        self.model = model
        self.misconduct = record.misconduct
        self.half_opened = record.half_opened
        self.transcript = record.transcript
        self._signed_roster = record.signed_roster
        self._confirmed: set[int] = set()
        self._next: SecAggRound | None = None
        self._dealt: dict[int, bytes] = {}

    def open(self, nodes: list[int], costs: Costs) -> None:
        """Session setup: keys, encapsulations, confirmations; a site that fails a step is left out of the session."""
        self.set_up(nodes, costs)
        self.transcript.begin_session(
            session=self.session,
            roster=self._signed_roster,
            plan=self.plan.model_dump_json().encode(),
            code_digest=code_digest(),
            setup=self.server.setup_messages,
            completed=self.model.completed,
            model_hash=self.model.digest,
        )

    def nodes(self) -> set[int]:
        """The nodes that take part: those that completed the setup and have not left since."""
        return {node for node, name in self.names.items() if name in self.server.ready}

    def round(self, task: RoundTask, costs: Costs, *, seen: Uploads) -> RoundDone:
        """Masked uploads, agreement, unmasking, the server's step; the set of sites narrows after every stage."""
        found = self._sum(task, costs, seen=seen)
        metrics = self.model.advance(found, server_round=task.server_round)
        return RoundDone(survivors=found.survivors, metrics=metrics)

    def _sum(self, task: RoundTask, costs: Costs, *, seen: Uploads) -> RoundSum:
        round_ = self._next if self._next is not None else self._invite(task.sequence)
        dealt = self._dealt
        self._next, self._dealt = None, {}
        started = time.perf_counter()
        model_hash = self.model.digest
        bound = self._bound_to(model_hash)
        costs.protection_seconds += time.perf_counter() - started
        try:
            self._share(task, round_, dealt, costs, bound=bound)
            self._train(task, round_, costs, model_hash=model_hash, bound=bound, seen=seen)
            self._agree(task, round_, costs)
            return self._unmask(task, round_, costs)
        except HostileInputError as error:
            self.misconduct.note(error)
            self.transcript.abort_round(
                round_.messages,
                server_round=task.server_round,
                reason=str(error),
                evidence=error.evidence if isinstance(error, ProvenCheatingError) else b"",
            )
            raise
        finally:
            for name, reason in round_.guilty.items():
                self.misconduct.banned[name] = reason
            costs.lost.update(round_.excluded)

    def _invite(self, sequence: int) -> SecAggRound:
        here = set(self.names.values())
        invited = [name for name in self.server.ready if name in here and name not in self.misconduct.banned]
        return self.server.invite(round_number=sequence, invited=invited, threshold=self.plan.protection.threshold)

    def _bound_to(self, model_hash: bytes) -> frozenset[str] | None:
        """Whom an earlier unmasking over the same model binds the round to, without those who cheated in it."""
        bound = self.half_opened.survivors_over(model_hash)
        return None if bound is None else bound - set(self.misconduct.banned)

    def _share_request(self, task: RoundTask, round_: SecAggRound, node: int) -> Request:
        # The confirmations of the setup travel with a site's first round, which saves an exchange.
        extra = () if node in self._confirmed else self.confirmations
        return Request(stage=Stage.SHARE, binding=self.binding(task), payloads=(round_.invitation, *extra))

    def _share(
        self,
        task: RoundTask,
        round_: SecAggRound,
        dealt: dict[int, bytes],
        costs: Costs,
        *,
        bound: frozenset[str] | None,
    ) -> None:
        """Fix who takes part; whoever has not dealt its shares yet is asked for them now."""
        nodes = self.node_of()
        wanted = {
            name: nodes[name]
            for name in round_.invited
            if name in nodes and name not in self.misconduct.banned and (bound is None or name in bound)
        }
        missing = [node for node in wanted.values() if node not in dealt]
        if missing:
            exchange = self.channel.exchange(
                {node: self._share_request(task, round_, node) for node in missing},
                accept=lambda node, reply: dealt.__setitem__(node, reply.payload),
            )
            costs.count(exchange, names=self.channel.names, protection=True)
            self._leave(exchange.lost)
        self._confirmed.update(dealt)
        started = time.perf_counter()
        round_.collect_shares(message for node, message in dealt.items() if node in wanted.values())
        costs.protection_seconds += time.perf_counter() - started
        costs.lost.update(round_.excluded)
        self.require(len(round_.cohort), Stage.SHARE, costs, threshold=self.min_cohort)

    def _train(
        self,
        task: RoundTask,
        round_: SecAggRound,
        costs: Costs,
        *,
        model_hash: bytes,
        bound: frozenset[str] | None,
        seen: Uploads,
    ) -> None:
        started = time.perf_counter()
        announcement = round_.announce(
            model_hash=model_hash,
            plan_hash=self.run,
            vector_length=self.slots.length,
            previous=self.transcript.previous,
        )
        costs.protection_seconds += time.perf_counter() - started

        def accept(node: int, reply: Reply) -> None:
            if reply.vector is None:
                party = round_.add_complaint(reply.payload)
                raise HostileInputError(
                    f"complained about what it was dealt; guilty is {party}", party=self.names[node]
                )
            started = time.perf_counter()
            sender = round_.add_upload(reply.payload, reply.vector)
            self.transcript.keep_upload(sender, reply.vector, leaves=round_.upload_leaves[sender])
            costs.protection_seconds += time.perf_counter() - started
            seen(sender, top_bytes(reply.vector))

        nodes = self.node_of()
        request = Request(
            stage=Stage.TRAIN,
            binding=self.binding(task),
            fields={"validate": int(task.validate)},
            payloads=(announcement, *round_.shares),
            vector=self.model.vector,
        )
        exchange = self.channel.exchange(
            {nodes[name]: request for name in round_.cohort if name in nodes},
            accept=accept,
            max_vector_length=self.slots.length,
        )
        costs.count(exchange, names=self.channel.names, protection=False)
        self._leave(exchange.silent)
        self.require(len(round_.uploaded), Stage.TRAIN, costs, threshold=self.min_cohort)
        if bound is not None and bound != set(round_.uploaded):
            raise TooFewSurvivorsError(
                f"sites have begun to open a sum over this model with {sorted(bound)} and open no other; "
                f"without {sorted(bound - set(round_.uploaded))} this round cannot be completed"
            )

    def _agree(self, task: RoundTask, round_: SecAggRound, costs: Costs) -> None:
        """Let every survivor sign the survivor set before anything is released."""
        nodes = self.node_of()
        started = time.perf_counter()
        asked = round_.request_agreement(self.misconduct.evidence())
        self.transcript.note_open(round_.messages, server_round=task.server_round)
        costs.protection_seconds += time.perf_counter() - started
        request = Request(stage=Stage.AGREE, binding=self.binding(task), payloads=(asked,))
        messages: list[bytes] = []
        exchange = self.channel.exchange(
            {nodes[name]: request for name in round_.uploaded if name in nodes},
            accept=lambda _, reply: messages.append(reply.payload),
        )
        costs.count(exchange, names=self.channel.names, protection=True)
        self._leave(exchange.silent)
        started = time.perf_counter()
        round_.collect_agreements(messages)
        costs.protection_seconds += time.perf_counter() - started

    def _unmask(self, task: RoundTask, round_: SecAggRound, costs: Costs) -> RoundSum:
        """Ask who agreed to open the sum, and in the same exchange everybody for the next round's shares."""
        nodes = self.node_of()
        started = time.perf_counter()
        following = None if task.last else self._invite(task.sequence + 1)
        release = round_.request_unmask()
        invitation = () if following is None else (following.invitation,)
        unmask = Request(stage=Stage.UNMASK, binding=self.binding(task), payloads=(release, *invitation))
        requests = {nodes[name]: unmask for name in round_.agreed if name in nodes}
        if following is not None:
            for name in set(following.invited) - set(round_.agreed):
                requests[nodes[name]] = self._share_request(task, following, nodes[name])
        self.half_opened.note(model_hash=round_.announced_model, survivors=round_.uploaded)
        costs.protection_seconds += time.perf_counter() - started
        replies: list[bytes] = []

        def accept(node: int, reply: Reply) -> None:
            if reply.stage is Stage.UNMASK:
                replies.append(reply.payload)
            dealt = reply.payloads[1:] if reply.stage is Stage.UNMASK else reply.payloads
            if dealt:
                self._dealt[node] = dealt[0]

        exchange = self.channel.exchange(requests, accept=accept)
        costs.count(exchange, names=self.channel.names, protection=True)
        self._leave(node for node in exchange.lost if requests[node].stage is Stage.SHARE)
        self._next = following
        started = time.perf_counter()
        found = round_.finish(replies)
        costs.protection_seconds += time.perf_counter() - started
        return RoundSum(total=found.total, survivors=found.survivors, messages=round_.messages)

    def _leave(self, nodes: Iterable[int]) -> None:
        # A site that cannot share has lost its session state, and a silent one may hang: nobody waits for it again in
        # this session, and it may join the next one.
        for node in nodes:
            self.names.pop(node, None)
