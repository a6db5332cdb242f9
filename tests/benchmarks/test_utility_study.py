"""The utility benchmark over real runs, tiny: resumed, damaged, failed, and the study that comes of it."""

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w

from benchmarks.utility.__main__ import Bench
from benchmarks.utility.cells import RUNS, cells_of
from benchmarks.utility.grid_file import load_grid
from benchmarks.utility.worker import RunOrder, Watch, completed, train_all, train_one
from secfed.config import RunConfig
from secfed.results import FILE_NAME, RunRecord
from secfed.study.record import FILE_NAME as STUDY
from secfed.study.record import StudyRecord

SMALL = {
    "model": {"channels": [4, 8], "residual_units": 0},
    "training": {"steps_per_round": 1, "batch_size": 2},
    "federation": {"rounds": 2, "min_cohort": 1},
    "protection": {"mode": "plain"},
}
TREE = {
    "name": "tiny",
    "pictured": ["asked/gin"],
    "scales": {"only": {"seeds": [0], "cases": 1, "validation_cases": 0, "test_cases": 1, "private_cases": 1}},
    "site_sets": {
        "two": [
            {"name": "ct-a", "modality": "CT", "protocol": "ct-portal"},
            {"name": "mr-a", "modality": "MR", "protocol": "mr-t1-gre"},
        ]
    },
    "test_sets": {
        "abdomen": [
            {"name": "test-ct", "modality": "CT", "protocol": "ct-any"},
            {"name": "test-mr", "modality": "MR", "protocol": "mr-any"},
        ]
    },
    "methods": {"none": {"method": "none"}, "gin": {"method": "gin"}},
    "profiles": {"run": SMALL},
    "experiments": [
        {
            "key": "asked",
            "title": "Asked",
            "question": "Does it run?",
            "kind": "methods",
            "sites": "two",
            "reference": "none",
            "variants": [
                {"name": "none"},
                {"name": "gin", "method": "gin"},
                {"name": "typo", "method": "gim"},
                {"name": "starts", "start": "gin"},
                {"name": "starts from another network", "start": "gin", "set": {"model": {"channels": [4, 8, 16]}}},
            ],
        }
    ],
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study that was trained once by two workers: (folder, record)."""
    folder = tmp_path_factory.mktemp("utility")
    (folder / "grid.toml").write_text(tomli_w.dumps(TREE))
    return folder, run(folder)


def bench(folder):
    grid = load_grid(folder / "grid.toml", scale="only")
    out = folder / "study"
    out.mkdir(exist_ok=True)
    return Bench(grid, cells_of(grid), asked={"asked"}, study=out, leakage=None, clock=0.0)


def run(folder, *, cores=2):
    made = bench(folder)
    made.train(cores=cores, engine="in_process")
    return made.finish()


def by_variant(record):
    experiment = record.experiment("asked")
    return {variant.name: record.cell(variant.cells[0]) for variant in experiment.variants}


def test_what_can_be_trained_is_and_the_holes_say_why(study):
    folder, record = study
    cells = by_variant(record)
    assert {name for name, cell in cells.items() if cell.status == "complete"} == {"none", "gin", "starts"}
    assert "did you mean 'gin'" in cells["typo"].reason
    assert "another architecture" in cells["starts from another network"].reason
    assert {scores.modality for scores in cells["gin"].scores} == {"CT", "MR"}
    assert cells["gin"].job.model_hash != cells["none"].job.model_hash
    assert cells["gin"].peak_memory_bytes > 2**20
    page = (folder / "study" / "report.html").read_text(encoding="utf-8")
    assert "did you mean" in page


def test_the_record_is_read_back_as_it_was(study):
    folder, record = study
    assert StudyRecord.load(folder / "study") == record


def test_every_figure_of_a_cell_comes_from_its_run(study):
    folder, record = study
    cell = by_variant(record)["gin"]
    run_folder = folder / "study" / RUNS / cell.key.removesuffix("-federated")
    kept = RunRecord.load(run_folder)
    assert cell.job == kept.job("federated")
    for scores in cell.scores:
        for organ, values in scores.dice.items():
            known = [value for value in values if value is not None]
            row = next(
                r for r in kept.results if (r.test_modality, r.organ, r.metric) == (scores.modality, organ, "dice")
            )
            assert row.value == (pytest.approx(sum(known) / len(known), abs=1e-4) if known else None)


def test_a_second_start_trains_nothing_again(study, monkeypatch):
    folder, record = study
    times = {path: path.stat().st_mtime_ns for path in (folder / "study").rglob(f"{RUNS}/*/{FILE_NAME}")}
    assert len(times) == 3
    again = run(folder)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert [cell.status for cell in again.cells] == [cell.status for cell in record.cells]


@pytest.fixture
def copied(study, tmp_path):
    shutil.copytree(study[0], tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def test_a_half_written_cell_is_finished_to_the_same_model(study, copied):
    cell = by_variant(study[1])["gin"]
    folder = copied / "study" / RUNS / cell.key.removesuffix("-federated")
    (folder / FILE_NAME).unlink()
    (folder / "jobs" / "federated" / "scores.json").unlink()
    found = by_variant(run(copied, cores=1))["gin"]
    assert found.status == "complete"
    assert found.job.model_hash == cell.job.model_hash


def test_a_cell_with_damaged_results_is_named_and_the_rest_stands(study, copied):
    cell = by_variant(study[1])["none"]
    folder = copied / "study" / RUNS / cell.key.removesuffix("-federated")
    (folder / FILE_NAME).write_text("{")
    found = by_variant(run(copied, cores=1))
    assert found["none"].status == "failed"
    assert FILE_NAME in found["none"].reason
    assert found["gin"].status == "complete"


def test_a_folder_of_another_configuration_is_not_overwritten(study, copied):
    cell = by_variant(study[1])["none"]
    folder = copied / "study" / RUNS / cell.key.removesuffix("-federated")
    (folder / FILE_NAME).unlink()
    other = by_variant(study[1])["gin"]
    text = (copied / "study" / RUNS / other.key.removesuffix("-federated") / "config.toml").read_text()
    (folder / "config.toml").write_text(text)
    found = by_variant(run(copied, cores=1))["none"]
    assert found.status == "failed"
    assert "another configuration" in found.reason


def test_a_missing_baseline_leaves_a_hole_and_no_comparison(copied):
    folder = copied / "study"
    record = StudyRecord.load(folder)
    key = record.experiment("asked").variants[0].cells[0]
    shutil.rmtree(folder / RUNS / key.removesuffix("-federated"))
    made = bench(copied)
    found = made.finish()
    assert by_variant(found)["none"].status == "missing"
    assert "not trained yet" in (folder / "report.html").read_text(encoding="utf-8")


def test_a_run_folder_that_cannot_be_read_is_named(copied):
    folder = copied / "study"
    made = bench(copied)
    victim = next(cell for cell in made.cells if cell.variant == "none")
    shutil.rmtree(folder / RUNS / victim.run_key)
    (folder / RUNS / victim.run_key).mkdir()
    (folder / RUNS / victim.run_key / "config.toml").write_bytes(b"\xff")
    made.train(cores=1, engine="in_process")
    found = by_variant(made.finish())
    assert found["none"].status == "failed"
    assert "cannot be read" in found["none"].reason
    assert found["gin"].status == "complete"


def test_a_process_that_dies_takes_its_run_alone(copied):
    folder = copied / "study"
    made = bench(copied)
    orders = [
        RunOrder(key=cell.run_key, config=cell.config, needs=cell.needs)
        for cell in made.cells
        if cell.variant in ("none", "gin")
    ]
    for order in orders:
        shutil.rmtree(folder / RUNS / order.key)
    started = []

    def kill_the_first(_slot, order):
        started.append(order.key)
        if len(started) == 1:
            for child in multiprocessing.active_children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGKILL)

    watch = Watch(started=kill_the_first, ended=lambda *_: None, working=lambda _: None)
    outcomes = train_all(orders, study=folder, cores=1, engine="in_process", watch=watch)
    assert "its process died" in outcomes[started[0]].reason
    assert outcomes[started[1]].reason is None
    # The one that lost its process is trained by the next start.
    quiet = Watch(started=lambda *_: None, ended=lambda *_: None, working=lambda _: None)
    again = train_all(orders, study=folder, cores=1, engine="in_process", watch=quiet)
    assert {outcome.reason for outcome in again.values()} == {None}


def test_a_run_that_starts_from_one_outside_the_study_is_named_and_nobody_waits(copied):
    folder = copied / "study"
    made = bench(copied)
    starts = next(cell for cell in made.cells if cell.variant == "starts")
    for name in (starts.run_key, starts.needs):
        shutil.rmtree(folder / RUNS / name)
    quiet = Watch(started=lambda *_: None, ended=lambda *_: None, working=lambda _: None)
    order = RunOrder(key=starts.run_key, config=starts.config, needs=starts.needs)
    outcomes = train_all([order], study=folder, cores=2, engine="in_process", watch=quiet)
    assert "no part of this study" in outcomes[order.key].reason


def test_train_one_never_raises(tmp_path):
    cells = cells_of(load_grid_of(tmp_path))
    good = next(cell for cell in cells if cell.variant == "none")
    broken: RunConfig = good.config.model_copy(update={"sites": ()})
    (tmp_path / RUNS).mkdir()
    outcome = train_one(RunOrder(key="broken", config=broken, needs=None), tmp_path)
    assert outcome.reason is not None
    assert not completed(tmp_path, "broken")


def load_grid_of(folder):
    (folder / "grid.toml").write_text(tomli_w.dumps(TREE))
    return load_grid(folder / "grid.toml", scale="only")


@pytest.mark.study
def test_the_smoke_scale_runs_everything(tmp_path):
    command = [sys.executable, "-m", "benchmarks.utility", "--scale", "smoke", "--out", str(tmp_path / "study")]
    command += ["--json", "rows.json", "--cores", "1", "--figure", "frontier.svg", "--markdown", "headline.md"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr + done.stdout[-3000:]
    record = StudyRecord.load(tmp_path / "study")
    assert {cell.status for cell in record.cells} == {"complete"}
    hashes = {
        variant.name: record.cell(variant.cells[0]).job.model_hash
        for variant in record.experiment("protection").variants
    }
    assert len(hashes) == 3
    assert len(set(hashes.values())) == 1
    assert (tmp_path / "study" / STUDY).exists()
    assert "<svg" in (tmp_path / "frontier.svg").read_text()
    assert json.loads((tmp_path / "rows.json").read_text())
    assert "| clean + mixed maps |" in (tmp_path / "headline.md").read_text()
