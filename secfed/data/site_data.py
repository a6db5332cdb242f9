"""A site's own data set: what its `[[data]]` entry says, and what its folder holds. Runs at the site."""

from secfed.config import ModalityName
from secfed.data.cases import LABEL_MAPS, Modality
from secfed.data.labels import organ_named
from secfed.data.readers import DataSet, read_data_set
from secfed.site_config import SiteData


def read_site_data(data: SiteData) -> DataSet:
    """The data set of one `[[data]]` entry; what the entry says overrides what its folder says.

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
