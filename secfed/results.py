"""The machine-readable result of a run, `run.json`: its schema, and the means and ratios that everyone quotes from it.

The party that started the run writes it; the terminal, the report and whoever checks a claim read it. Rows hold means
over patients and never a patient's name. Nothing here signs the file: it proves nothing about who wrote it.
"""

import dataclasses
import json
import math
import statistics
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from secfed.errors import RunFolderError
from secfed.whole_file import write_whole

FORMAT: Literal[1] = 1
FILE_NAME = "run.json"
MEAN = "mean"

Training = Literal["federated", "centralised", "single_site", "single_modality"]
Metric = Literal["dice", "hd95"]


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One number: how well `model` segments `organ` in the test patients of one modality.

    `model` is "federated", "centralised", "federated_without_augmentation", "site:NAME" or "modality:CT". `organ` may
    be "mean". `privacy` is "off", or the text of the job's `PrivacyRecord`. `seen` says whether this model trained on
    the test modality. `value` is a mean over `n` patients, None where it is not defined; `patients_std` is the standard
    deviation over them. Dice has unit "1", HD95 has "mm".
    """

    model: str
    training: Training
    augmentation: str
    protection: str
    privacy: str
    test_modality: str
    seen: bool
    organ: str
    metric: Metric
    value: float | None
    unit: Literal["1", "mm"]
    n: int
    seed: int
    patients_std: float | None = None


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """A point of a curve: `value` after `round` rounds, for `modality` "CT", "MR" or "all".

    "epsilon" is what the patients had paid by then, with delta, unit, relation and accountant of the job's privacy.
    """

    model: str
    round: int
    metric: Literal["train_loss", "validation_dice", "epsilon"]
    modality: str
    value: float | None


NO_DP = "clip_only: no DP (clipped, no noise)"
SIMULATED_NOISE = "simulated noise: not a DP guarantee"


@dataclass(frozen=True, kw_only=True)
class PrivacyRecord:
    """What a job's patients paid, at the site where they paid most, by its ledger.

    `epsilon` is None where nothing bounds it; `tpr_cap` is what it allows an attacker at 1 % false positives.
    `simulated` says that the noise follows from the run's seed: whoever knows that takes it off again.
    """

    mode: str
    epsilon: float | None
    delta: float
    unit: str
    relation: str
    accountant: str
    noise_multiplier: float | None
    sampling_prob: float
    clip_norm: float
    simulated: bool
    tpr_cap: float | None = None

    def text(self) -> str:
        """Epsilon with all without which it means nothing, or that there is none."""
        if self.epsilon is None:
            return NO_DP
        bound = (
            f"epsilon {self.epsilon:.4g} at delta {self.delta:g} per {self.unit}, {self.relation}, {self.accountant}"
        )
        return f"{self.mode}: {bound}" + (f"; {SIMULATED_NOISE}" if self.simulated else "")


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """What training one model took.

    `seconds` is wall time. `training_seconds` and `protection_seconds` are sums over the sites and the aggregator, so
    they may exceed it. `bytes_up` (sites to aggregator), `bytes_down` and `exchanges` (requests that the aggregator
    sent to the cohort and waited for) cover all sites and rounds together. `samples_seen` and `passes` (over the
    party's own training data) are per participating party. `model_hash` is the hex SHA-256 of the final parameters.
    `survivors_min` is the smallest number of sites in any round's sum, None without rounds. `privacy` is None where
    patients were not even clipped. `never_drawn` are the organs of the task that no training case of the job has drawn,
    so that its model cannot have learned them.
    """

    model: str
    training: Training
    augmentation: str
    protection: str
    rounds: int
    seconds: float
    training_seconds: float
    protection_seconds: float
    exchanges: int
    bytes_up: int
    bytes_down: int
    samples_seen: dict[str, int]
    passes: dict[str, float]
    model_hash: str
    survivors_min: int | None = None
    privacy: PrivacyRecord | None = None
    never_drawn: tuple[str, ...] = ()

    def protection_share(self) -> float | None:
        """Protection work per wall time, None without time; above 1 is possible where sites work side by side."""
        return self.protection_seconds / self.seconds if self.seconds > 0 else None

    def effective_passes(self) -> float | None:
        """Samples drawn over all parties, divided by the samples that they hold together; None if nothing was drawn."""
        held = sum(self.samples_seen[party] / count for party, count in self.passes.items() if count > 0)
        return sum(self.samples_seen[party] for party in self.passes) / held if held else None


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What the run was made of. Digests are hex SHA-256; `started` is an ISO 8601 time with its zone."""

    config_digest: str
    code_digest: str
    seed: int
    versions: dict[str, str]
    device: str
    python: str
    started: str
    seconds_total: float


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Everything in `run.json`."""

    name: str
    provenance: Provenance
    jobs: tuple[JobRecord, ...]
    results: tuple[ResultRow, ...]
    curves: tuple[CurvePoint, ...] = ()
    status: Literal["complete"] = "complete"
    format: Literal[1] = FORMAT

    def __post_init__(self) -> None:
        keys = [(row.model, row.test_modality, row.organ, row.metric, row.seed) for row in self.results]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"results: two rows for {twice}; there must be one per model, modality, organ and metric")
        for job in self.jobs:
            if job.samples_seen.keys() != job.passes.keys():
                raise ValueError(
                    f"jobs: samples_seen of {job.model!r} names {sorted(job.samples_seen)}, "
                    f"but passes names {sorted(job.passes)}"
                )

    def save(self, run_folder: Path) -> Path:
        """Write `run.json` into an existing folder, all or nothing; numbers that are not finite become null."""
        target = run_folder / FILE_NAME
        text = json.dumps(plain(dataclasses.asdict(self)), indent=1, allow_nan=False) + "\n"
        write_whole(target, text.encode(), durable=True)
        return target

    @classmethod
    def load(cls, run_folder: Path) -> Self:
        """Read a folder's `run.json`.

        Raises:
            RunFolderError: the file is missing, is not JSON of this schema or was written by a newer secfed.
        """
        path = run_folder / FILE_NAME
        try:
            tree = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        except FileNotFoundError:
            raise RunFolderError(f"{path}: no such file; a run folder has it once its run is complete") from None
        except (OSError, ValueError, RecursionError) as error:
            raise RunFolderError(f"{path}: not a readable JSON file: {error}") from error
        version = tree.get("format") if isinstance(tree, dict) else None
        if type(version) is int and version > FORMAT:
            raise RunFolderError(f"{path}: format {version}, but this secfed reads up to {FORMAT}: use a newer secfed")
        try:
            record = decode(cls, tree, "")
        except ValueError as error:
            raise RunFolderError(f"{path}: {error}") from error
        return typing.cast(Self, record)

    def models(self) -> tuple[str, ...]:
        """Names of the tested models, in the order of the rows."""
        return tuple(dict.fromkeys(row.model for row in self.results))

    def test_modalities(self) -> tuple[str, ...]:
        """Test modalities, in the order of the rows."""
        return tuple(dict.fromkeys(row.test_modality for row in self.results))

    def organs(self) -> tuple[str, ...]:
        """Organs without "mean", in the order of the rows."""
        return tuple(dict.fromkeys(row.organ for row in self.results if row.organ != MEAN))

    def job(self, model: str) -> JobRecord | None:
        """The record of training `model`, or None."""
        return next((job for job in self.jobs if job.model == model), None)


@dataclass(frozen=True, kw_only=True)
class Score:
    """A mean over seeds of means over patients; `seeds_std` is the sample deviation, None below two seeds.

    `patients` (the smallest count) and `patients_std` belong to the rows; the latter is None above one seed.
    """

    mean: float
    seeds: int
    seeds_std: float | None
    patients: int
    patients_std: float | None


def score(
    rows: Iterable[ResultRow], *, model: str, modality: str, organ: str = MEAN, metric: Metric = "dice"
) -> Score | None:
    """One table cell from the rows, or None where no row has a value.

    Rows of organ "mean" are taken as they stand. Where there are none, the mean over organs is taken per seed, over
    the organs that any model has a value for, and is None if this model lacks one of them.
    """
    known = [
        row for row in rows if row.test_modality == modality and row.metric == metric and _value(row.value) is not None
    ]
    found = [row for row in known if row.model == model and row.organ == organ]
    if organ == MEAN and not any(row.organ == MEAN for row in known):
        found = _means_over_organs(known, model)
    if not found:
        return None
    values = [float(row.value) for row in found if row.value is not None]
    return Score(
        mean=statistics.fmean(values),
        seeds=len(values),
        seeds_std=statistics.stdev(values) if len(values) > 1 else None,
        patients=min(row.n for row in found),
        patients_std=found[0].patients_std if len(found) == 1 else None,
    )


def overall(record: RunRecord, model: str, *, metric: Metric = "dice") -> float | None:
    """Mean over the test modalities of the mean over organs.

    None unless the model has a mean in every modality that the record tests, so that two models are never compared
    over different test sets.
    """
    scores = [score(record.results, model=model, modality=name, metric=metric) for name in record.test_modalities()]
    means = [found.mean for found in scores if found is not None]
    return statistics.fmean(means) if means and len(means) == len(scores) else None


def ratio(
    record: RunRecord,
    *,
    model: str = "federated",
    reference: str = "centralised",
    modality: str | None = None,
    organ: str = MEAN,
) -> float | None:
    """Dice of `model` divided by that of `reference`, overall or in one modality (and organ).

    None where either is missing or the reference is 0. Whether both made the same number of passes over the data is
    for the caller to say: see `JobRecord.effective_passes`.
    """
    above, below = (_dice(record, name, modality, organ) for name in (model, reference))
    return above / below if above is not None and below else None


def gain(
    record: RunRecord,
    *,
    model: str = "federated",
    reference: str = "federated_without_augmentation",
    modality: str | None = None,
    organ: str = MEAN,
) -> float | None:
    """Dice of `model` minus that of `reference`, overall or in one modality (and organ); None where one is missing."""
    above, below = (_dice(record, name, modality, organ) for name in (model, reference))
    return above - below if above is not None and below is not None else None


def _dice(record: RunRecord, model: str, modality: str | None, organ: str) -> float | None:
    if modality is None:
        if organ != MEAN:
            raise ValueError(f"organ = {organ!r} needs a modality; only the mean is defined over all modalities")
        return overall(record, model)
    found = score(record.results, model=model, modality=modality, organ=organ)
    return None if found is None else found.mean


def _means_over_organs(known: list[ResultRow], model: str) -> list[ResultRow]:
    organs = {row.organ for row in known}
    means = []
    for seed in dict.fromkeys(row.seed for row in known):
        rows = [row for row in known if row.model == model and row.seed == seed]
        if rows and {row.organ for row in rows} == organs:
            value = statistics.fmean(float(row.value) for row in rows if row.value is not None)
            patients = min(row.n for row in rows)
            means.append(dataclasses.replace(rows[0], organ=MEAN, value=value, n=patients, patients_std=None))
    return means


def _value(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def plain(value: Any) -> Any:
    """Values as JSON has them: numpy scalars become Python's, tuples lists, numbers that are not finite null."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON; a missing number is null")


def decode(annotation: Any, value: Any, where: str) -> Any:
    """Check `value` against the annotation, whole tree; unknown and missing keys and wrong types raise ValueError."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is types.UnionType:
        annotation, origin = (None, None) if value is None else (inner[0], typing.get_origin(inner[0]))
    allowed = any(value == option and type(value) is type(option) for option in inner)
    if dataclasses.is_dataclass(annotation) and isinstance(value, dict):
        decoded = _decode_record(annotation, value, where)
    elif origin is tuple and isinstance(value, list):
        decoded = tuple(decode(inner[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    elif origin is dict and isinstance(value, dict):
        decoded = {key: decode(inner[1], item, f"{where}.{key}") for key, item in value.items()}
    elif annotation is float and type(value) is int:
        decoded = float(value)
    elif annotation is type(value) or (annotation is None and value is None) or (origin is Literal and allowed):
        decoded = value
    else:
        accepted = f"one of {list(inner)}" if origin is Literal else getattr(annotation, "__name__", str(annotation))
        raise ValueError(f"{where or 'the file'} = {str(value)[:80]!r} is not accepted, it must be {accepted}")
    return decoded


def _decode_record(kind: Any, tree: dict[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    prefix = f"{where}." if where else ""
    if unknown := sorted(tree.keys() - hints.keys()):
        raise ValueError(f"{prefix}{unknown[0]} is not a known key; known here: {', '.join(hints)}")
    needed = {field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING}
    if missing := sorted(needed - tree.keys()):
        raise ValueError(f"{prefix}{missing[0]} is missing")
    return kind(**{name: decode(hints[name], item, f"{prefix}{name}") for name, item in tree.items()})
