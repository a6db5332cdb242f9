"""AMOS22 (Ji et al., NeurIPS 2022, https://amos22.grand-challenge.org): a dataset.json that names every file.

The same layout is what phantoms and dealt patients (secfed.data.splits) are written in. An entry may then say more than
its files: `patient` and `modality` where the name of the image does not, `organs` where fewer were drawn than `labels`
has, `channel` of a volume with several, and a `label` that is a folder of binary masks. `whole_vessels` beside `labels`
is that of `DataSet`.
"""

from collections import Counter
from pathlib import Path

from secfed.data.cases import Case, Modality
from secfed.data.labels import organ_named
from secfed.data.readers.data_set import DataSet, require_organs_named, require_patients_apart
from secfed.data.readers.description import DESCRIPTION, label_ids_of, listed, read_description
from secfed.data.readers.names import masks_in, modality_by_name, named_modality, path_within, stem_of
from secfed.errors import DataError


def read_amos22(folder: Path, *, modality: Modality | None = None, channel: int | None = None) -> DataSet:
    """Read a folder in AMOS22 layout.

    Args:
        folder: holds dataset.json and the files that it names.
        modality: of all cases, instead of what their names say (up to amos_0500 CT, above MRI).
        channel: the one to read of volumes with several.

    Raises:
        DataError: dataset.json is missing, unreadable or incomplete, names a file that does not exist or that lies
            outside the folder or one image twice, or the modality of a case cannot be told.
    """
    path = folder / DESCRIPTION
    content = read_description(folder, layout="AMOS22")
    reader = _Entries(folder, path, modality, channel)
    data_set = DataSet(
        name=str(content.get("name", folder.name)),
        training=reader.cases("training", listed(path, content, "training")),
        validation=reader.cases("validation", listed(path, content, "validation")),
        test=reader.cases("test", listed(path, content, "test")),
        label_ids=label_ids_of(path, content.get("labels")),
        whole_vessels=content.get("whole_vessels") is True,
    )
    images = [case.image for case in data_set.cases]
    if not images:
        raise DataError(f"{path}: names no case under 'training', 'validation' or 'test'")
    twice = [image for image, count in Counter(images).items() if count > 1]
    if twice:
        raise DataError(f"{path}: names {twice[0].name} more than once; a test on training data would say nothing")
    if reader.named_patients:
        require_patients_apart(data_set, source=path)
    require_organs_named(data_set, source=path)
    return data_set


class _Entries:
    """Entries of one dataset.json as cases; `named_patients` is whether one of them says whose scan it is."""

    def __init__(self, folder: Path, path: Path, modality: Modality | None, channel: int | None) -> None:
        self._folder, self._path, self._modality, self._channel = folder, path, modality, channel
        self.named_patients = False

    def cases(self, key: str, entries: list[object]) -> tuple[Case, ...]:
        return tuple(self._case(key, entry) for entry in entries)

    def _case(self, key: str, entry: object) -> Case:
        # Data sets in this family list test cases as plain image paths, because their labels are not public.
        named = {"image": entry} if isinstance(entry, str) else entry
        if not isinstance(named, dict) or not isinstance(named.get("image"), str):
            raise DataError(f"{self._path}: {key} holds {entry!r}, not an entry with an 'image'")
        image = self._file(named["image"])
        label = named.get("label")
        if label is not None and not isinstance(label, str):
            raise DataError(f"{self._path}: {key} holds the label {label!r}, not a path")
        drawn = self._label(label) if label else None
        return Case(
            patient=self._patient(named, image),
            image=image,
            label=drawn,
            modality=self._modality or self._modality_of(named, image),
            masks=masks_in(drawn) if drawn is not None and drawn.is_dir() else {},
            organs=self._organs(named),
            channel=self._channel_of(named),
        )

    def _patient(self, named: dict[str, object], image: Path) -> str:
        if "patient" not in named:
            return stem_of(image)
        self.named_patients = True
        if not isinstance(named["patient"], str) or not named["patient"]:
            raise DataError(f"{self._path}: {named['patient']!r} is no name of a patient")
        return named["patient"]

    def _modality_of(self, named: dict[str, object], image: Path) -> Modality:
        said = named.get("modality")
        modality = modality_by_name(image) if said is None else named_modality(str(said))
        if modality is None and said is not None:
            raise DataError(f"{self._path}: modality = {said!r} of {image.name}: CT or MR is accepted")
        if modality is None:
            raise DataError(
                f"{image}: the name holds no AMOS22 id (amos_0001 to amos_0500 CT, above MRI) and is not that of an "
                "MM-WHS case, so the modality cannot be told; say it: modality = 'CT' or 'MR'"
            )
        return modality

    def _organs(self, named: dict[str, object]) -> frozenset[str] | None:
        organs = named.get("organs")
        if organs is None:
            return None
        if not isinstance(organs, list) or not all(isinstance(organ, str) for organ in organs):
            raise DataError(f"{self._path}: organs = {organs!r}: a list of names is accepted")
        return frozenset(organ_named(organ) for organ in organs)

    def _channel_of(self, named: dict[str, object]) -> int | None:
        channel = named.get("channel", self._channel)
        if channel is not None and (type(channel) is not int or channel < 0):
            raise DataError(f"{self._path}: channel = {channel!r}: a number from 0 is accepted")
        return channel

    def _file(self, relative: str) -> Path:
        file = path_within(self._folder, relative, named_by=self._path)
        if not file.is_file():
            raise DataError(f"{file}: no such file, but {self._path.name} names it")
        return file

    def _label(self, relative: str) -> Path:
        place = path_within(self._folder, relative, named_by=self._path)
        return place if place.is_dir() else self._file(relative)
