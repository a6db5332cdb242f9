"""Read every case of data sets once, as a run would, and say what is there and what is wrong. A site runs this.

One case is in memory at a time, and nothing is written. A case passes here exactly where `secfed.data.preprocessing`
prepares it, because both call the same function.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from secfed.config import PreprocessingConfig
from secfed.data.cases import ABDOMEN, LABEL_MAPS, Case, LabelMap
from secfed.data.preprocessing import ReadCase, read_case
from secfed.data.problems import (
    CaseProblem,
    Severity,
    problem_of,
    problem_of_data_set,
    warnings_about,
    without_label,
)
from secfed.data.readers import DataSet, modality_by_name
from secfed.data.site_data import DataEntry, read_site_data, task_of
from secfed.errors import DataError, FileError
from secfed.inspection.facts import CaseFacts, InspectedDataSet, Inspection
from secfed.inspection.intensities import implausible, intensities_of, what_to_do


@dataclass(frozen=True, kw_only=True)
class InspectionOrder:
    """What to look at. Without a `task`, that of each data set is the one of whose organs most are drawn.

    `at_site` is whether the entries are those of a site, which trains on each of them.
    """

    entries: tuple[tuple[str, DataEntry], ...]
    config: PreprocessingConfig
    task: str | None
    at_site: bool


OnCase = Callable[[InspectedDataSet, Case, ReadCase | None], None]
"""Called after each case with its data set as opened; None stands for a case that cannot be used."""


def inspect_data(order: InspectionOrder, *, on_start: Callable[[int], None], on_case: OnCase) -> Inspection:
    """Look at everything; `on_start` is told how many cases there are. Raises nothing for a data set that is wrong."""
    opened = [_open(title, entry, order) for title, entry in order.entries]
    on_start(sum(len(found.cases()) for found in opened))
    done = [_with_cases(found, order, on_case) for found in opened]
    if order.at_site:
        done = _with_patients_in_two_splits(done)
    return Inspection(data_sets=tuple(done))


def _open(title: str, entry: DataEntry, order: InspectionOrder) -> InspectedDataSet:
    label_map = ABDOMEN if order.task is None else LABEL_MAPS[order.task]
    empty = InspectedDataSet(
        title=title, folder=entry.folder, data_set=None, label_map=label_map, usable=(), problems=()
    )
    try:
        data_set = read_site_data(entry)
    except DataError as error:
        return replace(empty, problems=(problem_of_data_set(entry.folder, error),))
    return replace(empty, data_set=data_set, label_map=label_map if order.task is not None else task_of(data_set))


def _with_cases(opened: InspectedDataSet, order: InspectionOrder, on_case: OnCase) -> InspectedDataSet:
    data_set, label_map = opened.data_set, opened.label_map
    if data_set is None:
        return opened
    usable: list[CaseFacts] = []
    problems = [*_of_splits(opened, data_set, at_site=order.at_site)]
    for case in data_set.cases:
        problems += [*without_label(case, data_set), *_of_name(case, at_site=order.at_site)]
        try:
            read = read_case(case, data_set=data_set, label_map=label_map, config=order.config)
            problems += warnings_about(case, read.label, data_set=data_set, label_map=label_map)
        except FileError as error:
            problems.append(problem_of(case, error))
            on_case(opened, case, None)
            continue
        facts = _facts(case, read, data_set, label_map)
        problems += _of_intensities(facts)
        usable.append(facts)
        on_case(opened, case, read)
        # The next case is read into memory that this one gave back.
        del read
    done = replace(opened, usable=tuple(usable))
    return replace(done, problems=(*problems, *_of_organs(done)))


def _facts(case: Case, read: ReadCase, data_set: DataSet, label_map: LabelMap) -> CaseFacts:
    counts = [0] if read.classes is None else np.bincount(read.classes.ravel(), minlength=label_map.num_classes)
    return CaseFacts(
        case=case,
        shape=tuple(int(size) for size in read.scan.voxels.shape),
        spacing_mm=read.scan.spacing_mm,
        intensities=intensities_of(read.scan.voxels),
        drawn=data_set.annotated(case, label_map),
        voxels={organ: int(count) for organ, count in zip(label_map.organs, counts[1:], strict=False)},
    )


def _of_intensities(facts: CaseFacts) -> Iterator[CaseProblem]:
    case = facts.case
    reason = implausible(facts.intensities, case.modality)
    if reason is not None:
        yield CaseProblem(
            case=case.patient, file=case.image, reason=reason, todo=what_to_do(case.modality), severity="warning"
        )


def _of_name(case: Case, *, at_site: bool) -> Iterator[CaseProblem]:
    """A scan whose name says another modality: a run on one machine refuses it, and a site's own word counts more."""
    told = modality_by_name(case.image)
    if told not in (None, case.modality):
        severity: Severity = "warning" if at_site else "error"
        yield CaseProblem(
            case=case.patient,
            file=case.image,
            reason=f"its name is that of a scan by {told}, and it is taken for one by {case.modality}",
            todo="say the modality that it has, or rename it",
            severity=severity,
        )


def _of_splits(found: InspectedDataSet, data_set: DataSet, *, at_site: bool) -> Iterator[CaseProblem]:
    labelled = any(case.label is not None for case in data_set.cases)
    if not labelled or (at_site and not data_set.training):
        yield _of_whole(
            found,
            reason="no scan has a label" if not labelled else "there is no training case",
            todo="a run needs labelled cases, a site labelled training cases: see docs/data.md",
            severity="error",
        )
    elif not data_set.training:
        yield _of_whole(
            found,
            reason="there is no training case",
            todo="right for a test set; the data set of a site would be refused",
            severity="warning",
        )


def _of_organs(found: InspectedDataSet) -> Iterator[CaseProblem]:
    """Organs that nobody draws, and those that are said to be drawn but are seen nowhere."""
    counted = found.organs()
    if not any(drawn for drawn, _ in counted.values()):
        return
    absent = [organ for organ, (drawn, _) in counted.items() if not drawn]
    unseen = [organ for organ, (drawn, seen) in counted.items() if drawn and not seen]
    if absent:
        yield _of_whole(
            found,
            reason=f"nobody draws {', '.join(absent)}, of the task '{found.label_map.task}'",
            todo="right if that is so: training counts them as unlabelled. If not, look at how the labels spell them",
            severity="warning",
        )
    if unseen:
        yield _of_whole(
            found,
            reason=f"drawn by what the labels say, but without a voxel in any case: {', '.join(unseen)}",
            todo="name in `organs` those that were drawn, or a model learns here that there are no others",
            severity="warning",
        )


def _of_whole(found: InspectedDataSet, *, reason: str, todo: str, severity: Severity) -> CaseProblem:
    return CaseProblem(case="", file=found.folder, reason=reason, todo=todo, severity=severity)


def _with_patients_in_two_splits(found: list[InspectedDataSet]) -> list[InspectedDataSet]:
    """Warn where data sets of one site train on a patient and validate on the same: readers see one data set each."""
    trained = {case.patient: one.title for one in found for split, case in one.cases() if split == "training"}

    def warned(one: InspectedDataSet) -> InspectedDataSet:
        both = {
            case.patient: CaseProblem(
                case=case.patient,
                file=case.image,
                reason=f"a validation case of a patient who is trained on in '{trained[case.patient]}'",
                todo="keep all scans of a patient in one split; validation scores say too much else",
                severity="warning",
            )
            for split, case in one.cases()
            if split == "validation" and trained.get(case.patient, one.title) != one.title
        }
        return replace(one, problems=(*one.problems, *both.values()))

    return [warned(one) for one in found]
