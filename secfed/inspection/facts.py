"""What an inspection found: of each case, and of a data set as a whole. Numbers and names alone, no voxel is kept."""

import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secfed.data.cases import Case, LabelMap
from secfed.data.problems import CaseProblem
from secfed.data.readers import DataSet
from secfed.data.volumes import Spacing
from secfed.inspection.intensities import Intensities

SPLITS = ("training", "validation", "test")
AXES = ("z", "y", "x")


@dataclass(frozen=True, kw_only=True)
class CaseFacts:
    """One case that can be used: `shape` and `spacing_mm` are (z, y, x) as stored, `voxels` counts those per organ.

    `drawn` are the task's organs that somebody drew here, whether or not the scan has a voxel of them.
    """

    case: Case
    shape: tuple[int, ...]
    spacing_mm: Spacing
    intensities: Intensities
    drawn: tuple[str, ...]
    voxels: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The least, the middle and the greatest of some values."""

    lowest: float
    median: float
    highest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Of at least one value."""
        found = list(values)
        return cls(lowest=min(found), median=statistics.median(found), highest=max(found))


@dataclass(frozen=True, kw_only=True)
class InspectedDataSet:
    """One data set; `data_set` is None where it cannot be read at all, and `usable` are cases that a run accepts."""

    title: str
    folder: Path
    data_set: DataSet | None
    label_map: LabelMap
    usable: tuple[CaseFacts, ...]
    problems: tuple[CaseProblem, ...]

    @property
    def errors(self) -> tuple[CaseProblem, ...]:
        """Problems that keep a case, or the data set, out of a run."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def warnings(self) -> tuple[CaseProblem, ...]:
        """Problems that somebody should look at."""
        return tuple(problem for problem in self.problems if problem.severity == "warning")

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those of its cases, in order."""
        return tuple(sorted({case.modality.value for _, case in self.cases()}))

    def cases(self) -> list[tuple[str, Case]]:
        """All cases with the name of their split."""
        if self.data_set is None:
            return []
        splits = (self.data_set.training, self.data_set.validation, self.data_set.test)
        return [(split, case) for split, cases in zip(SPLITS, splits, strict=True) for case in cases]

    def counts(self) -> dict[str, dict[str, int]]:
        """Per split: cases of each modality, those with a label, and patients."""
        found = {}
        for split in SPLITS:
            cases = [case for own, case in self.cases() if own == split]
            if cases:
                found[split] = {
                    **{name: sum(case.modality == name for case in cases) for name in self.modalities},
                    "labelled": sum(case.label is not None for case in cases),
                    "patients": len({case.patient for case in cases}),
                }
        return found

    def measures(self, modality: str) -> dict[str, Spread]:
        """Spacing, size and grey values of the usable cases of one modality; empty where there is none."""
        own = [facts for facts in self.usable if facts.case.modality == modality]
        if not own:
            return {}
        found = {}
        for index, axis in enumerate(AXES):
            found[f"spacing {axis}, mm"] = Spread.of(facts.spacing_mm[index] for facts in own)
        for index, axis in enumerate(AXES):
            found[f"size {axis}, voxels"] = Spread.of(facts.shape[index] for facts in own)
        values = [facts.intensities for facts in own]
        return found | {
            "lowest value": Spread.of(value.lowest for value in values),
            "0.5 % lie below": Spread.of(value.low for value in values),
            "half lie below": Spread.of(value.median for value in values),
            "99.5 % lie below": Spread.of(value.high for value in values),
            "highest value": Spread.of(value.highest for value in values),
        }

    def organs(self) -> dict[str, tuple[int, int]]:
        """Per organ of the task: in how many usable cases it was drawn, and in how many of these it has a voxel."""
        return {
            organ: (
                sum(organ in facts.drawn for facts in self.usable),
                sum(facts.voxels.get(organ, 0) > 0 for facts in self.usable),
            )
            for organ in self.label_map.organs
        }

    def several_scans(self) -> dict[str, int]:
        """Patients with more than one scan, and how many."""
        counted = Counter(case.patient for _, case in self.cases())
        return {patient: count for patient, count in sorted(counted.items()) if count > 1}

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "name": self.title,
            "folder": str(self.folder),
            "layout_name": None if self.data_set is None else self.data_set.name,
            "task": self.label_map.task,
            "cases": self.counts(),
            "usable": len(self.usable),
            "measures": {
                modality: {name: vars(spread) for name, spread in self.measures(modality).items()}
                for modality in self.modalities
            },
            "organs": {organ: {"drawn": drawn, "seen": seen} for organ, (drawn, seen) in self.organs().items()},
            "patients_with_several_scans": self.several_scans(),
            "problems": [problem.as_dict() for problem in self.problems],
        }


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """All data sets that were asked for."""

    data_sets: tuple[InspectedDataSet, ...]

    @property
    def num_errors(self) -> int:
        """Of all data sets together."""
        return sum(len(found.errors) for found in self.data_sets)

    @property
    def num_warnings(self) -> int:
        """Of all data sets together."""
        return sum(len(found.warnings) for found in self.data_sets)

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "errors": self.num_errors,
            "warnings": self.num_warnings,
            "data_sets": [found.as_dict() for found in self.data_sets],
        }
