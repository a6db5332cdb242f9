"""A real download in place of phantoms: its patients dealt to the grid's sites, the same test patients for all.

Every site set of the grid is a split of one data set by one seed (secfed.data.splits), so a test patient of one is a
test patient of all, and nobody trains on one. A site of share 1 has half of its modality's training patients; "private"
sites share theirs evenly. Sites that are marked as generated stay phantoms: what is pretrained on belongs to nobody.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.utility.grid_file import Grid, SiteTable
from secfed.data.cases import LABEL_MAPS, Modality
from secfed.data.readers import DataSet, read_data_set
from secfed.data.site_data import unlabelled_by_task
from secfed.data.splits import SplitRequest, deal_patients, write_splits
from secfed.errors import DataError

FOLDER = "data"
TESTS = "tests"
TEST_SHARE = 0.25
_SITES_PER_MODALITY = 2
_SMALLEST_UNIT = 1


@dataclass(frozen=True, kw_only=True)
class RealData:
    """The task that the labels are of, and folders relative to the study: per site set and site, and per modality."""

    task: str
    sites: Mapping[str, Mapping[str, str]]
    tests: Mapping[str, str]


def split_real(source: Path, grid: Grid, *, study: Path) -> RealData:
    """Deal the patients of `source`; what was dealt before is found again.

    Raises:
        DataError: the folder cannot be read, its labels are of no known task, or a modality has too few patients.
    """
    data_set = read_data_set(source)
    task = task_of(data_set, source=source)
    available = _training_patients(data_set)
    tested = write_splits(source, study / FOLDER / TESTS, _request(dict.fromkeys(available, (1,))))
    folders = {
        name: _site_folders(name, source, grid, available, study=study)
        for name, sites in grid.table.site_sets.items()
        if {Modality(site.modality) for site in sites if not site.generated} <= set(available)
    }
    tests = {name.value: f"{FOLDER}/{TESTS}/test-{name.value.lower()}" for name in available}
    missing = [path for path in tested.values() if not path.exists()]
    if missing:
        raise DataError(f"{missing[0]}: the split was not written")
    return RealData(task=task, sites=folders, tests=tests)


def task_of(data_set: DataSet, *, source: Path) -> str:
    """The task whose structures were drawn in every labelled case: a study compares methods, not labels.

    Raises:
        DataError: of no task all were.
    """
    for name, unlabelled in unlabelled_by_task(data_set).items():
        if not unlabelled:
            return name
    known = "; ".join(f"{name}: {', '.join(labels.organs)}" for name, labels in LABEL_MAPS.items())
    raise DataError(f"{source}: its labels are of no task that is known here ({known})")


def _training_patients(data_set: DataSet) -> dict[Modality, int]:
    """Patients per modality beside the test share."""
    found = {}
    for modality in Modality:
        cases = [case for case in (*data_set.training, *data_set.validation, *data_set.test) if case.label is not None]
        if not any(case.modality is modality for case in cases):
            continue
        dealt = deal_patients(data_set, _request({modality: 1}))
        found[modality] = len(dealt[f"{modality.value.lower()}-1"])
    return found


def _site_folders(
    name: str, source: Path, grid: Grid, available: Mapping[Modality, int], *, study: Path
) -> dict[str, str]:
    """Folders of a site set's real sites; sites that another set has too are that set's."""
    sites = [site for site in grid.table.site_sets[name] if not site.generated]
    home = next(key for key, others in grid.table.site_sets.items() if set(sites) <= set(others))
    at_home = [
        site for site in grid.table.site_sets[home] if not site.generated and Modality(site.modality) in available
    ]
    if not sites:
        return {}
    sizes: dict[Modality, list[int]] = {}
    places: dict[str, str] = {}
    for site in at_home:
        modality = Modality(site.modality)
        own = sizes.setdefault(modality, [])
        own.append(_size(site, at_home, available[modality]))
        places[site.name] = f"{FOLDER}/{home}/{modality.value.lower()}-{len(own)}"
    write_splits(source, study / FOLDER / home, _request({key: tuple(found) for key, found in sizes.items()}))
    return {site.name: places[site.name] for site in sites}


def _size(site: SiteTable, sites: list[SiteTable], available: int) -> int:
    if site.private:
        return max(_SMALLEST_UNIT, available // sum(other.private for other in sites))
    return max(_SMALLEST_UNIT, int(site.share * available / _SITES_PER_MODALITY))


def _request(sites: Mapping[Modality, int | tuple[int, ...]]) -> SplitRequest:
    return SplitRequest(sites=sites, test_share=TEST_SHARE)
