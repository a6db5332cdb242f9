"""Deal the patients of one real data set to sites and a test share, as folders of links in AMOS22 layout.

Whoever runs a study on a download does this on the download's own machine; no scan is opened or copied. Who goes where
depends on a patient's name, a seed and the sizes asked for, never on a voxel: a keyed hash puts the patients of a
modality in an order, the first are tested, the rest go to the sites in turn. A patient stands in one folder only, with
all scans. Names come from files: a data set that gives one patient two names is beyond what this can see.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secfed.data.cases import Case, Modality
from secfed.data.labels import BACKGROUND
from secfed.data.readers import DataSet, modality_by_name, read_data_set
from secfed.errors import ConfigError, DataError

# Counts every change of who goes where.
SPLIT_VERSION = 1

PROVENANCE = "split.json"


@dataclass(frozen=True, kw_only=True)
class SplitRequest:
    """How to deal: per modality a number of sites of even sizes, or the number of patients of each site.

    `test_share` is the share of each modality's patients that is tested, at least one; `validation` is how many of each
    site's patients it keeps for validation. Where sizes are given, patients beyond them go nowhere.
    """

    sites: Mapping[Modality, int | tuple[int, ...]]
    test_share: float
    validation: int = 0
    seed: int = 0


def deal_patients(data_set: DataSet, request: SplitRequest) -> dict[str, tuple[Case, ...]]:
    """Cases by the name of their folder: ct-1, ct-2, mr-1 and so on for sites, test-ct and test-mr.

    Raises:
        ConfigError: the request makes no sense, or asks for more patients with labels than there are.
        DataError: an image stands twice, or a patient has scans of both modalities: sites and test set would not be
            apart.
    """
    _check(request)
    labelled = [case for case in data_set.cases if case.label is not None]
    _require_apart(labelled)
    dealt: dict[str, tuple[Case, ...]] = {}
    for modality in Modality:
        if modality not in request.sites:
            continue
        scans: dict[str, list[Case]] = {}
        for case in labelled:
            if case.modality is modality:
                scans.setdefault(case.patient, []).append(case)
        ordered = sorted(scans, key=lambda patient: _order(patient, request.seed))
        name = modality.value.lower()
        tested = min(len(ordered), max(1, round(request.test_share * len(ordered)))) if request.test_share else 0
        sizes = _sizes(request.sites[modality], len(ordered) - tested, modality)
        if request.validation and min(sizes) <= request.validation:
            raise ConfigError(
                f"validation = {request.validation}: a site of {min(sizes)} {modality} patients has none left to "
                "train on"
            )
        if tested:
            dealt[f"test-{name}"] = _scans_of(ordered[:tested], scans)
        start = tested
        for index, size in enumerate(sizes, start=1):
            dealt[f"{name}-{index}"] = _scans_of(ordered[start : start + size], scans)
            start += size
    return dealt


def write_splits(source: Path, out: Path, request: SplitRequest) -> dict[str, Path]:
    """Write one folder per site and test set into `out`; returns them by name.

    What an earlier call with the same data set and request wrote is left as it is.

    Raises:
        ConfigError: as `deal_patients`.
        DataError: the source cannot be read, or `out` holds something else.
    """
    data_set = read_data_set(source)
    dealt = deal_patients(data_set, request)
    record = _record(source, dealt, request)
    folders = {name: out / name for name in dealt}
    if out.exists() and any(out.iterdir()):
        if _read(out / PROVENANCE) != record:
            raise DataError(f"{out}: holds something else than these splits of {source}; give an empty folder")
        return folders
    partial = out.with_name(f".{out.name}.partial")
    try:
        if partial.exists():
            shutil.rmtree(partial)
        for name, cases in dealt.items():
            kept = 0 if name.startswith("test-") else request.validation
            _write_folder(partial / name, cases, data_set=data_set, name=name, validation=kept)
        _write_json(partial / PROVENANCE, record)
        if out.exists():
            out.rmdir()
        partial.replace(out)
    except OSError as error:
        raise DataError(f"{out}: the splits could not be written: {error}") from error
    return folders


def _require_apart(labelled: list[Case]) -> None:
    images, modalities = set(), dict[str, Modality]()
    for case in labelled:
        if case.image in images:
            raise DataError(f"patient {case.patient}: {case.image} stands twice, and could be dealt apart")
        images.add(case.image)
        if modalities.setdefault(case.patient, case.modality) is not case.modality:
            raise DataError(f"patient {case.patient} has scans of CT and of MRI, which would be dealt apart")


def _scans_of(patients: list[str], scans: Mapping[str, list[Case]]) -> tuple[Case, ...]:
    return tuple(case for patient in patients for case in scans[patient])


def _check(request: SplitRequest) -> None:
    if not request.sites:
        raise ConfigError("sites names no modality: give CT, MR or both")
    if not 0 <= request.test_share < 1:
        raise ConfigError(f"test_share = {request.test_share:g}: must lie in [0, 1)")
    if request.validation < 0 or request.seed < 0:
        raise ConfigError(f"validation = {request.validation}, seed = {request.seed}: neither may be negative")
    for modality, wanted in request.sites.items():
        sizes = (wanted,) if isinstance(wanted, int) else wanted
        if not sizes or min(sizes) < 1:
            raise ConfigError(f"sites of {modality} = {wanted}: positive numbers are needed")


def _sizes(wanted: int | tuple[int, ...], available: int, modality: Modality) -> tuple[int, ...]:
    if isinstance(wanted, int):
        share, rest = divmod(available, wanted)
        if not share:
            raise ConfigError(f"{wanted} sites of {modality}, but {available} labelled patients beside the test share")
        return tuple(share + (index < rest) for index in range(wanted))
    if sum(wanted) > available:
        raise ConfigError(
            f"sites of {modality} = {list(wanted)} ask for {sum(wanted)} patients, but there are {available} beside "
            "the test share"
        )
    return wanted


def _order(patient: str, seed: int) -> bytes:
    key = json.dumps(["secfed split", SPLIT_VERSION, seed]).encode()
    return hashlib.blake2b(patient.encode(), key=hashlib.sha256(key).digest(), digest_size=16).digest()


def _write_folder(folder: Path, cases: tuple[Case, ...], *, data_set: DataSet, name: str, validation: int) -> None:
    patients = list(dict.fromkeys(case.patient for case in cases))
    held_back = set(patients[len(patients) - validation :])
    training = tuple(case for case in cases if case.patient not in held_back)
    kept = tuple(case for case in cases if case.patient in held_back)
    test = name.startswith("test-")
    names = _names(cases)
    splits = {"training": () if test else training, "validation": kept, "test": cases if test else ()}
    _write_json(
        folder / "dataset.json",
        {
            "name": f"{data_set.name}: {name}",
            "labels": {str(value): organ for value, organ in sorted(_values(data_set, cases).items())},
            **({"whole_vessels": True} if data_set.whole_vessels else {}),
            **{split: [_link(folder, case, names) for case in members] for split, members in splits.items()},
        },
    )


def _values(data_set: DataSet, cases: tuple[Case, ...]) -> Mapping[int, str]:
    """The meanings of values in one folder, whose cases are of one modality."""
    meanings = [data_set.values(case) for case in cases if not case.masks]
    if any(other != meanings[0] for other in meanings):
        raise DataError(f"data set '{data_set.name}': label values mean different things in different cases")
    return meanings[0] if meanings else {0: BACKGROUND}


def _names(cases: tuple[Case, ...]) -> dict[Path, str]:
    """A name for each image: its patient's, which for other scans than the first gets a number."""
    names: dict[Path, str] = {}
    for case in cases:
        plain = re.sub(r"[^\w.-]", "_", case.patient).lstrip(".") or "patient"
        taken, number = set(names.values()), 1
        while (plain if number == 1 else f"{plain}-{number}") in taken:
            number += 1
        names[case.image] = plain if number == 1 else f"{plain}-{number}"
    return names


def _link(folder: Path, case: Case, names: Mapping[Path, str]) -> dict[str, Any]:
    """Links of one case under the patient's name, and what that name alone does not tell."""
    name = names[case.image]
    entry: dict[str, Any] = {"image": _linked(folder / "images", name, case.image)}
    if case.masks:
        for file in case.masks.values():
            _linked(folder / "labels" / name, file.name.removesuffix(".gz").removesuffix(".nii"), file)
        entry["label"] = f"./labels/{name}"
    elif case.label is not None:
        entry["label"] = _linked(folder / "labels", name, case.label)
    if name != case.patient:
        entry["patient"] = case.patient
    if modality_by_name(Path(name)) is not case.modality:
        entry["modality"] = case.modality.value
    if case.organs is not None:
        entry["organs"] = sorted(case.organs)
    if case.channel is not None:
        entry["channel"] = case.channel
    return entry


def _linked(place: Path, name: str, file: Path) -> str:
    """A link with the file's ending; returns it as dataset.json, one folder up, writes it."""
    place.mkdir(parents=True, exist_ok=True)
    link = place / f"{name}{'.nii.gz' if file.name.endswith('.gz') else '.nii'}"
    link.symlink_to(file.resolve())
    return f"./{place.name}/{link.name}"


def _record(source: Path, dealt: Mapping[str, Iterable[Case]], request: SplitRequest) -> dict[str, Any]:
    record = {
        "version": SPLIT_VERSION,
        "source": str(source.resolve()),
        "seed": request.seed,
        "test_share": request.test_share,
        "validation": request.validation,
        "patients": {name: [case.patient for case in cases] for name, cases in dealt.items()},
    }
    plain: dict[str, Any] = json.loads(json.dumps(record))
    return plain


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
