"""`secfed run --cache`: what was prepared before a run is not prepared again, and several runs may share it."""

import functools
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tomli_w
from command_line import call
from small_federation import config, tree

from secfed.data.prepared_cache import load_entry
from secfed.errors import ConfigError, DataError, RunFolderError
from secfed.experiment.data import prepare_data
from secfed.experiment.run import Progress, run_experiment
from secfed.experiment.run_folder import RunFolder

SILENT = Progress(
    data_started=lambda _: None, volume_done=lambda _: None, jobs_started=lambda _: None, job_moved=lambda _: None
)


@pytest.fixture
def secfed(monkeypatch, capfd):
    return functools.partial(call, monkeypatch, capfd, columns=200)


def write(path: Path, content: dict) -> Path:
    path.write_text(tomli_w.dumps(content))
    return path


def state(cache: Path) -> dict[str, int]:
    return {str(path.relative_to(cache)): path.stat().st_mtime_ns for path in cache.rglob("*")}


def run(run_config, out: Path, *, cache: Path | None = None, resume: bool = False):
    return run_experiment(
        run_config, out=out, engine="in_process", resume=resume, cores=1, progress=SILENT, cache=cache
    )


def test_a_run_takes_what_prepare_left_and_trains_the_same_model(secfed, scans, tmp_path):
    path = write(tmp_path / "run.toml", tree(scans, federation={"rounds": 1}))
    cache = tmp_path / "cache"
    code, out, _ = secfed("data", "prepare", "--config", path, "--cache", cache, "--jobs", 1, "--json")
    assert (code, json.loads(out)["taken_from_cache"]) == (0, 0)
    before = state(cache)
    assert len(list(cache.iterdir())) == json.loads(out)["scans"] == 13
    code, out, _ = secfed("run", path, "--out", tmp_path / "shared", "--cache", cache, "--cores", 1, "--json")
    assert code == 0
    assert state(cache) == before
    assert (tmp_path / "shared" / "cache").resolve() == cache
    assert not list((tmp_path / "shared").rglob("image.npy"))
    alone = run(config(scans, federation={"rounds": 1}), tmp_path / "alone")
    record = json.loads((tmp_path / "shared" / "run.json").read_text())
    assert [job["model_hash"] for job in record["jobs"]] == [job.model_hash for job in alone.jobs]
    assert not (tmp_path / "alone" / "cache").is_symlink()
    assert {entry.name for entry in (tmp_path / "alone" / "cache").iterdir()} == {
        entry.name for entry in cache.iterdir()
    }


def test_a_run_that_goes_on_keeps_its_cache(scans, tmp_path):
    run_config, caches = config(scans), [tmp_path / name for name in ("one", "other")]
    for cache in caches:
        cache.mkdir()
    with RunFolder(tmp_path / "run") as folder:
        folder.claim(run_config, resume=False, cache=caches[0])
        assert folder.cache.resolve() == caches[0]
    for cache in (None, caches[0]):
        with RunFolder(tmp_path / "run") as folder:
            folder.claim(run_config, resume=True, cache=cache)
            assert folder.cache.resolve() == caches[0]
    with RunFolder(tmp_path / "run") as folder, pytest.raises(RunFolderError, match=rf"begun with --cache {caches[0]}"):
        folder.claim(run_config, resume=True, cache=caches[1])
    with RunFolder(tmp_path / "own") as folder:
        folder.claim(run_config, resume=False)
        folder.cache.mkdir()
    with RunFolder(tmp_path / "own") as folder, pytest.raises(RunFolderError, match="begun with a cache of its own"):
        folder.claim(run_config, resume=True, cache=caches[0])


def test_a_shared_cache_that_was_removed_is_made_again(scans, tmp_path):
    run_config, cache = config(scans), tmp_path / "cache"
    for resume in (False, True):
        with RunFolder(tmp_path / "run") as folder:
            folder.claim(run_config, resume=resume, cache=None if resume else cache)
            assert cache.is_dir()
        cache.rmdir()


def test_a_run_killed_before_its_cache_was_linked_goes_on(scans, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    with RunFolder(tmp_path / "run") as folder:
        folder.claim(config(scans), resume=False)
    with RunFolder(tmp_path / "run") as folder:
        folder.claim(config(scans), resume=True, cache=cache)
        assert folder.cache.resolve() == cache


def test_a_cache_in_the_run_folder_is_refused_and_nothing_is_written(scans, tmp_path):
    with pytest.raises(ConfigError, match="lies in the run folder"):
        run(config(scans), tmp_path / "run", cache=tmp_path / "run" / "cache")
    assert not (tmp_path / "run").exists()


def test_a_cache_that_cannot_be_written_is_named_before_the_run_folder_is_made(scans, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match=r"cache: the cache cannot be written"):
        run(config(scans), tmp_path / "run", cache=tmp_path / "cache")
    assert not (tmp_path / "run").exists()


def test_runs_at_the_same_time_share_a_cache(scans, tmp_path):
    run_config, cache = config(scans), tmp_path / "cache"
    folders = []
    for name in ("a", "b"):
        with RunFolder(tmp_path / name) as folder:
            folder.claim(run_config, resume=False, cache=cache)
            folders.append(folder.path)
    with ThreadPoolExecutor(2) as pool:
        list(
            pool.map(
                lambda folder: prepare_data(run_config, run_folder=folder, workers=1, on_volume=lambda _: None), folders
            )
        )
    entries = list(cache.iterdir())
    assert len(entries) == 13
    assert all(load_entry(entry, labelled=True) is not None for entry in entries)


def test_the_data_of_a_run_are_inspected_and_prepared_by_its_own_file(secfed, scans, tmp_path):
    base = tree(Path(os.path.relpath(scans, tmp_path)))
    base["sites"][1]["organs"] = ["liver"]
    base["test"][0] = {"name": "made", "phantom": {"protocol": "ct-any", "test": 1}}
    path = write(tmp_path / "run.toml", base)
    code, out, _ = secfed("data", "inspect", "--config", path, "--json")
    found = {one["name"]: one for one in json.loads(out)["data_sets"]}
    assert (code, list(found)) == (0, ["ct-a", "ct-b", "mr-a", "mr-b", "test-mr"])
    assert found["ct-a"]["organs"]["spleen"]["drawn"] == 2
    assert found["ct-b"]["organs"]["spleen"]["drawn"] == 0


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--layout", "table"), "those of a run are in"),
        (("--organs", "liver"), "those of a run are in"),
        ((), "--cache FOLDER is needed"),
    ],
)
def test_a_run_s_own_keys_are_not_overridden(secfed, scans, tmp_path, options, word):
    code, _, err = secfed("data", "prepare", "--config", write(tmp_path / "run.toml", tree(scans)), *options)
    assert (code, word in err) == (2, True)


def test_a_plan_alone_names_no_data(secfed, tmp_path):
    code, _, err = secfed("data", "inspect", "--config", write(tmp_path / "plan.toml", {"task": "abdomen"}))
    assert (code, "or neither, and the TOML of a run as --config" in err) == (2, True)


def test_a_run_of_phantoms_has_nothing_to_look_at_yet(secfed, tmp_path):
    site = {"modality": "CT", "phantom": {"protocol": "ct-any", "train": 1}}
    base = {"sites": [{"name": name, **site} for name in ("a", "b")]}
    code, _, err = secfed("data", "inspect", "--config", write(tmp_path / "run.toml", base))
    assert (code, "all its data sets are phantoms" in err) == (2, True)
