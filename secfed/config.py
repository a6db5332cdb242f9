"""One TOML, one frozen tree: what a run does, read once and handed down.

Every table is a frozen pydantic model and an unknown key is an error that names the nearest known one. The part that
travels to sites is `TrainingPlan`; paths, test sets and references stay with whoever started the run.
"""

import difflib
import hashlib
import json
import tomllib
import types
import typing
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from secfed.augmentation_config import COUPLING, AugmentationConfig
from secfed.config_table import Decay, GrownTable, Positive, PositiveInt, Probability, Table
from secfed.errors import ConfigError
from secfed.federation_config import NORMALISATION_NAMES, FederationConfig
from secfed.privacy_config import PrivacyConfig

SiteName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,30}$")]
ModalityName = Literal["CT", "MR"]
LayoutName = Literal["amos22", "mm-whs", "totalsegmentator", "chaos", "msd", "nnunet", "table"]
ProtectionMode = Literal["plain", "masked", "encrypted"]
EncryptionScheme = Literal["bfv", "ckks"]
TaskName = Literal["abdomen", "whole_heart"]
ModelHash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
ReferenceName = Literal["centralised", "without_augmentation", "single_site", "single_modality"]
Source = typing.TypeVar("Source", bound="DataSource")

MAX_CONTEXT_SLICES = 8
"""Of slices 5 mm apart, 4 cm to each side: what lies further away says little about a slice."""


class PhantomSource(Table):
    """Cases to generate: `population` and `protocol` name entries of `secfed.data.phantom`.

    Without a `seed`, one is derived from the run's seed and the name of the site, so that no two sites share patients.
    """

    population: str = "north"
    protocol: str
    train: Annotated[int, Field(ge=0)] = 0
    validation: Annotated[int, Field(ge=0)] = 0
    test: Annotated[int, Field(ge=0)] = 0
    seed: Annotated[int, Field(ge=0)] | None = None


class DataSource(GrownTable):
    """Where scans come from: a `folder` (or table) that secfed.data.readers reads, or a `phantom`, made for the run.

    How they are read is said as in a site's own entries (secfed.site_config.SiteData): `layout` is for a folder that
    could be of two, `organs`, where given, are the only ones that count as drawn, `channel` is the one to read of scans
    with several. Of a phantom `organs` alone makes sense: a site that has not drawn everything.
    """

    later_keys: ClassVar[tuple[str, ...]] = ("layout", "organs", "channel")

    folder: Path | None = None
    phantom: PhantomSource | None = None
    layout: LayoutName | None = None
    organs: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    channel: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.folder is None) == (self.phantom is None):
            raise ValueError("give exactly one of folder = 'PATH' or phantom = { ... }")
        for key in ("layout", "channel"):
            if self.phantom is not None and getattr(self, key) is not None:
                raise ValueError(f"{key} = {getattr(self, key)!r} is for a folder: leave it out beside a phantom")
        return self


class SiteConfig(DataSource):
    """One hospital: it holds exactly one modality."""

    name: SiteName
    modality: ModalityName


class TestSetConfig(DataSource):
    """Labelled cases that no site trains on; used for reporting only, never for a choice.

    It may mix modalities; `modality`, where given, is that of all its scans, instead of what the layout says.
    """

    later_keys = (*DataSource.later_keys, "modality")

    name: SiteName
    modality: ModalityName | None = None


class PreprocessingConfig(Table):
    """Voxel grid and intensity scale; axes are (z, y, x): upwards, to anterior, to the patient's right."""

    spacing_mm: tuple[Positive, Positive, Positive] = (5.0, 5.0, 5.0)
    ct_window_hu: tuple[float, float] = (-160.0, 240.0)
    mr_percentiles: tuple[Probability, float] = (0.0, 99.5)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.ct_window_hu[0] >= self.ct_window_hu[1]:
            raise ValueError(f"ct_window_hu must rise, got {list(self.ct_window_hu)}")
        if not 0 <= self.mr_percentiles[0] < self.mr_percentiles[1] <= 100:
            raise ValueError(f"mr_percentiles must rise within [0, 100], got {list(self.mr_percentiles)}")
        return self


class ModelConfig(GrownTable):
    """A MONAI U-Net. `channels` counts features per level; each level below the first halves the grid.

    With `context_slices` a network in two dimensions sees so many neighbours of its slice on each side, too, as further
    input channels from below to above, and labels the slice in the middle ("2.5D").
    """

    later_keys = ("context_slices",)

    architecture: Literal["unet", "basic_unet"] = "unet"
    dimensions: Literal[2, 3] = 2
    context_slices: Annotated[int, Field(ge=0, le=MAX_CONTEXT_SLICES)] = 0
    channels: tuple[PositiveInt, ...] = (16, 32, 64, 128)
    residual_units: Annotated[int, Field(ge=0)] = 1
    normalisation: Literal["instance", "group", "batch"] = "instance"
    dropout_prob: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0

    @model_validator(mode="after")
    def _levels(self) -> Self:
        if len(self.channels) < 2:
            raise ValueError(f"channels needs at least two levels, got {list(self.channels)}")
        return self

    @model_validator(mode="after")
    def _context(self) -> Self:
        if self.context_slices and self.dimensions != 2:
            raise ValueError(
                f"context_slices = {self.context_slices} is for dimensions = 2, and with dimensions = "
                f"{self.dimensions} patches hold the neighbouring slices anyway: set context_slices to 0"
            )
        return self

    @property
    def in_channels(self) -> int:
        """Slices that the network sees at once, as channels; the one in the middle is labelled."""
        return 1 + 2 * self.context_slices

    def label(self) -> str:
        """As pages name it: "unet in 2D", or "unet in 2.5D, 2 slices on each side"."""
        if not self.context_slices:
            return f"{self.architecture} in {self.dimensions}D"
        several = "s" if self.context_slices > 1 else ""
        return f"{self.architecture} in 2.5D, {self.context_slices} slice{several} on each side"


class TrainingConfig(Table):
    """Local training between two aggregations.

    With `batch_cases`, `batch_size` is for a site with that many training cases, and other sites take their share, so
    that equal numbers of steps are equal numbers of passes. AdamW's moments stay at the site between rounds ("keep"),
    are forgotten ("reset") or ride in the protected vector and are averaged like the model ("average"): then all sites
    step on one scale, and a site with little data is not drowned by its own normalisation.
    Every site takes `steps_per_round` steps, or, where `passes_per_round` is given, that many passes over its own
    slices or patches; both rules need nothing from other sites. `class_weights` (background first) are public
    constants, never computed from site data: they would be a release. `loss_over` says over what Dice and weighted
    cross entropy are formed: the whole batch learns small organs faster, single images never look at one another.
    """

    batch_size: PositiveInt = 8
    batch_cases: PositiveInt | None = None
    patch_size: tuple[PositiveInt, ...] = (64, 80)
    steps_per_round: PositiveInt = 20
    passes_per_round: Positive | None = None
    foreground_prob: Probability = 0.0
    optimizer_state: Literal["keep", "reset", "average"] = "keep"
    learning_rate: Positive = 4e-3
    weight_decay: Annotated[float, Field(ge=0.0)] = 1e-4
    adam_betas: tuple[Decay, Decay] = (0.9, 0.99)
    schedule: Literal["constant", "cosine", "one_cycle"] = "cosine"
    warmup_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    gradient_clip_norm: Positive = 5.0
    dice_weight: Annotated[float, Field(ge=0.0)] = 1.0
    cross_entropy_weight: Annotated[float, Field(ge=0.0)] = 1.0
    loss_over: Literal["batch", "image"] = "batch"
    class_weights: tuple[Positive, ...] | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"

    @model_validator(mode="after")
    def _betas(self) -> Self:
        first, second = self.adam_betas
        if first**2 >= second:
            raise ValueError(f"adam_betas = {list(self.adam_betas)}: the square of the first must be below the second")
        return self


class ProtectionConfig(Table):
    """How updates travel. `threshold` defaults to floor(2 n / 3) + 1 (privacy.secagg): fewer open, or make, no sum.

    "masked" shows the aggregator the sum of a round, "encrypted" not even that; `scheme` is for the latter, "bfv" is
    exact, "ckks" is for comparison. `keep_uploads` says of how many of the last rounds the transcript keeps protected
    uploads and sums, so that an auditor can replay them bit for bit; the signed record of every round is always kept.
    """

    mode: ProtectionMode = "masked"
    scheme: EncryptionScheme = "bfv"
    threshold: PositiveInt | None = None
    keep_uploads: Literal["all", "none"] | PositiveInt = 1

    @property
    def kept_rounds(self) -> int | None:
        """Of how many rounds uploads are kept; None for all."""
        match self.keep_uploads:
            case "all":
                return None
            case "none":
                return 0
            case int(rounds):
                return rounds


class EvaluationConfig(Table):
    """How the final models are tested. The last checkpoint is used, always: no choice looks at test data.

    Where sites keep normalisation layers of their own, a test scan passes the average of those of its modality; of a
    modality that no site has, or with `local_normalisation = "average"`, the average of all.
    """

    batch_size: PositiveInt = 16
    local_normalisation: Literal["modality", "average"] = "modality"


class TrainingPlan(Table):
    """What every participant of a run must agree on; its hash is bound into the secure-aggregation context.

    `initial_model` is the hash of a model that the run starts from (`start_from` of a run's configuration), None where
    everybody makes the first model from the seed.
    """

    name: SiteName = "run"
    seed: Annotated[int, Field(ge=0)] = 0
    task: TaskName = "abdomen"
    initial_model: ModelHash | None = None
    preprocessing: PreprocessingConfig = PreprocessingConfig()
    model: ModelConfig = ModelConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    training: TrainingConfig = TrainingConfig()
    federation: FederationConfig = FederationConfig()
    protection: ProtectionConfig = ProtectionConfig()
    privacy: PrivacyConfig = PrivacyConfig()

    @model_validator(mode="after")
    def _private(self) -> Self:
        """What would couple patients, or tell about them beside the noisy sum, is refused before any is touched."""
        mode = self.privacy.mode
        if mode == "off":
            return self
        if self.model.normalisation == "batch":
            raise ValueError(
                f"model.normalisation = 'batch' mixes patients, which privacy.mode = '{mode}' must not: "
                "use 'instance' or 'group'"
            )
        if self.federation.validate_every and self.privacy.guarantees:
            raise ValueError(
                f"federation.validate_every = {self.federation.validate_every} would release scores of private cases "
                f"without noise under privacy.mode = '{mode}': set it to 0"
            )
        coupling = sorted(COUPLING & set(self.augmentation.methods))
        if coupling:
            raise ValueError(
                f"augmentation.method: '{coupling[0]}' puts one image into another, which privacy.mode = '{mode}' must "
                "not: use a method that looks at one image alone, as 'gin'"
            )
        if self.augmentation.method == "gin_ipa" or self.augmentation.consistency.weight:
            raise ValueError(
                f"augmentation: views that must agree are not made under privacy.mode = '{mode}': set "
                "consistency.weight to 0, and a method other than 'gin_ipa'"
            )
        if self.federation.proximal_mu and mode != "silo":
            raise ValueError(
                f"federation.proximal_mu = {self.federation.proximal_mu:g}: privacy.mode = '{mode}' takes the clipped "
                "gradients of patients alone: set it to 0"
            )
        if self.federation.normalisation != "shared":
            raise ValueError(
                f"federation.normalisation = '{self.federation.normalisation}': with privacy.mode = '{mode}' one model "
                "is accounted for, everybody's: set it to 'shared'"
            )
        if mode in ("local", "clip_only") and self.training.passes_per_round is not None:
            raise ValueError(
                f"training.passes_per_round = {self.training.passes_per_round:g}: privacy.mode = '{mode}' counts "
                "steps: give steps_per_round alone"
            )
        if mode == "silo" and self.training.optimizer_state == "average":
            raise ValueError(
                "training.optimizer_state = 'average' would release moments, to which privacy.mode = 'silo' adds no "
                "noise: set it to 'keep' or 'reset'"
            )
        if mode == "distributed" and self.training.optimizer_state != "reset":
            raise ValueError(
                f"training.optimizer_state = '{self.training.optimizer_state}': with privacy.mode = 'distributed' the "
                "server alone steps, once per round: set it to 'reset'"
            )
        if mode == "distributed" and self.federation.weighting != "examples":
            raise ValueError(
                f"federation.weighting = '{self.federation.weighting}': with privacy.mode = 'distributed' every "
                "patient counts alike: set it to 'examples'"
            )
        if mode == "silo" and self.federation.weighting != "uniform":
            raise ValueError(
                f"federation.weighting = '{self.federation.weighting}': with privacy.mode = 'silo' every site counts "
                "alike: set it to 'uniform'"
            )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.training.patch_size) != self.model.dimensions:
            raise ValueError(
                f"training.patch_size has {len(self.training.patch_size)} entries, "
                f"but model.dimensions = {self.model.dimensions}"
            )
        if self.model.context_slices and "slaug" in self.augmentation.methods:
            raise ValueError(
                f"augmentation.method: 'slaug' changes every class by itself, and with model.context_slices = "
                f"{self.model.context_slices} the classes of the middle slice alone are known: use another method, as "
                "'bezier', or set model.context_slices to 0"
            )
        if self.federation.normalisation == "silobn" and self.model.normalisation != "batch":
            raise ValueError(
                f"federation.normalisation = 'silobn' keeps statistics at sites, and model.normalisation = "
                f"'{self.model.normalisation}' has none: set it to 'batch', or use 'fedbn'"
            )
        factor = 2 ** (len(self.model.channels) - 1)
        if any(size % factor for size in self.training.patch_size):
            raise ValueError(
                f"training.patch_size = {list(self.training.patch_size)} must be multiples of {factor}, "
                f"because model.channels has {len(self.model.channels)} levels"
            )
        return self

    def normalisation_label(self) -> str:
        """As reports name it: the kind of layer, and whose they are where that is not simply everybody's."""
        kind, whose = self.model.normalisation, self.federation.normalisation
        if whose == "shared":
            return "batch, averaged" if kind == "batch" else kind
        return f"{kind}, {NORMALISATION_NAMES[whose]}"

    def digest(self) -> bytes:
        """SHA-256 over canonical JSON: sorted keys, no white space."""
        return _digest(self)

    def unprotected_digest(self) -> bytes:
        """The digest of everything but how updates travel: what the integers of an update may depend on."""
        return _digest(self, exclude={"protection"})


class RunConfig(TrainingPlan):
    """A whole run: the plan, the sites, the test sets and the references to train beside it.

    `start_from` is a model file of the same architecture: pretrained on public or generated data, or of an earlier run.
    With `federated = false` only the `references` are trained, on the sites' data.
    """

    federated: bool = True
    sites: tuple[SiteConfig, ...]
    test: tuple[TestSetConfig, ...] = ()
    references: tuple[ReferenceName, ...] = ()
    start_from: Path | None = None
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _sites(self) -> Self:
        names = [site.name for site in self.sites] + [test.name for test in self.test]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"names of sites and test sets must differ, but {twice} stand twice")
        if not self.federated and not self.references:
            raise ValueError("federated = false trains the references alone, but there are none: name them")
        check_cohort(self, sites=len(self.sites))
        if self.federation.normalisation == "fednorm" and self.protection.mode != "plain":
            held = [site.modality for site in self.sites]
            alone = sorted(modality for modality in set(held) if held.count(modality) == 1)
            if alone:
                raise ValueError(
                    f"federation.normalisation = 'fednorm': one site alone holds {' and '.join(alone)}, and the sum "
                    "over that modality would be its update: add a second site, or use 'fedbn', which sends nothing"
                )
        return self

    def plan(self) -> TrainingPlan:
        """The part that all participants share."""
        return TrainingPlan.model_validate({name: getattr(self, name) for name in TrainingPlan.model_fields})

    def run_digest(self) -> str:
        """Hex SHA-256 of the whole configuration: a run folder belongs to exactly one."""
        return _digest(self).hex()


def check_cohort(plan: TrainingPlan, *, sites: int) -> None:
    """Raise ValueError where a plan asks for more sites, survivors or shares of noise than there are sites."""
    if sites < plan.federation.min_cohort:
        raise ValueError(
            f"{sites} sites, but federation.min_cohort = {plan.federation.min_cohort}: add sites or lower min_cohort"
        )
    privacy, spare = plan.privacy, sites - plan.privacy.max_dropouts
    if privacy.mode in ("distributed", "silo"):
        if spare - privacy.max_colluders < 1:
            raise ValueError(
                f"privacy.max_dropouts = {privacy.max_dropouts} and max_colluders = {privacy.max_colluders} leave "
                f"none of {sites} sites to add noise: lower them"
            )
        if plan.federation.min_cohort < spare:
            raise ValueError(
                f"federation.min_cohort = {plan.federation.min_cohort}: the noise of privacy.mode = "
                f"'{privacy.mode}' needs {spare} of {sites} sites (privacy.max_dropouts = "
                f"{privacy.max_dropouts}): set min_cohort to {spare}, or raise max_dropouts"
            )
    threshold = plan.protection.threshold
    if threshold is not None and threshold > sites:
        raise ValueError(
            f"protection.threshold = {threshold}, but there are only {sites} sites: add sites or lower the threshold"
        )


def _digest(model: BaseModel, *, exclude: set[str] | None = None) -> bytes:
    text = json.dumps(model.model_dump(mode="json", exclude=exclude), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).digest()


def load_run_config(path: Path) -> RunConfig:
    """Read a TOML file; relative data folders are taken from the file's own folder.

    Raises:
        ConfigError: the file is missing or is no TOML, or a key or value is not accepted.
    """
    config = parse_run_config(toml_tree(path), origin=str(path))

    def absolute(source: Source) -> Source:
        if source.folder is None:
            return source
        return source.model_copy(update={"folder": (path.parent / source.folder.expanduser()).resolve()})

    start = config.start_from
    return config.model_copy(
        update={
            "sites": tuple(map(absolute, config.sites)),
            "test": tuple(map(absolute, config.test)),
            "start_from": None if start is None else (path.parent / start.expanduser()).resolve(),
        }
    )


def load_sources(path: Path) -> tuple[SiteConfig | TestSetConfig, ...]:
    """Sites and test sets of a run's file, with whole paths; none of a file that has the plan's tables alone.

    Raises:
        ConfigError: as `load_run_config`.
    """
    if "sites" not in toml_tree(path):
        return ()
    config = load_run_config(path)
    return (*config.sites, *config.test)


def load_training_plan(path: Path) -> TrainingPlan:
    """The plan in a TOML file, which may be a run's whole configuration or the plan's tables alone.

    Raises:
        ConfigError: as `load_run_config`.
    """
    tree = toml_tree(path)
    if "sites" in tree:
        return parse_run_config(tree, origin=str(path)).plan()
    try:
        return TrainingPlan.model_validate({name: value for name, value in tree.items() if name != "start_from"})
    except ValidationError as error:
        raise ConfigError(describe_validation_error(error, TrainingPlan, origin=str(path))) from None


def toml_tree(path: Path) -> dict[str, Any]:
    """What a TOML file holds; raises ConfigError, with the path, where it is missing or no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: not a readable TOML file: {error}") from error


def parse_run_config(tree: dict[str, Any], *, origin: str = "configuration") -> RunConfig:
    """Validate a parsed TOML tree; `origin` stands first in every message."""
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(describe_validation_error(error, RunConfig, origin=origin)) from None


def describe_validation_error(error: ValidationError, model: type[BaseModel], *, origin: str) -> str:
    """One line per problem: the key, its value, what is accepted; for an unknown key the nearest known one."""
    lines = []
    for problem in error.errors():
        location = tuple(str(part) for part in problem["loc"])
        key = ".".join(location) or "the file"
        if problem["type"] == "extra_forbidden":
            known = _known_keys(model, problem["loc"][:-1])
            near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"known keys here: {', '.join(sorted(known))}"
            lines.append(f"{origin}: unknown key '{key}': {hint}")
        elif problem["type"] == "missing":
            lines.append(f"{origin}: '{key}' is missing")
        else:
            value = problem["input"]
            shown = "" if isinstance(value, dict | BaseModel) else f" = {value!r}"
            lines.append(f"{origin}: {key}{shown}: {problem['msg'].removeprefix('Value error, ')}")
    return "\n".join(lines)


def _known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    for part in location:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        found = None if field is None else _table_in(field.annotation)
        if found is None:
            return []
        model = found
    return list(model.model_fields)


def _table_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (tuple, typing.Union, types.UnionType):
        for inner in typing.get_args(annotation):
            found = _table_in(inner)
            if found is not None:
                return found
    return None
