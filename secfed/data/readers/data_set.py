"""A data set: its cases by split, and which of a task's organs each case has drawn."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from secfed.data.cases import Case, LabelMap, Modality
from secfed.data.labels import BACKGROUND, differs_in
from secfed.errors import DataError


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """The cases of a folder by split; `label_ids` gives the organ of every value that a label volume may hold.

    With `whole_vessels`, aorta and pulmonary artery are drawn arch, branches and all (`secfed.data.labels.differs_in`).
    """

    name: str
    training: tuple[Case, ...]
    validation: tuple[Case, ...]
    test: tuple[Case, ...]
    label_ids: Mapping[int, str]
    whole_vessels: bool = False

    @property
    def cases(self) -> tuple[Case, ...]:
        """Those of all splits."""
        return (*self.training, *self.validation, *self.test)

    def only(self, modality: Modality) -> "DataSet":
        """The same data set with the cases of one modality."""

        def kept(cases: tuple[Case, ...]) -> tuple[Case, ...]:
            return tuple(case for case in cases if case.modality is modality)

        return replace(self, training=kept(self.training), validation=kept(self.validation), test=kept(self.test))

    def values(self, case: Case) -> Mapping[int, str]:
        """The meanings of the values of one case's label volume."""
        return self.label_ids if case.label_ids is None else case.label_ids

    def named(self, case: Case) -> frozenset[str]:
        """The organs that a case's masks, or the meanings of its values, name."""
        return frozenset(case.masks if case.masks else self.values(case).values()) - {BACKGROUND}

    def drawn(self, case: Case) -> frozenset[str]:
        """The organs that were drawn in a case, in whatever task; those that are not among them are unlabelled."""
        if case.label is None:
            return frozenset()
        return self.named(case) if case.organs is None else self.named(case) & case.organs

    def annotated(self, case: Case, label_map: LabelMap) -> tuple[str, ...]:
        """The task's organs that were drawn in a case, in the task's order.

        A name that the data set gives to something else than the task does counts only where `case.organs` has it.
        """
        drawn = self.drawn(case)
        if case.organs is None:
            drawn -= differs_in(label_map.task, drawn, whole_vessels=self.whole_vessels)
        return tuple(organ for organ in label_map.organs if organ in drawn)

    def restricted_to(self, organs: Collection[str]) -> "DataSet":
        """The same data set, of which these organs alone count as drawn, by their names here.

        Raises:
            DataError: an organ is drawn in no case.
        """
        known = frozenset().union(*(self.drawn(case) for case in self.cases))
        unknown = sorted(set(organs) - known)
        if unknown:
            raise DataError(
                f"data set '{self.name}': organs names {', '.join(unknown)}, which no label has; "
                f"drawn are {', '.join(sorted(known)) or 'none'}"
            )

        def fewer(cases: Iterable[Case]) -> tuple[Case, ...]:
            return tuple(replace(case, organs=self.drawn(case) & frozenset(organs)) for case in cases)

        return replace(self, training=fewer(self.training), validation=fewer(self.validation), test=fewer(self.test))


class CaseReader(Protocol):
    """What a reader of another layout has to offer."""

    def __call__(self, folder: Path, *, modality: Modality | None = None, channel: int | None = None) -> DataSet:
        """Read the folder; `modality` overrides what the layout says, `channel` is the one to read of several."""


def require_patients_apart(data_set: DataSet, *, source: Path) -> None:
    """Refuse a patient in two splits, where names are those of persons.

    Raises:
        DataError: a test on somebody who was trained on would say nothing.
    """
    splits = {"training": data_set.training, "validation": data_set.validation, "test": data_set.test}
    found: dict[str, str] = {}
    for split, cases in splits.items():
        for case in cases:
            if found.setdefault(case.patient, split) != split:
                raise DataError(
                    f"{source}: patient {case.patient} stands in {found[case.patient]} and in {split}; "
                    "all scans of a patient belong in one split"
                )


def require_organs_named(data_set: DataSet, *, source: Path) -> None:
    """Refuse a case whose `organs` its label has no value or mask for.

    Raises:
        DataError: most likely a name is misspelt, and the organ would silently count as unlabelled.
    """
    for case in data_set.cases:
        unknown = sorted((case.organs or frozenset()) - data_set.named(case)) if case.label is not None else []
        if unknown:
            raise DataError(
                f"{source}: organs of {case.image.name} names {', '.join(unknown)}, which its label does not have; "
                f"it has {', '.join(sorted(data_set.named(case))) or 'none'}"
            )
