"""Deal the patients of one real data set to sites and a test share, as folders of links in AMOS22 layout.

Whoever runs a study on a download does this on the download's own machine; no scan is opened or copied. Who goes where
depends on a patient's name, a seed and the sizes asked for, never on a voxel: a keyed hash puts the patients of a
modality in an order, the first are tested, the rest go to the sites in turn. A patient stands in one folder only. Names
come from files: a data set that gives one patient two names is beyond what this can see.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secfed.data.cases import Case, Modality
from secfed.data.readers import DataSet, read_data_set
from secfed.errors import ConfigError, DataError

# Counts every change of who goes where.
SPLIT_VERSION = 1

PROVENANCE = "split.json"


@dataclass(frozen=True, kw_only=True)
class SplitRequest:
    """How to deal: per modality a number of sites of even sizes, or the number of cases of each site.

    `test_share` is the share of each modality's patients that is tested, at least one; `validation` is how many of each
    site's cases it keeps for validation. Where sizes are given, patients beyond them go nowhere.
    """

    sites: Mapping[Modality, int | tuple[int, ...]]
    test_share: float
    validation: int = 0
    seed: int = 0


def deal_patients(data_set: DataSet, request: SplitRequest) -> dict[str, tuple[Case, ...]]:
    """Cases by the name of their folder: ct-1, ct-2, mr-1 and so on for sites, test-ct and test-mr.

    Raises:
        ConfigError: the request makes no sense, or asks for more labelled cases than there are.
        DataError: a patient has more than one scan: sites and test set would not be apart.
    """
    _check(request)
    labelled = [case for case in (*data_set.training, *data_set.validation, *data_set.test) if case.label is not None]
    scans = Counter(case.patient for case in labelled)
    if scans and scans.most_common(1)[0][1] > 1:
        raise DataError(f"patient {scans.most_common(1)[0][0]} has more than one scan, which could be dealt apart")
    dealt: dict[str, tuple[Case, ...]] = {}
    for modality in Modality:
        if modality not in request.sites:
            continue
        ordered = sorted(
            (case for case in labelled if case.modality is modality),
            key=lambda case: _order(case.patient, request.seed),
        )
        name = modality.value.lower()
        tested = min(len(ordered), max(1, round(request.test_share * len(ordered)))) if request.test_share else 0
        sizes = _sizes(request.sites[modality], len(ordered) - tested, modality)
        if request.validation and min(sizes) <= request.validation:
            raise ConfigError(
                f"validation = {request.validation}: a site of {min(sizes)} {modality} cases has none left to train on"
            )
        if tested:
            dealt[f"test-{name}"] = tuple(ordered[:tested])
        start = tested
        for index, size in enumerate(sizes, start=1):
            dealt[f"{name}-{index}"] = tuple(ordered[start : start + size])
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
            raise ConfigError(f"{wanted} sites of {modality}, but {available} labelled cases beside the test share")
        return tuple(share + (index < rest) for index in range(wanted))
    if sum(wanted) > available:
        raise ConfigError(
            f"sites of {modality} = {list(wanted)} ask for {sum(wanted)} cases, but there are {available} beside the "
            "test share"
        )
    return wanted


def _order(patient: str, seed: int) -> bytes:
    key = json.dumps(["secfed split", SPLIT_VERSION, seed]).encode()
    return hashlib.blake2b(patient.encode(), key=hashlib.sha256(key).digest(), digest_size=16).digest()


def _write_folder(folder: Path, cases: tuple[Case, ...], *, data_set: DataSet, name: str, validation: int) -> None:
    training, kept = cases[: len(cases) - validation], cases[len(cases) - validation :]
    test = name.startswith("test-")
    splits = {"training": () if test else training, "validation": kept, "test": cases if test else ()}
    _write_json(
        folder / "dataset.json",
        {
            "name": f"{data_set.name}: {name}",
            "labels": {str(value): organ for value, organ in sorted(data_set.label_ids.items())},
            **{split: [_link(folder, case) for case in members] for split, members in splits.items()},
        },
    )


def _link(folder: Path, case: Case) -> dict[str, str]:
    """Links of one case under the patient's name, from which the modality can still be told."""
    entry = {}
    for kind, file in (("image", case.image), ("label", case.label)):
        if file is None:
            continue
        ending = ".nii.gz" if file.name.endswith(".gz") else ".nii"
        place = folder / f"{kind}s" / f"{case.patient}{ending}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(file.resolve())
        entry[kind] = f"./{kind}s/{place.name}"
    return entry


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
