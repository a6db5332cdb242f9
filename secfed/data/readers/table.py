"""A plain table: a CSV file with a row for every scan, for sites that have no other layout.

    patient,image,label,modality,split
    7f3a,scans/7f3a-portal.nii.gz,labels/7f3a-portal.nii.gz,CT,training
    7f3a,scans/7f3a-t2.nii.gz,masks/7f3a-t2,MR,training

Paths start at the table. `label` is empty, a volume of values, or a folder of binary masks named after their organs;
what the values of volumes mean stands beside the table in labels.csv, with the columns value and organ. Where they are
there: `split` is training (also where it is empty), validation or test; `organs` are those that were drawn in this row,
as liver|spleen; `channel` is the one to read of several. Rows of one `patient` are one person's scans.
"""

import unicodedata
from pathlib import Path

from secfed.data.cases import Case, Modality
from secfed.data.labels import BACKGROUND, organ_named
from secfed.data.readers.data_set import DataSet, require_organs_named, require_patients_apart
from secfed.data.readers.description import label_value
from secfed.data.readers.names import masks_in, named_modality, path_within
from secfed.data.readers.rows import header_of, read_rows
from secfed.errors import DataError

MEANINGS = "labels.csv"
_NEEDED = ("patient", "image", "label")
_KNOWN = (*_NEEDED, "modality", "split", "organs", "channel")
_SPLITS = {
    "": "training",
    "train": "training",
    "training": "training",
    "val": "validation",
    "validation": "validation",
    "test": "test",
}


def read_table(folder: Path, *, modality: Modality | None = None, channel: int | None = None) -> DataSet:
    """Read a table, or the one table that a folder holds.

    Args:
        folder: the CSV file, or the folder that holds it.
        modality: of all cases, instead of what their rows say.
        channel: the one to read of volumes with several, where a row does not say.

    Raises:
        DataError: the table cannot be read, a row names a file that is not there or that another row names, a value
            in it is not accepted, or a patient stands in two splits. The message names the line.
    """
    path = _the_table(folder)
    found: dict[str, list[Case]] = {split: [] for split in _SPLITS.values()}
    lines: dict[Path, int] = {}
    rows = read_rows(path, needed=_NEEDED)
    unknown = sorted(set(rows[0][1] if rows else {}) - {*_KNOWN, ""})
    if unknown:
        raise DataError(f"{path}: has the column {unknown[0]!r}; known are {', '.join(_KNOWN)}")
    for line, row in rows:
        where = f"{path}, line {line}"
        case = _case(path, where, row, modality=modality, channel=channel)
        if case.image in lines:
            raise DataError(f"{where}: {row['image']} stands in line {lines[case.image]} too")
        lines[case.image] = line
        found[_split(where, row)].append(case)
    cases = [case for split in found.values() for case in split]
    if not cases:
        raise DataError(f"{path}: has no row")
    volumes = any(case.label is not None and not case.masks for case in cases)
    data_set = DataSet(
        name=path.stem,
        training=tuple(found["training"]),
        validation=tuple(found["validation"]),
        test=tuple(found["test"]),
        label_ids=_meanings(path.with_name(MEANINGS)) if volumes else {0: BACKGROUND},
    )
    require_patients_apart(data_set, source=path)
    require_organs_named(data_set, source=path)
    return data_set


def tables_in(folder: Path) -> list[Path]:
    """CSV files with the columns of a table of cases."""
    return [path for path in sorted(folder.glob("*.csv")) if path.name != MEANINGS and _is_table(path)]


def _is_table(path: Path) -> bool:
    try:
        return set(_NEEDED) <= set(header_of(path))
    except DataError:
        return False


def _the_table(place: Path) -> Path:
    if not place.is_dir():
        return place
    tables = tables_in(place)
    if len(tables) != 1:
        found = ", ".join(path.name for path in tables) or "none"
        raise DataError(
            f"{place}: one CSV file with the columns {', '.join(_NEEDED)} is needed, found are: {found}; "
            "give the file itself"
        )
    return tables[0]


def _case(path: Path, where: str, row: dict[str, str], *, modality: Modality | None, channel: int | None) -> Case:
    # One name can be written in two ways in Unicode, and must not be two patients.
    patient = unicodedata.normalize("NFC", row["patient"])
    if not patient:
        raise DataError(f"{where}: no patient is named")
    told = modality or named_modality(row.get("modality", ""))
    if told is None:
        raise DataError(f"{where}: modality = {row.get('modality', '')!r}: CT or MR is accepted")
    image = path_within(path.parent, row["image"], named_by=path)
    label = path_within(path.parent, row["label"], named_by=path) if row["label"] else None
    if not image.is_file():
        raise DataError(f"{where}: {image}: no such file")
    if label is not None and not label.exists():
        raise DataError(f"{where}: {label}: no such file")
    organs = [organ_named(organ) for organ in row.get("organs", "").split("|") if organ.strip()]
    own_channel = row.get("channel", "")
    if own_channel and label_value(own_channel) is None:
        raise DataError(f"{where}: channel = {own_channel!r}: a number from 0 is accepted")
    return Case(
        patient=patient,
        image=image,
        label=label,
        modality=told,
        masks=masks_in(label) if label is not None and label.is_dir() else {},
        organs=frozenset(organs) if organs else None,
        channel=int(own_channel) if own_channel else channel,
    )


def _split(where: str, row: dict[str, str]) -> str:
    split = row.get("split", "").lower()
    if split not in _SPLITS:
        raise DataError(f"{where}: split = {split!r}: training, validation or test is accepted")
    return _SPLITS[split]


def _meanings(path: Path) -> dict[int, str]:
    """What the values of label volumes mean."""
    if not path.exists():
        raise DataError(
            f"{path}: no such file; it says what the values of the label volumes mean, with the columns value and organ"
        )
    meanings = {0: BACKGROUND}
    for line, row in read_rows(path, needed=("value", "organ")):
        value = label_value(row["value"])
        if value is None or not row["organ"]:
            raise DataError(f"{path}, line {line}: value = {row['value']!r}: a whole number and its organ are needed")
        organ = organ_named(row["organ"])
        if meanings.setdefault(value, organ) != organ:
            raise DataError(f"{path}, line {line}: the value {value} is {meanings[value]} already")
    return meanings
