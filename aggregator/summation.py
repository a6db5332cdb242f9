"""One round's sum, plain or masked, behind one interface: what the aggregator does with uploads is all that differs.

Runs at the aggregator. `PlainSummation` sees every single update: it exists for references and comparison, and a site
takes part in it only where its own policy allows plain. `MaskedSummation` drives privacy.secagg and sees sums only.
Both give the same integers for the same updates.
"""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from aggregator.admission import Exchange, SiteChannel
from privacy.errors import HostileInputError, TooFewSurvivorsError
from privacy.fixed_point import VectorFormat
from privacy.secagg.roster import Roster
from privacy.secagg.server import SecAggRound, SecAggServer
from secfed.config import TrainingPlan
from secfed.messages import Binding, Reply, Request, Stage
from secfed.parameters import ParameterLayout, model_digest

Uploads = Callable[[str, npt.NDArray[np.uint32]], None]
"""Called with a site's name and its upload as it arrived, before it is added."""


@dataclass(frozen=True, kw_only=True)
class RoundTask:
    """What the sites are to do in one round."""

    server_round: int
    sequence: int
    model: npt.NDArray[np.float32]
    validate: bool


@dataclass(kw_only=True)
class Costs:
    """What exchanges took; `protection_seconds` is what a plain run would not have spent."""

    exchanges: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    protection_seconds: float = 0.0
    lost: dict[str, str] = field(default_factory=dict)

    def count(self, exchange: Exchange, *, names: Mapping[int, str], protection: bool) -> None:
        """Add one exchange; dropouts are noted by name and stage reason."""
        self.exchanges += 1
        self.bytes_up += exchange.bytes_up
        self.bytes_down += exchange.bytes_down
        if protection:
            self.protection_seconds += exchange.seconds
        for node, reason in exchange.lost.items():
            self.lost[names.get(node, f"node {node}")] = reason


@dataclass(frozen=True, kw_only=True)
class RoundSum:
    """The integers of one round, shape (slots.length,), and whose updates are in them."""

    total: npt.NDArray[np.uint32]
    survivors: tuple[str, ...]


class Summation(Protocol):
    """A session with the sites that gives one sum per round; `names` are the nodes that take part in it."""

    names: dict[int, str]

    def open(self, nodes: list[int], costs: Costs) -> None:
        """Let the sites join; raises TooFewSurvivorsError where not enough do."""
        ...

    def sum_round(self, task: RoundTask, costs: Costs, *, seen: Uploads) -> RoundSum:
        """Run one round; raises TooFewSurvivorsError or HostileInputError, with nothing unmasked."""
        ...


class _Session:
    """What both summations share: the channel, the binding and who is behind which node."""

    def __init__(
        self,
        channel: SiteChannel,
        *,
        plan: TrainingPlan,
        layout: ParameterLayout,
        slots: VectorFormat,
        min_cohort: int,
        names: tuple[str, ...],
    ) -> None:
        self.channel = channel
        self.plan = plan
        self.layout = layout
        self.slots = slots
        self.min_cohort = min_cohort
        self.expected_names = names
        self.run = plan.digest()
        self.session = secrets.token_bytes(32)
        self.names: dict[int, str] = {}

    def join_request(self) -> Request:
        return Request(
            stage=Stage.JOIN,
            binding=self.binding(),
            fields={
                "plan": self.plan.model_dump_json(),
                "layout": self.layout.to_json(),
                "max_clients": self.slots.max_clients,
            },
        )

    def binding(self, task: RoundTask | None = None) -> Binding:
        if task is None:
            return Binding(run=self.run, session=self.session)
        return Binding(run=self.run, session=self.session, server_round=task.server_round, sequence=task.sequence)

    def admit_name(self, node: int, reply: Reply) -> None:
        """Remember who a node is; two nodes with one name, or a stranger, are refused."""
        if reply.site not in self.expected_names:
            raise HostileInputError(f"'{reply.site}' is not a site of this run")
        if reply.site in self.names.values() and self.names.get(node) != reply.site:
            raise HostileInputError(f"'{reply.site}' joined twice")
        self.names[node] = reply.site

    def require(self, count: int, stage: Stage, costs: Costs, *, threshold: int) -> None:
        if count < threshold:
            lost = "; ".join(f"{name}: {reason}" for name, reason in sorted(costs.lost.items()))
            raise TooFewSurvivorsError(
                f"{count} sites answered stage '{stage}', {threshold} are needed ({lost or 'no reason given'})"
            )


class PlainSummation(_Session):
    """Updates travel as they are; the aggregator could read each of them."""

    def open(self, nodes: list[int], costs: Costs) -> None:
        """Let the sites join."""
        request = self.join_request()
        exchange = self.channel.exchange(dict.fromkeys(nodes, request), accept=self.admit_name)
        costs.count(exchange, names=self.names, protection=False)
        self.require(len(exchange.answered), Stage.JOIN, costs, threshold=self.min_cohort)

    def sum_round(self, task: RoundTask, costs: Costs, *, seen: Uploads) -> RoundSum:
        """Collect the updates of whoever answers and add them."""
        total = np.zeros(self.slots.length, np.uint32)

        def accept(node: int, reply: Reply) -> None:
            if reply.site != self.names[node]:
                raise HostileInputError(f"the node joined as '{self.names[node]}'", party=reply.site)
            if reply.vector is None or reply.vector.shape != total.shape:
                raise HostileInputError("the upload has another length than agreed", party=reply.site)
            seen(reply.site, reply.vector)
            np.add(total, reply.vector, out=total)

        request = Request(
            stage=Stage.TRAIN,
            binding=self.binding(task),
            fields={"validate": int(task.validate), "cohort_size": len(self.names)},
            vector=task.model,
        )
        exchange = self.channel.exchange(
            dict.fromkeys(self.names, request), accept=accept, max_vector_length=self.slots.length
        )
        costs.count(exchange, names=self.names, protection=False)
        self.require(len(exchange.answered), Stage.TRAIN, costs, threshold=self.min_cohort)
        return RoundSum(total=total, survivors=tuple(sorted(self.names[node] for node in exchange.answered)))


class MaskedSummation(_Session):
    """Secure aggregation over three exchanges a round after the setup: share, train, unmask."""

    def __init__(
        self,
        channel: SiteChannel,
        *,
        roster: Roster,
        plan: TrainingPlan,
        layout: ParameterLayout,
        slots: VectorFormat,
        min_cohort: int,
    ) -> None:
        super().__init__(channel, plan=plan, layout=layout, slots=slots, min_cohort=min_cohort, names=roster.names)
        self.server = SecAggServer(roster=roster, session=self.session, threshold=min_cohort)
        self.banned: set[str] = set()
        self._confirmations: tuple[bytes, ...] = ()
        self._confirmed: set[int] = set()

    def open(self, nodes: list[int], costs: Costs) -> None:
        """Session setup: keys, encapsulations, confirmations; a site that fails a step is left out of the session."""
        advertised = self._collect(nodes, self.join_request(), costs)
        relayed = self.server.collect_advertisements(advertised.values())
        request = Request(stage=Stage.ENCAPSULATE, binding=self.binding(), payloads=relayed)
        encapsulated = self._collect(list(advertised), request, costs)
        relayed = self.server.collect_encapsulations(encapsulated.values())
        request = Request(stage=Stage.CONFIRM, binding=self.binding(), payloads=relayed)
        confirmed = self._collect(list(encapsulated), request, costs)
        self._confirmations = self.server.collect_confirmations(confirmed.values())
        costs.lost.update(self.server.excluded)

    def sum_round(self, task: RoundTask, costs: Costs, *, seen: Uploads) -> RoundSum:
        """Shares, masked uploads, unmasking; the set of sites narrows after every stage."""
        nodes = {name: node for node, name in self.names.items()}
        invited = [name for name in self.server.ready if name in nodes and name not in self.banned]
        started = time.perf_counter()
        round_ = self.server.begin_round(
            round_number=task.sequence,
            model_hash=model_digest(task.model, self.layout),
            plan_hash=self.run,
            vector_length=self.slots.length,
            invited=invited,
            threshold=self.plan.protection.threshold,
        )
        costs.protection_seconds += time.perf_counter() - started
        shared = self._share(task, round_, [nodes[name] for name in invited], costs)
        self._train(task, round_, [nodes[name] for name in round_.cohort], shared, costs, seen=seen)
        return self._unmask(task, round_, [nodes[name] for name in round_.uploaded], costs)

    def _share(self, task: RoundTask, round_: SecAggRound, nodes: list[int], costs: Costs) -> tuple[bytes, ...]:
        def request(node: int) -> Request:
            # The confirmations of the setup travel with a site's first round, which saves an exchange.
            extra = () if node in self._confirmed else self._confirmations
            return Request(stage=Stage.SHARE, binding=self.binding(task), payloads=(round_.announcement, *extra))

        messages: dict[int, bytes] = {}
        exchange = self.channel.exchange(
            {node: request(node) for node in nodes},
            accept=lambda node, reply: messages.__setitem__(node, reply.payload),
        )
        costs.count(exchange, names=self.names, protection=True)
        for node in exchange.lost:
            # A site that cannot share has lost its session state, or is gone: it may join the next session.
            self.names.pop(node, None)
        self._confirmed.update(messages)
        started = time.perf_counter()
        shared = round_.collect_shares(messages.values())
        costs.protection_seconds += time.perf_counter() - started
        costs.lost.update(round_.excluded)
        self.require(len(round_.cohort), Stage.SHARE, costs, threshold=self.min_cohort)
        return shared

    def _train(
        self,
        task: RoundTask,
        round_: SecAggRound,
        nodes: list[int],
        shared: tuple[bytes, ...],
        costs: Costs,
        *,
        seen: Uploads,
    ) -> None:
        def accept(node: int, reply: Reply) -> None:
            if reply.vector is None:
                raise HostileInputError("the upload carries no vector", party=self.names[node])
            started = time.perf_counter()
            sender = round_.add_upload(reply.payload, reply.vector)
            costs.protection_seconds += time.perf_counter() - started
            seen(sender, reply.vector)

        request = Request(
            stage=Stage.TRAIN,
            binding=self.binding(task),
            fields={"validate": int(task.validate)},
            payloads=shared,
            vector=task.model,
        )
        exchange = self.channel.exchange(
            dict.fromkeys(nodes, request), accept=accept, max_vector_length=self.slots.length
        )
        costs.count(exchange, names=self.names, protection=False)
        self.require(len(round_.uploaded), Stage.TRAIN, costs, threshold=self.min_cohort)

    def _unmask(self, task: RoundTask, round_: SecAggRound, nodes: list[int], costs: Costs) -> RoundSum:
        started = time.perf_counter()
        request = Request(stage=Stage.UNMASK, binding=self.binding(task), payloads=(round_.request_unmask(),))
        costs.protection_seconds += time.perf_counter() - started
        replies: list[bytes] = []
        exchange = self.channel.exchange(
            dict.fromkeys(nodes, request), accept=lambda _, reply: replies.append(reply.payload)
        )
        costs.count(exchange, names=self.names, protection=True)
        started = time.perf_counter()
        try:
            found = round_.finish(replies)
        except TooFewSurvivorsError:
            raise
        except HostileInputError as error:
            if error.party is not None:
                self.banned.add(error.party)
            raise
        costs.protection_seconds += time.perf_counter() - started
        costs.lost.update(found.excluded)
        return RoundSum(total=found.total, survivors=found.survivors)

    def _collect(self, nodes: list[int], request: Request, costs: Costs) -> dict[int, bytes]:
        messages: dict[int, bytes] = {}

        def accept(node: int, reply: Reply) -> None:
            self.admit_name(node, reply)
            messages[node] = reply.payload

        exchange = self.channel.exchange(dict.fromkeys(nodes, request), accept=accept)
        costs.count(exchange, names=self.names, protection=request.stage is not Stage.JOIN)
        self.require(len(messages), request.stage, costs, threshold=self.min_cohort)
        return messages
