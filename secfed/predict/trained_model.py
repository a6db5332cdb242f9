"""A trained model as whoever predicts has it: its plan, and the networks that scans of each modality pass.

    runs/demo                       a run folder of `secfed run`; `model` chooses among the jobs in it
    model.safetensors               a file of `secfed site export`, or of a run folder
    AGGREGATOR/runs/spring          a deployed run's folder (secfed.predict.deployed_model)

Where normalisation layers are not everybody's, a scan passes those that an evaluation would give it: its modality's,
and of a modality that nobody trained, or where the run's configuration says so, the average. Files hold no code; a
digest that they name is checked, but nobody has signed it.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from secfed.aggregator_files import PLAN
from secfed.config import TrainingPlan, load_run_config
from secfed.data.cases import LABEL_MAPS, LabelMap, Modality
from secfed.errors import ConfigError, RunFolderError
from secfed.experiment.job_process import MODEL
from secfed.experiment.run_folder import CONFIG, RunFolder, load_resolved_config
from secfed.modality_sets import file_for
from secfed.parameters import PLAN_KEY, FloatVector, ParameterLayout, load_vector, model_digest
from secfed.site_config import SITE_FILE

FEDERATED = "federated"
ANYBODYS = "everybody's"


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """One network, (layout.size,), without moments; `layers` says whose its normalisation layers are."""

    vector: FloatVector
    layout: ParameterLayout
    layers: str

    @functools.cached_property
    def sha256(self) -> str:
        """Hex, as model files name it."""
        return model_digest(self.vector, self.layout).hex()


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedModel:
    """Networks by modality, and the one for any other scan; `notes` are what a user has to know about them."""

    name: str
    source: Path
    plan: TrainingPlan
    average: Network
    of_modality: Mapping[Modality, Network] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def label_map(self) -> LabelMap:
        """What the classes are."""
        return LABEL_MAPS[self.plan.task]

    def for_scan(self, modality: Modality) -> Network:
        """What a scan passes."""
        return self.of_modality.get(modality, self.average)


def open_model(
    path: Path, *, model: str = FEDERATED, plan_file: Path | None = None, site: Path | None = None
) -> TrainedModel:
    """Find and load a trained model.

    Args:
        path: one of the places above.
        model: which job of a run folder, such as "centralised" or "site:ct-a".
        plan_file: the plan of a model file that holds none, as plan.json or as the configuration of its run.
        site: a site's folder, for a deployed run whose normalisation layers stay at sites.

    Raises:
        RunFolderError: there is no model, it is damaged, or it needs what is not there; the message says what to do.
        ConfigError: `plan_file` cannot be read, or an argument does not belong to such a model.
    """
    deployed = path.is_dir() and (path / PLAN).exists()
    if site is not None and not deployed:
        raise ConfigError(f"--site = '{site}': belongs to a deployed run's folder, and '{path}' is none")
    if plan_file is not None and not path.is_file():
        raise ConfigError(f"--plan = '{plan_file}': belongs to a model file, and '{path}' is none")
    if path.is_file():
        return _model_file(path, plan_file)
    if deployed:
        from secfed.predict.deployed_model import open_deployed

        return open_deployed(path, site=site)
    if (path / CONFIG).exists():
        return _run_folder(path, model)
    raise RunFolderError(_no_model(path))


def _run_folder(folder: Path, model: str) -> TrainedModel:
    config = load_resolved_config(folder / CONFIG)
    place = RunFolder(folder).job_folder(model)
    if model == FEDERATED and not (place / MODEL).exists():
        # As a run folder is handed on without its jobs: its own model is that of the first job.
        place = folder
    if not (place / MODEL).exists():
        known = sorted(found.parent.name for found in (folder / "jobs").glob(f"*/{MODEL}"))
        why = f"models here: {', '.join(known)}" if known else "the run has not ended; `secfed run --resume` goes on"
        raise RunFolderError(f"{place / MODEL}: no such model; {why}")
    average, metadata = _network(place / MODEL, layers=ANYBODYS)
    # Files of former releases hold no plan; what a network is prepared for is the same in all jobs of a run.
    plan = _parse(metadata[PLAN_KEY], place / MODEL) if PLAN_KEY in metadata else config.plan()
    rule = plan.federation.normalisation
    found = {
        modality: _network(place / file_for(MODEL, modality.value), layers=f"those of {modality} ({rule})")[0]
        for modality in Modality
        if (place / file_for(MODEL, modality.value)).exists()
    }
    if found:
        average = Network(vector=average.vector, layout=average.layout, layers=f"the average of all sites' ({rule})")
    by_modality = config.evaluation.local_normalisation == "modality"
    return TrainedModel(name=model, source=folder, plan=plan, average=average, of_modality=found if by_modality else {})


def _model_file(path: Path, plan_file: Path | None) -> TrainedModel:
    network, metadata = _network(path, layers=ANYBODYS)
    held = _parse(metadata[PLAN_KEY], path) if PLAN_KEY in metadata else None
    given = None if plan_file is None else _read_plan(plan_file)
    plan = given if held is None else held
    if plan is None:
        raise RunFolderError(
            f"{path}: holds no plan, which says how scans are prepared for it: name its run folder instead, add --plan "
            "with the plan.json or configuration of its run, or export it anew with this release"
        )
    digest = metadata.get("plan") if held is None else held.digest().hex()
    if given is not None and digest is not None and given.digest().hex() != digest:
        raise ConfigError(f"--plan = '{plan_file}': is another plan than that of {path}, whose digest is {digest[:16]}")
    whose = metadata.get("normalisation") or (f"those of {metadata['modality']}" if "modality" in metadata else None)
    notes: tuple[str, ...] = (
        () if whose is None else (f"The file's normalisation layers are not everybody's: {whose}.",)
    )
    if metadata.get("rounds", "") != metadata.get("planned_rounds", ""):
        notes += (f"Exported after {metadata.get('rounds')} of {metadata.get('planned_rounds')} rounds.",)
    return TrainedModel(
        name=metadata.get("model", path.stem),
        source=path,
        plan=plan,
        average=Network(vector=network.vector, layout=network.layout, layers=whose or ANYBODYS),
        notes=notes,
    )


def _network(path: Path, *, layers: str) -> tuple[Network, dict[str, str]]:
    vector, layout, metadata = load_vector(path)
    if metadata.get("sha256", model_digest(vector, layout).hex()) != model_digest(vector, layout).hex():
        raise RunFolderError(f"{path}: the values are not those that its own digest names: the file is damaged")
    return Network(vector=vector, layout=layout, layers=layers), metadata


def _parse(text: str, path: Path) -> TrainingPlan:
    try:
        return TrainingPlan.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the plan"
        raise RunFolderError(
            f"{path}: its plan cannot be read by this release: {where}: {first['msg']}; was it trained by another one?"
        ) from None


def _read_plan(path: Path) -> TrainingPlan:
    if path.suffix == ".json":
        try:
            return TrainingPlan.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ConfigError(f"--plan = '{path}': not a readable plan.json: {error}") from error
    return load_run_config(path).plan()


def _no_model(path: Path) -> str:
    if not path.exists():
        return f"{path}: no such run folder or model file"
    if (path / SITE_FILE).exists():
        return f"{path}: a site's folder; export the model first: secfed site export --site {path} --out FILE"
    if runs := sorted(found.parent.name for found in path.glob(f"runs/*/{PLAN}")):
        return (
            f"{path}: an aggregator's folder; name one of its runs: {', '.join(str(path / 'runs' / r) for r in runs)}"
        )
    return (
        f"{path}: holds no {CONFIG} (a run folder) and no {PLAN} (a deployed run), and is no model file; give one of "
        "these"
    )
