"""The setup that masked and encrypted runs share: S0 to S2, after which every pair of sites has a key of its own.

Runs at the aggregator, which relays and learns none of these keys. A site that fails a step is left out of the session.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from aggregator.admission import SiteChannel
from aggregator.summation import Costs, Session
from privacy.fixed_point import VectorFormat
from privacy.secagg.roster import Roster
from privacy.secagg.server import SecAggServer
from secfed.config import TrainingPlan
from secfed.messages import Reply, Request, Stage
from secfed.parameters import ParameterLayout


class KeyedSession(Session):
    """A session whose sites have confirmed keys with each other; `confirmations` are their S2 messages."""

    def __init__(
        self,
        channel: SiteChannel,
        *,
        roster: Roster,
        run: bytes,
        plan: TrainingPlan,
        layout: ParameterLayout,
        slots: VectorFormat,
        min_cohort: int,
        initial: npt.NDArray[np.float32] | None = None,
    ) -> None:
        super().__init__(
            channel, run=run, plan=plan, layout=layout, slots=slots, min_cohort=min_cohort, names=roster.names
        )
        self.server = SecAggServer(roster=roster, session=self.session, threshold=min_cohort)
        self.confirmations: tuple[bytes, ...] = ()
        self._initial = initial
        self._roster = roster

    def set_up(self, nodes: list[int], costs: Costs) -> dict[int, Reply]:
        """Keys, encapsulations, confirmations; returns the last replies by node."""
        advertised = self.collect(dict.fromkeys(nodes, self.join_request(self._initial)), costs)
        relayed = self.server.collect_advertisements(reply.payload for reply in advertised.values())
        encapsulated = self.collect(dict.fromkeys(advertised, self._relay(Stage.ENCAPSULATE, relayed)), costs)
        relayed = self.server.collect_encapsulations(reply.payload for reply in encapsulated.values())
        confirmed = self.collect(dict.fromkeys(encapsulated, self._relay(Stage.CONFIRM, relayed)), costs)
        self.confirmations = self.server.collect_confirmations(reply.payload for reply in confirmed.values())
        costs.lost.update(self.server.excluded)
        return confirmed

    def collect(self, requests: dict[int, Request], costs: Costs, *, max_attachment_bytes: int = 0) -> dict[int, Reply]:
        """The replies to one setup step, by node; everybody who answers is known by name afterwards."""
        replies: dict[int, Reply] = {}

        def accept(node: int, reply: Reply) -> None:
            self.admit_name(node, reply)
            replies[node] = reply

        stage = next((request.stage for request in requests.values()), Stage.JOIN)
        exchange = self.channel.exchange(requests, accept=accept, max_attachment_bytes=max_attachment_bytes)
        self.declined.update(exchange.declined)
        costs.count(exchange, names=self.channel.names, protection=stage is not Stage.JOIN)
        self.require(len(replies), stage, costs, threshold=self.min_cohort)
        return replies

    def join_request(self, initial: npt.NDArray[np.float32] | None = None) -> Request:
        """Names the roster too: a site that holds another one refuses here, in plain words."""
        request = super().join_request(initial)
        fields = {**request.fields, "roster": self._roster.digest.hex(), "roster_version": self._roster.version}
        return replace(request, fields=fields)

    def node_of(self) -> dict[str, int]:
        """The node of every site that takes part, by name."""
        return {name: node for node, name in self.names.items()}

    def _relay(self, stage: Stage, payloads: tuple[bytes, ...]) -> Request:
        return Request(stage=stage, binding=self.binding(), payloads=payloads)
