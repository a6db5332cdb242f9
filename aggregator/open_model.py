"""The global model in the aggregator's hands, as in plain and masked runs: it steps on every sum and keeps the result.

Runs at the aggregator. Whoever protects uploads by masks shows their sum, and so the model, to the aggregator.
"""

from collections.abc import Mapping

from aggregator.folder import AggregatorFolder
from aggregator.summation import RoundSum
from aggregator.transcript import Transcript
from privacy.fixed_point import VectorFormat, decode_sum
from secfed.aggregator_files import CHECKPOINTS
from secfed.checkpoint import Checkpoints
from secfed.config import TrainingPlan
from secfed.parameters import FloatVector, ParameterLayout, model_digest
from secfed.protected_vector import unpack_sum
from secfed.server_optimizer import ServerState, step


class OpenModel:
    """Model and momentum after the completed rounds, from the newest checkpoint or from the start."""

    def __init__(
        self,
        folder: AggregatorFolder,
        *,
        plan: TrainingPlan,
        initial: FloatVector,
        layout: ParameterLayout,
        slots: VectorFormat,
        transcript: Transcript | None,
    ) -> None:
        self.plan = plan
        self.layout = layout
        self.slots = slots
        self.transcript = transcript
        self._checkpoints = Checkpoints(folder.folder / CHECKPOINTS)
        self._state = self._checkpoints.load(layout) or ServerState.initial(initial, layout)

    @property
    def completed(self) -> int:
        """Rounds that the model went through."""
        return self._state.completed

    @property
    def ended(self) -> bool:
        """The last round is the end."""
        return self.completed >= self.plan.federation.rounds

    @property
    def vector(self) -> FloatVector:
        """The model, shape (layout.size,)."""
        return self._state.model

    @property
    def digest(self) -> bytes:
        """The model's hash."""
        return model_digest(self._state.model, self.layout)

    def advance(self, found: RoundSum, *, server_round: int) -> Mapping[str, float]:
        """Step on a sum; returns the round's metrics. A sum stands in the transcript even where it makes no sense.

        Raises:
            ValueError: it makes no sense.
        """
        try:
            average = unpack_sum(decode_sum(found.total, vector_format=self.slots), slots=self.slots)
        except ValueError as error:
            if self.transcript is not None and found.messages is not None:
                self.transcript.abort_round(found.messages, server_round=server_round, reason=str(error))
            raise
        self._state = step(self._state, average, federation=self.plan.federation, layout=self.layout)
        if self.transcript is not None and found.messages is not None:
            self.transcript.complete_round(
                found.messages, server_round=server_round, total=found.total, model_after=self.digest
            )
        return average.metrics

    def save(self) -> None:
        """Make the model durable."""
        self._checkpoints.save(self._state, self.layout)
