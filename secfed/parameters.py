"""A model as one vector: names, shapes and order of its tensors, its digest, and its file.

Both parties use this module, the aggregator without torch: it sees a float32 vector and a layout, never a network.
Parameters come first, then floating buffers (running statistics of batch normalisation), then the optimiser's moments
where a federation shares them; integer buffers are left out, because a sum of counters means nothing. Behind these may
stand tensors of one modality each, in the same order (secfed.modality_sets). Files are safetensors, which holds no
code.

What it does NOT protect: a digest binds a vector to a layout, but it is no signature, and files are not encrypted.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal, Self, get_args

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from secfed.config import ModalityName
from secfed.errors import RunFolderError
from secfed.whole_file import write_whole

TensorKind = Literal["parameter", "buffer", "moment"]
FloatVector = npt.NDArray[np.float32]

PLAN_KEY = "training_plan"
"""Under it a model file for users holds its plan as JSON: how scans are prepared for it, and what its classes are."""

_LAYOUT_KEY = "secfed.layout"
_LAYOUT_TAG = b"secfed/layout/v1\0"
_MODEL_TAG = b"secfed/model/v1\0"


@dataclass(frozen=True)
class TensorSpec:
    """One named tensor of a model; `shape` is empty for a scalar. With a `modality`, sites of that one alone use it."""

    name: str
    shape: tuple[int, ...]
    kind: TensorKind
    modality: ModalityName | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"a tensor needs a name, got {self.name!r}")
        if any(type(length) is not int or length < 0 for length in self.shape):
            raise ValueError(f"{self.name}: shape must hold integers >= 0, got {self.shape}")
        if self.kind not in get_args(TensorKind):
            raise ValueError(f"{self.name}: kind must be one of {get_args(TensorKind)}, got {self.kind!r}")
        if self.modality is not None and self.modality not in get_args(ModalityName):
            raise ValueError(f"{self.name}: modality must be one of {get_args(ModalityName)}, got {self.modality!r}")

    @property
    def size(self) -> int:
        """Number of values."""
        return prod(self.shape)


@dataclass(frozen=True)
class ParameterLayout:
    """Which tensor stands where in a model's vector: parameters, then floating buffers, then moments.

    What stands there for everybody comes first, then what is one modality's, modality by modality.
    """

    tensors: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        names = [spec.name for spec in self.tensors]
        twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        if twice:
            raise ValueError(f"tensor names must differ, but {twice} stand twice")
        order = [(spec.modality or "", get_args(TensorKind).index(spec.kind)) for spec in self.tensors]
        if order != sorted(order):
            found = [place for place, _ in itertools.groupby((spec.modality, spec.kind) for spec in self.tensors)]
            raise ValueError(
                "parameters must come before buffers and these before moments, and what is of no modality before what "
                f"is of one, got the order {found}"
            )

    def count(self, kind: TensorKind, modality: ModalityName | None = None) -> int:
        """Number of values of a kind, everybody's or of one modality."""
        return sum(spec.size for spec in self.tensors if (spec.kind, spec.modality) == (kind, modality))

    @property
    def num_parameters(self) -> int:
        """Number of values that are trained, without those of one modality."""
        return self.count("parameter")

    @property
    def num_buffers(self) -> int:
        """Number of values that are tracked, not trained, without those of one modality."""
        return self.count("buffer")

    @property
    def num_moments(self) -> int:
        """Number of values that belong to the optimiser and not to the model, without those of one modality."""
        return self.count("moment")

    @property
    def model_size(self) -> int:
        """Length of the part of the vector that is the model itself: parameters and buffers."""
        return self.num_parameters + self.num_buffers

    @property
    def shared_size(self) -> int:
        """Length of the part of the vector that is of no modality: the model and its moments."""
        return self.model_size + self.num_moments

    def model_layout(self) -> "ParameterLayout":
        """The layout without moments and without what is one modality's: what a file for users holds."""
        return ParameterLayout(tuple(s for s in self.tensors if s.kind != "moment" and s.modality is None))

    def shared_layout(self) -> "ParameterLayout":
        """The layout of the first `shared_size` values: what a site trains."""
        return ParameterLayout(tuple(spec for spec in self.tensors if spec.modality is None))

    @property
    def modalities(self) -> tuple[ModalityName, ...]:
        """Those that have tensors of their own, in order."""
        return tuple(dict.fromkeys(spec.modality for spec in self.tensors if spec.modality is not None))

    def set_of(self, modality: ModalityName) -> slice:
        """Where the tensors of one modality stand; raises ValueError where there are none."""
        places = [place for spec, place in self.slices() if spec.modality == modality]
        if not places:
            raise ValueError(f"the layout has no tensors of {modality}, only of {list(self.modalities)}")
        return slice(places[0].start, places[-1].stop)

    @property
    def size(self) -> int:
        """Length of the vector."""
        return sum(spec.size for spec in self.tensors)

    def slices(self) -> Iterator[tuple[TensorSpec, slice]]:
        """Each tensor with its place in the vector, in order."""
        stop = 0
        for spec in self.tensors:
            start, stop = stop, stop + spec.size
            yield spec, slice(start, stop)

    def check(self, vector: FloatVector) -> None:
        """Raise ValueError unless `vector` is float32 of shape (size,)."""
        if vector.dtype != np.float32 or vector.shape != (self.size,):
            raise ValueError(f"the vector must be float32 of shape ({self.size},), got {vector.dtype} {vector.shape}")

    def digest(self) -> bytes:
        """SHA-256 over names, shapes, kinds and their order."""
        return hashlib.sha256(_LAYOUT_TAG + self.to_json().encode()).digest()

    def to_json(self) -> str:
        """Canonical JSON: a list of [name, shape, kind], or [name, shape, kind, modality]."""
        rows = [[s.name, list(s.shape), s.kind, *([s.modality] if s.modality else [])] for s in self.tensors]
        return json.dumps(rows, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ValueError: the text is something else.
        """
        try:
            return cls(tuple(TensorSpec(name, tuple(shape), *rest) for name, shape, *rest in json.loads(text)))
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"not a parameter layout, a JSON list of [name, shape, kind]: {error}") from None


def model_digest(vector: FloatVector, layout: ParameterLayout) -> bytes:
    """SHA-256 over the layout's digest and the vector's little-endian float32 values.

    Raises:
        ValueError: `vector` is not float32 of shape (layout.size,).
    """
    layout.check(vector)
    return hashlib.sha256(_MODEL_TAG + layout.digest() + vector.astype("<f4").tobytes()).digest()


def save_vector(
    path: Path, vector: FloatVector, layout: ParameterLayout, metadata: dict[str, str], *, durable: bool = True
) -> None:
    """Write a model file that is complete or absent: temporary file, fsync, rename.

    Without `durable` the fsync is left out: a killed process still leaves a whole file, a power cut may not.

    Raises:
        ValueError: `vector` does not fit `layout`, or `metadata` uses the key "secfed.layout".
    """
    layout.check(vector)
    if _LAYOUT_KEY in metadata:
        raise ValueError(f"metadata key {_LAYOUT_KEY!r} is taken by the layout")
    tensors = {spec.name: vector[place].reshape(spec.shape) for spec, place in layout.slices()}
    payload = save(tensors, metadata={**metadata, _LAYOUT_KEY: layout.to_json()})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, payload, durable=durable, mode=0o600)


def load_vector(path: Path) -> tuple[FloatVector, ParameterLayout, dict[str, str]]:
    """Read a model file: vector (size,), layout and the caller's metadata.

    Raises:
        RunFolderError: the file is missing, damaged, or not written by `save_vector`.
    """
    if not path.is_file():
        raise RunFolderError(f"{path}: no such model file")
    try:
        with safe_open(path, framework="np") as file:
            metadata: dict[str, str] = dict(file.metadata() or {})
            if _LAYOUT_KEY not in metadata:
                raise RunFolderError(f"{path}: not a secfed model file: its metadata has no {_LAYOUT_KEY!r}")
            layout = ParameterLayout.from_json(metadata.pop(_LAYOUT_KEY))
            if set(file.keys()) != {spec.name for spec in layout.tensors}:
                raise RunFolderError(f"{path}: the tensors in the file are not those of its layout")
            vector = np.empty(layout.size, dtype=np.float32)
            for spec, place in layout.slices():
                tensor = file.get_tensor(spec.name)
                if tensor.dtype != np.float32 or tensor.shape != spec.shape:
                    raise RunFolderError(
                        f"{path}: {spec.name} must be float32 {spec.shape}, got {tensor.dtype} {tensor.shape}"
                    )
                vector[place] = tensor.reshape(-1)
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise RunFolderError(f"{path}: not a readable model file: {error}") from error
    return vector, layout, metadata
