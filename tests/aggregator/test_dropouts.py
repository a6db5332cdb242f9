"""A site may drop out of any stage in any way: the others go on, and the model is that of a plain run without it."""

import time

import numpy as np
import pytest
from small_federation import (
    Faults,
    config,
    digest,
    journal,
    last_state,
    provision,
    server_context,
    site_log,
    train,
)

import aggregator.app
import aggregator.open_model
import clients.app
from aggregator.folder import AggregatorFolder
from privacy.fixed_point import decode_sum
from secfed.audit.verify import verify_run
from secfed.engines.in_process import InProcessGrid
from secfed.errors import RoundAborted
from secfed.messages import Stage
from secfed.protected_vector import vector_format
from secfed.site_config import SitePolicy, load_site_file, save_site_file

SITES = ("ct-a", "ct-b", "mr-a", "mr-b")
DROPPED = "mr-a"
SESSION_STAGES = (Stage.JOIN, Stage.ENCAPSULATE, Stage.CONFIRM)
MASKED_STAGES = (*SESSION_STAGES, Stage.SHARE, Stage.TRAIN, Stage.AGREE, Stage.UNMASK)
OTHERS = tuple(site for site in SITES if site != DROPPED)


class JumpingClock:
    """Time passes only while somebody waits, so that a silent site costs a test nothing."""

    def __init__(self):
        self.now = 0.0
        self.perf_counter = time.perf_counter

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture(autouse=True)
def _clock(monkeypatch):
    monkeypatch.setattr("aggregator.admission.time", JumpingClock())


def run(folder, run_config, faults=None):
    job = provision(folder, run_config)
    train(
        job,
        intercept=None if faults is None else faults.request,
        intercept_reply=None if faults is None else faults.reply,
    )
    return job


@pytest.fixture(scope="module")
def plain_models(scans, tmp_path_factory):
    """Models of plain runs by how `DROPPED` takes part: never, not in the first round, in vain in it, always."""
    plans = {
        "never": {(DROPPED, "query.join"): "error"},
        "late": {(DROPPED, "train"): "error"},
        # It has trained, so its optimiser is a round ahead of one that saw no request.
        "in vain": {(DROPPED, "train"): "garbage"},
        "always": {},
    }
    folder = tmp_path_factory.mktemp("plain")
    models = {
        name: digest(run(folder / name.replace(" ", "-"), config(scans, protection={"mode": "plain"}), Faults(plan)))
        for name, plan in plans.items()
    }
    assert len(set(models.values())) == len(models)
    return models


@pytest.mark.parametrize("fault", ["error", "silence", "lost", "garbage", "forged"])
@pytest.mark.parametrize("stage", MASKED_STAGES)
def test_the_round_completes_with_the_survivors_of_every_stage(scans, plain_models, tmp_path, stage, fault):
    job = run(tmp_path, config(scans), Faults({(DROPPED, stage.message_type): fault}))
    survivors = [entry["survivors"] for entry in journal(job)]
    if stage in SESSION_STAGES:
        assert survivors == [list(OTHERS), list(OTHERS)]
        expected = "never"
    elif stage in (Stage.AGREE, Stage.UNMASK):
        # The upload arrived and is in the sum; only its sender's agreement or shares are missing.
        assert survivors == [list(SITES), list(SITES)]
        expected = "always"
    else:
        assert survivors == [list(OTHERS), list(SITES)]
        trained = stage is Stage.TRAIN and fault in ("lost", "garbage", "forged")
        expected = "in vain" if trained else "late"
    assert all(entry["failed_attempts"] == [] for entry in journal(job))
    assert len(journal(job)[0]["lost"]) == 1
    assert digest(job) == plain_models[expected]


def test_a_dropout_is_noted_with_its_site_and_its_kind(scans, tmp_path):
    kinds = {"error": "error 2", "silence": "silent", "garbage": "bad message", "forged": DROPPED}
    for fault, words in kinds.items():
        job = run(tmp_path / fault, config(scans), Faults({(DROPPED, "train"): fault}))
        lost = journal(job)[0]["lost"]
        assert list(lost) == [DROPPED]
        assert words in lost[DROPPED]


@pytest.mark.parametrize("fault", ["silence", "error", "garbage"])
@pytest.mark.parametrize("stage", SESSION_STAGES)
def test_a_site_that_failed_to_join_is_asked_again_after_a_pause_that_doubles(scans, tmp_path, stage, fault):
    faults = Faults({(DROPPED, stage.message_type): fault}, times=2)
    job = run(tmp_path, config(scans, federation={"rounds": 8}), faults)
    # Asked in rounds 1 and 3 in vain, and again four rounds later.
    assert [len(entry["survivors"]) for entry in journal(job)] == [3, 3, 3, 3, 3, 3, 4, 4]


def test_a_site_whose_policy_declines_is_asked_once(scans, tmp_path):
    job = provision(tmp_path, config(scans, federation={"rounds": 6}))
    folder = job.site_folders[job.site_names.index(DROPPED)]
    site = load_site_file(folder)
    save_site_file(folder, site.model_copy(update={"policy": SitePolicy(max_rounds=1)}))
    faults = Faults({})
    train(job, intercept=faults.request)
    assert [entry["survivors"] for entry in journal(job)] == [list(OTHERS)] * 6
    assert faults.seen.count((DROPPED, "query.join")) == 1


def test_nobody_waits_twice_in_a_session_for_a_site_that_hangs(scans, tmp_path, monkeypatch):
    clock = JumpingClock()
    monkeypatch.setattr("aggregator.admission.time", clock)
    faults = Faults({(DROPPED, kind): "silence" for kind in ("train", "query.join")}, times=99, skip=1)
    job = run(tmp_path, config(scans, federation={"rounds": 4}), faults)
    assert [entry["survivors"] for entry in journal(job)] == [list(SITES), *[list(OTHERS)] * 3]
    # Once while training, and once when a new session was opened, because the site was still connected.
    assert 120.0 <= clock.now < 130.0


def test_a_site_that_missed_a_share_stage_is_back_in_a_new_session(scans, tmp_path):
    job = run(tmp_path, config(scans, federation={"rounds": 3}), Faults({(DROPPED, "query.share"): "error"}))
    assert [entry["survivors"] for entry in journal(job)] == [list(OTHERS), list(SITES), list(SITES)]
    # Join, encapsulate, confirm, share, train, agree, unmask; all again with the new session; then a round of three.
    assert [entry["exchanges"] for entry in journal(job)] == [7, 7, 3]


def test_a_round_takes_three_exchanges_and_one_more_for_shares_that_are_missing(scans, tmp_path):
    faults = Faults({(DROPPED, "query.unmask"): "lost"}, skip=1)
    job = run(tmp_path, config(scans, federation={"rounds": 4}), faults)
    assert [entry["survivors"] for entry in journal(job)] == [list(SITES)] * 4
    assert [entry["exchanges"] for entry in journal(job)] == [7, 3, 4, 3]


@pytest.mark.parametrize("mode", ["masked", "plain"])
def test_a_site_that_comes_late_takes_part_from_the_next_round_on(scans, tmp_path, mode):
    job = provision(tmp_path, config(scans, protection={"mode": mode}, federation={"rounds": 3}))
    with InProcessGrid(clients.app.app, job.site_folders) as grid:
        grid.offline.add(1002)

        def connect(_, message):
            if message.metadata.message_type == "train" and message.metadata.group_id == "2":
                grid.offline.clear()
            return message

        grid.intercept = connect
        aggregator.app.app(grid, server_context(job))
    assert [entry["survivors"] for entry in journal(job)] == [list(OTHERS), list(OTHERS), list(SITES)]


def test_a_site_that_lost_its_state_is_back_in_the_next_session(scans, tmp_path):
    job = provision(tmp_path, config(scans, federation={"rounds": 3}))
    state = job.site_folders[2] / "state" / "session.cbor"

    def restart(node, message):
        if node == 1002 and message.metadata.message_type == "train" and message.metadata.group_id == "2":
            state.unlink()
        return message

    train(job, intercept=restart)
    assert [entry["survivors"] for entry in journal(job)] == [list(SITES), list(OTHERS), list(SITES)]
    assert journal(job)[1]["lost"] == {DROPPED: "refused: policy"}
    assert "no open session" in site_log(job, DROPPED)


def test_dropouts_of_several_stages_add_up(scans, tmp_path):
    # Three of four are needed: one may leave while sharing, but a second one while unmasking is one too many.
    faults = Faults({("ct-b", "query.share"): "error", ("mr-a", "query.unmask"): "error"})
    job = run(tmp_path, config(scans, protection={"threshold": 3}), faults)
    assert [len(entry["failed_attempts"]) for entry in journal(job)] == [1, 0]
    assert "the threshold is 3: nothing is unmasked" in journal(job)[0]["failed_attempts"][0]
    # The others have begun to open a sum without ct-b, so no sum over this model may hold it; the next one does.
    assert [entry["survivors"] for entry in journal(job)] == [["ct-a", "mr-a", "mr-b"], list(SITES)]


def test_a_half_opened_sum_binds_the_round_to_its_survivors_over_a_restart_of_the_aggregator(scans, tmp_path):
    run_config = config(scans, federation={"rounds": 2})
    job = provision(tmp_path, run_config)
    faults = Faults(
        {("ct-b", "train"): "error", ("mr-a", "query.unmask"): "error", ("mr-b", "query.unmask"): "error"}, times=99
    )
    with pytest.raises(RoundAborted, match="round 1 failed 6 times"):
        train(job, intercept=faults.request)
    # While one of the three is away, the sites open nothing, and the reason says whom the round waits for.
    away = Faults({("mr-b", "train"): "error"}, times=99)
    with pytest.raises(RoundAborted, match=r"begun to open a sum.*without \['mr-b'\]"):
        train(job, intercept=away.request)
    assert not any(kind == "query.unmask" for _, kind in away.seen)
    train(job)
    assert [entry["survivors"] for entry in journal(job)] == [["ct-a", "mr-a", "mr-b"], list(SITES)]


@pytest.mark.parametrize("stage", [Stage.SHARE, Stage.TRAIN, Stage.AGREE, Stage.UNMASK])
def test_below_the_threshold_nothing_is_unmasked_and_a_resume_completes(scans, tmp_path, stage):
    run_config = config(scans, federation={"rounds": 3})
    undisturbed = run(tmp_path / "undisturbed", run_config)
    job = provision(tmp_path / "masked", run_config)
    # The first round passes; from the second on two of four sites fail, and three are needed. Shares of the second
    # round ride with the unmasking of the first, so that their own stage can fail in the first round only.
    before = 0 if stage is Stage.SHARE else 1
    faults = Faults(
        {("ct-b", stage.message_type): "error", ("mr-b", stage.message_type): "error"}, times=99, skip=before
    )
    match = rf"round {before + 1} failed 6 times.*Nothing was unmasked.*--resume"
    with pytest.raises(RoundAborted, match=match) as caught:
        train(job, intercept=faults.request)
    assert caught.value.exit_code == 6
    if stage is not Stage.UNMASK:
        # The four of the first round; afterwards nobody was even asked for shares.
        assert sum(kind == "query.unmask" for _, kind in faults.seen) == 4 * before
    assert [entry["round"] for entry in journal(job)] == list(range(1, before + 1))
    train(job)
    assert last_state(job).completed == 3
    assert digest(job) == digest(undisturbed)


def test_a_round_that_failed_once_is_run_again_with_fresh_secrets(scans, tmp_path):
    announced = []

    class Watch(Faults):
        def request(self, node, message):
            if message.metadata.message_type == "query.share":
                announced.append(message.content["secfed"]["payloads"][0])
            return super().request(node, message)

    faults = Watch({("ct-b", "train"): "error", ("mr-b", "train"): "error"})
    job = run(tmp_path / "masked", config(scans), faults)
    assert len(journal(job)[0]["failed_attempts"]) == 1
    assert "2 clients uploaded, the threshold is 3: nothing is unmasked" in journal(job)[0]["failed_attempts"][0]
    # Once for the attempt that failed and once for the next: the second round's shares rode with an unmasking.
    assert len(set(announced)) == 2
    assert digest(job) == digest(run(tmp_path / "undisturbed", config(scans)))


def test_too_few_sites_at_the_join_abort_the_run_before_any_training(scans, tmp_path):
    faults = Faults({(site, "query.join"): "silence" for site in SITES[:3]}, times=99)
    job = provision(tmp_path, config(scans))
    with pytest.raises(RoundAborted, match="1 sites answered stage 'join', 2 are needed"):
        train(job, intercept=faults.request)
    assert not any(seen[1] == "train" for seen in faults.seen)
    assert journal(job) == []


def test_the_sum_of_a_round_is_exactly_the_mean_of_its_survivors(scans, tmp_path):
    """The plain uploads of the survivors, added by hand, give the masked round's model."""
    uploads = {}

    def remember(node, reply):
        if "vector" in reply.content:
            uploads[node] = np.frombuffer(reply.content["vector"]["vector"].data, "<u4")
        return reply

    run_config = config(scans, federation={"rounds": 1})
    plain = provision(tmp_path / "plain", config(scans, federation={"rounds": 1}, protection={"mode": "plain"}))
    train(plain, intercept_reply=remember)
    masked = provision(tmp_path / "masked", run_config)
    train(masked, intercept=Faults({(DROPPED, "train"): "error"}).request)

    start, layout = AggregatorFolder(masked.aggregator_folder).initial_model()
    slots = vector_format(layout, masked.plan, cohort_size=4)
    total = sum((uploads[node].astype(np.uint64) for node in (1000, 1001, 1003)), np.uint64(0)) % 2**32
    values = decode_sum(total.astype(np.uint32), vector_format=slots)
    weight = values[slots.slice_of("weight")][0]
    expected = start.astype(np.float64) + values[slots.slice_of("delta")] / weight
    np.testing.assert_array_equal(last_state(masked).model, expected.astype(np.float32))


def test_a_sum_that_makes_no_sense_is_opened_once_more_and_both_stand_in_the_transcript(scans, tmp_path, monkeypatch):
    honest, calls = aggregator.open_model.unpack_sum, []

    def refuse_once(*args, **given):
        calls.append(args)
        if len(calls) == 1:
            raise ValueError("the total weight is zero")
        return honest(*args, **given)

    monkeypatch.setattr(aggregator.open_model, "unpack_sum", refuse_once)
    job = run(tmp_path, config(scans))
    assert [entry["failed_attempts"] for entry in journal(job)] == [["the total weight is zero"], []]
    report = verify_run(job.aggregator_folder)
    assert report.verified
    assert "aborted after enough shares had been revealed" in str(report.as_dict())
