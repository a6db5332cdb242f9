"""A site may drop out of any stage of an encrypted run in any way: the model is that of a plain run without it."""

import pytest
from scripted_faults import JumpingClock, ScriptedFaults, train_with
from small_federation import Faults, config, digest, journal, provision, server_context, site_log, train

import aggregator.app
import clients.app
from clients.encrypted_run import EncryptedRun, encrypted_runs
from clients.site import Site
from secfed.audit.verify import verify_run
from secfed.engines.in_process import InProcessGrid
from secfed.errors import RoundAborted

SITES = ["ct-a", "ct-b", "mr-a", "mr-b"]
DROPPED = "mr-a"
OTHERS = [site for site in SITES if site != DROPPED]


@pytest.fixture(autouse=True)
def _clock(monkeypatch):
    monkeypatch.setattr("aggregator.admission.time", JumpingClock())


def small(scans, *, rounds, mode="encrypted", **federation):
    return config(
        scans,
        protection={"mode": mode},
        federation={"rounds": rounds, **federation},
        training={"steps_per_round": 1},
    )


def run(folder, run_config, script):
    job = provision(folder, run_config)
    train_with(job, ScriptedFaults(dict(script)))
    return job


def plain_model(scans, folder, *, rounds, missed):
    """The model of a plain run in which sites fail to train, or train in vain, in some rounds: (site, round): fault."""
    script = {(site, "train", number): fault for (site, number), fault in missed.items()}
    return digest(run(folder / "plain", small(scans, rounds=rounds, mode="plain"), script))


def survivors(job):
    return [entry["survivors"] for entry in journal(job) if entry["event"] == "round"]


def exchanges(job):
    return [entry["exchanges"] for entry in journal(job)]


def member_at(job, site):
    opened = Site(job.site_folders[job.site_names.index(site)])
    return EncryptedRun.open(opened, encrypted_runs(opened)[0]).member()


@pytest.fixture(scope="module")
def one_round(scans, tmp_path_factory):
    """Models of plain runs of one round, with and without `DROPPED`."""
    folder = tmp_path_factory.mktemp("one-round")
    return {
        "always": plain_model(scans, folder / "a", rounds=1, missed={}),
        "never": plain_model(scans, folder / "b", rounds=1, missed={(DROPPED, 1): "error"}),
    }


@pytest.mark.parametrize(
    ("stage", "fault"),
    [
        ("offer", "silence"),
        ("offer", "garbage"),
        ("take", "error"),
        ("take", "lost"),
        ("take", "forged"),
        *(("train", fault) for fault in ("error", "silence", "lost", "garbage", "forged")),
        ("end", "silence"),
        ("end", "lost"),
        ("end", "forged"),
    ],
)
def test_the_run_ends_with_the_survivors_of_every_stage(scans, one_round, tmp_path, stage, fault):
    number = {"train": 1, "end": 2}.get(stage, 0)
    kind = "train" if stage == "train" else f"query.{stage}"
    job = run(tmp_path, small(scans, rounds=1), {(DROPPED, kind, number): fault})
    assert survivors(job) == [SITES if stage == "end" else OTHERS]
    assert digest(job) == one_round["always" if stage == "end" else "never"]
    assert [entry["failed_attempts"] for entry in journal(job)] == [[], []]
    lost = {"end": 1}.get(stage, 0)
    assert list(journal(job)[lost]["lost"]) == [DROPPED]
    assert {member_at(job, site).stage for site in OTHERS} == {"ENDED"}
    verified = verify_run(job.aggregator_folder)
    assert verified.verified


@pytest.mark.parametrize("fault", ["error", "lost"])
def test_a_site_that_is_not_told_of_the_end_keeps_its_key_and_the_last_model(scans, one_round, tmp_path, fault):
    job = run(tmp_path, small(scans, rounds=1), {(DROPPED, "query.finish", 2): fault})
    assert digest(job) == one_round["always"]
    member = member_at(job, DROPPED)
    assert member.completed == 1
    assert member.stage == ("CLOSED" if fault == "error" else "ENDED")


def test_the_site_that_would_make_the_key_drops_out_and_another_session_makes_it(scans, one_round, tmp_path):
    job = run(tmp_path, small(scans, rounds=1), {("ct-a", "query.offer", 0): "error"})
    assert survivors(job) == [SITES]
    assert len(journal(job)[0]["failed_attempts"]) == 1
    assert digest(job) == one_round["always"]


def test_dropouts_of_every_kind_in_one_run_give_the_plain_model(scans, tmp_path):
    script = {
        (DROPPED, "train", 1): "error",
        ("ct-b", "train", 2): "garbage",
        ("mr-b", "train", 3): "lost",
        ("ct-a", "train", 4): "forged",
        (DROPPED, "train", 5): "silence",
    }
    job = run(tmp_path, small(scans, rounds=7), script)
    away = [DROPPED, "ct-b", "mr-b", "ct-a", DROPPED, None, None]
    assert survivors(job) == [[site for site in SITES if site != gone] for gone in away]
    assert all(entry["failed_attempts"] == [] for entry in journal(job))
    # A setup of five; a site that missed a sum costs two more, one that was silent a new session.
    assert exchanges(job) == [6, 1, 3, 6, 3, 8, 1, 2]
    missed = {(DROPPED, 1): "error", ("ct-b", 2): "garbage", ("mr-b", 3): "garbage", ("ct-a", 4): "garbage"}
    missed[DROPPED, 5] = "error"
    assert digest(job) == plain_model(scans, tmp_path, rounds=7, missed=missed)
    assert {member_at(job, site).model_hash.hex() for site in SITES} == {digest(job)}
    assert verify_run(job.aggregator_folder).verified
    assert "came too late" in site_log(job, "mr-b")


def test_a_site_that_misses_two_rounds_is_given_one_snapshot(scans, tmp_path):
    script = {(DROPPED, "train", number): "error" for number in (2, 3)}
    # It is shown a snapshot in round 3 in vain, since it fails again, and another one in round 4.
    job = run(tmp_path, small(scans, rounds=4), script)
    assert survivors(job) == [SITES, OTHERS, OTHERS, SITES]
    assert exchanges(job) == [6, 1, 3, 3, 2]
    assert digest(job) == plain_model(scans, tmp_path, rounds=4, missed={(DROPPED, 2): "error", (DROPPED, 3): "error"})


@pytest.mark.parametrize(
    ("stage", "fault"),
    [("snapshot", "error"), ("snapshot", "silence"), ("snapshot", "forged"), ("restore", "error"), ("restore", "lost")],
)
def test_helping_a_site_that_missed_a_round_may_fail_at_either_end(scans, tmp_path, stage, fault):
    helped = "ct-a" if stage == "snapshot" else DROPPED
    script = {(DROPPED, "train", 2): "error", (helped, f"query.{stage}", 3): fault}
    job = run(tmp_path, small(scans, rounds=4), script)
    gone = {(DROPPED, 2): "error"}
    if stage == "restore" or fault == "forged":
        # Nobody asks for another snapshot in the same round; the site is back with a new session.
        gone[DROPPED, 3] = "error"
        assert survivors(job) == [SITES, OTHERS, OTHERS, SITES]
    elif fault == "silence":
        gone["ct-a", 3] = "error"
        assert survivors(job) == [SITES, OTHERS, ["ct-b", "mr-a", "mr-b"], SITES]
    else:
        assert survivors(job) == [SITES, OTHERS, SITES, SITES]
    assert digest(job) == plain_model(scans, tmp_path, rounds=4, missed=gone)


@pytest.mark.parametrize("joins", [2, 3])
def test_a_site_that_comes_later_takes_over_key_and_model(scans, tmp_path, joins):
    models = {}
    for mode in ("plain", "encrypted"):
        job = provision(tmp_path / mode, small(scans, rounds=3, mode=mode))
        with InProcessGrid(clients.app.app, job.site_folders) as grid:
            grid.offline.add(1002)

            def connect(_, message, grid=grid):
                if message.metadata.message_type == "train" and message.metadata.group_id == str(joins - 1):
                    grid.offline.clear()
                return message

            grid.intercept = connect
            aggregator.app.app(grid, server_context(job))
        assert survivors(job) == [OTHERS] * (joins - 1) + [SITES] * (4 - joins)
        models[mode] = digest(job)
    assert models["encrypted"] == models["plain"]
    assert member_at(job, DROPPED).model_hash.hex() == models["plain"]


def test_nobody_waits_twice_in_a_session_for_a_site_that_hangs(scans, tmp_path, monkeypatch):
    clock = JumpingClock()
    monkeypatch.setattr("aggregator.admission.time", clock)
    faults = Faults({(DROPPED, kind): "silence" for kind in ("train", "query.join")}, times=99, skip=1)
    job = provision(tmp_path, small(scans, rounds=3))
    train(job, intercept=faults.request)
    assert survivors(job) == [SITES, OTHERS, OTHERS]
    # Once while training, and once when a new session was opened, because the site was still connected.
    assert 120.0 <= clock.now < 130.0


@pytest.mark.parametrize("stage", ["train", "query.end"])
def test_a_round_or_an_end_that_too_few_answer_is_run_again(scans, one_round, tmp_path, stage):
    number = 1 if stage == "train" else 2
    job = run(tmp_path, small(scans, rounds=1), {(site, stage, number): "error" for site in ("ct-b", "mr-b")})
    assert [len(entry["failed_attempts"]) for entry in journal(job)] == ([1, 0] if stage == "train" else [0, 1])
    assert digest(job) == one_round["always"]
    assert {member_at(job, site).stage for site in SITES} == {"ENDED"}
    assert verify_run(job.aggregator_folder).verified


@pytest.mark.parametrize("stage", ["train", "query.end"])
def test_below_the_minimum_the_reasons_are_named_and_a_resume_completes(scans, one_round, tmp_path, stage):
    job = provision(tmp_path, small(scans, rounds=1))
    faults = Faults({("ct-b", stage): "error", ("mr-b", stage): "error"}, times=99)
    what = "round 1" if stage == "train" else "the end of the run"
    with pytest.raises(RoundAborted, match=rf"{what} failed 6 times.*--resume") as caught:
        train(job, intercept=faults.request)
    if stage == "train":
        assert "ct-b: error 2; mr-b: error 2" in str(caught.value)
    train(job)
    assert digest(job) == one_round["always"]
    assert [entry["event"] for entry in journal(job)] == ["round", "end"]
    assert verify_run(job.aggregator_folder).verified


def test_a_sum_goes_on_without_a_late_upload_that_a_new_session_would_have_hidden(scans, tmp_path):
    """The site's reply is lost, so it joins again: it must not hold the sum against the others that lacks its part."""
    job = run(tmp_path, small(scans, rounds=3), {(DROPPED, "train", 1): "lost"})
    assert survivors(job) == [OTHERS, SITES, SITES]
    assert digest(job) == plain_model(scans, tmp_path, rounds=3, missed={(DROPPED, 1): "garbage"})
