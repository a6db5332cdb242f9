"""The moving average of a run's models: the same whoever keeps it, tested and exported in the last model's place."""

from dataclasses import replace

import numpy as np
import pytest
from small_federation import SITES, Faults, config, last_state, provision, site_log, train

from clients.encrypted_run import EncryptedRun, encrypted_runs
from clients.site import Site
from privacy.errors import HostileInputError
from secfed.audit.verify import verify_run
from secfed.parameters import load_vector, save_vector

ROUNDS = 4
AVERAGED = {"rounds": ROUNDS, "ema_decay": 0.5, "server_optimizer": "fedavgm", "server_momentum": 0.5}
ADAPTIVE = {**AVERAGED, "server_optimizer": "fedadam", "server_learning_rate": 0.01}


def states_at_sites(job):
    runs = [EncryptedRun.open(site, encrypted_runs(site)[0]) for site in map(Site, job.site_folders)]
    return [run.checkpoints.load(run.session.layout, completed=ROUNDS) for run in runs]


@pytest.mark.parametrize("federation", [AVERAGED, ADAPTIVE], ids=["fedavgm", "fedadam"])
def test_every_site_of_an_encrypted_run_keeps_the_state_that_a_plain_aggregator_keeps(scans, tmp_path, federation):
    # The fault keeps a site away from rounds 2 and 3: a peer's snapshot brings the rest back with the model.
    jobs = {
        mode: provision(tmp_path / mode, config(scans, federation=federation, protection={"mode": mode}))
        for mode in ("plain", "encrypted")
    }
    for job in jobs.values():
        faults = Faults({("mr-a", "train"): "error"}, times=2, skip=1)
        train(job, intercept=faults.request)
        assert list(faults.seen).count(("mr-a", "train")) >= ROUNDS
    assert "restored" in site_log(jobs["encrypted"], "mr-a")
    expected = last_state(jobs["plain"])
    found = states_at_sites(jobs["encrypted"])
    assert len(found) == len(SITES)
    for state in found:
        np.testing.assert_array_equal(state.average, expected.average)
        np.testing.assert_array_equal(state.momentum, expected.momentum)
        np.testing.assert_array_equal(state.second_moment, expected.second_moment)
    assert (expected.second_moment is None) == (federation is AVERAGED)
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


def test_a_snapshot_carries_both_moments_and_one_with_others_than_the_plan_s_is_refused(scans, tmp_path):
    runs = {}
    for name, federation in (("adaptive", ADAPTIVE), ("momentum", AVERAGED)):
        settings = config(scans, federation={**federation, "rounds": 1}, protection={"mode": "encrypted"})
        job = provision(tmp_path / name, settings)
        train(job)
        site = Site(job.site_folders[0])
        run = EncryptedRun.open(site, encrypted_runs(site)[0])
        runs[name] = run, run.checkpoints.load(run.session.layout, completed=1)
    (adaptive, state), (momentum, plain) = runs["adaptive"], runs["momentum"]
    found = adaptive.read_snapshot(adaptive.snapshot(state))
    for part in ("model", "momentum", "second_moment", "average"):
        np.testing.assert_array_equal(getattr(found, part), getattr(state, part))
    assert b"second_moment" not in momentum.snapshot(plain)
    for run, wrong in (
        (adaptive, replace(state, second_moment=None)),
        (adaptive, replace(state, second_moment=state.second_moment[1:])),
        (momentum, replace(plain, second_moment=state.second_moment[:1])),
    ):
        with pytest.raises(HostileInputError, match="another model's layout"):
            run.read_snapshot(run.snapshot(wrong))
