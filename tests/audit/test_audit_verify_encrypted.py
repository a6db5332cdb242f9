"""`secfed audit verify` on real encrypted runs: what it proves, what it names, and what it says that it cannot know."""

import functools
import json
import shutil

import pytest
from command_line import call
from small_federation import config, provision, train

from privacy.chain import HEAD, entry_name
from privacy.he.replay import REPLAYED
from privacy.he.transcript import FORMAT
from privacy.he.verifier import RUN_AGAIN
from secfed.audit.encrypted_reading import CANNOT_BE_PROVED
from secfed.audit.sum_files import KEPT_SUM
from secfed.audit.verify import verify_run

ROUNDS = 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory, scans):
    """A run with one real encrypted job that keeps every upload."""
    folder = tmp_path_factory.mktemp("audited") / "run"
    federation = {"rounds": ROUNDS, "server_optimizer": "fedavgm"}
    train(
        provision(folder, config(scans, federation=federation, protection={"mode": "encrypted", "keep_uploads": "all"}))
    )
    return folder


@pytest.fixture
def run(whole, tmp_path):
    """A copy to change."""
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def secfed(monkeypatch, capfd):
    return functools.partial(call, monkeypatch, capfd)


def aggregator_of(run):
    return run / "jobs" / "federated" / "aggregator"


def newest_sum(run):
    return aggregator_of(run) / "checkpoints" / f"sum-{ROUNDS:06d}.bin"


def only(report):
    [verdict] = report.verdicts
    return verdict


def where_failed(report):
    return [finding.where for finding in only(report).failed]


def places(report, status, what):
    return [finding.where for finding in only(report).findings if (finding.status, finding.what) == (status, what)]


def flip(path, position=50):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))


def test_run_that_keeps_everything_is_replayed_to_its_last_sum(whole):
    report = verify_run(whole)
    verdict = only(report)
    assert {finding.status for finding in verdict.findings} == {"proved"}
    assert (verdict.protection, verdict.replayed, verdict.by_signatures) == ("encrypted", (1, 2, 3), ())
    # A receipt per round, and one of the end.
    assert verdict.receipts == 4 * (ROUNDS + 1)
    assert places(report, "proved", REPLAYED) == [entry_name(number) for number in (1, 2, 3)]
    assert places(report, "proved", KEPT_SUM) == [f"checkpoints/{newest_sum(whole).name}"]


def test_page_and_json_say_what_no_encrypted_transcript_shows(secfed, whole):
    code, out, _ = secfed("audit", "verify", whole)
    assert code == 0
    for text in (
        "encrypted: 3 rounds, 3 replayed in full",
        "Cannot be proved",
        "works with the aggregator",
        "VERIFIED",
    ):
        assert text in out
    code, out, _ = secfed("audit", "verify", whole, "--json")
    found = json.loads(out)
    assert found["cannot_be_proved"] == list(CANNOT_BE_PROVED)
    assert found["transcripts"][0]["protection"] == "encrypted"


@pytest.mark.parametrize("name", [entry_name(0), entry_name(2), entry_name(4), HEAD, FORMAT.vector_name(2, "ct-b")])
def test_changed_byte_is_named_with_its_file(run, name):
    flip(aggregator_of(run) / "transcript" / name)
    assert where_failed(verify_run(run))[0] == name


def test_transcript_whose_first_entry_is_damaged_is_still_read_as_encrypted(run):
    flip(aggregator_of(run) / "transcript" / entry_name(0))
    verdict = only(verify_run(run))
    assert verdict.protection == "encrypted"
    assert verdict.failed[0].where == entry_name(0)


def test_kept_sum_that_is_another_or_of_no_round_is_named(run):
    path = newest_sum(run)
    flip(path, position=1000)
    assert where_failed(verify_run(run)) == [f"checkpoints/{path.name}"]
    path.write_bytes(path.read_bytes()[:-1])
    assert where_failed(verify_run(run)) == [f"checkpoints/{path.name}"]
    path.rename(path.with_name("sum-000009.bin"))
    report = verify_run(run)
    assert where_failed(report) == ["checkpoints/sum-000009.bin"]
    assert places(report, "unchecked", f"there is no encrypted sum of round {ROUNDS} to compare with") == [
        "checkpoints"
    ]


def test_plan_beside_the_transcript_must_be_the_same(run):
    path = aggregator_of(run) / "plan.json"
    plan = json.loads(path.read_text())
    path.write_text(json.dumps({**plan, "seed": plan["seed"] + 1}))
    assert where_failed(verify_run(run)) == ["plan.json"]


def test_unknown_files_are_named(run):
    transcript = aggregator_of(run) / "transcript"
    for name in ("stranger.ct", "ct-a.u32"):
        (transcript / "vectors" / "000001" / name).write_bytes(b"x")
    found = places(verify_run(run), "unchecked", "is no part of the transcript")
    assert found == ["vectors/000001/ct-a.u32", "vectors/000001/stranger.ct"]


def test_uploads_past_the_retention_leave_signatures_and_receipts(run):
    """They are gone although the setting keeps them: named; and what is signed is still checked."""
    shutil.rmtree(aggregator_of(run) / "transcript" / "vectors" / "000001")
    report = verify_run(run)
    assert where_failed(report) == [entry_name(1)]
    assert only(report).replayed == (2, 3)
    assert only(report).by_signatures == (1,)


def test_receipts_of_another_history_or_another_protection_fail(whole, tmp_path):
    own = whole / "jobs/federated/sites/ct-a/books/receipts.jsonl"
    lines = [json.loads(line) for line in own.read_text().splitlines()]
    assert only(verify_run(whole, receipts=[own])).receipts == ROUNDS + 1
    given = tmp_path / "ct-a.jsonl"
    given.write_text(json.dumps({**lines[0], "context": "00" * 32}))
    assert where_failed(verify_run(whole, receipts=[given])) == ["receipts of ct-a"]
    masked = {
        "site": "ct-a",
        "session": lines[0]["session"],
        "round_number": 1,
        **dict.fromkeys(("context", "model_hash", "previous", "header_digest", "survivors_digest"), "00" * 32),
        "survivors": ["ct-a", "ct-b"],
    }
    given.write_text(json.dumps(masked))
    [problem] = only(verify_run(whole, receipts=[given])).failed
    assert "under another protection" in problem.what
    given.write_text(json.dumps({**lines[0], "protection": "other"}))
    assert where_failed(verify_run(whole, receipts=[given])) == ["ct-a.jsonl"]


def test_round_that_a_site_spoiled_is_run_again_and_noted(tmp_path, scans, monkeypatch):
    """A site encrypts once in another's name: nobody reads the sum, it is dropped, and the audit says so."""
    from privacy.he.key_holder import GroupKey

    honest, calls = GroupKey.encrypt, []

    def spoiled(self, words, *, contributor, context):
        calls.append(contributor)
        wrong = contributor == "ct-a" and calls.count("ct-a") == 2
        return honest(self, words, contributor="ct-b" if wrong else contributor, context=context)

    monkeypatch.setattr(GroupKey, "encrypt", spoiled)
    federation = {"rounds": ROUNDS}
    train(provision(tmp_path / "run", config(scans, federation=federation, protection={"mode": "encrypted"})))
    report = verify_run(tmp_path / "run")
    verdict = only(report)
    assert not verdict.failed
    assert len(places(report, "unchecked", RUN_AGAIN)) == 1
    assert verdict.rounds == ROUNDS + 1
    assert verdict.replayed == (ROUNDS,)


def test_job_whose_transcript_is_gone_is_not_verified(run):
    shutil.copytree(aggregator_of(run), run / "jobs" / "second" / "aggregator")
    shutil.rmtree(run / "jobs" / "second" / "aggregator" / "transcript")
    assert verify_run(run).missing == ("second",)
