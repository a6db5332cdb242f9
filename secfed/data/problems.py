"""What is wrong with the cases of a data set, case by case: one that cannot be used does not hide the others.

Runs at a site, before a run. Every case is prepared as a run would, so what passes here is in the cache afterwards.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from secfed.config import PreprocessingConfig
from secfed.data.cases import Case, LabelMap
from secfed.data.preprocessing import PreparedCase, prepare
from secfed.data.readers.data_set import DataSet
from secfed.data.volumes import doubts_about
from secfed.errors import FileError


@dataclass(frozen=True, kw_only=True)
class CaseProblem:
    """One finding about one case. An "error" keeps the case out of a run; a "warning" is for somebody to look at.

    `todo` is what whoever keeps the scans can do, and may be empty.
    """

    case: str
    file: Path
    reason: str
    todo: str
    severity: Literal["error", "warning"]


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
    untaught = {case.image for case in data_set.training if case.label is None}
    problems: list[CaseProblem] = []
    for case in cases:
        if case.image in untaught:
            problems.append(_without_label(case))
        problems += _problems_of(case, data_set, label_map=label_map, config=config, cache=cache)
        if on_case is not None:
            on_case(case.patient)
    return problems


def _without_label(case: Case) -> CaseProblem:
    return CaseProblem(
        case=case.patient,
        file=case.image,
        reason="a training case without a label",
        todo="add its label, or move the scan out of the training cases",
        severity="error",
    )


def _problems_of(
    case: Case, data_set: DataSet, *, label_map: LabelMap, config: PreprocessingConfig, cache: Path
) -> Iterator[CaseProblem]:
    try:
        prepared = prepare(case, data_set=data_set, label_map=label_map, config=config, cache=cache)
        doubts = doubts_about(case.image)
    except FileError as error:
        yield CaseProblem(case=case.patient, file=error.file, reason=error.reason, todo=error.todo, severity="error")
        return
    for doubt in doubts:
        yield CaseProblem(
            case=case.patient,
            file=case.image,
            reason=doubt,
            todo="look at the scan with its label in a viewer: is left left, and is head up?",
            severity="warning",
        )
    yield from _empty_labels(case, prepared, label_map)


def _empty_labels(case: Case, prepared: PreparedCase, label_map: LabelMap) -> Iterator[CaseProblem]:
    """A label in which nothing is drawn, or which has none of the organs that it is said to have."""
    if prepared.label is None or case.label is None or prepared.label.any():
        return
    drawn = [organ for index, organ in enumerate(label_map.organs, start=1) if index not in prepared.unlabelled]
    yield CaseProblem(
        case=case.patient,
        file=case.label,
        reason=f"the label is empty: it has no voxel of {', '.join(drawn)}",
        todo="is it the label of this scan, and finished? If the scan shows none of them, it is right as it is",
        severity="warning",
    )
