"""What is wrong with the cases of a data set, case by case: one that cannot be used does not hide the others.

Runs at a site, before a run. `find_problems` prepares every case as a run would, so what passes is in the cache
afterwards; what it is made of serves `secfed data inspect`, which writes no cache, and `secfed data prepare`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secfed.config import PreprocessingConfig
from secfed.data.cases import Case, LabelMap
from secfed.data.preprocessing import prepare
from secfed.data.readers.data_set import DataSet
from secfed.data.volumes import doubts_about
from secfed.errors import DataError, FileError

Severity: TypeAlias = Literal["error", "warning"]


@dataclass(frozen=True, kw_only=True)
class CaseProblem:
    """One finding about one case. An "error" keeps the case out of a run; a "warning" is for somebody to look at.

    `todo` is what whoever keeps the scans can do, and may be empty; so is `case` where a whole data set is meant.
    """

    case: str
    file: Path
    reason: str
    todo: str
    severity: Severity

    def as_dict(self) -> dict[str, str]:
        """For --json."""
        return {
            "case": self.case,
            "file": str(self.file),
            "reason": self.reason,
            "todo": self.todo,
            "severity": self.severity,
        }


def find_problems(
    data_set: DataSet,
    cases: Iterable[Case],
    *,
    label_map: LabelMap,
    config: PreprocessingConfig,
    cache: Path,
    on_case: Callable[[str], None] | None = None,
) -> list[CaseProblem]:
    """Every problem of these cases, in their order; empty where all can be used. `on_case` is called after each.

    Raises:
        DataError: the cache cannot be written, which is no case's fault.
    """
    problems: list[CaseProblem] = []
    for case in cases:
        problems += without_label(case, data_set)
        problems += _problems_of(case, data_set, label_map=label_map, config=config, cache=cache)
        if on_case is not None:
            on_case(case.patient)
    return problems


def without_label(case: Case, data_set: DataSet) -> list[CaseProblem]:
    """One problem for a training case without a label, none for any other case."""
    if case.label is not None or case not in data_set.training:
        return []
    return [
        CaseProblem(
            case=case.patient,
            file=case.image,
            reason="a training case without a label",
            todo="add its label, or move the scan out of the training cases",
            severity="error",
        )
    ]


def problem_of(case: Case, error: FileError) -> CaseProblem:
    """Why a case cannot be used."""
    return CaseProblem(case=case.patient, file=error.file, reason=error.reason, todo=error.todo, severity="error")


def problem_of_data_set(folder: Path, error: DataError) -> CaseProblem:
    """Why a folder cannot be read as a data set."""
    if isinstance(error, FileError):
        return CaseProblem(case="", file=error.file, reason=error.reason, todo=error.todo, severity="error")
    reason = str(error).removeprefix(f"{folder}: ")
    return CaseProblem(
        case="", file=folder, reason=reason, todo="correct it; docs/data.md has the layouts", severity="error"
    )


def warnings_about(
    case: Case, label: NDArray[np.uint8] | None, *, data_set: DataSet, label_map: LabelMap
) -> Iterator[CaseProblem]:
    """What somebody should look at in a case that can be used; `label` is its prepared one.

    Raises:
        FileError: the image is not there any more.
    """
    for doubt in doubts_about(case.image):
        yield CaseProblem(
            case=case.patient,
            file=case.image,
            reason=doubt,
            todo="look at the scan with its label in a viewer: is left left, and is head up?",
            severity="warning",
        )
    # A label in which nothing is drawn, or which has none of the organs that it is said to have.
    if label is not None and case.label is not None and not label.any():
        yield CaseProblem(
            case=case.patient,
            file=case.label,
            reason=f"the label is empty: it has no voxel of {', '.join(data_set.annotated(case, label_map))}",
            todo="is it the label of this scan, and finished? If the scan shows none of them, it is right as it is",
            severity="warning",
        )


def _problems_of(
    case: Case, data_set: DataSet, *, label_map: LabelMap, config: PreprocessingConfig, cache: Path
) -> Iterator[CaseProblem]:
    try:
        prepared = prepare(case, data_set=data_set, label_map=label_map, config=config, cache=cache)
        warnings = list(warnings_about(case, prepared.label, data_set=data_set, label_map=label_map))
    except FileError as error:
        yield problem_of(case, error)
        return
    yield from warnings
