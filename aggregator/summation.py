"""One round's sum behind one interface: what the aggregator does with uploads is all that differs between protections.

Runs at the aggregator. `PlainSummation` sees every single update: it exists for references and comparison, and a site
takes part in it only where its own policy allows plain. `aggregator.masked_summation` sees sums only. Both give the
same integers for the same updates.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from aggregator.admission import Exchange, SiteChannel
from privacy.errors import HostileInputError, TooFewSurvivorsError
from privacy.fixed_point import VectorFormat
from privacy.secagg.transcript import RoundMessages
from secfed.config import TrainingPlan
from secfed.messages import Binding, Reply, Request, Stage
from secfed.parameters import ParameterLayout

Uploads = Callable[[str, npt.NDArray[np.uint32]], None]
"""Called with a site's name and its upload as it arrived, before it is added."""


@dataclass(frozen=True, kw_only=True)
class RoundTask:
    """What the sites are to do in one round; after the `last` one no shares are dealt any more."""

    server_round: int
    sequence: int
    model: npt.NDArray[np.float32]
    validate: bool
    last: bool = False


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
    """The integers of one round, shape (slots.length,), whose updates are in them, and what was signed on the way."""

    total: npt.NDArray[np.uint32]
    survivors: tuple[str, ...]
    messages: RoundMessages | None = None


class Summation(Protocol):
    """A session with the sites that gives one sum per round; `declined` are the nodes whose policy refused to join."""

    declined: set[int]

    def nodes(self) -> set[int]:
        """The nodes that take part."""
        ...

    def open(self, nodes: list[int], costs: Costs, *, completed: int, model: npt.NDArray[np.float32]) -> None:
        """Let the sites join after `completed` rounds; raises TooFewSurvivorsError where not enough do."""
        ...

    def sum_round(self, task: RoundTask, costs: Costs, *, seen: Uploads) -> RoundSum:
        """Run one round; raises TooFewSurvivorsError or HostileInputError, with nothing unmasked."""
        ...


class Session:
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
        self.declined: set[int] = set()

    def nodes(self) -> set[int]:
        """The nodes that take part."""
        return set(self.names)

    def join_request(self) -> Request:
        """What a site has to agree to before anything else."""
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
        """Of the session, or of one round in it."""
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
        """Raise TooFewSurvivorsError with everybody's reason where fewer than `threshold` answered."""
        if count < threshold:
            lost = "; ".join(f"{name}: {reason}" for name, reason in sorted(costs.lost.items()))
            raise TooFewSurvivorsError(
                f"{count} sites answered stage '{stage}', {threshold} are needed ({lost or 'no reason given'})"
            )


class PlainSummation(Session):
    """Updates travel as they are; the aggregator could read each of them."""

    def open(self, nodes: list[int], costs: Costs, *, completed: int, model: npt.NDArray[np.float32]) -> None:
        """Let the sites join; nothing is recorded of a plain session."""
        request = self.join_request()
        exchange = self.channel.exchange(dict.fromkeys(nodes, request), accept=self.admit_name)
        self.declined.update(exchange.declined)
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
