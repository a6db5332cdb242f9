"""A whole run with a neighbour on each side: every protection ends on one model, and everybody reads what it is."""

import json

import numpy as np
import pytest
import torch
from command_line import call
from small_federation import config, digest, provision, train, tree

from clients.training import network_for
from secfed.audit.verify import verify_run
from secfed.config import TrainingPlan
from secfed.errors import PolicyRefusal
from secfed.experiment.run import Progress, run_experiment
from secfed.governance.facts import gather
from secfed.governance.page import render
from secfed.network import initial_vector
from secfed.parameters import PLAN_KEY, save_vector
from secfed.predict.trained_model import open_model
from secfed.preflight.check import check
from secfed.report.page import build_report
from secfed.report.run_folder import read_run_folder
from secfed.site_config import SitePolicy

SILENT = Progress(
    data_started=lambda _: None, volume_done=lambda _: None, jobs_started=lambda _: None, job_moved=lambda _: None
)
LABEL = "unet in 2.5D, 1 slice on each side"


def tables(count=1):
    return {"model": {"context_slices": count}, "federation": {"validate_every": 1}}


@pytest.fixture(scope="module")
def finished(scans, tmp_path_factory):
    """The folder and record of a whole run, with a reference."""
    out = tmp_path_factory.mktemp("context") / "run"
    run_config = config(scans, **tables(), references=["centralised"])
    return out, run_experiment(run_config, out=out, engine="in_process", resume=False, cores=1, progress=SILENT)


def test_a_run_trains_tests_and_writes_a_model_that_names_its_context(finished):
    out, record = finished
    assert {job.model for job in record.jobs} == {"federated", "centralised"}
    assert {row.test_modality for row in record.results} == {"CT", "MR"}
    assert all(0 <= row.value <= 1 for row in record.results if row.metric == "dice" and row.value is not None)
    assert "context_slices = 1" in (out / "config.toml").read_text()
    for place in (out, out / "model.safetensors"):
        trained = open_model(place)
        assert trained.plan.model.context_slices == 1
        first = next(spec for spec in trained.average.layout.tensors if len(spec.shape) == 4)
        assert first.shape[1] == 3


def test_the_report_and_the_board_s_page_say_that_it_saw_neighbours(finished, tmp_path):
    out, _ = finished
    assert LABEL in build_report([out], out=tmp_path / "report.html").read_text()
    assert f"({LABEL})" in render(gather(out))


def test_of_a_damaged_configuration_the_report_says_nothing_about_the_network(finished):
    out, _ = finished
    run = read_run_folder(out)
    assert run.network == LABEL
    run.config["model"] = {"architecture": "transformer"}
    assert run.network is None


def test_predict_segments_a_scan_as_the_run_tested_it(finished, scans, tmp_path, monkeypatch, capfd):
    out, record = finished
    code, said, _ = call(
        monkeypatch, capfd, "predict", out, scans / "test-ct", "--out", tmp_path / "seg", "--device", "cpu", "--json"
    )
    assert code == 0
    found = json.loads(said)
    assert found["model"]["plan"] == open_model(out).plan.digest().hex()
    # The scans lie on the model's grid, so that the scores are those of the run's own test.
    own = {
        row.organ: row.value
        for row in record.results
        if (row.model, row.test_modality, row.metric) == ("federated", "CT", "dice")
    }
    for organ in found["organs"]:
        assert organ["dice"] == pytest.approx(own[organ["organ"]])


def test_every_protection_ends_on_one_model_bit_for_bit_and_the_record_verifies(scans, tmp_path):
    found = {}
    for mode in ("plain", "masked", "encrypted"):
        job = provision(tmp_path / mode, config(scans, **tables(), protection={"mode": mode}))
        train(job)
        found[mode] = digest(job)
        if mode == "masked":
            assert verify_run(job.aggregator_folder).verified
    assert len(set(found.values())) == 1
    without = provision(tmp_path / "without", config(scans, **tables(0), protection={"mode": "plain"}))
    train(without)
    assert digest(without) not in found.values()


@pytest.mark.parametrize("mode", ["plain", "masked", "encrypted"])
def test_preflight_counts_what_the_further_channels_cost(scans, mode):
    found = {
        count: check(
            config(scans, model={"context_slices": count}, protection={"mode": mode}),
            clients=None,
            noise_tail=0,
            site_folder=None,
            measure=False,
        )
        for count in (0, 2)
    }
    for count, told in found.items():
        assert not told.refusals
        network = network_for(config(scans, model={"context_slices": count}).plan(), torch.device("cpu"))
        assert told.num_parameters == sum(parameter.numel() for parameter in network.parameters())
    # Four kernels of 3 x 3 for each further slice, in the one layer that sees the image.
    assert found[2].num_parameters - found[0].num_parameters == 4 * 4 * 9
    more = found[2].traffic.vector_bytes - found[0].traffic.vector_bytes
    assert more == (0 if mode == "encrypted" else 4 * 4 * 4 * 9)  # which fit into the ciphertexts that there are
    assert found[2].as_dict()["network"] == "unet in 2.5D, 2 slices on each side"


def test_preflight_shows_it_and_times_a_step(scans, tmp_path, monkeypatch, capfd):
    import tomli_w

    path = tmp_path / "run.toml"
    path.write_text(tomli_w.dumps(tree(scans, **tables())))
    code, out, _ = call(monkeypatch, capfd, "preflight", path)
    assert code == 0
    assert f"({LABEL})" in out


def test_a_site_s_policy_bounds_a_network_with_context_by_its_size():
    plan = TrainingPlan.model_validate({"model": {"context_slices": 2}})
    size = initial_vector(plan, num_classes=9)[1].num_parameters
    SitePolicy(max_parameters=size).check_plan(plan, num_parameters=size)
    with pytest.raises(PolicyRefusal, match=f"the model has {size} parameters"):
        SitePolicy(max_parameters=size - 1).check_plan(plan, num_parameters=size)


def test_a_model_file_of_a_former_release_is_one_without_context(tmp_path):
    plan = TrainingPlan.model_validate({"model": {"channels": [4, 8]}})
    former = json.loads(plan.model_dump_json())
    assert set(former["model"]) == {
        *("architecture", "dimensions", "channels", "residual_units", "normalisation", "dropout_prob")
    }
    vector, layout = initial_vector(plan, num_classes=9)
    save_vector(tmp_path / "model.safetensors", vector, layout, metadata={PLAN_KEY: json.dumps(former)})
    trained = open_model(tmp_path / "model.safetensors")
    assert trained.plan == plan
    assert trained.plan.model.in_channels == 1
    np.testing.assert_array_equal(trained.average.vector, vector)
