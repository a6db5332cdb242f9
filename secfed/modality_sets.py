"""One set of normalisation layers per modality (FedNorm, Bernecker et al., 2022), behind the model in its vector.

    [ model and moments | what CT has of its own | what MR has of its own ]

The first part is a whole network. Sites of a modality put their set in the place of its normalisation layers, train,
and hand the set back; the layers in the first part itself stay as they were and nobody uses them. Numbers and names
alone, no torch: sites, whoever tests, and the auditor use it.

The set of a modality is the mean over its sites alone. Where one site of a modality survives a round, whoever sees the
sum sees that site's set: no protection hides one among none.
"""

from collections.abc import Collection, Sequence
from typing import get_args

import numpy as np
import numpy.typing as npt

from secfed.config import ModalityName
from secfed.parameters import FloatVector, ParameterLayout, TensorSpec

_PREFIX = "fednorm"


def with_sets(layout: ParameterLayout, own: Sequence[TensorSpec]) -> ParameterLayout:
    """The layout with a set of the tensors `own` of it for every modality; `own` in the layout's order."""
    sets = tuple(
        TensorSpec(f"{_PREFIX}.{modality}.{spec.name}", spec.shape, spec.kind, modality)
        for modality in get_args(ModalityName)
        for spec in own
    )
    return ParameterLayout(layout.tensors + sets)


def positions_of(layout: ParameterLayout, names: Collection[str]) -> npt.NDArray[np.intp]:
    """Where the values of these tensors stand in the layout's vector, in its order."""
    parts = [np.arange(place.start, place.stop) for spec, place in layout.slices() if spec.name in names]
    return np.concatenate(parts) if parts else np.zeros(0, np.intp)


def set_positions(layout: ParameterLayout) -> npt.NDArray[np.intp]:
    """Where in the first part of the vector the values of a set belong: the same for every modality."""
    return positions_of(layout, {own.name.split(".", 2)[2] for own in layout.tensors if own.modality is not None})


def network_of(vector: FloatVector, layout: ParameterLayout, modalities: Collection[ModalityName]) -> FloatVector:
    """The first part, (layout.shared_size,), with the set of a modality in its place, or the mean of several sets."""
    network = np.array(vector[: layout.shared_size])
    sets = [vector[layout.set_of(modality)] for modality in sorted(modalities)]
    network[set_positions(layout)] = mean_of(sets)
    return network


def file_for(name: str, modality: ModalityName | None) -> str:
    """What a model file `name` is called that holds the network of one modality, such as "model-ct.safetensors"."""
    stem, dot, kind = name.rpartition(".")
    return name if modality is None else f"{stem}-{modality.lower()}{dot}{kind}"


def mean_of(sets: Sequence[FloatVector]) -> FloatVector:
    """The plain mean, in double precision; of a single one that one itself, bit for bit."""
    mean: FloatVector = np.mean(np.stack(sets).astype(np.float64), axis=0).astype(np.float32)
    return mean
