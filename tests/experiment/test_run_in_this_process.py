"""A run whose jobs are trained in the calling process: the models of an ordinary run, and references alone."""

import pytest
from small_federation import config

from secfed.errors import RunFolderError
from secfed.experiment.data import prepare_data
from secfed.experiment.plans import job_specs
from secfed.experiment.run import Progress, run_experiment, run_in_this_process
from secfed.results import RunRecord

SILENT = Progress(
    data_started=lambda _: None, volume_done=lambda _: None, jobs_started=lambda _: None, job_moved=lambda _: None
)


def run(run_config, out):
    return run_in_this_process(
        run_config,
        out=out,
        before=lambda folder: prepare_data(run_config, run_folder=folder, workers=1, on_volume=lambda _: None),
    )


def hashes(record):
    return {job.model: job.model_hash for job in record.jobs}


def test_a_run_in_this_process_gives_the_models_of_an_ordinary_one(scans, tmp_path):
    run_config = config(scans, references=["centralised"])
    ordinary = run_experiment(
        run_config, out=tmp_path / "a", engine="in_process", resume=False, cores=1, progress=SILENT
    )
    here = run(run_config, tmp_path / "b")
    assert hashes(here) == hashes(ordinary)
    assert here.results == ordinary.results
    assert RunRecord.load(tmp_path / "b") == here


def test_references_alone_are_those_of_a_run_with_its_federation(scans, tmp_path):
    whole = run(config(scans, references=["centralised"]), tmp_path / "a")
    alone = run(config(scans, federated=False, references=["centralised"]), tmp_path / "b")
    assert set(hashes(alone)) == {"centralised"}
    assert hashes(alone)["centralised"] == hashes(whole)["centralised"]
    assert (tmp_path / "b" / "model.safetensors").exists()
    assert {row.model for row in alone.results} == {"centralised"}


def test_references_alone_are_named_without_a_federation(scans):
    specs = job_specs(config(scans, federated=False, references=["single_site"]))
    assert {spec.training for spec in specs} == {"single_site"}


def test_a_finished_run_is_read_and_one_of_another_configuration_refused(scans, tmp_path):
    run_config = config(scans, federated=False, references=["centralised"])
    first = run(run_config, tmp_path / "a")
    assert run_in_this_process(run_config, out=tmp_path / "a", before=pytest.fail) == first
    with pytest.raises(RunFolderError, match="another configuration"):
        run(config(scans, federated=False, references=["centralised"], seed=4), tmp_path / "a")
