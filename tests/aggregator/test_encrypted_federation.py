"""Encrypted runs give the model of plain and masked ones bit for bit, and the aggregator's folder holds none of it."""

import gc
import json
import shutil

import pytest
from small_federation import config, digest, journal, provision, site_log, train

import aggregator.encrypted_summation
from aggregator.folder import AggregatorFolder
from clients.books import Books
from clients.encrypted_run import EncryptedRun, encrypted_runs
from clients.site import Site
from privacy.he.member_state import MemberState
from privacy.he.receipt import EncryptedReceipt
from secfed.audit.verify import verify_run
from secfed.checkpoint import Checkpoints
from secfed.engines import in_process
from secfed.errors import RoundAborted
from secfed.messages import Reply
from secfed.site_config import SitePolicy, load_site_file, save_site_file

SITES = ["ct-a", "ct-b", "mr-a", "mr-b"]
SMALL = {"training": {"steps_per_round": 1}}


def run(folder, run_config):
    job = provision(folder, run_config)
    train(job)
    return job


def sites_of(job):
    return [Site(folder) for folder in job.site_folders]


def stands(job):
    """What every site has of the newest run: its protocol state and the model that this names."""
    found = []
    for site in sites_of(job):
        made = EncryptedRun.open(site, encrypted_runs(site)[0])
        member = made.member()
        found.append((member.stage, member.completed, member.model_hash, made.state(member)))
    return found


@pytest.fixture(scope="module")
def jobs(scans, tmp_path_factory):
    """One plan in every mode, three rounds, each validated."""
    modes = {
        "plain": {"mode": "plain"},
        "masked": {"mode": "masked"},
        "bfv": {"mode": "encrypted"},
        "ckks": {"mode": "encrypted", "scheme": "ckks"},
    }
    folder = tmp_path_factory.mktemp("modes")
    return {
        name: run(
            folder / name, config(scans, protection=given, federation={"rounds": 3, "validate_every": 1}, **SMALL)
        )
        for name, given in modes.items()
    }


@pytest.mark.parametrize("name", ["masked", "bfv", "ckks"])
def test_every_protection_gives_the_plain_model_bit_for_bit(jobs, name):
    assert digest(jobs[name]) == digest(jobs["plain"])


@pytest.mark.parametrize(
    "changes",
    [
        {
            "federation": {"server_optimizer": "fedavgm", "server_learning_rate": 0.7},
            "model": {"normalisation": "batch"},
        },
        {
            "federation": {"server_optimizer": "fedadam", "server_learning_rate": 0.01, "server_momentum": 0.9},
            "model": {"normalisation": "batch"},
        },
        {"training": {"steps_per_round": 1, "optimizer_state": "average"}, "model": {"normalisation": "group"}},
        {"training": {"steps_per_round": 1, "optimizer_state": "reset"}, "federation": {"weighting": "uniform"}},
    ],
    ids=["momentum and batch statistics", "adaptive step", "shared moments", "fresh optimiser"],
)
def test_the_sites_take_the_server_s_step_as_an_aggregator_would(scans, tmp_path, changes):
    found = {}
    for mode in ("plain", "masked", "encrypted"):
        made = {**SMALL, **changes, "federation": {**changes.get("federation", {}), "rounds": 3}}
        found[mode] = digest(run(tmp_path / mode, config(scans, protection={"mode": mode}, **made)))
    assert found["encrypted"] == found["masked"] == found["plain"]


@pytest.mark.parametrize("name", ["bfv", "ckks"])
def test_a_round_takes_one_exchange_and_the_end_two(jobs, name):
    entries = journal(jobs[name])
    assert [(entry["event"], entry["exchanges"]) for entry in entries] == [
        ("round", 6),
        ("round", 1),
        ("round", 1),
        ("end", 2),
    ]
    assert [entry["survivors"] for entry in entries[:3]] == [SITES] * 3
    assert all(entry["failed_attempts"] == [] and entry["lost"] == {} for entry in entries)


def test_every_site_notes_the_metrics_that_a_plain_aggregator_sees(jobs):
    plain = [entry["metrics"] for entry in journal(jobs["plain"])]
    assert set(plain[0]) == {"train_loss", "validation_dice_ct", "validation_dice_mr"}
    for site in sites_of(jobs["bfv"]):
        noted = site.books.rounds()
        assert [entry["round"] for entry in noted] == [1, 2, 3]
        assert [entry["metrics"] for entry in noted] == plain
        assert all(entry["contributors"] == SITES for entry in noted)
    assert all(not entry.get("metrics") for entry in journal(jobs["bfv"]))


def test_all_sites_end_on_one_model_without_a_key(jobs):
    found = stands(jobs["bfv"])
    assert {(stage, completed, model) for stage, completed, model, _ in found} == {
        ("ENDED", 3, bytes.fromhex(digest(jobs["bfv"])))
    }
    for site in sites_of(jobs["bfv"]):
        (path,) = site.state.glob("encrypted/*/member.cbor")
        assert MemberState.from_bytes(path.read_bytes()).group_key == b""
        kept = sorted(found.name for found in path.parent.joinpath("model").glob("round-*.safetensors"))
        assert kept == ["round-000002.safetensors", "round-000003.safetensors"]


def test_the_aggregator_s_folder_holds_no_model_no_metric_and_no_key(scans, tmp_path, monkeypatch):
    """The sites' keys and models are searched for in every byte that the aggregator has, and all that it was sent."""
    job = provision(
        tmp_path, config(scans, protection={"mode": "encrypted"}, federation={"validate_every": 1}, **SMALL)
    )
    keys, sent = set(), []

    def remember(_, reply):
        sent.extend(bytes(part) for part in reply.content["secfed"]["payloads"])
        if "attachment" in reply.content:
            sent.append(reply.content["attachment"]["bytes"].data)
        for path in job.folder.glob("sites/*/state/encrypted/*/member.cbor"):
            keys.add(MemberState.from_bytes(path.read_bytes()).group_key)
        return reply

    train(job, intercept_reply=remember)
    keys.discard(b"")
    assert len(keys) == 1
    files = {path: path.read_bytes() for path in job.aggregator_folder.rglob("*") if path.is_file()}
    everything = b"".join([*files.values(), *sent])
    key = keys.pop()
    # Pieces, so that no other packing of the same bytes is overlooked.
    assert not any(key[place : place + 32] in everything for place in range(200, len(key) - 32, 997))
    first, layout = AggregatorFolder(job.aggregator_folder).initial_model()
    for _, _, _, state in stands(job):
        weights = state.model.astype("<f4").tobytes()
        pieces = [weights[place : place + 64] for place in range(0, len(weights) - 64, 256)]
        assert not any(piece in everything for piece in pieces if piece not in first.astype("<f4").tobytes())
    # The control: the model that everybody can make from the seed is there, and is found this way.
    assert first.astype("<f4").tobytes()[:64] in b"".join(files.values()) or layout.size < 16
    words = ("train_loss", "validation_dice")
    said = {path: data for path, data in files.items() if path.name not in ("plan.json",)}
    told = [str(path) for path, data in said.items() for word in words if word.encode() in data]
    assert told == []
    assert {path.relative_to(job.aggregator_folder).parts[0] for path in files} == {
        "plan.json",
        "sites.json",
        "initial.safetensors",
        "roster.cbor",
        "anchor.pub",
        "checkpoints",
        "journal.jsonl",
        "aggregator-view.json",
        "simulated",
        "transcript",
    }


def test_receipts_of_every_round_and_of_the_end_lie_with_the_sites(jobs):
    for folder in jobs["bfv"].site_folders:
        lines = (folder / "books" / "receipts.jsonl").read_text().splitlines()
        noted = [json.loads(line) for line in lines]
        assert len(noted) == 4
        assert len({EncryptedReceipt.from_json(entry).context for entry in noted}) == 4


def test_the_transcript_of_an_encrypted_job_verifies(jobs):
    assert verify_run(jobs["bfv"].aggregator_folder).verified


def test_the_aggregator_holds_one_ciphertext_at_a_time(scans, tmp_path, monkeypatch):
    """However many sites upload: the accumulator, and the message that is being added to it."""
    job = provision(tmp_path, config(scans, protection={"mode": "encrypted"}, federation={"rounds": 2}, **SMALL))
    honest, most = aggregator.encrypted_summation.EncryptedRound.add_input, []

    def count(self, header, ciphertext):
        held = [found for found in gc.get_objects() if type(found) is Reply and found.attachment is not None]
        most.append(sum(len(found.attachment) == len(ciphertext) for found in held))
        return honest(self, header, ciphertext)

    monkeypatch.setattr(aggregator.encrypted_summation.EncryptedRound, "add_input", count)
    train(job)
    assert len(most) == 8
    # The site's end of the same process may still hold the one that it has just sent.
    assert max(most) <= 2


def test_several_workers_give_the_same_model(scans, jobs, tmp_path):
    job = provision(
        tmp_path,
        config(scans, protection={"mode": "encrypted"}, federation={"rounds": 3, "validate_every": 1}, **SMALL),
    )
    in_process.run(job, workers=2)
    assert digest(job) == digest(jobs["plain"])


@pytest.mark.parametrize(
    ("policy", "word"),
    [
        (SitePolicy(protection=("masked",)), "policy allows only ['masked']"),
        (SitePolicy(protection=("encrypted",), encryption_schemes=("ckks",)), "policy allows only ['ckks']"),
    ],
    ids=["mode", "scheme"],
)
def test_a_site_whose_policy_does_not_allow_it_is_left_out(scans, tmp_path, policy, word):
    job = provision(tmp_path, config(scans, protection={"mode": "encrypted"}, federation={"rounds": 1}, **SMALL))
    site = load_site_file(job.site_folders[2])
    save_site_file(job.site_folders[2], site.model_copy(update={"policy": policy}))
    train(job)
    assert [entry.get("survivors") for entry in journal(job)] == [["ct-a", "ct-b", "mr-b"], None]
    assert word in site_log(job, "mr-a")
    assert not (job.site_folders[2] / "state" / "encrypted").exists()


def test_a_site_that_wants_more_peers_than_there_are_keeps_the_others_going(scans, tmp_path):
    job = provision(tmp_path, config(scans, protection={"mode": "encrypted"}, federation={"rounds": 1}, **SMALL))
    site = load_site_file(job.site_folders[2])
    policy = site.policy.model_copy(update={"min_cohort": 5})
    save_site_file(job.site_folders[2], site.model_copy(update={"policy": policy}))
    train(job)
    assert journal(job)[0]["survivors"] == ["ct-a", "ct-b", "mr-b"]
    assert "at least 5" in site_log(job, "mr-a") or "min_cohort" in site_log(job, "mr-a")


def test_one_site_s_two_runs_have_keys_and_models_of_their_own(scans, tmp_path):
    """A run is stopped, another one runs to its end with the same sites, and the first goes on as if nothing was."""
    job = provision(tmp_path, config(scans, protection={"mode": "encrypted"}, federation={"rounds": 2}, **SMALL))
    stopped, fresh = job.aggregator_folder.with_name("stopped"), job.aggregator_folder.with_name("fresh")
    shutil.copytree(job.aggregator_folder, fresh)

    def stop(_, message):
        if message.metadata.group_id == "2":
            raise KeyboardInterrupt
        return message

    with pytest.raises(KeyboardInterrupt):
        train(job, intercept=stop)
    job.aggregator_folder.rename(stopped)
    fresh.rename(job.aggregator_folder)
    train(job)
    other = digest(job)
    (first, second) = (path.name for path in encrypted_runs(sites_of(job)[0]))
    job.aggregator_folder.rename(job.aggregator_folder.with_name("other"))
    stopped.rename(job.aggregator_folder)
    train(job)
    for site in sites_of(job):
        models = [EncryptedRun.open(site, site.state / "encrypted" / name).member() for name in (first, second)]
        assert [(member.stage, member.completed) for member in models] == [("ENDED", 2)] * 2
        assert models[0].fingerprint != models[1].fingerprint
        assert {member.model_hash.hex() for member in models} == {other}
        assert len(site.books.rounds()) == 4


def test_books_know_rounds_by_run_and_forgive_a_line_that_was_cut(tmp_path):
    books = Books(tmp_path)
    for run_name, server_round in ((b"a", 1), (b"a", 2), (b"b", 1)):
        books.round(run=run_name, server_round=server_round, model_hash=b"m", contributors=["x"], metrics={})
    with (tmp_path / "rounds.jsonl").open("a") as file:
        file.write('{"run": "61", "rou')
    assert books.standing(b"a") == (2, b"m")
    assert books.standing(b"c") == (0, b"")
    assert len(books.rounds()) == 3


def test_no_checkpoint_of_a_model_is_made_by_the_aggregator(jobs):
    folder = jobs["bfv"].aggregator_folder / "checkpoints"
    _, layout = AggregatorFolder(jobs["bfv"].aggregator_folder).initial_model()
    assert Checkpoints(folder).load(layout) is None
    names = {path.name for path in folder.iterdir()}
    assert names == {"state.json", *(f"sum-00000{n}.{kind}" for n in (2, 3) for kind in ("bin", "cbor"))}


def test_a_run_that_nobody_joins_says_whom_it_asked(scans, tmp_path):
    job = provision(tmp_path, config(scans, protection={"mode": "encrypted"}, **SMALL))
    for folder in job.site_folders:
        site = load_site_file(folder)
        save_site_file(folder, site.model_copy(update={"policy": SitePolicy(protection=("masked",))}))
    with pytest.raises(RoundAborted, match=r"0 sites answered stage 'join'.*refused: policy"):
        train(job)
