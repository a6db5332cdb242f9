"""Which layout a folder has, and its reader.

A layout is told by what only it has:

| layout | sign |
|---|---|
| nnunet | dataset.json with `channel_names` |
| msd | dataset.json with `modality`, not of CT and MRI at once, and images not named as in AMOS22 or MM-WHS |
| amos22 | any other dataset.json |
| mm-whs | files such as ct_train_1001_image.nii.gz, here or one folder down; a dataset.json beside them decides |
| totalsegmentator | folders with a ct.nii.gz or mri.nii.gz beside a folder `segmentations` |
| chaos | MR/1/T2SPIR, CT/2/DICOM_anon and the like, or T2SPIR/image_1.nii.gz |
| table | a CSV file with the columns patient, image and label |

A folder with the signs of two is refused, because either may be a leftover; `layout` decides.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from secfed.config import LayoutName
from secfed.data.cases import Modality
from secfed.data.readers.amos22 import read_amos22
from secfed.data.readers.chaos import looks_like_chaos, read_chaos
from secfed.data.readers.data_set import CaseReader, DataSet
from secfed.data.readers.decathlon import read_decathlon
from secfed.data.readers.description import DESCRIPTION, read_description
from secfed.data.readers.mm_whs import mm_whs_files, read_mm_whs
from secfed.data.readers.names import modality_by_name, modality_of_channel
from secfed.data.readers.nnunet import read_nnunet
from secfed.data.readers.table import read_table, tables_in
from secfed.data.readers.total_segmentator import MASKS, read_total_segmentator, subjects
from secfed.errors import DataError

READERS: Mapping[LayoutName, CaseReader] = {
    "amos22": read_amos22,
    "mm-whs": read_mm_whs,
    "totalsegmentator": read_total_segmentator,
    "chaos": read_chaos,
    "msd": read_decathlon,
    "nnunet": read_nnunet,
    "table": read_table,
}


def read_data_set(
    folder: Path, *, modality: Modality | None = None, layout: LayoutName | None = None, channel: int | None = None
) -> DataSet:
    """Read a folder, or a table's CSV file, in the layout that it has or is said to have.

    Args:
        folder: of the data set; or the CSV file of a table.
        modality: of all cases, instead of what the layout says.
        layout: instead of looking for its sign.
        channel: the one to read of scans with several.

    Raises:
        DataError: the folder has no known layout or the signs of two, or what it holds is not in order.
    """
    if layout is not None and layout not in READERS:
        raise DataError(f"layout = {layout!r}: {', '.join(get_args(LayoutName))} are known")
    try:
        if folder.is_file() and layout in (None, "table"):
            return read_table(folder, modality=modality, channel=channel)
        if not folder.is_dir():
            raise DataError(f"{folder}: not a folder" if folder.exists() else f"{folder}: no such file or folder")
        return READERS[layout or layout_of(folder)](folder, modality=modality, channel=channel)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error}") from error


def layout_of(folder: Path) -> LayoutName:
    """The layout whose sign a folder has.

    Raises:
        DataError: it has none, or the signs of two.
    """
    signs = _signs(folder)
    if not signs:
        raise DataError(
            f"{folder}: neither a {DESCRIPTION} (AMOS22, Decathlon or nnU-Net layout) nor files named as in MM-WHS "
            "(ct_train_1001_image.nii.gz, here or one folder down), TotalSegmentator (s0011/ct.nii.gz) or CHAOS "
            "(MR/1/T2SPIR), nor a table of cases (a CSV file with the columns patient, image, label)"
        )
    if len(signs) > 1:
        (one, its), (other, others) = list(signs.items())[:2]
        raise DataError(
            f"{folder}: looks like {one} ({its}) and like {other} ({others}); say which: layout = '{one}' or '{other}'"
        )
    return next(iter(signs))


def _signs(folder: Path) -> dict[LayoutName, str]:
    """What speaks for each layout."""
    signs: dict[LayoutName, str] = {}
    described = (folder / DESCRIPTION).exists()
    if described:
        signs |= _signs_of_description(folder)
    mm_whs = None if described else next(mm_whs_files(folder), None)
    if mm_whs is not None:
        signs["mm-whs"] = mm_whs[0].name
    subject = next((image.parent for image, _ in subjects(folder) if (image.parent / MASKS).is_dir()), None)
    if subject is not None:
        signs["totalsegmentator"] = f"{subject.name}/{MASKS}"
    if looks_like_chaos(folder):
        signs["chaos"] = "folders of its series"
    tables = tables_in(folder)
    if tables:
        signs["table"] = tables[0].name
    return signs


def _signs_of_description(folder: Path) -> dict[LayoutName, str]:
    try:
        content = read_description(folder, layout="AMOS22")
    except DataError:
        # Its reader says what is wrong with it.
        return {"amos22": DESCRIPTION}
    signs: dict[LayoutName, str] = {}
    if "channel_names" in content:
        signs["nnunet"] = "channel_names in dataset.json"
    if "modality" in content and not _of_several_scanners(content["modality"]) and not _names_tell(content):
        signs["msd"] = "modality in dataset.json"
    return signs or {"amos22": DESCRIPTION}


def _of_several_scanners(names: object) -> bool:
    """Whether CT and MRI stand beside one another: no scan has them as channels, so they are of different scans."""
    found = {modality_of_channel(str(name)) for name in names.values()} if isinstance(names, dict) else set()
    return set(Modality) <= found


def _names_tell(content: Mapping[str, object]) -> bool:
    """Whether every image that is listed is named as in AMOS22 or MM-WHS, which then say the modality themselves."""
    images = []
    for split in ("training", "validation", "test"):
        entries = content.get(split)
        for entry in entries if isinstance(entries, list) else []:
            images.append(entry.get("image") if isinstance(entry, dict) else entry)
    return all(isinstance(image, str) and modality_by_name(Path(image)) is not None for image in images)
