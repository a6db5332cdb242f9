"""The moving average of a run's models: the same whoever keeps it, tested and exported in the last model's place."""

import numpy as np
import pytest
from small_federation import SITES, Faults, config, last_state, provision, site_log, train

from clients.encrypted_run import EncryptedRun, encrypted_runs
from clients.site import Site
from secfed.audit.verify import verify_run
from secfed.parameters import load_vector, save_vector

ROUNDS = 4
AVERAGED = {"rounds": ROUNDS, "ema_decay": 0.5, "server_optimizer": "fedavgm", "server_momentum": 0.5}


def averages_at_sites(job):
    runs = [EncryptedRun.open(site, encrypted_runs(site)[0]) for site in map(Site, job.site_folders)]
    return [run.checkpoints.load(run.session.layout, completed=ROUNDS).average for run in runs]


def test_every_site_of_an_encrypted_run_keeps_the_average_that_a_plain_aggregator_keeps(scans, tmp_path):
    # The fault keeps a site away from rounds 2 and 3: a peer's snapshot brings the average back with the model.
    jobs = {
        mode: provision(tmp_path / mode, config(scans, federation=AVERAGED, protection={"mode": mode}))
        for mode in ("plain", "encrypted")
    }
    for job in jobs.values():
        faults = Faults({("mr-a", "train"): "error"}, times=2, skip=1)
        train(job, intercept=faults.request)
        assert list(faults.seen).count(("mr-a", "train")) >= ROUNDS
    assert "restored" in site_log(jobs["encrypted"], "mr-a")
    expected = last_state(jobs["plain"])
    found = averages_at_sites(jobs["encrypted"])
    assert len(found) == len(SITES)
    for average in found:
        np.testing.assert_array_equal(average, expected.average)
    assert not np.array_equal(expected.average, expected.model)
    np.testing.assert_array_equal(last_state(jobs["encrypted"]).result, expected.average)


@pytest.mark.parametrize("kept", ["all", "none"])
def test_an_audit_expects_the_average_as_the_run_s_final_model(scans, tmp_path, kept):
    job = provision(tmp_path / "run", config(scans, federation=AVERAGED, protection={"keep_uploads": kept}))
    state = train(job)
    _, layout, _ = load_vector(job.aggregator_folder / "initial.safetensors")
    final = job.aggregator_folder.parent / "model.safetensors"
    save_vector(final, state.result[: layout.model_size], layout.model_layout(), {})
    report = verify_run(tmp_path / "run")
    assert report.verified
    [verdict] = report.verdicts
    proved = {finding.what for finding in verdict.findings if finding.status == "proved"}
    assert "the model file of the run is the average of the models after each round" in proved
    save_vector(final, state.model[: layout.model_size], layout.model_layout(), {})
    [verdict] = verify_run(tmp_path / "run").verdicts
    assert [finding.where for finding in verdict.failed] == ["model.safetensors"]
