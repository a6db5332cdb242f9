"""A site's own data set: what its `[[data]]` entry says, and what its folder holds. Runs at the site."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from secfed.config import LayoutName, ModalityName, SiteConfig, TestSetConfig
from secfed.data.cases import ABDOMEN, LABEL_MAPS, LabelMap, Modality
from secfed.data.labels import organ_named
from secfed.data.readers import DataSet, read_data_set


class DataEntry(Protocol):
    """What says where a data set is and how to read it: an entry of site.toml, or a `FolderEntry`."""

    @property
    def folder(self) -> Path:
        """Of the data set, or the CSV file of a table."""

    @property
    def modality(self) -> ModalityName | None:
        """Of all scans, instead of what the layout says."""

    @property
    def layout(self) -> LayoutName | None:
        """Of a folder that could be of two."""

    @property
    def organs(self) -> tuple[str, ...] | None:
        """The only ones that count as drawn."""

    @property
    def channel(self) -> int | None:
        """The one to read of scans with several."""


@dataclass(frozen=True, kw_only=True)
class FolderEntry:
    """A folder that somebody points at, with what a site would say of it in its site.toml."""

    folder: Path
    modality: ModalityName | None = None
    layout: LayoutName | None = None
    organs: tuple[str, ...] | None = None
    channel: int | None = None


def entry_of(source: SiteConfig | TestSetConfig, folder: Path) -> FolderEntry:
    """What a run's configuration says of a site's scans, or of a test set's, which lie in `folder`."""
    return FolderEntry(
        folder=folder,
        modality=source.modality,
        layout=source.layout,
        organs=source.organs,
        channel=source.channel,
    )


def read_site_data(data: DataEntry) -> DataSet:
    """The data set of one entry; what the entry says overrides what its folder says.

    Raises:
        DataError: the folder cannot be read, or has no label of an organ that the entry names.
    """
    modality: ModalityName | None = data.modality
    data_set = read_data_set(
        data.folder,
        modality=None if modality is None else Modality(modality),
        layout=data.layout,
        channel=data.channel,
    )
    if data.organs is None:
        return data_set
    return data_set.restricted_to({organ_named(organ) for organ in data.organs})


def unlabelled_by_task(data_set: DataSet) -> dict[str, tuple[str, ...]]:
    """Of every task that some label is for: the organs that not all labelled cases have drawn."""
    found = {}
    for task, label_map in LABEL_MAPS.items():
        drawn = [set(data_set.annotated(case, label_map)) for case in data_set.cases if case.label is not None]
        if any(drawn):
            found[task] = tuple(organ for organ in label_map.organs if not all(organ in organs for organs in drawn))
    return found


def task_of(data_set: DataSet) -> LabelMap:
    """The task of whose organs most are drawn, whoever drew them; that of the abdomen where there is none."""

    def drawn(label_map: LabelMap) -> int:
        return len({organ for case in data_set.cases for organ in data_set.annotated(case, label_map)})

    return max(LABEL_MAPS.values(), key=drawn, default=ABDOMEN)
