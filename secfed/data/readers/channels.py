"""Scans of several channels, of which a run reads one: which it is, and how its file is called in nnU-Net's layouts."""

from collections.abc import Mapping
from pathlib import Path

from secfed.data.cases import Modality
from secfed.data.readers.names import modality_of_channel
from secfed.errors import DataError


def channel_names(path: Path, content: object, *, key: str) -> dict[int, str]:
    """Names by number, as `modality` of the Decathlon and `channel_names` of nnU-Net write them.

    Raises:
        DataError: `content` is something else; `path` is named.
    """
    if not isinstance(content, dict) or not content:
        raise DataError(f'{path}: \'{key}\' must map numbers to names, such as {{"0": "CT"}}')
    names = {}
    for number, name in content.items():
        if not (number.isascii() and number.isdecimal() and len(number) <= 4) or not isinstance(name, str):
            raise DataError(f"{path}: {key}[{number!r}] = {name!r}: numbers from 0 to 9999 map to names")
        names[int(number)] = name
    return names


def chosen_channel(path: Path, names: Mapping[int, str], channel: int | None) -> int:
    """The channel to read: the only one, or the one that was asked for.

    Raises:
        DataError: there are several and none was chosen, or it is none of them.
    """
    known = ", ".join(f"{number} ({name})" for number, name in sorted(names.items()))
    if channel is None:
        if len(names) > 1:
            raise DataError(f"{path}: its scans have the channels {known}; say which one to read: channel = 0")
        return next(iter(names))
    if channel not in names:
        raise DataError(f"{path}: channel = {channel}: there are {known}")
    return channel


def modality_of(path: Path, name: str) -> Modality:
    """What the channel's name says.

    Raises:
        DataError: it says nothing.
    """
    modality = modality_of_channel(name)
    if modality is None:
        raise DataError(
            f"{path}: the channel {name!r} is no name of a modality, so it cannot be told; say it: modality = 'CT' or "
            "'MR'"
        )
    return modality


def channel_file(image: Path, *, channel: int, ending: str) -> Path:
    """The file of one channel: liver_17_0000.nii.gz for liver_17.nii.gz and channel 0."""
    return image.with_name(f"{image.name.removesuffix(ending)}_{channel:04d}{ending}")
