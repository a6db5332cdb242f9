"""The networks that a job's last model is tested as: one for all scans, or where layers are not shared several.

Runs on the experimenter's machine, which plays every party: layers that stay at sites are read from the sites' folders,
as their owners would for `secfed site export`. In a deployment nobody has them all, and nobody has the average.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from clients.encrypted_run import EncryptedRun, encrypted_runs
from clients.own_layers import KeptLayers
from clients.site import Site
from secfed.config import EvaluationConfig, ModalityName
from secfed.engines.job import Job
from secfed.errors import RunFolderError
from secfed.experiment.plans import JobSpec
from secfed.modality_sets import mean_of, network_of, positions_of
from secfed.parameters import FloatVector, ParameterLayout


@dataclass(frozen=True, kw_only=True)
class FinalNetworks:
    """Vectors of the model and its moments, (layout.shared_size,).

    `average` is for a site that was not there: its normalisation layers are the mean of all. `of_modality` has those of
    the modalities that were, and is empty where all layers are everybody's.
    """

    average: FloatVector
    of_modality: Mapping[ModalityName, FloatVector] = field(default_factory=dict)

    def for_scan(self, modality: str, evaluation: EvaluationConfig) -> FloatVector:
        """What a test scan passes."""
        fitting = {str(name): network for name, network in self.of_modality.items()}
        return fitting.get(modality, self.average) if evaluation.local_normalisation == "modality" else self.average


def final_networks(job: Job, spec: JobSpec, result: FloatVector, layout: ParameterLayout) -> FinalNetworks:
    """From a run's last vector, (layout.size,), and where the plan keeps layers at sites, from their newest ones.

    Raises:
        RunFolderError: no site has layers of its own, or they are damaged.
    """
    match spec.plan.federation.normalisation:
        case "shared":
            return FinalNetworks(average=result)
        case "fednorm":
            seen = sorted(spec.modalities)
            return FinalNetworks(
                average=network_of(result, layout, seen),
                of_modality={modality: network_of(result, layout, (modality,)) for modality in seen},
            )
    kept: dict[ModalityName, list[FloatVector]] = {}
    names: frozenset[str] = frozenset()
    for name, folder in zip(job.site_names, job.site_folders, strict=True):
        layers = _kept_layers(Site(folder), job, layout)
        names = layers.names
        own = layers.newest(before=spec.plan.federation.rounds + 1)
        # A site that was never in a round has none.
        if own is not None:
            kept.setdefault(spec.participants[name][0].modality, []).append(own)
    if not kept:
        raise RunFolderError(f"{job.folder}: no site has normalisation layers of its own")

    def network(layers: list[FloatVector]) -> FloatVector:
        found = np.array(result, np.float32)
        found[positions_of(layout, names)] = mean_of(layers)
        return found

    return FinalNetworks(
        average=network([own for layers in kept.values() for own in layers]),
        of_modality={modality: network(layers) for modality, layers in sorted(kept.items())},
    )


def _kept_layers(site: Site, job: Job, layout: ParameterLayout) -> KeptLayers:
    run = job.plan.digest()
    if job.plan.protection.mode == "encrypted":
        # An encrypted run has a name of its own, drawn when it began.
        run = EncryptedRun.open(site, encrypted_runs(site)[0]).session.run
    return KeptLayers.of(site, job.plan, layout, run=run)
