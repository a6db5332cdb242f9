"""The aggregator's durable state: one checkpoint a round, written whole or not at all.

A checkpoint is `checkpoints/round-000012.safetensors` (the model, one tensor each, loadable anywhere) beside
`round-000012.momentum.npy`; it counts from the moment `checkpoints/latest.json` names it, which is replaced atomically
and last. A kill at any point leaves the previous checkpoint in force.

Runs at the aggregator. Holds only what the aggregator knows anyway: the sums' consequences.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from secfed.errors import RunFolderError
from secfed.parameters import ParameterLayout, load_vector, model_digest, save_vector
from secfed.server_optimizer import ServerState

LATEST = "latest.json"


class Checkpoints:
    """The checkpoints of one job; `keep` of them stay on disk."""

    def __init__(self, folder: Path, *, keep: int = 3) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, state: ServerState, layout: ParameterLayout) -> None:
        """Make `state` durable."""
        self.folder.mkdir(parents=True, exist_ok=True)
        stem = f"round-{state.completed:06d}"
        save_vector(
            self.folder / f"{stem}.safetensors", state.model, layout, metadata={"completed": str(state.completed)}
        )
        temporary = self.folder / f".{stem}.momentum"
        with temporary.open("wb") as file:
            np.save(file, state.momentum)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.folder / f"{stem}.momentum.npy")
        latest = self.folder / f".{LATEST}"
        pointer = {
            "completed": state.completed,
            "model": model_digest(state.model, layout).hex(),
            "momentum": _momentum_digest(state.momentum),
        }
        with latest.open("w", encoding="utf-8") as file:
            json.dump(pointer, file)
            file.flush()
            os.fsync(file.fileno())
        latest.replace(self.folder / LATEST)
        for path in self.folder.glob("round-*"):
            if int(path.name[6:12]) <= state.completed - self.keep:
                path.unlink()

    def load(self, layout: ParameterLayout) -> ServerState | None:
        """The newest durable state, or None before the first round.

        Raises:
            RunFolderError: a checkpoint file is missing, damaged or of another model.
        """
        path = self.folder / LATEST
        if not path.exists():
            return None
        try:
            pointer = json.loads(path.read_text(encoding="utf-8"))
            completed = int(pointer["completed"])
            expected, expected_momentum = str(pointer["model"]), str(pointer["momentum"])
            momentum = np.load(self.folder / f"round-{completed:06d}.momentum.npy", allow_pickle=False)
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"{path}: the checkpoint cannot be read: {error}") from error
        model, found, _ = load_vector(self.folder / f"round-{completed:06d}.safetensors")
        if found != layout or model_digest(model, layout).hex() != expected:
            raise RunFolderError(f"{path}: round-{completed:06d}.safetensors is damaged or of another model")
        fits = momentum.dtype == np.float64 and momentum.shape == (layout.num_parameters,)
        if not fits or _momentum_digest(momentum) != expected_momentum:
            raise RunFolderError(f"{path}: round-{completed:06d}.momentum.npy is damaged or of another model")
        return ServerState(completed=completed, model=model, momentum=momentum)


def _momentum_digest(momentum: npt.NDArray[np.float64]) -> str:
    return hashlib.sha256(momentum.astype("<f8").tobytes()).hexdigest()
