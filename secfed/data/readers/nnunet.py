"""nnU-Net's raw data, second version (Isensee et al., Nat Methods 2021;18:203; documentation/dataset_format.md there).

dataset.json has `channel_names` {"0": "CT"}, `labels` {"liver": 1} and `file_ending`; files are found by their names:
imagesTr/CASE_0000.nii.gz with labelsTr/CASE.nii.gz, and imagesTs with labelsTs where there is one. Regions (labels that
are lists of values) and ignored voxels have no counterpart here and are refused, as are other files than NIfTI.

Every case counts as a patient of its own, as in secfed.data.readers.decathlon.
"""

from pathlib import Path
from typing import Any

from secfed.data.cases import Case, Modality
from secfed.data.labels import BACKGROUND, organ_named, with_tumours
from secfed.data.readers.channels import channel_file, channel_names, chosen_channel, modality_of
from secfed.data.readers.data_set import DataSet
from secfed.data.readers.description import DESCRIPTION, label_value, read_description
from secfed.data.readers.names import ENDINGS
from secfed.errors import DataError

_CHANNEL_DIGITS = 5  # as in _0000
_FOLDERS = {"training": ("imagesTr", "labelsTr"), "test": ("imagesTs", "labelsTs")}


def read_nnunet(folder: Path, *, modality: Modality | None = None, channel: int | None = None) -> DataSet:
    """Read a folder of nnU-Net's raw data.

    Args:
        folder: holds dataset.json, imagesTr and labelsTr.
        modality: of all cases, instead of what the name of their channel says.
        channel: the one to read, where there are several.

    Raises:
        DataError: dataset.json is missing, unreadable or has what is not read here, a training case has no label or
            lacks the channel, or there is no case.
    """
    path = folder / DESCRIPTION
    content = read_description(folder, layout="nnU-Net")
    ending = content.get("file_ending")
    if ending not in ENDINGS:
        raise DataError(f"{path}: file_ending = {ending!r}: {' and '.join(ENDINGS)} are read; convert to NIfTI")
    if "dataset" in content:
        raise DataError(f"{path}: lists its files under 'dataset', which is not read; write a table of cases instead")
    names = channel_names(path, content.get("channel_names"), key="channel_names")
    number = chosen_channel(path, names, channel)
    told = modality or modality_of(path, names[number])

    def cases(split: str) -> tuple[Case, ...]:
        images, labels = (folder / part for part in _FOLDERS[split])
        found = []
        for case in _case_names(images, ending):
            image = channel_file(images / f"{case}{ending}", channel=number, ending=ending)
            label = labels / f"{case}{ending}"
            if not image.is_file():
                raise DataError(f"{image}: no such file, but the case has other channels")
            if not label.is_file() and split == "training":
                raise DataError(f"{label}: no such file, so {image.name} has no label")
            found.append(Case(patient=case, image=image, label=label if label.is_file() else None, modality=told))
        return tuple(found)

    data_set = DataSet(
        name=str(content.get("name", folder.name)),
        training=cases("training"),
        validation=(),
        test=cases("test"),
        label_ids=with_tumours(_label_ids(path, content.get("labels"))),
    )
    if not data_set.cases:
        raise DataError(f"{folder}: holds no case such as imagesTr/case_0000{ending}")
    return data_set


def _case_names(images: Path, ending: str) -> list[str]:
    """What stands before the channel's number, each once."""
    if not images.is_dir():
        return []
    names = set()
    for image in images.iterdir():
        stem = image.name.removesuffix(ending)
        suffix = stem[-_CHANNEL_DIGITS:]
        if image.name.startswith(".") or not image.name.endswith(ending):
            continue
        if not suffix.startswith("_") or not suffix[1:].isdecimal() or len(stem) <= _CHANNEL_DIGITS:
            raise DataError(f"{image}: its name does not end in the number of a channel, such as _0000{ending}")
        names.add(stem[:-_CHANNEL_DIGITS])
    return sorted(names)


def _label_ids(path: Path, labels: Any) -> dict[int, str]:
    if not isinstance(labels, dict) or not labels:
        raise DataError(f"{path}: 'labels' must map organs to label values, such as {{\"liver\": 1}}")
    ids: dict[int, str] = {}
    for spelling, value in labels.items():
        if isinstance(value, list):
            raise DataError(
                f"{path}: labels[{spelling!r}] = {value!r}: regions of several values are not read; give every organ "
                "one value of its own"
            )
        if spelling == "ignore":
            raise DataError(f"{path}: labels has 'ignore': voxels without a label are not read; list what was drawn")
        number = label_value(str(value)) if isinstance(value, int) and not isinstance(value, bool) else None
        if number is None:
            raise DataError(f"{path}: labels[{spelling!r}] = {value!r}: organs map to values from 0 to 65535")
        if number in ids:
            raise DataError(f"{path}: labels gives the value {number} to {ids[number]} and to {spelling}")
        ids[number] = organ_named(spelling)
    if ids.setdefault(0, BACKGROUND) != BACKGROUND:
        raise DataError(f"{path}: labels gives 0 to {ids[0]}, but 0 is the background")
    return ids
