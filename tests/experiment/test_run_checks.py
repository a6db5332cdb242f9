"""A slip in a configuration is refused before a run folder is made."""

import pytest
import tomli_w
import torch
from command_line import call
from small_federation import config, tree

from secfed.config import parse_run_config
from secfed.errors import ConfigError
from secfed.experiment.plans import job_specs
from secfed.experiment.provision import provision_job
from secfed.experiment.run import run_experiment
from secfed.experiment.run_folder import RunFolder
from secfed.site_config import Computing, load_site_file

CLIP_ONLY = {"mode": "clip_only"}


class Silent:
    """No progress: nothing may happen."""

    def __getattr__(self, name):
        raise AssertionError(f"the run went on to {name}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"test": [{"name": "t", "phantom": {"protocol": "no-such", "test": 1}}]},
            r"test set 't': protocol = 'no-such': no such protocol; known of task 'abdomen': .*t2",
        ),
        (
            {"task": "whole_heart", "test": [{"name": "t", "phantom": {"protocol": "mr-any", "test": 1}}]},
            r"test set 't': protocol = 'mr-any' scans for task 'abdomen', not 'whole_heart'; use ct-angio-a.*bssfp-b",
        ),
        (
            {"test": [{"name": "t", "phantom": {"protocol": "ct-any", "population": "west", "test": 1}}]},
            r"test set 't': population = 'west': .*known: north, south",
        ),
        (
            {"task": "whole_heart", "training": {"class_weights": [1.0] * 9}},
            r"class_weights has 9 numbers, but 'whole_heart' has 8 classes",
        ),
        ({"training": {"class_weights": [1.0, 2.0]}}, r"class_weights has 2 numbers, but 'abdomen' has 9 classes"),
    ],
    ids=["protocol", "protocol of another task", "population", "class weights of another task", "class weights"],
)
def test_a_name_or_size_that_does_not_exist_is_refused_before_the_run_folder_is_made(tmp_path, change, message):
    config = parse_run_config(tree(tmp_path, **change))
    with pytest.raises(ConfigError, match=message):
        run_experiment(config, out=tmp_path / "run", engine="in_process", resume=False, cores=1, progress=Silent())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("computing", "changes", "message"),
    [
        ({"devices": 2}, {"privacy": CLIP_ONLY}, r"job 'federated': devices = 2: privacy.mode = 'clip_only'"),
        ({"compile": True}, {"privacy": CLIP_ONLY}, r"job 'federated': compile = true: privacy.mode = 'clip_only'"),
        ({"devices": 3}, {}, r"job 'federated': devices = 3: a step of this plan has 2 images"),
        ({"devices": (0, 1)}, {}, r"devices = \[0, 1\] numbers CUDA devices"),
    ],
    ids=["private on two", "private and compiled", "more devices than images", "numbers for a CPU"],
)
def test_what_a_run_cannot_be_trained_on_is_said_before_its_folder_is_made(
    tmp_path, monkeypatch, computing, changes, message
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    wrong = parse_run_config(tree(tmp_path, **changes))
    with pytest.raises(ConfigError, match=message):
        run_experiment(
            wrong,
            out=tmp_path / "run",
            engine="in_process",
            resume=False,
            cores=1,
            computing=Computing(**computing),
            progress=Silent(),
        )
    assert not (tmp_path / "run").exists()


def test_a_run_tells_its_sites_how_to_train_and_a_later_attempt_may_tell_them_otherwise(tmp_path):
    run_config = config(tmp_path)
    (spec,) = job_specs(run_config)
    for computing in (Computing(devices=2), Computing(compile=True), Computing(), Computing(devices=2, compile=True)):
        job = provision_job(RunFolder(tmp_path / "run"), run_config, spec, computing=computing)
        before = [load_site_file(folder) for folder in job.site_folders]
        assert {site.computing for site in before} == {computing}
        assert [site.name for site in before] == list(job.site_names)
        assert all(data.folder == tmp_path / data.name for site in before for data in site.data)


def test_the_command_hands_on_what_it_was_told(monkeypatch, capfd, tmp_path):
    told = []

    def stop(config, **more):
        told.append((more["computing"], config.digest()))
        raise ConfigError("far enough")

    monkeypatch.setattr("secfed.experiment.run.run_experiment", stop)
    (tmp_path / "run.toml").write_text(tomli_w.dumps(tree(tmp_path)))
    for options in ([], ["--devices", 2, "--compile"]):
        assert call(monkeypatch, capfd, "run", tmp_path / "run.toml", "--out", tmp_path / "run", *options)[0] == 2
    (plain, plan), (chosen, same_plan) = told
    assert (plain, chosen) == (Computing(), Computing(devices=2, compile=True))
    assert plan == same_plan
