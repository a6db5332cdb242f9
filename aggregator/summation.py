"""One session with the sites behind one interface: what becomes of uploads is all that differs between protections.

Runs at the aggregator. `aggregator.plain_summation` sees every single update, `aggregator.masked_summation` their sums,
`aggregator.encrypted_summation` neither. All give the same integers for the same updates.
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

Uploads = Callable[[str, npt.NDArray[np.uint8]], None]
"""Called with a site's name and bytes of its upload as it arrived: of integers the top ones, of a ciphertext all."""


def top_bytes(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint8]:
    """The most significant byte of every integer, shape (len(words),)."""
    return (words >> np.uint32(24)).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class RoundTask:
    """What the sites are to do in one round; after the `last` one no shares are dealt any more."""

    server_round: int
    sequence: int
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


@dataclass(frozen=True, kw_only=True)
class RoundDone:
    """A round that the global model went through; `metrics` are empty where the aggregator cannot see them."""

    survivors: tuple[str, ...]
    metrics: Mapping[str, float]


class GlobalModel(Protocol):
    """What the aggregator holds of the model; `ended` says that nothing is left to do after `completed` rounds."""

    @property
    def completed(self) -> int:
        """Rounds so far."""
        ...

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        ...

    def save(self) -> None:
        """Make durable what the last round changed."""
        ...


class RolledBack(HostileInputError):  # noqa: N818 - an event, after which an earlier round is run again
    """The sites cannot use the last sum: the global model went back by one round."""


class Summation(Protocol):
    """A session with the sites; `declined` are the nodes whose policy refused to join."""

    declined: set[int]

    @property
    def session(self) -> bytes:
        """The session's name, 32 bytes."""
        ...

    def cohort(self) -> list[str]:
        """The sites that take part, sorted."""
        ...

    def nodes(self) -> set[int]:
        """The nodes that take part."""
        ...

    def open(self, nodes: list[int], costs: Costs) -> None:
        """Let the sites join; raises TooFewSurvivorsError where not enough do."""
        ...

    def next_number(self) -> int:
        """The number of the next round, which no site has heard."""
        ...

    def round(self, task: RoundTask, costs: Costs, *, seen: Uploads) -> RoundDone:
        """Run one round to its end; raises TooFewSurvivorsError or HostileInputError, with nothing opened."""
        ...

    def end(self, costs: Costs) -> None:
        """What is left to do after the last round."""
        ...


class Session:
    """What all summations share: the channel, the binding and who is behind which node.

    `run` names the run in every message: the plan's hash, or 32 bytes that no other run uses.
    """

    def __init__(
        self,
        channel: SiteChannel,
        *,
        run: bytes,
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
        self.run = run
        self._session = secrets.token_bytes(32)
        self._number = 0
        self.names: dict[int, str] = {}
        self.declined: set[int] = set()

    @property
    def session(self) -> bytes:
        """The session's name, 32 bytes."""
        return self._session

    def cohort(self) -> list[str]:
        """The sites that take part, sorted."""
        return sorted(self.names.values())

    def nodes(self) -> set[int]:
        """The nodes that take part."""
        return set(self.names)

    def next_number(self) -> int:
        """Numbers rise within the session."""
        self._number += 1
        return self._number

    def end(self, costs: Costs) -> None:
        """Nothing: whoever holds the model steps in every round."""

    def join_request(self, initial: npt.NDArray[np.float32] | None = None) -> Request:
        """What a site has to agree to before anything else; `initial` is for sites that will not be shown it later."""
        return Request(
            vector=initial,
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
        self.channel.names[node] = reply.site

    def require(self, count: int, stage: Stage, costs: Costs, *, threshold: int) -> None:
        """Raise TooFewSurvivorsError with everybody's reason where fewer than `threshold` answered."""
        if count < threshold:
            lost = "; ".join(f"{name}: {reason}" for name, reason in sorted(costs.lost.items()))
            raise TooFewSurvivorsError(
                f"{count} sites answered stage '{stage}', {threshold} are needed ({lost or 'no reason given'})"
            )
