"""The machine-readable result of a study, `study.json`: every trained model, its scores per patient, what they answer.

Whoever started the study writes it; the report, the statistics and whoever checks a claim read it. A cell is one
trained model at one seed. Experiments list variants, and a variant its cells, one per seed; a cell may serve several.
A cell that failed, or was never run, stays listed with its reason, so that no table closes over a hole.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from secfed.errors import RunFolderError
from secfed.results import CurvePoint, JobRecord, Provenance, decode, plain
from secfed.whole_file import write_whole

FORMAT: Literal[1] = 1
FILE_NAME = "study.json"
OVERLAYS = "overlays.npz"

CellStatus = Literal["complete", "failed", "missing"]


@dataclass(frozen=True, kw_only=True)
class ModalityScores:
    """Scores of the test patients of one modality; `patients` names test set and case, as "test-ct/amos_0001".

    `dice[organ][i]` and `hd95_mm[organ][i]` are of `patients[i]`, None where the metric is not defined.
    """

    modality: str
    patients: tuple[str, ...]
    dice: dict[str, tuple[float | None, ...]]
    hd95_mm: dict[str, tuple[float | None, ...]]

    def __post_init__(self) -> None:
        if len(set(self.patients)) < len(self.patients):
            raise ValueError(f"scores in {self.modality}: a patient stands twice")
        for organ, values in (*self.dice.items(), *self.hd95_mm.items()):
            if len(values) != len(self.patients):
                raise ValueError(
                    f"scores in {self.modality}: {organ!r} has {len(values)} values for {len(self.patients)} patients"
                )


@dataclass(frozen=True, kw_only=True)
class CellRecord:
    """One trained model at one seed.

    `key` is unique in the study. `seen` lists the modalities of its training data. `epsilon` is None without a
    guarantee. `peak_memory_bytes` is the largest resident size of the process that played all parties.
    `reason` says why a cell is not complete.
    """

    key: str
    task: str
    seed: int
    model: str
    training: str
    augmentation: str
    normalisation: str
    federation: str
    sites: int
    protection: str
    privacy: str
    epsilon: float | None
    delta: float | None
    seen: tuple[str, ...]
    config_digest: str
    code_digest: str
    status: CellStatus
    reason: str | None = None
    job: JobRecord | None = None
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    scores: tuple[ModalityScores, ...] = ()
    curves: tuple[CurvePoint, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A row of an experiment: one way of training, at each seed; `note` tells what the name does not."""

    name: str
    cells: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One question; every variant is compared with `reference` (a variant's name), and with others that it names.

    `kind` says how it is shown: "methods" as a table of methods, "frontier" as Dice against epsilon, "cost" by what
    training took, "table" as it stands.
    """

    key: str
    title: str
    question: str
    kind: Literal["methods", "frontier", "cost", "table"]
    task: str
    reference: str | None
    variants: tuple[Variant, ...]


@dataclass(frozen=True, kw_only=True)
class LeakageRow:
    """One attack on one view of the training; `low` and `high` bound `value` at 95 %, None without repetitions.

    `control` is what the same attack finds where nothing can be found.
    """

    attack: Literal["inversion", "membership"]
    target: str
    protection: str
    cohort: int
    metric: str
    unit: str
    value: float
    low: float | None
    high: float | None
    control: float | None
    repetitions: int
    note: str


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the study was to show: `value` against `aim`; `met` is None where the cells for it are not there."""

    claim: str
    aim: str
    value: str
    met: bool | None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class StudyRecord:
    """Everything in `study.json`; `generated` says that every scan was a phantom."""

    name: str
    scale: str
    command: str
    generated: bool
    provenance: Provenance
    experiments: tuple[Experiment, ...]
    cells: tuple[CellRecord, ...]
    leakage: tuple[LeakageRow, ...] = ()
    claims: tuple[Claim, ...] = ()
    format: Literal[1] = FORMAT

    def __post_init__(self) -> None:
        keys = [cell.key for cell in self.cells]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"cells: {twice[0]!r} stands twice")
        for experiment in self.experiments:
            unknown = [key for variant in experiment.variants for key in variant.cells if key not in set(keys)]
            if unknown:
                raise ValueError(f"experiments: {experiment.key!r} names the cell {unknown[0]!r}, which is not there")
            names = [variant.name for variant in experiment.variants]
            if len(set(names)) < len(names):
                raise ValueError(f"experiments: {experiment.key!r} has two variants of one name, got {sorted(names)}")
            for variant in experiment.variants:
                seeds = [self.cell(key).seed for key in variant.cells]
                if len(set(seeds)) < len(seeds):
                    raise ValueError(
                        f"experiments: {variant.name!r} of {experiment.key!r} must have one cell per seed, got {seeds}"
                    )

    def cell(self, key: str) -> CellRecord:
        """The cell of that key."""
        return next(cell for cell in self.cells if cell.key == key)

    def experiment(self, key: str) -> Experiment | None:
        """The experiment of that key, or None."""
        return next((experiment for experiment in self.experiments if experiment.key == key), None)

    def complete(self, variant: Variant) -> tuple[CellRecord, ...]:
        """The cells of a variant that were trained and tested, in the order of their seeds."""
        cells = [self.cell(key) for key in variant.cells]
        return tuple(sorted((cell for cell in cells if cell.status == "complete"), key=lambda cell: cell.seed))

    def save(self, folder: Path) -> Path:
        """Write `study.json` into an existing folder, all or nothing."""
        path = folder / FILE_NAME
        text = json.dumps(plain(dataclasses.asdict(self)), allow_nan=False, separators=(",", ":")) + "\n"
        write_whole(path, text.encode(), durable=False)
        return path

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a folder's `study.json`.

        Raises:
            RunFolderError: the file is missing, or is not JSON of this schema.
        """
        path = folder / FILE_NAME
        try:
            tree: Any = json.loads(path.read_text(encoding="utf-8"))
            record = decode(cls, tree, "")
        except FileNotFoundError:
            raise RunFolderError(f"{path}: no such file; a study writes it once its first cell is done") from None
        except (OSError, ValueError, RecursionError) as error:
            raise RunFolderError(f"{path}: not a study that this secfed can read: {error}") from error
        assert isinstance(record, cls)  # noqa: S101 - decode returns what it is asked for
        return record
