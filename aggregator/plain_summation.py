"""Plain rounds: updates travel as they are.

Runs at the aggregator, which sees every single update: for references and comparison. A site takes part only where its
own policy allows plain.
"""

import numpy as np

from aggregator.admission import SiteChannel
from aggregator.open_model import OpenModel
from aggregator.summation import Costs, RoundDone, RoundSum, RoundTask, Session, Uploads, top_bytes
from privacy.errors import HostileInputError
from secfed.messages import Reply, Request, Stage


class PlainSummation(Session):
    """Updates travel as they are; the aggregator could read each of them."""

    def __init__(self, channel: SiteChannel, *, model: OpenModel, min_cohort: int, names: tuple[str, ...]) -> None:
        plan, layout, slots = model.plan, model.layout, model.slots
        super().__init__(
            channel, run=plan.digest(), plan=plan, layout=layout, slots=slots, min_cohort=min_cohort, names=names
        )
        self.model = model

    def open(self, nodes: list[int], costs: Costs) -> None:
        """Let the sites join; nothing is recorded of a plain session."""
        request = self.join_request()
        exchange = self.channel.exchange(dict.fromkeys(nodes, request), accept=self.admit_name)
        self.declined.update(exchange.declined)
        costs.count(exchange, names=self.channel.names, protection=False)
        self.require(len(exchange.answered), Stage.JOIN, costs, threshold=self.min_cohort)

    def round(self, task: RoundTask, costs: Costs, *, seen: Uploads) -> RoundDone:
        """Collect the updates of whoever answers, add them, and step."""
        total = np.zeros(self.slots.length, np.uint32)

        def accept(node: int, reply: Reply) -> None:
            if reply.site != self.names[node]:
                raise HostileInputError(f"the node joined as '{self.names[node]}'", party=reply.site)
            if reply.vector is None or reply.vector.shape != total.shape:
                raise HostileInputError("the upload has another length than agreed", party=reply.site)
            seen(reply.site, top_bytes(reply.vector))
            np.add(total, reply.vector, out=total)

        request = Request(
            stage=Stage.TRAIN,
            binding=self.binding(task),
            fields={"validate": int(task.validate), "cohort_size": len(self.names)},
            vector=self.model.vector,
        )
        exchange = self.channel.exchange(
            dict.fromkeys(self.names, request), accept=accept, max_vector_length=self.slots.length
        )
        costs.count(exchange, names=self.channel.names, protection=False)
        self.require(len(exchange.answered), Stage.TRAIN, costs, threshold=self.min_cohort)
        survivors = tuple(sorted(self.names[node] for node in exchange.answered))
        found = RoundSum(total=total, survivors=survivors)
        metrics = self.model.advance(found, server_round=task.server_round)
        return RoundDone(survivors=survivors, metrics=metrics)
