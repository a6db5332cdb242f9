"""Encrypted runs after losses: of a site's key, model or books, of the aggregator's process, of a readable sum."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scripted_faults import JumpingClock, ScriptedFaults, train_with
from small_federation import Faults, config, digest, journal, provision, site_log, train

import clients.encrypted_stages
import privacy.he.member_round
from aggregator.folder import AggregatorFolder
from aggregator.sealed_model import MAX_RERUNS
from clients.encrypted_run import EncryptedRun, encrypted_runs
from clients.encrypted_stages import EncryptedStages
from clients.site import Site
from privacy.he.errors import UnreadableSumError
from privacy.he.layout import message_root
from privacy.he.member import GroupMember
from privacy.he.messages import EncryptedInput
from secfed.audit.verify import verify_run
from secfed.errors import GroupKeyLost, RoundAborted, RunFolderError

SITES = ["ct-a", "ct-b", "mr-a", "mr-b"]
LOSER, NODE = "mr-a", 1002
OTHERS = [site for site in SITES if site != LOSER]
PLAIN_MODELS: dict[tuple[int, tuple[int, ...]], str] = {}
"""Equal plans give equal models, so each is trained once."""


@pytest.fixture(autouse=True)
def _clock(monkeypatch):
    monkeypatch.setattr("aggregator.admission.time", JumpingClock())


def small(scans, *, rounds, mode="encrypted"):
    return config(scans, protection={"mode": mode}, federation={"rounds": rounds}, training={"steps_per_round": 1})


def plain_model(scans, folder, *, rounds, missed=()):
    """The model of a plain run that `LOSER` does not see some rounds of."""
    wanted = (rounds, tuple(missed))
    if wanted not in PLAIN_MODELS:
        job = provision(folder / "plain", small(scans, rounds=rounds, mode="plain"))
        train_with(job, ScriptedFaults({(LOSER, "train", number): "error" for number in missed}))
        PLAIN_MODELS[wanted] = digest(job)
    return PLAIN_MODELS[wanted]


def survivors(job):
    return [entry["survivors"] for entry in journal(job) if entry["event"] == "round"]


def run_folders(job, sites=SITES):
    return [path for site in sites for path in job.site_folders[SITES.index(site)].glob("state/encrypted/*")]


def members(job):
    opened = [Site(folder) for folder in job.site_folders]
    return [EncryptedRun.open(site, encrypted_runs(site)[0]).member() for site in opened]


def assert_all_ended_alike(job):
    found = members(job)
    assert {member.stage for member in found} == {"ENDED"}
    assert {member.model_hash.hex() for member in found} == {digest(job)}
    assert verify_run(job.aggregator_folder).verified


def damage(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def at(server_round, action, *, kind="train"):
    """An intercept that acts once, when the first request of that kind is sent in that round."""
    done = []

    def intercept(_, message):
        told = (message.metadata.message_type, message.metadata.group_id)
        if told == (kind, str(server_round)) and not done:
            done.append(True)
            action()
        return message

    return intercept


LOSSES = {
    "key and model": (shutil.rmtree, [3]),
    "model": (lambda run: shutil.rmtree(run / "model"), [3]),
    "damaged model": (lambda run: [damage(path) for path in run.glob("model/*.safetensors")], [3]),
    "damaged momentum": (lambda run: [damage(path) for path in run.glob("model/*.npy")], [3]),
    # Round 4 shows that it cannot even be brought back, and the session after that gives it a new state.
    "damaged key": (lambda run: damage(run / "member.cbor"), [3, 4]),
    "session": (lambda run: (run.parents[1] / "session.cbor").unlink(), [3]),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_site_that_lost_something_is_brought_back_by_its_peers(scans, tmp_path, loss):
    spoil, missed = LOSSES[loss]
    rounds = missed[-1] + 1
    job = provision(tmp_path / "job", small(scans, rounds=rounds))
    train(job, intercept=at(3, lambda: [spoil(run) for run in run_folders(job, [LOSER])]))
    assert survivors(job) == [OTHERS if number in missed else SITES for number in range(1, rounds + 1)]
    assert digest(job) == plain_model(scans, tmp_path, rounds=rounds, missed=missed)
    assert_all_ended_alike(job)


def test_a_site_that_lost_books_too_begins_like_a_newcomer(scans, tmp_path):
    job = provision(tmp_path / "job", small(scans, rounds=4))

    def lose():
        for run in run_folders(job, [LOSER]):
            shutil.rmtree(run)
        (job.site_folders[2] / "books" / "rounds.jsonl").unlink()

    train(job, intercept=at(3, lose))
    assert survivors(job) == [SITES, SITES, OTHERS, SITES]
    assert digest(job) == plain_model(scans, tmp_path, rounds=4, missed=[3])
    assert_all_ended_alike(job)


def test_a_run_whose_key_nobody_has_any_more_ends_with_its_own_error(scans, tmp_path):
    job = provision(tmp_path, small(scans, rounds=4))
    lose = at(3, lambda: [shutil.rmtree(run) for run in run_folders(job)])
    with pytest.raises(GroupKeyLost, match=r"no site holds the group key.*Start a new run") as caught:
        train(job, intercept=lose)
    assert caught.value.exit_code == 7
    # It is no better after a restart, and no round is invented.
    with pytest.raises(GroupKeyLost):
        train(job)
    assert [entry["round"] for entry in journal(job)] == [1, 2]


def test_a_key_whose_books_are_lost_too_is_missed_all_the_same(scans, tmp_path):
    job = provision(tmp_path, small(scans, rounds=4))

    def lose():
        for folder in job.site_folders:
            shutil.rmtree(folder / "state")
            (folder / "books" / "rounds.jsonl").unlink()

    with pytest.raises(GroupKeyLost, match="no site knows of the 2 rounds"):
        train(job, intercept=at(3, lose))


def test_a_run_whose_key_is_lost_before_anybody_stepped_begins_again(scans, tmp_path):
    job = provision(tmp_path / "job", small(scans, rounds=2))
    train(job, intercept=at(2, lambda: [shutil.rmtree(run) for run in run_folders(job)]))
    assert [entry["event"] for entry in journal(job)] == ["rolled back", "round", "round", "end"]
    assert survivors(job) == [SITES, SITES]
    assert digest(job) == plain_model(scans, tmp_path, rounds=2)
    assert_all_ended_alike(job)


def interrupted(job, where, *, faults=None, replies=None):
    """A run whose aggregator is stopped before the first request that `where` picks is sent."""

    def intercept(node, message):
        if where(message.metadata):
            raise KeyboardInterrupt
        return message if faults is None else faults.request(node, message)

    with pytest.raises(KeyboardInterrupt):
        train(job, intercept=intercept, intercept_reply=None if replies is None else replies.reply)


def a_round_behind(scans, folder, *, rounds=4):
    """Two rounds are done, and `LOSER` missed the second, so it has not stepped on the sum of the first."""
    job = provision(folder / "job", small(scans, rounds=rounds))
    missed = Faults({(LOSER, "train"): "error"}, skip=1)
    interrupted(job, lambda told: told.message_type == "query.snapshot", faults=missed)
    return job


@pytest.mark.parametrize("books", ["kept", "lost"])
def test_a_round_runs_again_where_those_who_stepped_lost_their_state_and_the_last_is_behind(scans, tmp_path, books):
    """Nobody can show the way to the newest sum; the one that is a round behind still knows it to the sum before."""
    job = a_round_behind(scans, tmp_path)
    for run in run_folders(job, OTHERS):
        shutil.rmtree(run)
        if books == "lost":
            (run.parents[2] / "books" / "rounds.jsonl").unlink()
    train(job)
    events = [(entry["event"], entry["round"]) for entry in journal(job)]
    assert events == [("round", 1), ("rolled back", 1), *(("round", number) for number in (2, 3, 4)), ("end", 4)]
    assert survivors(job) == [SITES] * 4
    assert digest(job) == plain_model(scans, tmp_path, rounds=4)
    assert_all_ended_alike(job)


def test_no_round_runs_again_while_a_site_is_away_that_may_know_more(scans, tmp_path):
    job = a_round_behind(scans, tmp_path)
    for run in run_folders(job, ["ct-a", "ct-b"]):
        shutil.rmtree(run)
    away = Faults({("mr-b", "query.join"): "error"}, times=99)
    with pytest.raises(RoundAborted, match=r"no site that answered knows .* model of round 2 .*; mr-b did not"):
        train(job, intercept=away.request)
    train(job)
    assert [entry["event"] for entry in journal(job)] == [*["round"] * 4, "end"]
    assert survivors(job) == [SITES, OTHERS, SITES, SITES]
    assert digest(job) == plain_model(scans, tmp_path, rounds=4, missed=[2])
    assert_all_ended_alike(job)


def test_a_run_that_nobody_left_can_go_on_ends_with_its_own_error(scans, tmp_path):
    job = provision(tmp_path, small(scans, rounds=5))
    # The last site with a history missed the second round, and then could not be brought back.
    interrupted(
        job,
        lambda told: (told.message_type, told.group_id) == ("query.snapshot", "4"),
        faults=ScriptedFaults({(LOSER, "train", 2): "error", (LOSER, "query.restore", 3): "error"}),
    )
    for run in run_folders(job, OTHERS):
        shutil.rmtree(run)
    with pytest.raises(GroupKeyLost, match=r"3 rounds are completed, and .* stepped on 0 of them\. Start a new run"):
        train(job)
    assert [entry["round"] for entry in journal(job)] == [1, 2, 3]


def test_sites_that_stepped_and_lost_their_state_before_a_sum_came_of_it_wait_for_the_one_that_did_not(scans, tmp_path):
    """They stand a round before the only site with a history, so no snapshot that it has can serve them yet."""
    job = provision(tmp_path / "job", small(scans, rounds=3))
    joins = []

    def again(told):
        joins.append(told.message_type == "query.join")
        return sum(joins) > len(SITES)

    interrupted(
        job,
        again,
        faults=Faults({(LOSER, "train"): "error"}, skip=1),
        replies=Faults({(site, "train"): "lost" for site in OTHERS}, skip=1),
    )
    for run in run_folders(job, OTHERS):
        shutil.rmtree(run)
    train(job)
    assert survivors(job) == [SITES] * 3
    assert digest(job) == plain_model(scans, tmp_path, rounds=3)
    assert_all_ended_alike(job)


def test_holders_that_are_away_are_waited_for_and_not_replaced(scans, tmp_path):
    job = provision(tmp_path / "job", small(scans, rounds=3))

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(job, intercept=at(3, stop))
    for run in run_folders(job, OTHERS):
        shutil.rmtree(run)
    away = Faults({(LOSER, "query.join"): "error"}, times=99)
    with pytest.raises(RoundAborted, match="none of ct-a, ct-b, mr-b holds the run's group key; mr-a did not answer"):
        train(job, intercept=away.request)
    train(job)
    assert digest(job) == plain_model(scans, tmp_path, rounds=3)
    assert_all_ended_alike(job)


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def test_an_aggregator_that_is_killed_before_any_of_its_writes_goes_on(scans, tmp_path, monkeypatch):
    """The first process dies before its first durable write, the second before its second, until one comes through."""
    undisturbed = plain_model(scans, tmp_path, rounds=3)
    job = provision(tmp_path / "job", small(scans, rounds=3))
    honest_replace, honest_append = Path.replace, AggregatorFolder.append
    left = []

    def strike():
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    def replace(self, target):
        if job.aggregator_folder in self.parents:
            strike()
        return honest_replace(self, target)

    def append(self, entry):
        strike()
        honest_append(self, entry)

    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(AggregatorFolder, "append", append)
    for count in range(60):
        left[:] = [count]
        try:
            train(job)
        except Killed:
            continue
        break
    assert count > 10
    assert [(entry["event"], entry["round"]) for entry in journal(job)] in (
        [("round", 1), ("round", 2), ("round", 3), ("end", 3)],
        # Killed after the end was durable and before it was noted.
        [("round", 1), ("round", 2), ("round", 3)],
    )
    assert survivors(job) == [SITES] * 3
    assert digest(job) == undisturbed
    assert verify_run(job.aggregator_folder).verified


def test_no_round_number_is_used_twice_over_restarts(scans, tmp_path):
    job = provision(tmp_path, small(scans, rounds=2))
    numbers = []

    def watch(_, message):
        if message.metadata.message_type == "train":
            header = message.content["secfed"]["header"]
            numbers.append((message.metadata.dst_node_id, header))
            if len(numbers) in (2, 7):
                raise Killed
        return message

    for _ in range(2):
        with pytest.raises(Killed):
            train(job, intercept=watch)
    train(job, intercept=watch)
    assert len(set(numbers)) == len(numbers)
    state = json.loads((job.aggregator_folder / "checkpoints" / "state.json").read_text())
    assert (state["completed"], state["ended"]) == (2, True)
    assert state["number"] == 5


@pytest.mark.parametrize("who", ["one", "all"])
def test_a_site_that_dies_between_its_model_and_its_state_comes_to_the_same_model(scans, tmp_path, monkeypatch, who):
    """The model of the new round is on the disk, the protocol state is not: the same sum is shown once more."""
    job = provision(tmp_path / "job", small(scans, rounds=4))
    honest, struck = EncryptedRun.keep, set()

    def keep(self, member):
        dies = member.completed == 1 and member.stage == "STEPPED" and (who == "all" or self.site.name == LOSER)
        if dies and self.site.name not in struck:
            struck.add(self.site.name)
            raise OSError("the power went")
        honest(self, member)

    monkeypatch.setattr(EncryptedRun, "keep", keep)
    train(job)
    if who == "all":
        assert survivors(job) == [SITES] * 4
        assert len(journal(job)[1]["failed_attempts"]) == 1
    else:
        assert survivors(job) == [SITES, OTHERS, SITES, SITES]
    assert digest(job) == plain_model(scans, tmp_path, rounds=4, missed=[2] if who == "one" else [])
    assert_all_ended_alike(job)


def test_a_site_that_dies_while_it_trains_has_stepped_already(scans, tmp_path, monkeypatch):
    job = provision(tmp_path / "job", small(scans, rounds=4))
    honest, struck = clients.encrypted_stages.contribute, []

    def contribute(site, session, **given):
        if site.name == LOSER and given["server_round"] == 2 and not struck:
            struck.append(site.name)
            raise OSError("the power went")
        return honest(site, session, **given)

    monkeypatch.setattr(clients.encrypted_stages, "contribute", contribute)
    train(job)
    assert survivors(job) == [SITES, OTHERS, SITES, SITES]
    noted = Site(job.site_folders[2]).books.rounds()
    assert [entry["round"] for entry in noted] == [1, 2, 3, 4]
    assert digest(job) == plain_model(scans, tmp_path, rounds=4, missed=[2])
    assert_all_ended_alike(job)


def spoil_uploads(monkeypatch, *, site, times):
    """The site signs and sends, for a while, a ciphertext under another site's check slots."""
    honest, done = privacy.he.member_round.encrypt, []

    def encrypt(state, seat, words):
        if state.name != site or len(done) >= times:
            return honest(state, seat, words)
        done.append(True)
        announced = privacy.he.member_round._announced(state, step="round")
        ciphertext = seat.open_key().encrypt(words, contributor="ct-a", context=announced.context)
        body = EncryptedInput(
            root=message_root(ciphertext),
            length=len(ciphertext),
            model_tag=privacy.he.member_round.tag(state),
            sum_root=state.sum_root,
        )
        header, found = seat.seat.sign(body, context=announced.context, previous=state.inputs_digest)
        following = dataclasses.replace(state, stage="UPLOADED", input_context=announced.context, input_digest=found)
        return following, header, ciphertext

    monkeypatch.setattr(privacy.he.member_round, "encrypt", encrypt)


def test_a_sum_that_nobody_can_read_is_dropped_and_its_round_run_again(scans, tmp_path, monkeypatch):
    job = provision(tmp_path / "job", small(scans, rounds=2))
    spoil_uploads(monkeypatch, site=LOSER, times=2)
    train(job)
    assert [entry["event"] for entry in journal(job)] == ["rolled back", "rolled back", "round", "round", "end"]
    assert "4 sites could not read the sum of round 1" in journal(job)[0]["reason"]
    assert digest(job) == plain_model(scans, tmp_path, rounds=2)
    assert_all_ended_alike(job)


def test_a_last_sum_that_nobody_can_read_is_found_at_the_end(scans, tmp_path, monkeypatch):
    job = provision(tmp_path / "job", small(scans, rounds=1))
    spoil_uploads(monkeypatch, site=LOSER, times=1)
    train(job)
    assert [entry["event"] for entry in journal(job)] == ["rolled back", "round", "end"]
    assert digest(job) == plain_model(scans, tmp_path, rounds=1)
    assert_all_ended_alike(job)


def test_a_site_that_always_sends_nonsense_stops_the_run_and_can_be_left_out(scans, tmp_path, monkeypatch):
    job = provision(tmp_path / "job", small(scans, rounds=2))
    spoil_uploads(monkeypatch, site=LOSER, times=99)
    match = rf"could not read the sum of round 1, which was run {MAX_RERUNS + 1} times.*Leave sites out"
    with pytest.raises(RoundAborted, match=match):
        train(job)
    # Each failure tells whoever sent the sum a little about the key, so that every site counts them.
    assert {member._state.failed_sums for member in members(job)} == {MAX_RERUNS + 1}
    away = Faults({(LOSER, "query.join"): "error"}, times=99)
    train(job, intercept=away.request)
    assert survivors(job) == [OTHERS, OTHERS]
    plain = provision(tmp_path / "plain", small(scans, rounds=2, mode="plain"))
    train(plain, intercept=Faults({(LOSER, "query.join"): "error"}, times=99).request)
    assert digest(job) == digest(plain)
    assert verify_run(job.aggregator_folder).verified


@pytest.mark.parametrize("liars", [1, 2])
def test_sites_that_lie_about_a_sum_do_not_drive_the_others_back(scans, tmp_path, monkeypatch, liars):
    """They say that they cannot read it while one more is away: the round fails, and what was stepped on stays."""
    job = provision(tmp_path / "job", small(scans, rounds=3))
    honest, lies = GroupMember.accept, []

    def accept(self, announcement, **given):
        name = self._state.name
        if name in ("ct-a", "ct-b")[:liars] and self.completed == 1 and name not in lies:
            lies.append(name)
            raise UnreadableSumError("so it says")
        return honest(self, announcement, **given)

    monkeypatch.setattr(GroupMember, "accept", accept)
    train_with(job, ScriptedFaults({(LOSER, "train", 3): "error"}))
    assert len(lies) == liars
    assert [entry["event"] for entry in journal(job)] == ["round", "round", "round", "end"]
    assert [len(entry["failed_attempts"]) for entry in journal(job)] == [0, 0, 1, 0]
    assert digest(job) == plain_model(scans, tmp_path, rounds=3)
    assert_all_ended_alike(job)


@pytest.mark.parametrize("astray", ["mr-a", "ct-a"], ids=["answers third", "answers first"])
def test_a_site_whose_step_gives_another_model_is_left_out_and_brought_back(scans, tmp_path, monkeypatch, astray):
    job = provision(tmp_path / "job", small(scans, rounds=4))
    honest = EncryptedStages._step

    def step(self, member, announced, before, words):
        if self.site.name == astray and announced.server_round == 2:
            before = dataclasses.replace(before, model=before.model + np.float32(1))
        return honest(self, member, announced, before, words)

    monkeypatch.setattr(EncryptedStages, "_step", step)
    train(job)
    plain = provision(tmp_path / "plain", small(scans, rounds=4, mode="plain"))
    if astray == "ct-a":
        # The first to answer sets the tone; the round fails, and the second attempt has all on one model.
        assert survivors(job) == [SITES] * 4
        assert len(journal(job)[1]["failed_attempts"]) == 1
        train(plain)
    else:
        assert survivors(job) == [SITES, OTHERS, SITES, SITES]
        assert "stands on another model" in journal(job)[1]["lost"][astray]
        train_with(plain, ScriptedFaults({(LOSER, "train", 2): "garbage"}))
    if astray == LOSER:
        assert "restored" in site_log(job, LOSER)
    assert_all_ended_alike(job)


@pytest.mark.parametrize("name", ["state.json", "sum-000001.bin", "sum-000001.cbor"])
def test_a_damaged_file_of_the_aggregator_is_named(scans, tmp_path, name):
    job = provision(tmp_path, small(scans, rounds=2))

    def stop():
        raise Killed

    with pytest.raises(Killed):
        train(job, intercept=at(2, stop))
    damage(job.aggregator_folder / "checkpoints" / name)
    with pytest.raises(RunFolderError, match=name.partition(".")[0]):
        train(job)


def test_the_final_model_is_found_where_a_site_lost_its_state_at_the_end(scans, tmp_path):
    job = provision(tmp_path / "job", small(scans, rounds=1))

    def lose():
        for run in run_folders(job, ["ct-a"]):
            (run / "member.cbor").unlink()

    train(job, intercept=at(2, lose, kind="query.end"))
    assert journal(job)[-1]["lost"] == {"ct-a": "refused: policy"}
    assert digest(job) == plain_model(scans, tmp_path, rounds=1)
