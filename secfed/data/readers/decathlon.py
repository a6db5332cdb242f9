"""The Medical Segmentation Decathlon (Antonelli et al., Nat Commun 2022;13:4128), and nnU-Net's first version after it.

dataset.json has `modality` {"0": "CT"}, `labels` {"1": "liver"}, `training` with pairs of image and label, and `test`.
Where `modality` names several channels, the Decathlon keeps them in one 4D file, nnU-Net in one file each, whose
names end in _0000, _0001 and so on, while dataset.json leaves that away; both are read. `test` has no labels.

Every image counts as a patient of its own, since nothing says whose it is: where patients have several scans, such as
in nnU-Net's conversions of CHAOS, write a table instead (secfed.data.readers.table).
"""

from collections import Counter
from pathlib import Path

from secfed.data.cases import Case, Modality
from secfed.data.labels import with_tumours
from secfed.data.readers.channels import channel_file, channel_names, chosen_channel, modality_of
from secfed.data.readers.data_set import DataSet
from secfed.data.readers.description import DESCRIPTION, label_ids_of, listed, read_description
from secfed.data.readers.names import ENDINGS, path_within, stem_of
from secfed.errors import DataError


def read_decathlon(folder: Path, *, modality: Modality | None = None, channel: int | None = None) -> DataSet:
    """Read a folder of the Decathlon, or of nnU-Net's first version.

    Args:
        folder: holds dataset.json and the files that it names.
        modality: of all cases, instead of what dataset.json says.
        channel: the one to read, where there are several.

    Raises:
        DataError: dataset.json is missing, unreadable or incomplete, names a file that does not exist or that lies
            outside the folder or one image twice, or the channel or its modality cannot be told.
    """
    path = folder / DESCRIPTION
    content = read_description(folder, layout="Decathlon")
    names = channel_names(path, content.get("modality"), key="modality")
    number = chosen_channel(path, names, channel)
    told = modality or modality_of(path, names[number])

    def case(key: str, entry: object) -> Case:
        named = {"image": entry} if isinstance(entry, str) else entry
        if not isinstance(named, dict) or not isinstance(named.get("image"), str):
            raise DataError(f"{path}: {key} holds {entry!r}, not an entry with an 'image'")
        label = named.get("label")
        if label is not None and not isinstance(label, str):
            raise DataError(f"{path}: {key} holds the label {label!r}, not a path")
        listed_image = path_within(folder, named["image"], named_by=path)
        image, in_file = _image(listed_image, number, path)
        return Case(
            patient=stem_of(listed_image),
            image=image,
            label=_label(path_within(folder, label, named_by=path), path) if label else None,
            modality=told,
            channel=number if in_file and (len(names) > 1 or channel is not None) else None,
        )

    data_set = DataSet(
        name=str(content.get("name", folder.name)),
        training=tuple(case("training", entry) for entry in listed(path, content, "training")),
        validation=tuple(case("validation", entry) for entry in listed(path, content, "validation")),
        test=tuple(case("test", entry) for entry in listed(path, content, "test")),
        label_ids=with_tumours(label_ids_of(path, content.get("labels"))),
    )
    if not data_set.cases:
        raise DataError(f"{path}: names no case under 'training', 'validation' or 'test'")
    twice = [image for image, count in Counter(case.image for case in data_set.cases).items() if count > 1]
    if twice:
        raise DataError(f"{path}: names {twice[0].name} more than once; a test on training data would say nothing")
    return data_set


def _image(listed_image: Path, channel: int, path: Path) -> tuple[Path, bool]:
    """The file to read, and whether it is one that holds all channels."""
    if listed_image.is_file():
        return listed_image, True
    ending = next((known for known in ENDINGS if listed_image.name.endswith(known)), "")
    own = channel_file(listed_image, channel=channel, ending=ending)
    if not own.is_file():
        raise DataError(f"{listed_image}: no such file, nor {own.name}, but {path.name} names it")
    return own, False


def _label(label: Path, path: Path) -> Path:
    if not label.is_file():
        raise DataError(f"{label}: no such file, but {path.name} names it")
    return label
