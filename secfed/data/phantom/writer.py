"""Phantom data sets on disk: NIfTI files in the layout of AMOS22, so that they are read like real data.

Every case is drawn from its own stream, bound to seed, population, protocol, split and index: it stays the same when
more cases are written, and splits, protocols and populations never share a subject. Two sites of one protocol and one
population need different seeds. The folder appears all at once: cases are written beside it and moved into place,
`phantom.json` included.
"""

import gzip
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from secfed.data.cases import ABDOMEN, Modality
from secfed.data.labels import AMOS22_LABELS, organ_named
from secfed.data.phantom.anatomy import draw_subject
from secfed.data.phantom.ct import scan_ct
from secfed.data.phantom.geometry import STANDARD_GRID, Grid
from secfed.data.phantom.mri import scan_mr
from secfed.data.phantom.population import PopulationConfig, population_named
from secfed.data.phantom.protocol import CtProtocol, Protocol, protocol_named
from secfed.errors import ConfigError, DataError

# Counts every change that alters a voxel: a phantom of another version is another phantom.
PHANTOM_VERSION = 1

PROVENANCE = "phantom.json"

# AMOS22: ids up to 500 are CT, above are MRI. Ids have four digits.
LAST_CT_ID, LAST_ID = 500, 9999

_FOLDERS = {"train": ("imagesTr", "labelsTr"), "validation": ("imagesVa", "labelsVa"), "test": ("imagesTs", "labelsTs")}
_JSON_KEYS = {"train": "training", "validation": "validation", "test": "test"}

# Magnitude images are about 1 where tissue is bright; this uses the int16 range without clipping its noise.
_MR_SCALE = 1000.0

# Where the middle of the volume lies in world coordinates, in mm: not at the origin, as in any real scan.
_CT_CENTRE_MM = (12.5, -30.0, -210.0)
_MR_CENTRE_MM = (-4.0, 17.5, 38.0)


@dataclass(frozen=True, kw_only=True)
class CaseKey:
    """What decides every voxel of a case."""

    seed: int
    population: PopulationConfig
    protocol: Protocol
    split: str
    index: int
    grid: Grid = STANDARD_GRID

    def generator(self) -> np.random.Generator:
        """The stream of this case alone."""
        bound = (PHANTOM_VERSION, self.seed, self.population.name, self.protocol.name, self.split, self.index)
        digest = hashlib.sha256(json.dumps(["secfed phantom", *bound]).encode()).digest()
        return np.random.default_rng(int.from_bytes(digest))


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
    """One case before it is written: image (HU or magnitude) and class indices of ABDOMEN.

    Both have shape (z, y, x): inferior to superior, anterior to posterior, patient right to patient left.
    """

    image: NDArray[np.int16]
    label: NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]
    modality: Modality


def draw_scan(key: CaseKey) -> Scan:
    """Draw the subject of a case and scan it."""
    generator = key.generator()
    subject = draw_subject(generator, key.population, key.grid)
    if isinstance(key.protocol, CtProtocol):
        volume = scan_ct(subject, generator, protocol=key.protocol, population=key.population)
    else:
        volume = scan_mr(subject, generator, protocol=key.protocol, population=key.population) * np.float32(_MR_SCALE)
    limits = np.iinfo(np.int16)
    return Scan(
        image=np.clip(np.rint(volume), limits.min, limits.max).astype(np.int16),
        label=subject.label,
        spacing_mm=key.grid.spacing_mm,
        modality=key.protocol.modality,
    )


def write_phantom(
    folder: Path,
    *,
    splits: Mapping[str, int],
    modality: Modality,
    protocol: str,
    population: str,
    seed: int,
    grid: Grid = STANDARD_GRID,
    on_case: Callable[[str], None] | None = None,
) -> None:
    """Write the phantom data set of one site; does nothing where the same one is already complete.

    Args:
        folder: created if missing; must be empty, or hold a phantom of the same parameters.
        splits: number of cases under "train", "validation" and "test"; one that is left out has none.
        modality: of all cases.
        protocol: name in PROTOCOLS, of that modality.
        population: name in POPULATIONS.
        seed: not negative.
        grid: of all cases.
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
    _write(folder, _numbered(keys), _parameters(seed, people, grid, {protocol: counts}), on_case)


def write_mixed_phantom(
    folder: Path,
    *,
    ct: int,
    mri: int,
    seed: int,
    population: str,
    grid: Grid = STANDARD_GRID,
    on_case: Callable[[str], None] | None = None,
) -> None:
    """Write `ct` CT and `mri` MRI training cases of every contrast ("ct-any", "mr-any") into one data set.

    Arguments and errors are those of `write_phantom`. CT and MRI cases are different subjects.
    """
    people = population_named(population)
    wanted = {
        protocol_named("ct-any", modality=Modality.CT): ct,
        protocol_named("mr-any", modality=Modality.MR): mri,
    }
    keys = [
        CaseKey(seed=seed, population=people, protocol=scanner, split="train", index=index, grid=grid)
        for scanner, count in wanted.items()
        for index in range(count)
    ]
    counts = {scanner.name: {"train": count} for scanner, count in wanted.items()}
    _write(folder, _numbered(keys), _parameters(seed, people, grid, counts), on_case)


def _parameters(
    seed: int, population: PopulationConfig, grid: Grid, counts: dict[str, dict[str, int]]
) -> dict[str, Any]:
    """Everything that decides the data set, as plain JSON values."""
    if seed < 0:
        raise ConfigError(f"seed = {seed}: must not be negative")
    for protocol, splits in counts.items():
        for split, count in splits.items():
            if count < 0:
                raise ConfigError(f"{count} {split} cases of {protocol}: a count must not be negative")
    parameters = {
        "version": PHANTOM_VERSION,
        "seed": seed,
        "population": asdict(population),
        "grid": asdict(grid),
        "cases": counts,
    }
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
    _write_nifti(labels / f"{name}.nii.gz", _AMOS_IDS[scan.label], scan)


def _amos_ids() -> NDArray[np.uint8]:
    ids = {organ_named(spelling): number for number, spelling in AMOS22_LABELS.items()}
    return np.array([0, *(ids[organ] for organ in ABDOMEN.organs)], np.uint8)


_AMOS_IDS = _amos_ids()


def _write_nifti(path: Path, volume: NDArray[np.int16] | NDArray[np.uint8], scan: Scan) -> None:
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
    """dataset.json as AMOS22 writes it."""
    modalities = sorted({key.protocol.modality for key in cases.values()})
    description: dict[str, Any] = {
        "name": "secfed phantom",
        "description": f"synthetic abdomen, population {parameters['population']['name']}, seed {parameters['seed']}",
        "modality": {str(number): str(modality) for number, modality in enumerate(modalities)},
        "labels": {str(number): spelling for number, spelling in AMOS22_LABELS.items()},
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
