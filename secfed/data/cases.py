"""A case: one scan of one patient, with its labels, and the label map that a task gives them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class Modality(StrEnum):
    """How a scan was made."""

    CT = "CT"
    MR = "MR"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One scan on disk; scans of one person have the same `patient`. `label` is None for a scan without annotations.

    A label is one volume of values, or a folder with one binary mask per organ, and then `masks` has the files.
    `label_ids` are the case's own meanings of values, where those of its data set do not hold; `organs` are those that
    were drawn here, where not all that its values or masks name were. `channel` is the one to read of several.
    """

    patient: str
    image: Path
    label: Path | None
    modality: Modality
    masks: Mapping[str, Path] = field(default_factory=dict, hash=False)
    label_ids: Mapping[int, str] | None = field(default=None, hash=False)
    organs: frozenset[str] | None = None
    channel: int | None = None


@dataclass(frozen=True, kw_only=True)
class LabelMap:
    """The structures of a task: class 0 is background, class i + 1 is `organs[i]`."""

    task: str
    organs: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Background included."""
        return len(self.organs) + 1

    def index(self, organ: str) -> int:
        """Class index of an organ; raises ValueError for an unknown name."""
        return self.organs.index(organ) + 1


ABDOMEN = LabelMap(
    task="abdomen",
    organs=(
        "liver",
        "spleen",
        "kidney_right",
        "kidney_left",
        "pancreas",
        "gallbladder",
        "stomach",
        "aorta",
    ),
)

# The seven structures of MM-WHS: blood cavities, the muscle of the left ventricle, the ascending aorta from its valve
# to the level where the atria end, and the pulmonary artery from its valve to the fork.
WHOLE_HEART = LabelMap(
    task="whole_heart",
    organs=(
        "left_ventricle",
        "right_ventricle",
        "left_atrium",
        "right_atrium",
        "myocardium",
        "aorta",
        "pulmonary_artery",
    ),
)

LABEL_MAPS = {label_map.task: label_map for label_map in (ABDOMEN, WHOLE_HEART)}
