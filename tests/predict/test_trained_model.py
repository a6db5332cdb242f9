"""A model is found where it lies, with its plan and the layers that a scan is to pass, or it is said what to do."""

import shutil

import numpy as np
import pytest
import tomli_w
from small_federation import config, provision, train, tree

from clients.export import export_model
from clients.site import Site
from secfed.config import load_run_config
from secfed.data.cases import ABDOMEN, Modality
from secfed.errors import ConfigError, RunFolderError
from secfed.modality_sets import file_for
from secfed.parameters import PLAN_KEY, load_vector, save_vector
from secfed.predict.trained_model import open_model

CT, MR = Modality.CT, Modality.MR


def same(network, path):
    vector, layout, _ = load_vector(path)
    assert network.layout == layout
    np.testing.assert_array_equal(network.vector, vector)


def rewritten(path, out, *, without=(), change=0.0):
    vector, layout, metadata = load_vector(path)
    save_vector(out, vector + np.float32(change), layout, {k: v for k, v in metadata.items() if k not in without})
    return out


def test_a_run_folder_gives_its_federated_model_and_plan(runs):
    run = runs("shared")
    trained = open_model(run.folder)
    assert (trained.name, trained.plan, trained.label_map) == ("federated", run.job.plan, ABDOMEN)
    for modality in Modality:
        same(trained.for_scan(modality), run.job.folder / "model.safetensors")
        assert trained.for_scan(modality).layers == "everybody's"


@pytest.mark.parametrize("rule", ["fedbn", "silobn", "fednorm"])
def test_a_scan_passes_the_layers_of_its_modality(runs, rule):
    run = runs(rule)
    trained = open_model(run.folder)
    for modality in Modality:
        same(trained.for_scan(modality), run.job.folder / file_for("model.safetensors", modality.value))
        assert trained.for_scan(modality).layers == f"those of {modality} ({rule})"
    same(trained.average, run.job.folder / "model.safetensors")
    assert not np.array_equal(trained.for_scan(CT).vector, trained.for_scan(MR).vector)


def test_a_modality_that_nobody_trained_and_a_run_that_asks_for_it_pass_the_average(runs, tmp_path):
    folder = shutil.copytree(runs("fedbn").folder, tmp_path / "run")
    (folder / "jobs" / "federated" / "model-mr.safetensors").unlink()
    trained = open_model(folder)
    assert trained.for_scan(MR) is trained.average
    assert trained.for_scan(MR).layers == "the average of all sites' (fedbn)"
    assert trained.for_scan(CT) is not trained.average
    text = (folder / "config.toml").read_text()
    assert 'local_normalisation = "modality"' in text
    (folder / "config.toml").write_text(text.replace('"modality"', '"average"'))
    assert open_model(folder).for_scan(CT).layers == "the average of all sites' (fedbn)"


def test_a_run_folder_without_its_jobs_has_the_model_beside_its_configuration(runs, tmp_path):
    run = runs("shared")
    shutil.copyfile(run.folder / "config.toml", tmp_path / "config.toml")
    shutil.copyfile(run.job.folder / "model.safetensors", tmp_path / "model.safetensors")
    same(open_model(tmp_path).average, run.job.folder / "model.safetensors")


def test_another_job_of_a_run_is_named_by_its_model(runs, tmp_path):
    run = runs("shared")
    folder = shutil.copytree(run.folder, tmp_path / "run")
    place = shutil.copytree(folder / "jobs" / "federated", folder / "jobs" / "site-ct-a") / "model.safetensors"
    vector, layout, metadata = load_vector(place)
    save_vector(place, vector, layout, metadata | {"model": "site:ct-a"})
    assert open_model(folder, model="site:ct-a").name == "site:ct-a"
    with pytest.raises(RunFolderError, match="models here: federated, site-ct-a"):
        open_model(folder, model="centralised")


def test_a_model_file_brings_its_own_plan(runs, tmp_path):
    run = runs("shared")
    path = shutil.copyfile(run.job.folder / "model.safetensors", tmp_path / "m.safetensors")
    trained = open_model(path)
    assert trained.plan == run.job.plan
    assert trained.notes == ()
    same(trained.for_scan(CT), path)
    layers = open_model(runs("fednorm").job.folder / "model-mr.safetensors")
    assert layers.for_scan(CT).layers == "those of MR"
    assert "not everybody's: those of MR" in layers.notes[0]


def test_a_model_file_without_a_plan_is_given_it(runs, scans, tmp_path):
    run = runs("shared")
    bare = rewritten(run.job.folder / "model.safetensors", tmp_path / "bare.safetensors", without=(PLAN_KEY,))
    with pytest.raises(RunFolderError, match=r"holds no plan.*--plan"):
        open_model(bare)
    assert open_model(bare, plan_file=run.job.aggregator_folder / "plan.json").plan == run.job.plan
    content = tomli_w.dumps(
        tree(scans, model={"normalisation": "batch"}, preprocessing={"spacing_mm": [4.0, 4.0, 4.0]})
    )
    (tmp_path / "run.toml").write_text(content)
    given = open_model(bare, plan_file=tmp_path / "run.toml")
    assert given.plan == load_run_config(tmp_path / "run.toml").plan()
    with pytest.raises(ConfigError, match="another plan than that of"):
        open_model(run.job.folder / "model.safetensors", plan_file=tmp_path / "run.toml")
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(ConfigError, match="not a readable plan"):
        open_model(bare, plan_file=tmp_path / "plan.json")


def test_a_damaged_file_is_refused(runs, tmp_path):
    path = runs("shared").job.folder / "model.safetensors"
    with pytest.raises(RunFolderError, match="the file is damaged"):
        open_model(rewritten(path, tmp_path / "m.safetensors", change=1.0))
    vector, layout, metadata = load_vector(path)
    save_vector(tmp_path / "n.safetensors", vector, layout, metadata | {PLAN_KEY: '{"task": "brain"}'})
    with pytest.raises(RunFolderError, match="plan cannot be read by this release: task"):
        open_model(tmp_path / "n.safetensors")


@pytest.mark.parametrize("rule", ["shared", "fednorm"])
def test_a_deployed_run_gives_what_its_test_would_use(runs, rule):
    run = runs(rule)
    deployed, tested = open_model(run.job.aggregator_folder), open_model(run.folder)
    assert deployed.plan == run.job.plan
    assert deployed.notes == ()
    for modality in Modality:
        np.testing.assert_array_equal(deployed.for_scan(modality).vector, tested.for_scan(modality).vector)
    np.testing.assert_array_equal(deployed.average.vector, tested.average.vector)


def test_layers_that_stay_at_sites_are_taken_from_the_site_that_predicts(runs):
    run = runs("fedbn")
    with pytest.raises(RunFolderError, match=r"at every site.*--site"):
        open_model(run.job.aggregator_folder)
    found = {}
    for name, folder in zip(run.job.site_names, run.job.site_folders, strict=True):
        trained = open_model(run.job.aggregator_folder, site=folder)
        assert trained.for_scan(CT).layers == f"those of site {name} (fedbn)"
        assert name in trained.notes[0]
        found[name] = trained.average.vector
    mean = np.mean([found["mr-a"].astype(np.float64), found["mr-b"]], axis=0)
    np.testing.assert_allclose(open_model(run.folder).for_scan(MR).vector, mean, rtol=1e-5, atol=1e-7)
    with pytest.raises(ConfigError, match="--site"):
        open_model(runs("shared").job.aggregator_folder, site=run.job.site_folders[0])
    with pytest.raises(ConfigError, match="--site"):
        open_model(run.folder, site=run.job.site_folders[0])


def test_a_deployed_run_that_has_not_ended_says_so(scans, tmp_path):
    job = provision(tmp_path, config(scans, training={"steps_per_round": 1}, protection={"mode": "plain"}))
    with pytest.raises(RunFolderError, match="no round is done"):
        open_model(job.aggregator_folder)
    train(job)
    plan = job.aggregator_folder / "plan.json"
    plan.write_text(plan.read_text().replace('"rounds":2', '"rounds":5').replace('"rounds": 2', '"rounds": 5'))
    assert "2 of 5 rounds" in open_model(job.aggregator_folder).notes[0]


def test_an_exported_file_predicts_and_the_aggregator_of_an_encrypted_run_says_who_has_the_model(scans, tmp_path):
    changes = {"training": {"steps_per_round": 1}, "federation": {"normalisation": "fedbn", "rounds": 2}}
    job = provision(tmp_path, config(scans, protection={"mode": "encrypted"}, **changes))
    train(job)
    with pytest.raises(RunFolderError, match="secfed site export"):
        open_model(job.aggregator_folder)
    with pytest.raises(RunFolderError, match="export the model first"):
        open_model(job.site_folders[0])
    export_model(Site(job.site_folders[0]), out=tmp_path / "m.safetensors")
    trained = open_model(tmp_path / "m.safetensors")
    assert trained.plan == job.plan
    assert trained.average.layers == "fedbn, of site ct-a"
    assert load_vector(tmp_path / "m.safetensors")[2]["modality"] == "CT"


def test_what_is_no_model_is_named(tmp_path):
    with pytest.raises(RunFolderError, match="no such run folder"):
        open_model(tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match=r"no config\.toml"):
        open_model(tmp_path)
    (tmp_path / "runs" / "spring").mkdir(parents=True)
    (tmp_path / "runs" / "spring" / "plan.json").write_text("{}")
    with pytest.raises(RunFolderError, match=r"name one of its runs.*spring"):
        open_model(tmp_path)
    (tmp_path / "text.safetensors").write_text("text")
    with pytest.raises(RunFolderError, match="not a readable model file"):
        open_model(tmp_path / "text.safetensors")
