"""Phantom data sets on disk: NIfTI files in the layout of AMOS22, so that they are read like real data.

Label volumes of an abdomen hold the values of AMOS22, those of a heart the values of MM-WHS. Two sites of one protocol
and one population need different seeds. The folder appears all at once: cases are written beside it and moved into
place, `phantom.json` included.
"""

import gzip
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from secfed.data.cases import ABDOMEN, LABEL_MAPS, WHOLE_HEART, Modality
from secfed.data.labels import AMOS22_LABELS, MM_WHS_LABELS, organ_named
from secfed.data.phantom.geometry import Grid
from secfed.data.phantom.population import HEARTS, PopulationConfig, population_named
from secfed.data.phantom.protocol import ANY_CONTRAST, protocol_named
from secfed.data.phantom.scans import GRIDS, VERSIONS, CaseKey, Scan, draw_scan
from secfed.errors import ConfigError, DataError

_LABELS = {ABDOMEN.task: AMOS22_LABELS, WHOLE_HEART.task: MM_WHS_LABELS}
_SUBJECTS = {ABDOMEN.task: "abdomen", WHOLE_HEART.task: "heart"}

PROVENANCE = "phantom.json"

# AMOS22: ids up to 500 are CT, above are MRI. Ids have four digits.
LAST_CT_ID, LAST_ID = 500, 9999

_FOLDERS = {"train": ("imagesTr", "labelsTr"), "validation": ("imagesVa", "labelsVa"), "test": ("imagesTs", "labelsTs")}
_JSON_KEYS = {"train": "training", "validation": "validation", "test": "test"}

# Where the middle of the volume lies in world coordinates, in mm: not at the origin, as in any real scan.
_CT_CENTRE_MM = (12.5, -30.0, -210.0)
_MR_CENTRE_MM = (-4.0, 17.5, 38.0)


def write_phantom(
    folder: Path,
    *,
    splits: Mapping[str, int],
    modality: Modality,
    protocol: str,
    population: str,
    seed: int,
    grid: Grid | None = None,
    on_case: Callable[[str], None] | None = None,
) -> None:
    """Write the phantom data set of one site; does nothing where the same one is already complete.

    Args:
        folder: created if missing; must be empty, or hold a phantom of the same parameters.
        splits: number of cases under "train", "validation" and "test"; one that is left out has none.
        modality: of all cases.
        protocol: name in PROTOCOLS, of that modality; the task follows from it.
        population: name in POPULATIONS.
        seed: not negative.
        grid: of all cases; without one, the usual grid of the task.
        on_case: called with the name of each case once it is written.

    Raises:
        ConfigError: an argument is not accepted.
        DataError: the folder holds something else.
    """
    people, scanner = population_named(population), protocol_named(protocol, modality=modality)
    unknown = sorted(set(splits) - set(_FOLDERS))
    if unknown:
        raise ConfigError(f"splits names {unknown}; known: {', '.join(_FOLDERS)}")
    keys = [
        CaseKey(seed=seed, population=people, protocol=scanner, split=split, index=index, grid=grid)
        for split in _FOLDERS
        for index in range(splits.get(split, 0))
    ]
    counts = {split: splits.get(split, 0) for split in _FOLDERS}
    parameters = _parameters(seed, people, grid, {protocol: counts}, task=scanner.task)
    _write(folder, _numbered(keys), parameters, on_case)


def write_mixed_phantom(
    folder: Path,
    *,
    ct: int,
    mri: int,
    seed: int,
    population: str,
    task: str = ABDOMEN.task,
    grid: Grid | None = None,
    on_case: Callable[[str], None] | None = None,
) -> None:
    """Write `ct` CT and `mri` MRI training cases of every contrast of a task into one data set.

    The other arguments and the errors are those of `write_phantom`. CT and MRI cases are different subjects.
    """
    people = population_named(population)
    if task not in ANY_CONTRAST:
        raise ConfigError(f"task = {task!r}: no such task; known: {', '.join(ANY_CONTRAST)}")
    wanted = {
        protocol_named(name, modality=modality, task=task): ct if modality is Modality.CT else mri
        for modality, name in ANY_CONTRAST[task].items()
    }
    keys = [
        CaseKey(seed=seed, population=people, protocol=scanner, split="train", index=index, grid=grid)
        for scanner, count in wanted.items()
        for index in range(count)
    ]
    counts = {scanner.name: {"train": count} for scanner, count in wanted.items()}
    _write(folder, _numbered(keys), _parameters(seed, people, grid, counts, task=task), on_case)


def _parameters(
    seed: int, population: PopulationConfig, grid: Grid | None, counts: dict[str, dict[str, int]], *, task: str
) -> dict[str, Any]:
    """Everything that decides the data set, as plain JSON values."""
    if seed < 0:
        raise ConfigError(f"seed = {seed}: must not be negative")
    for protocol, splits in counts.items():
        for split, count in splits.items():
            if count < 0:
                raise ConfigError(f"{count} {split} cases of {protocol}: a count must not be negative")
    parameters = {
        "version": VERSIONS[task],
        "seed": seed,
        "population": asdict(population),
        "grid": asdict(grid or GRIDS[task]),
        "cases": counts,
    }
    if task != ABDOMEN.task:
        # An abdomen's record is older than tasks and stays as it was.
        parameters |= {"task": task, "heart": asdict(HEARTS[population.name])}
    plain: dict[str, Any] = json.loads(json.dumps(parameters))
    return plain


def _numbered(keys: list[CaseKey]) -> dict[str, CaseKey]:
    """Case names by the id rule of AMOS22."""
    if not keys:
        raise ConfigError("a phantom needs at least one case: give a positive count")
    named = {}
    following = {Modality.CT: 1, Modality.MR: LAST_CT_ID + 1}
    last = {Modality.CT: LAST_CT_ID, Modality.MR: LAST_ID}
    for key in keys:
        modality = key.protocol.modality
        number = following[modality]
        if number > last[modality]:
            room = last[Modality.CT] if modality is Modality.CT else LAST_ID - LAST_CT_ID
            count = sum(other.protocol.modality is modality for other in keys)
            raise ConfigError(f"{count} {modality} cases: the ids of AMOS22 have room for {room}")
        named[f"amos_{number:04d}"] = key
        following[modality] = number + 1
    return named


def _write(
    folder: Path, cases: Mapping[str, CaseKey], parameters: dict[str, Any], on_case: Callable[[str], None] | None
) -> None:
    if folder.exists() and _is_complete(folder, parameters, cases):
        return
    partial = folder.with_name(f".{folder.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    try:
        partial.mkdir(parents=True)
        for name, key in cases.items():
            _write_case(partial, name, key)
            if on_case is not None:
                on_case(name)
        _write_json(partial / "dataset.json", _description(cases, parameters))
        sizes = {str(path.relative_to(partial)): path.stat().st_size for path in _files(partial)}
        _write_json(partial / PROVENANCE, {"parameters": parameters, "bytes": sizes})
        if folder.exists():
            shutil.rmtree(folder)
        partial.replace(folder)
    except OSError as error:
        raise DataError(f"{folder}: the phantom could not be written: {error}") from error


def _is_complete(folder: Path, parameters: dict[str, Any], cases: Mapping[str, CaseKey]) -> bool:
    """True for a whole phantom of these parameters, False where one may be written here; else raises DataError."""
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder, so no phantom can be written there")
    present = {str(path.relative_to(folder)) for path in _files(folder)}
    if not present:
        return False
    try:
        provenance = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
        found, sizes = provenance["parameters"], provenance["bytes"]
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(
            f"{folder}: not empty, and not a phantom that this program wrote; give an empty folder"
        ) from None
    if found != parameters:
        raise DataError(f"{folder}: holds a phantom of other parameters ({PROVENANCE}); give another folder")
    intact = all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items())
    if intact and set(sizes) <= present:
        return True
    foreign = sorted(present - {PROVENANCE, "dataset.json"} - _expected(cases))
    if foreign:
        raise DataError(f"{folder}: the phantom is damaged, and {foreign[0]} is not part of it; move that file away")
    return False


def _files(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.rglob("*") if not path.is_dir())


def _expected(cases: Mapping[str, CaseKey]) -> set[str]:
    return {f"{part}/{name}.nii.gz" for name, key in cases.items() for part in _FOLDERS[key.split]}


def _write_case(folder: Path, name: str, key: CaseKey) -> None:
    scan = draw_scan(key)
    images, labels = (folder / part for part in _FOLDERS[key.split])
    for part in (images, labels):
        part.mkdir(exist_ok=True)
    _write_nifti(images / f"{name}.nii.gz", scan.image, scan)
    _write_nifti(labels / f"{name}.nii.gz", _LABEL_VALUES[key.protocol.task][scan.label], scan)


def _label_values(task: str) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """What a label volume holds for each class index: the values of AMOS22, or of MM-WHS."""
    values = {organ_named(spelling): number for number, spelling in _LABELS[task].items()}
    table = np.array([0, *(values[organ] for organ in LABEL_MAPS[task].organs)], np.uint16)
    return table.astype(np.uint8) if table.max() < 256 else table


_LABEL_VALUES = {task: _label_values(task) for task in _LABELS}


def _write_nifti(path: Path, volume: NDArray[np.int16] | NDArray[np.uint8] | NDArray[np.uint16], scan: Scan) -> None:
    """Write with a true affine in mm: CT towards left, posterior, superior; MRI towards right, anterior, superior."""
    stored = volume.transpose(2, 1, 0)
    spacing = np.array(scan.spacing_mm[::-1])
    if scan.modality is Modality.CT:
        steps, centre = spacing * (-1, -1, 1), np.array(_CT_CENTRE_MM)
    else:
        stored = stored[::-1, ::-1]
        steps, centre = spacing, np.array(_MR_CENTRE_MM)
    affine = np.diag([*steps, 1.0])
    affine[:3, 3] = centre - steps * (np.array(stored.shape) - 1) / 2
    image = nibabel.Nifti1Image(np.ascontiguousarray(stored), affine)
    image.header.set_xyzt_units("mm")
    # A fixed time stamp in the gzip header keeps equal volumes equal byte by byte.
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))


def _description(cases: Mapping[str, CaseKey], parameters: dict[str, Any]) -> dict[str, Any]:
    """dataset.json as AMOS22 writes it, with the labels of the task."""
    (task,) = {key.protocol.task for key in cases.values()}
    modalities = sorted({key.protocol.modality for key in cases.values()})
    people, seed = parameters["population"]["name"], parameters["seed"]
    description: dict[str, Any] = {
        "name": "secfed phantom",
        "description": f"synthetic {_SUBJECTS[task]}, population {people}, seed {seed}",
        "modality": {str(number): str(modality) for number, modality in enumerate(modalities)},
        "labels": {str(number): spelling for number, spelling in _LABELS[task].items()},
    }
    for split, (images, labels) in _FOLDERS.items():
        description[_JSON_KEYS[split]] = [
            {"image": f"./{images}/{name}.nii.gz", "label": f"./{labels}/{name}.nii.gz"}
            for name, key in cases.items()
            if key.split == split
        ]
    return description


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
