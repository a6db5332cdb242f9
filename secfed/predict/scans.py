"""Which scans to segment: from files and folders to scans with a name, a modality and, where there are any, labels.

Runs on the machine of whoever predicts. It opens no volume, and what cannot be used is a failure beside the others.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from secfed.data.cases import LabelMap, Modality
from secfed.data.labels import AMOS22_LABELS, MM_WHS_LABELS, MM_WHS_STRAY_LABELS, organ_named
from secfed.data.problems import CaseProblem
from secfed.data.readers import modality_by_name, read_data_set
from secfed.data.readers.description import DESCRIPTION
from secfed.errors import ConfigError, DataError

SEGMENTATION_SUFFIX = "_seg"
_SUFFIXES = (".nii.gz", ".nii")

# What names in a folder of plain files say: these are labels of a scan beside it, and no scans.
_LABEL_ENDINGS = (SEGMENTATION_SUFFIX, "_label", "_labels", "_mask")

# nnU-Net and MM-WHS put these behind a case's name in the name of its image, and not in that of its label.
_IMAGE_ENDINGS = ("_0000", "_image")

_KNOWN_NUMBERS = {"amos22": AMOS22_LABELS, "mm-whs": MM_WHS_LABELS | MM_WHS_STRAY_LABELS}


@dataclass(frozen=True, kw_only=True)
class Scan:
    """One scan to segment; `name` is that of what is written for it.

    `modality` is None where nothing tells it. `label_ids` gives the organ of every value of `label`, or `masks` has a
    file for each; `organs` are those of the task that were drawn. `channel` is the one to segment of several.
    """

    name: str
    image: Path
    modality: Modality | None
    label: Path | None
    label_ids: Mapping[int, str]
    organs: tuple[str, ...]
    masks: Mapping[str, Path] = field(default_factory=dict)
    channel: int | None = None


def problem_with(file: Path, reason: object, todo: str, *, scan: str = "") -> CaseProblem:
    """What keeps a file from being used: why, and what to do about it."""
    said = str(reason).removeprefix(f"{file}: ")
    return CaseProblem(case=scan, file=file, reason=said, todo=todo, severity="error")


@dataclass(frozen=True)
class _Meaning:
    """What the values of a label volume mean, and which of the task's organs were drawn in it."""

    ids: Mapping[int, str]
    organs: tuple[str, ...]


def find_scans(
    paths: Sequence[Path],
    *,
    label_map: LabelMap,
    modality: Modality | None = None,
    labels: Path | None = None,
    label_ids: Mapping[int, str] | None = None,
) -> tuple[tuple[Scan, ...], tuple[CaseProblem, ...]]:
    """Every scan that the paths name, in order, each once, and what is no scan.

    Args:
        paths: NIfTI files, folders of them, or folders in a layout that `read_data_set` knows.
        label_map: the task; its numbers are those of labels whose values nobody says.
        modality: of all scans, instead of what names and data sets say.
        labels: the label of the only scan, or a folder with labels named as their scans.
        label_ids: the organ of every value in `labels`. Left out, a dataset.json beside the labels or above them says.

    Raises:
        ConfigError: `labels` does not exist, is one file for several scans, or has none of them; two scans have one
            name; or the dataset.json that would say what values mean cannot be read.
    """
    found: dict[Path, Scan] = {}
    problems = []
    for path in paths:
        try:
            for scan in _scans_of(path, modality=modality, label_map=label_map):
                found.setdefault(scan.image.resolve(), scan)
        except DataError as error:
            problems.append(problem_with(path, error, _advice(path)))
    scans = list(found.values())
    _require_names(scans)
    if labels is not None:
        if not labels.exists():
            raise ConfigError(f"--labels = '{labels}': no such file or folder")
        ids = label_ids or {0: "background"} | {label_map.index(organ): organ for organ in label_map.organs}
        said = _Meaning(ids, tuple(organ for organ in label_map.organs if organ in ids.values()))
        scans = _with_labels(scans, labels, said, None if label_ids else _told_beside(labels, label_map))
    return tuple(scans), tuple(problems)


def parse_label_ids(text: str, *, label_map: LabelMap) -> dict[int, str]:
    """Read "6=liver,1=spleen" or the name of a data set with known numbers; 0 is background.

    Raises:
        ConfigError: it reads otherwise, or names no organ of the task.
    """
    known = _KNOWN_NUMBERS.get(text.lower(), {})
    ids = {0: "background"} | {value: organ_named(spelling) for value, spelling in known.items()}
    for part in [] if known else text.split(","):
        number, _, spelling = part.partition("=")
        if not number.strip().isdecimal() or not spelling.strip():
            raise ConfigError(
                f"--label-values = '{text}': write {', '.join(_KNOWN_NUMBERS)}, or VALUE=ORGAN,VALUE=ORGAN"
            )
        ids[int(number)] = organ_named(spelling)
    if not set(ids.values()) & set(label_map.organs):
        raise ConfigError(
            f"--label-values = '{text}': names none of the model's organs, which are {', '.join(label_map.organs)}"
        )
    return ids


def stem(path: Path) -> str:
    """The name of a NIfTI file without its ending."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _scans_of(path: Path, *, modality: Modality | None, label_map: LabelMap) -> Iterator[Scan]:
    if path.is_dir():
        yield from _folder(path, modality=modality, label_map=label_map)
    elif not path.exists():
        raise DataError(f"{path}: no such file or folder")
    elif not path.name.endswith(_SUFFIXES):
        raise DataError(f"{path}: not named as a NIfTI file, .nii or .nii.gz")
    else:
        yield _plain(path, modality=modality)


def _folder(folder: Path, *, modality: Modality | None, label_map: LabelMap) -> Iterator[Scan]:
    try:
        data_set = read_data_set(folder, modality=modality)
    except DataError as error:
        plain = [path for path in sorted(folder.iterdir()) if _is_plain_scan(path)]
        # A folder that describes itself, and wrongly, is not taken for one that does not.
        if (folder / DESCRIPTION).exists():
            raise
        if not plain:
            raise DataError(f"{folder}: holds no .nii or .nii.gz file, and is no data set: {error}") from None
        for path in plain:
            yield _plain(path, modality=modality)
        return
    scans_of = Counter(case.patient for case in data_set.cases)
    for case in data_set.cases:
        name = case.patient if scans_of[case.patient] == 1 else f"{case.patient}_{stem(case.image)}"
        yield Scan(
            name=name.replace("/", "_"),
            image=case.image,
            modality=case.modality,
            label=case.label,
            label_ids=data_set.values(case),
            organs=data_set.annotated(case, label_map),
            masks=case.masks,
            channel=case.channel,
        )


def _plain(path: Path, *, modality: Modality | None) -> Scan:
    told = modality or modality_by_name(path)
    return Scan(name=stem(path), image=path, modality=told, label=None, label_ids={}, organs=())


def _is_plain_scan(path: Path) -> bool:
    return path.is_file() and path.name.endswith(_SUFFIXES) and not stem(path).endswith(_LABEL_ENDINGS)


def _told_beside(labels: Path, label_map: LabelMap) -> dict[Path, _Meaning] | None:
    """What the dataset.json in the folder of the labels, or in the one above it, says of each label; None without one.

    A value has another meaning in every data set, and one that is known to the task too would be scored as that organ.
    """
    folder = labels if labels.is_dir() else labels.parent
    described = next((place for place in (folder, folder.resolve().parent) if (place / DESCRIPTION).is_file()), None)
    if described is None:
        return None
    try:
        data_set = read_data_set(described)
    except DataError as error:
        raise ConfigError(
            f"--labels = '{labels}': the data set that it belongs to cannot be read: {error}; "
            "say with --label-values what the values mean"
        ) from error
    return {
        case.label.resolve(): _Meaning(data_set.values(case), data_set.annotated(case, label_map))
        for case in data_set.cases
        if case.label is not None
    }


def _with_labels(scans: list[Scan], labels: Path, said: _Meaning, told: Mapping[Path, _Meaning] | None) -> list[Scan]:
    def paired(scan: Scan, label: Path) -> Scan:
        meaning = said if told is None else told.get(label.resolve())
        if meaning is None:
            raise ConfigError(
                f"--labels: {label} is none of those that the {DESCRIPTION} beside it names; "
                "say with --label-values what its values mean"
            )
        return replace(scan, label=label, label_ids=meaning.ids, organs=meaning.organs, masks={})

    if not labels.is_dir():
        if len(scans) != 1:
            raise ConfigError(f"--labels = '{labels}': one file for {len(scans)} scans; give a folder of labels")
        return [paired(scans[0], labels)]
    found = {scan.image: _label_of(scan.image, labels) for scan in scans}
    if scans and not any(found.values()):
        name = scans[0].name
        raise ConfigError(
            f"--labels = '{labels}': holds no label of any scan; for {scans[0].image.name} it would be {name}.nii.gz, "
            f"{name}_label.nii.gz or {name}{SEGMENTATION_SUFFIX}.nii.gz"
        )
    return [scan if (label := found[scan.image]) is None else paired(scan, label) for scan in scans]


def _label_of(image: Path, folder: Path) -> Path | None:
    names = [stem(image), *(stem(image).removesuffix(end) for end in _IMAGE_ENDINGS)]
    candidates = (
        folder / f"{name}{end}{suffix}" for name in names for end in ("", *_LABEL_ENDINGS) for suffix in _SUFFIXES
    )
    own = image.resolve()
    return next((path for path in candidates if path.is_file() and path.resolve() != own), None)


def _require_names(scans: Sequence[Scan]) -> None:
    first: dict[str, Scan] = {}
    for scan in scans:
        other = first.setdefault(scan.name, scan)
        if other is not scan:
            raise ConfigError(
                f"{other.image} and {scan.image} would both be written as '{scan.name}{SEGMENTATION_SUFFIX}.nii.gz': "
                "segment them apart, each with an --out of its own"
            )


def _advice(path: Path) -> str:
    if path.is_dir():
        return "give a folder of NIfTI files or a data set; with --modality where names do not tell it"
    return "give a .nii or .nii.gz file that exists"
