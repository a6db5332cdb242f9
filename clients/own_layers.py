"""Normalisation layers that are not everybody's: which values they are, what a round starts from, and where they stay.

Runs at a site, and wherever its files are read for its owner.

    "shared"            nothing is its own
    "fedbn", "silobn"   the site's own: they are trained, kept in the site's folder, and never leave it
    "fednorm"           the modality's: they come with the model and go back in the vector (secfed.modality_sets)

    state/normalisation/RUN/round-000012.safetensors   one site's own values after a round's training

The files are local and durable as the optimiser's are (clients.round_files). They say about the data what the layers of
a trained model say, and are not encrypted.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clients.round_files import RoundFiles
from clients.site import Session, Site
from secfed.config import ModalityName, TrainingPlan
from secfed.errors import DataError, RunFolderError
from secfed.modality_sets import network_of, positions_of, set_positions
from secfed.parameters import FloatVector, ParameterLayout, load_vector, save_vector

FOLDER = "normalisation"


@dataclass(frozen=True, kw_only=True)
class OwnLayers:
    """The `positions` of a network's vector, moments included, that are the site's own, or its `modality`'s."""

    layout: ParameterLayout
    positions: npt.NDArray[np.intp]
    modality: ModalityName | None = None
    kept: "KeptLayers | None" = None

    @classmethod
    def of(cls, site: Site, session: Session) -> "OwnLayers":
        """What the plan makes a site's own.

        Raises:
            DataError: each modality has layers of its own, and the site's training cases are of several.
            ConfigError: the network has no such layers.
        """
        plan, layout = session.plan, session.layout
        match plan.federation.normalisation:
            case "shared":
                return cls(layout=layout, positions=np.zeros(0, np.intp))
            case "fednorm":
                return cls(layout=layout, positions=set_positions(layout), modality=modality_of(site, plan))
            case _:
                kept = KeptLayers.of(site, plan, layout, run=session.run)
                return cls(layout=layout, positions=positions_of(layout, kept.names), kept=kept)

    def start(self, model: FloatVector, *, server_round: int) -> FloatVector:
        """The site's own network, (layout.shared_size,), before it trains in a round on the model (layout.size,).

        A site that has no layers of its own yet starts from those that the run started from.

        Raises:
            RunFolderError: the site's own layers are damaged, or of another network.
        """
        if self.modality is not None:
            return network_of(model, self.layout, (self.modality,))
        network = np.array(model, np.float32)
        found = None if self.kept is None else self.kept.newest(before=server_round)
        if found is not None:
            network[self.positions] = found
        return network

    def keep(self, weights: FloatVector, *, server_round: int) -> None:
        """Make durable what a round's training made of them; `weights` has shape (layout.shared_size,)."""
        if self.kept is not None:
            self.kept.save(weights[self.positions], server_round=server_round)


@dataclass(frozen=True, kw_only=True)
class KeptLayers:
    """One run's own layers in a site's folder, as vectors of the tensors in `layout`."""

    files: RoundFiles
    layout: ParameterLayout
    durable: bool

    @classmethod
    def of(cls, site: Site, plan: TrainingPlan, layout: ParameterLayout, *, run: bytes) -> "KeptLayers":
        """Those of a run with a plan that keeps layers at sites, and the layout of its vector.

        Raises:
            ConfigError: the network has no such layers.
        """
        from secfed.network import own_layout

        return cls(
            files=RoundFiles(folder_of(site, run), "round"),
            layout=own_layout(plan, layout),
            durable=site.file.durable_state,
        )

    @property
    def names(self) -> frozenset[str]:
        """Of the tensors, as the network's layout has them."""
        return frozenset(spec.name for spec in self.layout.tensors)

    def newest(self, *, before: int) -> FloatVector | None:
        """The values after the site's latest round below `before`, (layout.size,); None before its first.

        Raises:
            RunFolderError: the file is damaged, or of another network.
        """
        path = self.files.newest(before=before)
        if path is None:
            return None
        values, layout, _ = load_vector(path)
        if layout != self.layout:
            raise RunFolderError(f"{path}: holds layers of another network than this run's")
        return values

    def save(self, values: FloatVector, *, server_round: int) -> None:
        """Make the values durable that a round ends with; the last three rounds stay."""
        save_vector(self.files.path(server_round), values, self.layout, metadata={}, durable=self.durable)
        self.files.prune(server_round)


def folder_of(site: Site, run: bytes) -> Path:
    """Where a site keeps the layers of one run."""
    return site.state / FOLDER / run.hex()[:32]


def modality_of(site: Site, plan: TrainingPlan) -> ModalityName:
    """The one modality of the site's training cases.

    Raises:
        DataError: they are of several.
    """
    named = {data.modality for data in site.file.data}
    if len(named) == 1 and (only := next(iter(named))) is not None:
        return only
    found = sorted({case.modality.value for source in site.cases(plan).sources for case in source.cases})
    match found:
        case ["CT"]:
            return "CT"
        case ["MR"]:
            return "MR"
    raise DataError(
        f"site '{site.name}' trains on {' and '.join(found)}: with federation.normalisation = 'fednorm' a site holds "
        "scans of one modality"
    )
