"""The peer: Flower's own SecAgg+ (its shipped client mod and server workflow), driven in this process.

Clients answer in series and train nothing: their function returns one fixed vector, and what it takes is not counted.
Messages are handed over as objects, so Flower pays for no serialisation beyond its own. All sites share with all sites
(num_shares = n), the reconstruction threshold is 0.6, and the quantisation settings are Flower's defaults. Its strategy
would average n copies of the result; ours takes the first, so that this does not count either.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import Code, FitIns, FitRes, Parameters, Scalar, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.compat.common import recorddict_compat
from flwr.server.client_manager import ClientManager, SimpleClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.compat import LegacyContext
from flwr.server.compat.grid_client_proxy import GridClientProxy
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from benchmarks.stopwatch import Seconds, Stopwatch
from privacy.errors import MisuseError

MAX_WEIGHT = 1000.0
"""Flower's default; every client weighs as much, so that its vector keeps all its bits."""

THRESHOLD = 0.6
"""Of the shares."""


@dataclass(frozen=True, kw_only=True)
class FlowerCost:
    """One round of SecAgg+: `clients` for all of them together, `masking_cpu` for the upload of the middle client."""

    clients: Seconds
    server: Seconds
    masking_cpu: float
    bytes_up: int

    @property
    def total(self) -> Seconds:
        """All parties."""
        return self.clients + self.server


def measure(clients: int, vector: npt.NDArray[np.float32], *, dropouts: int = 0) -> FlowerCost:
    """One round in which every client sends this vector but `dropouts`, which fail when they are to send it.

    Raises:
        MisuseError: the result is not the average of what was sent.
    """
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    logging.getLogger("flwr").setLevel(logging.ERROR)
    grid = _ModGrid(clients, vector, dropouts=dropouts)
    # Of a grid, the workflow uses one method.
    as_grid = cast(Grid, grid)
    strategy = _FixedCohort(clients, as_grid)
    state = RecordDict(
        {
            MAIN_CONFIGS_RECORD: ConfigRecord({WorkflowKey.CURRENT_ROUND: 1}),
            MAIN_PARAMS_RECORD: ArrayRecord(),
        }
    )
    context = LegacyContext(Context(1, 1, {}, state, {}), strategy=strategy, client_manager=SimpleClientManager())
    workflow = SecAggPlusWorkflow(num_shares=clients, reconstruction_threshold=THRESHOLD)
    watch = Stopwatch()
    with watch.part("all"):
        workflow(as_grid, context)
    if strategy.result is None or not np.allclose(parameters_to_ndarrays(strategy.result)[0], vector, atol=1e-4):
        raise MisuseError("SecAgg+ did not give the average of what was sent")
    training = grid.training.total()
    return FlowerCost(
        clients=grid.clients.total() - training,
        server=watch.total() - grid.exchanges.total(),
        masking_cpu=grid.clients.median_cpu(Stage.COLLECT_MASKED_VECTORS) - grid.training.median_cpu("training"),
        bytes_up=grid.bytes_up,
    )


class _ModGrid:
    """What the workflow needs of a `Grid`: every message goes to the shipped mod of its node, one at a time."""

    def __init__(self, clients: int, vector: npt.NDArray[np.float32], *, dropouts: int) -> None:
        self.exchanges, self.clients, self.training = Stopwatch(), Stopwatch(), Stopwatch()
        self.bytes_up = 0
        self._vector = vector
        self._silent = set(range(1, dropouts + 1))
        self._contexts = {node: Context(1, node, {}, RecordDict(), {}) for node in range(1, clients + 1)}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Replies in the order of the messages; `timeout` has no meaning here."""
        with self.exchanges.part("exchange"):
            return [self._answer(message) for message in messages]

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        # The set-up stage sends one object to all nodes, and the mod takes the stage out of it.
        configs = dict(message.content.config_records[RECORD_KEY_CONFIGS])
        message.content = RecordDict({**message.content, RECORD_KEY_CONFIGS: ConfigRecord(configs)})
        stage = str(configs[Key.STAGE])
        if stage == Stage.COLLECT_MASKED_VECTORS and node in self._silent:
            return Message(Error(2, "dropped out"), reply_to=message)
        with self.clients.part(stage):
            reply = secaggplus_mod(message, self._contexts[node], self._train)
        if node == len(self._contexts):
            self.bytes_up += _payload_bytes(reply.content.config_records[RECORD_KEY_CONFIGS])
        return reply

    def _train(self, message: Message, _: Context) -> Message:
        with self.training.part("training"):
            result = FitRes(
                status=Status(Code.OK, ""),
                parameters=ndarrays_to_parameters([self._vector]),
                num_examples=int(MAX_WEIGHT),
                metrics={},
            )
            return Message(recorddict_compat.fitres_to_recorddict(result, keep_input=False), reply_to=message)


class _FixedCohort(FedAvg):
    """Invites everybody, and takes the first of the results, which are all the same."""

    def __init__(self, clients: int, grid: Grid) -> None:
        super().__init__()
        self.result: Parameters | None = None
        self._nodes: list[ClientProxy] = [GridClientProxy(node, grid, 1) for node in range(1, clients + 1)]

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """Flower's interface."""
        return [(node, FitIns(parameters, {})) for node in self._nodes]

    def aggregate_fit(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, FitRes]],
        failures: list[tuple[ClientProxy, FitRes] | BaseException],
    ) -> tuple[Parameters | None, dict[str, Scalar]]:
        """Flower's interface."""
        self.result = results[0][1].parameters
        return None, {}


def _payload_bytes(record: ConfigRecord) -> int:
    """The bytes of a reply's values; numbers count 8, as Flower sends them."""
    values = [item for value in record.values() for item in (value if isinstance(value, list) else [value])]
    return sum(len(value) if isinstance(value, bytes | str) else 8 for value in values)
