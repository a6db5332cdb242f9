"""The model's way through the rounds, computed again: the server's step on every replayed sum.

Run by the auditor, with the functions that the aggregator itself uses. It starts from `initial.safetensors`, or where
earlier sums are gone from a kept checkpoint whose model has the hash that the sites signed. A checkpoint's moments,
and its average of the models so far, are the aggregator's word: no site ever saw them.
"""

from pathlib import Path
from typing import get_args

import numpy as np

from privacy.errors import MisuseError
from privacy.fixed_point import VectorFormat, decode_sum
from privacy.secagg.findings import Findings
from privacy.secagg.round_check import RoundFacts
from privacy.secagg.session_check import SessionFacts
from privacy.secagg.transcript import RoundEntry, SessionEntry, entry_name
from privacy.secagg.verifier import CheckedEntry
from secfed.aggregator_files import CHECKPOINTS, INITIAL
from secfed.audit.plan_check import check_plan_hash, read_plan
from secfed.config import ModalityName, TrainingPlan
from secfed.data.cases import LABEL_MAPS
from secfed.errors import RunFolderError
from secfed.modality_sets import file_for, network_of, positions_of
from secfed.parameters import ParameterLayout, load_vector, model_digest
from secfed.protected_vector import unpack_sum, vector_format
from secfed.server_optimizer import ServerState, step

FINAL = "model.safetensors"

STEPPED = "the model after the round is the server's step on the replayed sum, bit for bit"
CHAINED_ONLY = "the model after the round is known by its hash only: the step to it cannot be computed again"


class ModelReplay:
    """Follows the model of one aggregator folder; problems become findings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._plan: TrainingPlan | None = None
        self._slots: VectorFormat | None = None
        self._layout: ParameterLayout | None = None
        # The model before the latest round too: after a kill the latest round may be run again.
        self._states: dict[int, ServerState] = {}
        self._hashes: dict[int, bytes] = {}

    def take(self, checked: CheckedEntry) -> Findings:
        """Follow one entry, in order."""
        notes = Findings(entry_name(checked.number))
        match checked.content, checked.facts:
            case SessionEntry() as entry, facts:
                self._begin(entry, facts if isinstance(facts, SessionFacts) else None, notes)
            case RoundEntry() as entry, RoundFacts() as facts:
                self._advance(entry, facts, checked, notes)
        return notes

    def finish(self) -> Findings:
        """Compare the chain's end with the newest checkpoint, and with the final model where the run wrote one."""
        notes = Findings(CHECKPOINTS)
        newest = max((self.folder / CHECKPOINTS).glob("round-*.safetensors"), default=None)
        last = max(self._hashes, default=None)
        if newest is None or last is None:
            notes.add("unchecked", "there is no checkpoint to compare the last model with")
            return notes
        notes.where = f"{CHECKPOINTS}/{newest.name}"
        vector, layout = self._load(newest, notes)
        if vector is None or layout is None:
            return notes
        completed = int(newest.stem.removeprefix("round-")) if newest.stem[6:].isdecimal() else -1
        if completed not in self._hashes:
            notes.fail("is of no round of the transcript")
        elif model_digest(vector, layout) != self._hashes[completed]:
            notes.fail("is not the model that the transcript says")
        elif completed != last:
            notes.add(
                "unchecked", f"is of round {completed}, the transcript goes on to round {last}: the run was stopped"
            )
        else:
            notes.add("proved", "the last checkpoint is the model that the last round ended with")
            self._compare_final(self._result(newest, vector, notes), notes)
        return notes

    def _begin(self, entry: SessionEntry, facts: SessionFacts | None, notes: Findings) -> None:
        self._hashes[entry.completed] = entry.model_hash
        self._slots = None
        self._plan = read_plan(entry.plan, self.folder, notes)
        if self._plan is None:
            return
        if self._layout is None and (self.folder / INITIAL).is_file():
            vector, self._layout = self._load(self.folder / INITIAL, notes)
            if vector is not None and self._layout is not None and entry.completed == 0:
                if model_digest(vector, self._layout) == entry.model_hash:
                    notes.add("proved", f"the first model is {INITIAL}")
                    self._states = {0: ServerState.initial(vector, self._layout)}
                else:
                    notes.fail(f"{INITIAL} is not the model that the first session started from")
        if self._layout is not None and facts is not None:
            self._slots = vector_format(self._layout, self._plan, cohort_size=len(facts.roster.names))

    def _advance(self, entry: RoundEntry, facts: RoundFacts, checked: CheckedEntry, notes: Findings) -> None:
        before, number = entry.server_round - 1, entry.server_round
        self._hashes[number] = entry.model_after
        check_plan_hash(facts.announced.plan_hash, self._plan, notes)
        state = self._state_before(before, facts.announced.model_hash, notes) if checked.sum is not None else None
        self._states = {before: state} if state is not None else {}
        if state is None or checked.sum is None or self._plan is None or self._slots is None or self._layout is None:
            notes.add("unchecked", CHAINED_ONLY)
            return
        try:
            average = unpack_sum(decode_sum(checked.sum, vector_format=self._slots), slots=self._slots)
            after = step(state, average, federation=self._plan.federation, layout=self._layout)
        except (MisuseError, ValueError) as error:
            notes.fail(f"the server's step on the replayed sum is not possible: {error}")
            return
        if model_digest(after.model, self._layout) != entry.model_after:
            notes.fail("the model after the round is NOT the server's step on the replayed sum")
            return
        notes.add("proved", STEPPED)
        self._states[number] = after

    def _state_before(self, completed: int, model_hash: bytes, notes: Findings) -> ServerState | None:
        """The state that a round starts from: followed so far, or from a checkpoint with the hash that was signed."""
        state = self._states.get(completed)
        if state is None or self._layout is None:
            return self._from_checkpoint(completed, model_hash, notes)
        return state if model_digest(state.model, self._layout) == model_hash else None

    def _from_checkpoint(self, completed: int, model_hash: bytes, notes: Findings) -> ServerState | None:
        path = self.folder / CHECKPOINTS / f"round-{completed:06d}.safetensors"
        if not path.is_file() or self._layout is None or self._plan is None:
            return None
        model, layout = self._load(path, notes)
        if model is None:
            return None
        name = f"{CHECKPOINTS}/{path.name}"
        if layout != self._layout or model_digest(model, self._layout) != model_hash:
            notes.fail("is not the model that the sites were shown", where=name)
            return None
        notes.add("proved", "the model that the sites were shown is this checkpoint", where=name)
        federation, zeros = self._plan.federation, np.zeros(self._layout.num_parameters)
        momentum = self._kept(path, "momentum", zeros, notes) if federation.has_momentum else zeros
        second = self._kept(path, "second_moment", zeros, notes) if federation.has_second_moment else None
        blank = np.zeros(self._layout.size, np.float32)
        average = self._kept(path, "average", blank, notes) if federation.ema_decay else None
        if (
            momentum is None
            or (second is None and federation.has_second_moment)
            or (average is None and federation.ema_decay)
        ):
            return None
        return ServerState(completed=completed, model=model, momentum=momentum, average=average, second_moment=second)

    def _kept(self, checkpoint: Path, what: str, example: np.ndarray, notes: Findings) -> np.ndarray | None:
        """An array beside a checkpoint's model, with the type and shape of `example`."""
        path = checkpoint.with_suffix(f".{what}.npy")
        try:
            found: np.ndarray = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        if (found.dtype, found.shape) != (example.dtype, example.shape):
            notes.fail(f"is no {what.replace('_', ' ')} of this model", where=f"{CHECKPOINTS}/{path.name}")
            return None
        name = f"{CHECKPOINTS}/{checkpoint.name}"
        notes.add("unchecked", f"the {what.replace('_', ' ')} in this checkpoint is the aggregator's word", where=name)
        return found

    def _result(self, checkpoint: Path, last: np.ndarray, notes: Findings) -> np.ndarray | None:
        """What users were to get after the last round: `last`, or the average of the models so far."""
        if self._plan is None or not self._plan.federation.ema_decay:
            return last
        state = self._states.get(max(self._hashes))
        if state is not None:
            return state.result
        return self._kept(checkpoint, "average", last, notes)

    def _compare_final(self, result: np.ndarray | None, notes: Findings) -> None:
        files = self._finals()
        if not files or result is None or self._plan is None or self._layout is None:
            return
        # Torch is needed for a plan with adapters or with layers that stay at sites; any other audit does without it.
        from secfed.network import finished_model, own_layout

        classes, whose = LABEL_MAPS[self._plan.task].num_classes, self._plan.federation.normalisation
        averaged = self._plan.federation.ema_decay
        expected = "the average of the models after each round" if averaged else "the last checkpoint's model"
        unknown: np.ndarray = np.zeros(0, np.intp)
        if whose in ("fedbn", "silobn"):
            own = own_layout(self._plan, self._layout).model_layout()
            unknown = positions_of(self._layout, {spec.name for spec in own.tensors})
            expected += ", but for layers that stay at sites"
        for name, modalities in files.items():
            found, _ = self._load(self.folder.parent / name, notes)
            if found is None:
                continue
            network = network_of(result, self._layout, modalities) if whose == "fednorm" and modalities else result
            model = np.array(finished_model(network, self._layout, plan=self._plan, num_classes=classes)[0])
            if found.shape == model.shape:
                model[unknown] = found[unknown]
            if found.shape == model.shape and found.tobytes() == model.tobytes():
                notes.add("proved", f"the model file of the run is {expected}", where=name)
            else:
                notes.fail(f"the model file of the run is not {expected}", where=name)
            if len(unknown):
                notes.add("unchecked", "the normalisation layers in the model file are the sites' word", where=name)

    def _finals(self) -> dict[str, tuple[ModalityName, ...]]:
        """The run's model files that are there, each with the modalities whose layers are in it."""
        folder = self.folder.parent
        if not (folder / FINAL).is_file():
            return {}
        own = [modality for modality in get_args(ModalityName) if (folder / file_for(FINAL, modality)).is_file()]
        return {FINAL: tuple(own), **{file_for(FINAL, modality): (modality,) for modality in own}}

    @staticmethod
    def _load(
        path: Path, notes: Findings
    ) -> tuple[np.ndarray[tuple[int], np.dtype[np.float32]] | None, ParameterLayout | None]:
        try:
            vector, layout, _ = load_vector(path)
        except RunFolderError as error:
            notes.fail(f"cannot be read: {error}", where=path.name)
            return None, None
        return vector, layout
