"""What names say: the modality by a file's or a channel's name, a volume's name without its ending, a safe path."""

import re
from pathlib import Path, PurePosixPath

from secfed.data.cases import Modality
from secfed.data.labels import BACKGROUND, organ_named
from secfed.errors import DataError

_LONGEST_NAME_BYTES = 255

ENDINGS = (".nii.gz", ".nii")

# AMOS22: ids up to 500 are CT, above are MRI.
_LAST_CT_ID = 500
_AMOS_NAME = re.compile(r"amos_(\d+)(_\d{4})?")
_TOTAL_SEGMENTATOR_NAMES = {"ct": Modality.CT, "mri": Modality.MR}
_MM_WHS_NAME = re.compile(r"(ct|mr)_(?:train|test)_\d+(?:_image)?")

# What a description calls its channels: modalities, and the sequences and maps of MRI.
_CT_CHANNELS = re.compile(r"ct|cta|ct .*")
_MR_CHANNELS = re.compile(r"mri?( .*)?|t1.*|t2.*|flair|adc|dwi|pd.*|.*mr-?dixon.*|bssfp|lge|cine.*")


def stem_of(volume: Path) -> str:
    """The name without .nii or .nii.gz."""
    return volume.name.removesuffix(".gz").removesuffix(".nii")


def is_volume(path: Path) -> bool:
    """Whether it is a file with the name of a NIfTI file; macOS leaves companions behind that start with a dot."""
    return path.name.endswith(ENDINGS) and not path.name.startswith(".") and path.is_file()


def modality_by_name(image: Path) -> Modality | None:
    """What a name says: AMOS22 ids up to 500 are CT, above MRI; MM-WHS and TotalSegmentator say it; else None."""
    name = stem_of(image)
    if name in _TOTAL_SEGMENTATOR_NAMES:
        return _TOTAL_SEGMENTATOR_NAMES[name]
    amos, mm_whs = _AMOS_NAME.fullmatch(name), _MM_WHS_NAME.fullmatch(name)
    if amos is not None:
        return Modality.CT if int(amos[1]) <= _LAST_CT_ID else Modality.MR
    if mm_whs is not None:
        return Modality.CT if mm_whs[1] == "ct" else Modality.MR
    return None


def modality_of_channel(name: str) -> Modality | None:
    """What a description's name of a channel says; None for a name that is no modality's, such as "noNorm"."""
    plain = " ".join(name.lower().replace("_", " ").split())
    if _CT_CHANNELS.fullmatch(plain):
        return Modality.CT
    return Modality.MR if _MR_CHANNELS.fullmatch(plain) else None


def named_modality(name: str) -> Modality | None:
    """CT, MR or MRI in any case; None for anything else."""
    plain = name.strip().upper()
    return {"CT": Modality.CT, "MR": Modality.MR, "MRI": Modality.MR}.get(plain)


def path_within(folder: Path, relative: str, *, named_by: Path) -> Path:
    """A path that a description gives, which must lead to something below the folder.

    Raises:
        DataError: it leads elsewhere. That there is such a file is not asked here.
    """
    parts = PurePosixPath(relative)
    # A name that no file system takes would be an error of the system's own, further on.
    too_long = any(len(part.encode("utf-8", "surrogatepass")) > _LONGEST_NAME_BYTES for part in parts.parts)
    if not parts.parts or parts.is_absolute() or ".." in parts.parts or "\0" in relative or too_long:
        raise DataError(f"{named_by}: {relative!r} does not lie in the folder of the data set")
    return folder / parts


def masks_in(folder: Path) -> dict[str, Path]:
    """The binary masks of a folder by organ, which their names say.

    Raises:
        DataError: there is none, or two are of one organ.
    """
    masks: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not is_volume(path):
            continue
        organ = organ_named(stem_of(path))
        if organ in masks:
            raise DataError(f"{path}: {organ} has another mask, {masks[organ].name}")
        if organ != BACKGROUND:
            masks[organ] = path
    if not masks:
        raise DataError(f"{folder}: holds no mask, such as liver.nii.gz")
    return masks
