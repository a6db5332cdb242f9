"""The command line: bad input is named, ends with its exit code before any training, and overwrites nothing."""

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from command_line import call
from small_federation import config, tree, write_data_set, write_volume

from secfed.errors import RoundAborted
from secfed.experiment import run as run_module
from secfed.experiment.data import data_tasks, prepare_data
from secfed.experiment.plans import job_specs
from secfed.experiment.provision import provision_job
from secfed.experiment.run_folder import RunFolder
from secfed.results import RunRecord


@pytest.fixture
def secfed(monkeypatch, capfd):
    """Run the program in this process: (exit code, standard output, standard error)."""
    return functools.partial(call, monkeypatch, capfd, columns=200)


@pytest.fixture
def no_training(monkeypatch):
    """Fails the test where a run gets as far as its jobs."""
    monkeypatch.setattr(run_module, "run_jobs", lambda *_, **__: pytest.fail("training was started"))


def write(path, content):
    path.write_text(tomli_w.dumps(content))
    return path


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} if folder.exists() else None


COMMANDS = [
    ("demo",),
    ("run",),
    ("preflight",),
    ("report",),
    ("predict",),
    ("data", "phantom"),
    ("data", "inspect"),
    ("data", "prepare"),
    ("data", "convert"),
    ("data", "split"),
    ("audit", "verify"),
    ("audit", "attack"),
    ("site", "runs"),
    ("site", "export"),
    ("privacy", "account"),
    ("privacy", "calibrate"),
]


@pytest.mark.parametrize("command", [(), ("data",), ("audit",), ("site",), ("privacy",), *COMMANDS], ids=" ".join)
def test_every_command_explains_itself(secfed, command):
    code, out, err = secfed(*command, "--help")
    assert (code, err) == (0, "")
    assert "Usage" in out


def test_every_command_that_does_something_offers_json_and_an_example(secfed):
    for command in COMMANDS:
        _, out, _ = secfed(*command, "--help")
        assert "--json" in out
        assert "Example: secfed" in out


BAD_CONFIGURATIONS = {
    "unknown key": ({"training": {"learning_rat": 0.1}}, ["'training.learning_rat'", "did you mean 'learning_rate'?"]),
    "unknown table": ({"trainin": {"batch_size": 2}}, ["'trainin'", "did you mean 'training'?"]),
    "wrong type": ({"training": {"batch_size": "many"}}, ["training.batch_size = 'many'"]),
    "out of range": ({"federation": {"rounds": 0}}, ["federation.rounds = 0"]),
    "unknown choice": (
        {"protection": {"mode": "magic"}},
        ["protection.mode = 'magic'", "'plain', 'masked' or 'encrypted'"],
    ),
    "threshold": ({"protection": {"threshold": 5}}, ["protection.threshold = 5", "only 4 sites"]),
    "min_cohort": ({"federation": {"min_cohort": 6}}, ["4 sites", "federation.min_cohort = 6"]),
    "no sites": ({"sites": []}, ["0 sites"]),
    "site twice": ({"sites": [{"name": "a", "modality": "CT", "folder": "x"}] * 2}, ["['a'] stand twice"]),
    "no source": ({"sites": [{"name": "a", "modality": "CT"}]}, ["folder = 'PATH' or phantom"]),
    "patch": ({"training": {"patch_size": [15, 16]}}, ["patch_size = [15, 16]", "multiples of 2"]),
}


@pytest.mark.parametrize("name", BAD_CONFIGURATIONS)
def test_a_bad_configuration_is_named_and_nothing_is_written(secfed, no_training, scans, tmp_path, name):
    changes, words = BAD_CONFIGURATIONS[name]
    path = write(tmp_path / "run.toml", tree(scans, **changes))
    code, out, err = secfed("run", path, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    for word in (str(path), *words):
        assert word in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "word"),
    [(None, "no such file"), (b"[training\n", "not a readable TOML"), (b"\xff\xfe", "not a readable")],
)
def test_a_file_that_is_no_toml_is_named(secfed, tmp_path, content, word):
    path = tmp_path / "run.toml"
    if content is not None:
        path.write_bytes(content)
    code, _, err = secfed("run", path, "--out", tmp_path / "out")
    assert code == 2
    assert str(path) in err
    assert word in err


def test_a_folder_as_configuration_is_named(secfed, tmp_path):
    code, _, err = secfed("run", tmp_path, "--out", tmp_path / "out")
    assert code == 2
    assert str(tmp_path) in err


def test_an_unknown_engine_is_named(secfed, scans, tmp_path):
    path = write(tmp_path / "run.toml", tree(scans))
    code, _, err = secfed("run", path, "--out", tmp_path / "out", "--engine", "warp")
    assert code == 2
    assert "'warp'" in err
    assert "in_process and ray" in err
    assert not (tmp_path / "out").exists()


def remove_volume(folder):
    (folder / "images" / "amos_0001.nii.gz").unlink()
    return "amos_0001.nii.gz"


def cut_volume(folder):
    path = folder / "images" / "amos_0001.nii.gz"
    path.write_bytes(path.read_bytes()[:200])
    return "amos_0001.nii.gz"


def unknown_label(folder):
    write_volume(folder / "labels" / "amos_0001.nii.gz", np.full((16, 16, 8), 9, np.uint8))
    return "amos_0001.nii.gz: holds the label value 9"


def other_task(folder):
    path = folder / "dataset.json"
    content = json.loads(path.read_text())
    content["labels"] = {value: f"rib {value}" for value in content["labels"]}
    path.write_text(json.dumps(content))
    return "does not annotate aorta, gallbladder"


def damaged_index(folder):
    (folder / "dataset.json").write_text("{")
    return "dataset.json"


def other_modality(folder):
    shutil.rmtree(folder)
    write_data_set(folder, modality="MR", seed=0)
    return "amos_0501.nii.gz"


def no_labels(folder):
    path = folder / "dataset.json"
    content = json.loads(path.read_text())
    for split in ("training", "validation"):
        content[split] = [{"image": entry["image"]} for entry in content[split]]
    path.write_text(json.dumps(content))
    return "no labelled training cases"


def no_training_cases(folder):
    path = folder / "dataset.json"
    content = json.loads(path.read_text())
    content["training"] = []
    path.write_text(json.dumps(content))
    return "no labelled training cases"


SPOILS = [
    remove_volume,
    cut_volume,
    unknown_label,
    other_task,
    damaged_index,
    other_modality,
    no_labels,
    no_training_cases,
]


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__)
def test_bad_scans_are_named_before_any_training(secfed, no_training, scans, tmp_path, spoil):
    data = tmp_path / "data"
    shutil.copytree(scans, data)
    word = spoil(data / "ct-a")
    path = write(tmp_path / "run.toml", tree(data))
    code, out, err = secfed("run", path, "--out", tmp_path / "out", "--cores", "1", "--json")
    assert (code, out) == (3, "")
    assert word in err
    assert str(data / "ct-a") in err
    assert "Traceback" not in err
    assert not (tmp_path / "out" / "jobs").exists()


def test_a_test_set_whose_modality_cannot_be_told_is_named(secfed, no_training, scans, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(scans, data)
    index = data / "test-ct" / "dataset.json"
    index.write_text(index.read_text().replace("amos_0001", "patient_a"))
    for kind in ("images", "labels"):
        (data / "test-ct" / kind / "amos_0001.nii.gz").rename(data / "test-ct" / kind / "patient_a.nii.gz")
    path = write(tmp_path / "run.toml", tree(data))
    code, _, err = secfed("run", path, "--out", tmp_path / "out", "--cores", "1")
    assert code == 3
    assert "patient_a.nii.gz" in err
    assert "modality cannot be told" in err


def test_a_site_that_names_its_modality_needs_no_amos_ids(scans, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(scans, data)
    index = data / "ct-a" / "dataset.json"
    index.write_text(index.read_text().replace("amos_0001", "patient_a"))
    for kind in ("images", "labels"):
        (data / "ct-a" / kind / "amos_0001.nii.gz").rename(data / "ct-a" / kind / "patient_a.nii.gz")
    seen = []
    prepare_data(config(data), run_folder=tmp_path / "run", workers=1, on_volume=seen.append)
    assert len(data_tasks(config(data), run_folder=tmp_path)) == 6
    assert seen.count("ct-a") == 2


def test_a_relative_folder_is_taken_from_the_configuration_s_own_place(secfed, no_training, tmp_path):
    path = write(tmp_path / "run.toml", tree(Path("nowhere")))
    code, _, err = secfed("run", path, "--out", tmp_path / "out")
    assert code == 3
    assert str(tmp_path / "nowhere" / "ct-a") in err


def test_a_folder_that_holds_something_else_is_left_alone(secfed, no_training, scans, tmp_path):
    path = write(tmp_path / "run.toml", tree(scans))
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    before = files_of(out)
    for more in ((), ("--resume",)):
        code, _, err = secfed("run", path, "--out", out, *more)
        assert code == 4
        assert "no run folder" in err
        assert files_of(out) == before


def test_a_run_folder_that_cannot_be_made_is_named(secfed, no_training, scans, tmp_path):
    path = write(tmp_path / "run.toml", tree(scans))
    (tmp_path / "file").write_text("not a folder")
    code, _, err = secfed("run", path, "--out", tmp_path / "file" / "out")
    assert code == 4
    assert f"{tmp_path / 'file' / 'out'}: the run folder cannot be made" in err
    assert "Traceback" not in err


def test_there_is_nothing_to_resume_in_an_absent_folder(secfed, no_training, scans, tmp_path):
    path = write(tmp_path / "run.toml", tree(scans))
    code, _, err = secfed("run", path, "--out", tmp_path / "out", "--resume")
    assert code == 4
    assert "nothing to resume" in err
    assert not (tmp_path / "out").exists()


def test_one_folder_has_one_writer(secfed, no_training, scans, tmp_path):
    path = write(tmp_path / "run.toml", tree(scans))
    with RunFolder(tmp_path / "out") as run:
        run.claim(config(scans), resume=False)
        code, _, err = secfed("run", path, "--out", tmp_path / "out", "--resume")
    assert code == 4
    assert "another process is working" in err


def test_a_damaged_run_folder_is_named(secfed, no_training, scans, tmp_path):
    path = write(tmp_path / "run.toml", tree(scans))
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.toml").write_text("name = [")
    code, _, err = secfed("run", path, "--out", out, "--resume")
    assert code == 4
    assert str(out / "config.toml") in err


@pytest.mark.slow
def test_a_run_from_start_to_finish(secfed, scans, tmp_path):
    """One run, and what may be done with its folder afterwards."""
    content = tree(scans, references=["centralised"], federation={"validate_every": 1})
    path, out = write(tmp_path / "run.toml", content), tmp_path / "out"
    code, text, err = secfed("run", path, "--out", out, "--cores", "2", "--json")
    assert code == 0, err
    said = json.loads(text)
    assert set(said) == {"run", "report", "summary"}
    assert [row["model"] for row in said["summary"]["models"]] == ["federated", "centralised"]
    record = RunRecord.load(out)
    assert (record.job("federated").rounds, record.job("federated").survivors_min) == (2, 4)
    assert record.job("federated").protection_seconds > 0 == record.job("centralised").protection_seconds
    assert record.job("federated").samples_seen == record.job("centralised").samples_seen
    assert {point.metric for point in record.curves} == {"train_loss", "validation_dice"}
    assert "<html" in (out / "report.html").read_text()
    assert (out / "model.safetensors").stat().st_size > 1000

    before = files_of(out)
    code, _, err = secfed("run", path, "--out", out)
    assert code == 4
    assert "finished run" in err
    other = write(tmp_path / "other.toml", {**content, "seed": 4})
    for more in ((), ("--resume",)):
        code, _, err = secfed("run", other, "--out", out, *more)
        assert code == 4
        assert "another configuration" in err
    assert files_of(out) == before

    code, text, _ = secfed("run", path, "--out", out, "--resume", "--json")
    assert code == 0
    assert json.loads(text) == said
    assert {p: d for p, d in files_of(out).items() if p.name != "report.html"} == {
        p: d for p, d in before.items() if p.name != "report.html"
    }

    code, text, _ = secfed("report", out, "--out", tmp_path / "page.html", "--json")
    assert (code, json.loads(text)) == (0, {"report": str(tmp_path / "page.html")})
    code, text, _ = secfed("run", path, "--out", out, "--resume")
    assert code == 0
    for word in ("Federated", "Centralised", "Dice", "HD95", str(out / "report.html")):
        assert word in text


def test_an_aborted_round_ends_with_its_exit_code_and_the_way_to_the_sites_logs(secfed, scans, tmp_path, monkeypatch):
    path, out = write(tmp_path / "run.toml", tree(scans)), tmp_path / "out"

    def run_with_damage(orders, **more):
        job = provision_job(RunFolder(out), orders[0].config, job_specs(orders[0].config)[0])
        for folder in job.site_folders:
            (folder / "roster.cbor").write_bytes(b"damaged")
        return run_jobs(orders, **more)

    run_jobs = run_module.run_jobs
    monkeypatch.setattr(run_module, "run_jobs", run_with_damage)
    code, text, err = secfed("run", path, "--out", out, "--cores", "2", "--json")
    assert (code, text) == (RoundAborted.exit_code, "")
    assert "job 'federated': round 1 failed" in err
    assert "site.log" in err
    assert not (out / "run.json").exists()


def test_an_interrupted_run_says_how_to_go_on(secfed, scans, tmp_path, monkeypatch):
    path = write(tmp_path / "run.toml", tree(scans))

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "prepare_data", interrupt)
    code, _, err = secfed("run", path, "--out", tmp_path / "out")
    assert code == 130
    assert "--resume" in err


@pytest.mark.parametrize("missing", [True, False])
def test_a_report_of_what_is_no_run_is_refused(secfed, tmp_path, missing):
    folder = tmp_path / "run"
    if not missing:
        folder.mkdir()
    code, _, err = secfed("report", folder)
    assert code == 4
    assert str(folder) in err
    assert not (folder / "report.html").exists()


def test_phantom_volumes_are_written_and_counted(secfed, tmp_path):
    code, out, _ = secfed("data", "phantom", "--out", tmp_path / "p", "--ct", "1", "--mri", "1", "--json")
    assert code == 0
    assert json.loads(out) == {
        "folder": str(tmp_path / "p"),
        "task": "abdomen",
        "ct": 1,
        "mri": 1,
        "seed": 0,
        "population": "north",
    }
    assert len(list((tmp_path / "p").rglob("amos_*.nii.gz"))) == 4


def test_an_unknown_population_is_named(secfed, tmp_path):
    code, _, err = secfed("data", "phantom", "--out", tmp_path / "p", "--population", "atlantis")
    assert code == 2
    assert "atlantis" in err
    assert "north" in err


def test_phantom_hearts_are_written_with_the_values_of_mm_whs(secfed, tmp_path):
    code, out, _ = secfed(
        "data", "phantom", "--out", tmp_path / "p", "--task", "whole_heart", "--ct", "0", "--mri", "1", "--json"
    )
    assert code == 0
    assert json.loads(out)["task"] == "whole_heart"
    assert json.loads((tmp_path / "p" / "dataset.json").read_text())["labels"]["820"] == "ascending aorta"


def test_an_unknown_task_is_named(secfed, tmp_path):
    code, _, err = secfed("data", "phantom", "--out", tmp_path / "p", "--task", "brain")
    assert code == 2
    assert "brain" in err
    assert "whole_heart" in err
