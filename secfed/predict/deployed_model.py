"""The newest model of a deployed run, from the aggregator's folder of it, or from a copy that a site was given.

Runs on the machine of whoever predicts. Of plain and masked runs the aggregator has the model; of encrypted ones the
sites alone, who export it. Normalisation layers that stay at sites are not in this folder: a site that predicts adds
its own from its own folder.
"""

from pathlib import Path

import numpy as np

from aggregator.folder import AggregatorFolder
from clients.own_layers import KeptLayers
from clients.site import Site
from secfed.aggregator_files import CHECKPOINTS, PLAN
from secfed.checkpoint import Checkpoints
from secfed.config import TrainingPlan
from secfed.data.cases import LABEL_MAPS, Modality
from secfed.errors import ConfigError, RunFolderError
from secfed.modality_sets import network_of, positions_of
from secfed.network import finished_model
from secfed.parameters import FloatVector, ParameterLayout
from secfed.predict.trained_model import ANYBODYS, FEDERATED, Network, TrainedModel
from secfed.server_optimizer import ServerState


def open_deployed(folder: Path, *, site: Path | None) -> TrainedModel:
    """The model after the last round that is done, with the site's own layers where the plan keeps them at sites.

    Raises:
        RunFolderError: no round is done, the run is encrypted, or layers that stay at sites are not there.
        ConfigError: `site` is given for a run that keeps nothing at sites, or holds no site.
    """
    opened = AggregatorFolder(folder)
    try:
        plan = opened.plan()
    except ValueError as error:
        raise RunFolderError(f"{folder / PLAN}: cannot be read by this release: {error}") from error
    if plan.protection.mode == "encrypted":
        raise RunFolderError(
            f"{folder}: an encrypted run, whose aggregator has no model: a site exports it, with "
            "secfed site export --site SITE --out model.safetensors, and predicts with that file"
        )
    start, layout = opened.initial_model()
    state = Checkpoints(folder / CHECKPOINTS).load(layout)
    if state is None:
        raise RunFolderError(f"{folder}: no round is done yet, so there is no model")
    notes: tuple[str, ...] = ()
    if state.completed < plan.federation.rounds:
        notes = (f"The run has not ended: {state.completed} of {plan.federation.rounds} rounds are done.",)
    rule = plan.federation.normalisation
    if rule in ("fedbn", "silobn"):
        vector, whose = _with_site_layers(folder, state, layout, plan=plan, site=site)
        network = _finished(vector, layout, plan=plan, layers=whose)
        notes += (f"The normalisation layers are {whose}: other scanners may need other ones.",)
        return TrainedModel(name=FEDERATED, source=folder, plan=plan, average=network, notes=notes)
    if site is not None:
        raise ConfigError(f"--site = '{site}': the layers of this run are in its own folder; leave it out")
    if rule == "shared":
        network = _finished(state.result, layout, plan=plan, layers=ANYBODYS)
        return TrainedModel(name=FEDERATED, source=folder, plan=plan, average=network, notes=notes)
    # A set that is as the run started from is of a modality that nobody trained.
    seen = [one for one in layout.modalities if _differs(start, state.model, layout.set_of(one))]
    if not seen:
        raise RunFolderError(f"{folder}: no site has trained any modality's normalisation layers")
    return TrainedModel(
        name=FEDERATED,
        source=folder,
        plan=plan,
        average=_finished(
            network_of(state.result, layout, seen), layout, plan=plan, layers=f"the average of {' and '.join(seen)}'s"
        ),
        of_modality={
            Modality(one): _finished(
                network_of(state.result, layout, (one,)), layout, plan=plan, layers=f"those of {one} ({rule})"
            )
            for one in seen
        },
        notes=notes,
    )


def _with_site_layers(
    folder: Path, state: ServerState, layout: ParameterLayout, *, plan: TrainingPlan, site: Path | None
) -> tuple[FloatVector, str]:
    rule = plan.federation.normalisation
    if site is None:
        raise RunFolderError(
            f"{folder}: federation.normalisation = '{rule}' keeps normalisation layers at every site, and they are not "
            "here: predict at a site that took part, and add --site with its folder"
        )
    opened = Site(site)
    kept = KeptLayers.of(opened, plan, layout, run=plan.digest())
    own = kept.newest(before=state.completed + 1)
    if own is None:
        raise RunFolderError(f"{kept.files.folder}: site '{opened.name}' has no normalisation layers of this run")
    network = np.array(state.result, np.float32)
    network[positions_of(layout, kept.names)] = own
    return network, f"those of site {opened.name} ({rule})"


def _finished(vector: FloatVector, layout: ParameterLayout, *, plan: TrainingPlan, layers: str) -> Network:
    classes = LABEL_MAPS[plan.task].num_classes
    finished, model_layout = finished_model(vector, layout, plan=plan, num_classes=classes)
    return Network(vector=finished, layout=model_layout, layers=layers)


def _differs(start: FloatVector, model: FloatVector, place: slice) -> bool:
    return not np.array_equal(start[place], model[place])
