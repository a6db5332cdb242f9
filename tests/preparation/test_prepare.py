"""The cache is filled before a run: several at a time, whole entries only, one bad case hides no other."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
from small_volumes import save_image, save_label, save_volume
from table_folder import write_lines, write_site, write_table

from clients.site import _site_cases
from secfed.config import PreprocessingConfig
from secfed.data import prepared_cache
from secfed.data.cases import ABDOMEN
from secfed.data.prepared_cache import load_entry
from secfed.data.preprocessing import prepare
from secfed.data.readers import read_data_set
from secfed.data.site_data import FolderEntry
from secfed.errors import DataError
from secfed.preparation import prepare as preparation
from secfed.preparation.prepare import CachedEntry, Preparation, PreparationOrder, cpus_available, prepare_data
from secfed.site_config import load_site_file

CONFIG = PreprocessingConfig(spacing_mm=(5.0, 3.0, 3.0))
ROOT = Path(__file__).parents[2]


def fill(*folders: Path, cache: Path, jobs: int = 1, task: str | None = None, at_site: bool = False) -> Preparation:
    order = PreparationOrder(
        entries=tuple(CachedEntry(data=FolderEntry(folder=folder), cache=cache) for folder in folders),
        config=CONFIG,
        task=task,
        jobs=jobs,
        at_site=at_site,
    )
    return prepare_data(order, on_start=lambda _: None, on_case=lambda _: None)


def contents(cache: Path) -> dict[str, bytes]:
    return {str(path.relative_to(cache)): path.read_bytes() for path in cache.rglob("*") if path.is_file()}


def test_training_finds_what_was_prepared_and_writes_nothing(tmp_path: Path):
    site = write_site(
        tmp_path / "site",
        first=write_table(tmp_path / "first"),
        second=write_table(tmp_path / "second", ("anna", "emil"), split="validation"),
    )
    file = load_site_file(site)
    order = PreparationOrder(
        entries=tuple(CachedEntry(data=data, cache=data.cache) for data in file.data),
        config=CONFIG,
        task="abdomen",
        jobs=1,
        at_site=True,
    )
    found = prepare_data(order, on_start=lambda _: None, on_case=lambda _: None)
    assert (found.scans, found.patients, found.failed) == (6, 5, False)
    before = {path: path.stat().st_mtime_ns for path in file.data[0].cache.rglob("*")}
    cases = _site_cases(file, CONFIG, "abdomen")
    assert (cases.examples, len(cases.validation)) == (4, 2)
    assert {path: path.stat().st_mtime_ns for path in file.data[0].cache.rglob("*")} == before


def test_two_processes_write_the_same_bytes_as_one(tmp_path: Path):
    folder = write_table(tmp_path / "scans")
    save_label(folder / "1-label.nii.gz", 7)
    found = [fill(folder, cache=tmp_path / str(jobs), jobs=jobs) for jobs in (1, 2)]
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert len(contents(tmp_path / "1")) == 9
    one, two = ({**each.as_dict(), "seconds": 0, "jobs": 0, "caches": []} for each in found)
    assert one == two
    assert one["cannot_be_used"] == 1


def test_prepared_voxels_are_what_preprocessing_says_bit_for_bit(tmp_path: Path):
    folder = write_table(tmp_path / "scans")
    fill(folder, cache=tmp_path / "cache")
    data_set = read_data_set(folder)
    for case in data_set.cases:
        kept, fresh = (
            prepare(case, data_set=data_set, label_map=ABDOMEN, config=CONFIG, cache=tmp_path / name)
            for name in ("cache", "other")
        )
        assert kept.image.dtype == np.float32
        np.testing.assert_array_equal(kept.image, fresh.image)
        np.testing.assert_array_equal(kept.label, fresh.label)


def test_a_second_call_takes_what_is_there(tmp_path: Path):
    folder = write_table(tmp_path / "scans")
    first = fill(folder, cache=tmp_path / "cache")
    assert (first.scans, first.taken) == (4, 0)
    assert first.bytes_written == sum(len(data) for data in contents(tmp_path / "cache").values())
    save_label(folder / "2-label.nii.gz", 2)
    second = fill(folder, cache=tmp_path / "cache")
    assert (second.scans, second.taken) == (4, 3)
    assert 0 < second.bytes_written < first.bytes_written


def test_one_bad_case_is_named_and_the_rest_goes_on(tmp_path: Path):
    folder = write_table(tmp_path / "scans")
    save_volume(folder / "1.nii.gz", np.full((6, 5, 4), np.nan, np.float32))
    found = fill(folder, cache=tmp_path / "cache")
    (problem,) = found.problems
    assert (problem.case, problem.file.name, problem.severity) == ("bert", "1.nii.gz", "error")
    assert problem.todo
    assert (found.scans, found.patients, found.failed) == (3, 3, True)


def test_a_data_set_that_cannot_be_read_is_named_and_the_others_go_on(tmp_path: Path):
    found = fill(tmp_path / "absent", write_table(tmp_path / "scans"), cache=tmp_path / "cache")
    assert [problem.file.name for problem in found.problems] == ["absent"]
    assert (found.scans, found.failed) == (4, True)


def test_what_no_run_reads_is_not_prepared(tmp_path: Path):
    write_table(tmp_path)
    for name in ("t", "u"):
        save_image(tmp_path / f"{name}.nii.gz", 9)
    lines = (
        "anna,0.nii.gz,0-label.nii.gz,CT,training",
        "bert,1.nii.gz,1-label.nii.gz,CT,test",
        "tim,t.nii.gz,,CT,test",
        "uwe,u.nii.gz,,CT,training",
    )
    write_lines(tmp_path, lines)
    found = fill(tmp_path, cache=tmp_path / "cache")
    assert found.scans == 2
    assert [(problem.case, problem.reason) for problem in found.problems] == [
        ("uwe", "a training case without a label")
    ]
    assert fill(tmp_path, cache=tmp_path / "cache", at_site=True).scans == 1


def test_scans_of_one_patient_count_as_one_patient_and_one_content_as_one_entry(tmp_path: Path):
    folder = write_table(tmp_path / "scans", ("anna", "anna", "bert"))
    (folder / "2.nii.gz").write_bytes((folder / "0.nii.gz").read_bytes())
    found = fill(folder, cache=tmp_path / "cache")
    assert (found.scans, found.patients) == (3, 2)
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert found.bytes_written == sum(len(data) for data in contents(tmp_path / "cache").values())


def test_a_cache_that_cannot_be_written_is_said_before_any_scan_is_read(tmp_path: Path):
    folder = write_table(tmp_path / "scans")
    (tmp_path / "cache").touch()
    with pytest.raises(DataError, match=r"cache: the cache cannot be written .*: let this user write there"):
        fill(folder, cache=tmp_path / "cache")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_said(tmp_path: Path):
    (tmp_path / "cache").mkdir(mode=0o500)
    with pytest.raises(DataError, match="Permission denied"):
        fill(write_table(tmp_path / "scans"), cache=tmp_path / "cache")


def test_a_killed_process_of_the_pool_is_said_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def killed(*_: object) -> None:
        raise BrokenProcessPool("a child was killed")

    monkeypatch.setattr(preparation, "as_completed", killed)
    with pytest.raises(DataError, match="use fewer --jobs"):
        fill(write_table(tmp_path / "scans"), cache=tmp_path / "cache", jobs=2)


def test_what_a_killed_process_left_is_removed_once_it_is_old(tmp_path: Path):
    old, young = (tmp_path / "cache" / f".new-{age}" for age in ("old", "young"))
    for left in (old, young):
        (left / "entry").mkdir(parents=True)
    long_ago = time.time() - 2 * prepared_cache._ABANDONED_SECONDS
    os.utime(old, (long_ago, long_ago))
    fill(write_table(tmp_path / "scans"), cache=tmp_path / "cache")
    assert (old.exists(), young.exists()) == (False, True)


def test_a_kill_at_any_moment_leaves_whole_entries_and_the_next_call_goes_on(tmp_path: Path):
    lines = []
    for number in range(8):
        save_volume(tmp_path / f"{number}.nii", np.random.default_rng(number).normal(0, 90, (48, 48, 48)))
        save_volume(tmp_path / f"{number}-label.nii", np.ones((48, 48, 48), np.uint8))
        lines.append(f"p{number},{number}.nii,{number}-label.nii,CT,training")
    write_lines(tmp_path, lines)
    cache = tmp_path / "cache"
    command = [sys.executable, "-m", "secfed.cli", "data", "prepare", str(tmp_path), "--cache", str(cache)]
    process = subprocess.Popen(
        [*command, "--jobs", "2"], env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not list(cache.glob("[0-9a-f]*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = list(cache.glob("[0-9a-f]*"))
    assert left
    assert all(load_entry(entry, labelled=True) is not None for entry in left)
    done = subprocess.run(
        [*command, "--jobs", "1"], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False
    )
    assert done.returncode == 0
    assert len(list(cache.glob("[0-9a-f]*"))) == 8


def test_the_default_number_of_jobs_is_what_this_process_may_use():
    assert 1 <= cpus_available() <= (os.cpu_count() or 1)
