"""The model and the server's moments after a round, on disk: written whole or not at all.

A checkpoint is `round-000012.safetensors` (the model, one tensor each, loadable anywhere), `round-000012.momentum.npy`,
`round-000012.average.npy` where the plan averages models, `round-000012.second_moment.npy` where the server's step has
one, and `round-000012.json` with their digests; it counts from the moment `latest.json` names it, which is replaced
atomically and last. A kill at any point leaves the previous checkpoint in force.

Kept by whoever takes the server's step: the aggregator, and in encrypted runs every site. Holds only what that party
knows anyway; files are neither signed nor encrypted.
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
from secfed.whole_file import write_whole

LATEST = "latest.json"


class Checkpoints:
    """The checkpoints of one job in `folder`; the newest `keep` of them stay on disk.

    Without `durable` nothing is flushed: a killed process still leaves whole files, a power cut may not.
    """

    def __init__(self, folder: Path, *, keep: int = 3, durable: bool = True) -> None:
        self.folder = folder
        self.keep = keep
        self.durable = durable

    def save(self, state: ServerState, layout: ParameterLayout) -> None:
        """Make `state` durable."""
        self.folder.mkdir(parents=True, exist_ok=True)
        stem = f"round-{state.completed:06d}"
        save_vector(
            self.folder / f"{stem}.safetensors",
            state.model,
            layout,
            metadata={"completed": str(state.completed)},
            durable=self.durable,
        )
        self._save_array(f"{stem}.momentum.npy", state.momentum)
        digests = {
            "completed": state.completed,
            "model": model_digest(state.model, layout).hex(),
            "momentum": _moment_digest(state.momentum),
        }
        if state.average is not None:
            self._save_array(f"{stem}.average.npy", state.average)
            digests["average"] = model_digest(state.average, layout).hex()
        if state.second_moment is not None:
            self._save_array(f"{stem}.second_moment.npy", state.second_moment)
            digests["second_moment"] = _moment_digest(state.second_moment)
        for name in (f"{stem}.json", LATEST):
            write_whole(self.folder / name, json.dumps(digests).encode(), durable=self.durable)
        for path in self.folder.glob("round-*"):
            if not state.completed - self.keep < int(path.name[6:12]) <= state.completed:
                path.unlink()

    def load(self, layout: ParameterLayout, *, completed: int | None = None) -> ServerState | None:
        """The newest durable state, or that after `completed` rounds; None where there is none.

        Raises:
            RunFolderError: a checkpoint file is missing, damaged or of another model.
        """
        path = self.folder / (LATEST if completed is None else f"round-{completed:06d}.json")
        if not path.exists():
            return None
        try:
            digests = json.loads(path.read_text(encoding="utf-8"))
            found = int(digests["completed"])
            expected, expected_momentum = str(digests["model"]), str(digests["momentum"])
            momentum = np.load(self.folder / f"round-{found:06d}.momentum.npy", allow_pickle=False)
            expected_average = digests.get("average")
            average = None
            if expected_average is not None:
                average = np.load(self.folder / f"round-{found:06d}.average.npy", allow_pickle=False)
            expected_second = digests.get("second_moment")
            second = None
            if expected_second is not None:
                second = np.load(self.folder / f"round-{found:06d}.second_moment.npy", allow_pickle=False)
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"{path}: the checkpoint cannot be read: {error}") from error
        model, found_layout, _ = load_vector(self.folder / f"round-{found:06d}.safetensors")
        if found_layout != layout or model_digest(model, layout).hex() != expected:
            raise RunFolderError(f"{path}: round-{found:06d}.safetensors is damaged or of another model")
        for name, moment, digest in (
            ("momentum", momentum, expected_momentum),
            ("second_moment", second, expected_second),
        ):
            if moment is None:
                continue
            fits = moment.dtype == np.float64 and moment.shape == (layout.num_parameters,)
            if not fits or _moment_digest(moment) != digest:
                raise RunFolderError(f"{path}: round-{found:06d}.{name}.npy is damaged or of another model")
        if average is not None:
            fits = average.dtype == np.float32 and average.shape == (layout.size,)
            if not fits or model_digest(average, layout).hex() != expected_average:
                raise RunFolderError(f"{path}: round-{found:06d}.average.npy is damaged or of another model")
        return ServerState(completed=found, model=model, momentum=momentum, average=average, second_moment=second)

    def _save_array(self, name: str, values: npt.NDArray[np.floating]) -> None:
        temporary = self.folder / f".{name.removesuffix('.npy')}"
        with temporary.open("wb") as file:
            np.save(file, values)
            if self.durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(self.folder / name)


def _moment_digest(moment: npt.NDArray[np.float64]) -> str:
    return hashlib.sha256(moment.astype("<f8").tobytes()).hexdigest()
