"""`secfed audit verify` on real runs: what it proves, what it names when something was changed, and its exit codes."""

import functools
import json
import shutil

import numpy as np
import pytest
from command_line import call
from small_federation import config, provision, train

from aggregator.folder import AggregatorFolder
from privacy.secagg.transcript import HEAD, SUM, entry_name, vector_name
from secfed.audit.masked_reading import CANNOT_BE_PROVED
from secfed.audit.model_replay import CHAINED_ONLY, STEPPED
from secfed.audit.verdict_page import ranges
from secfed.audit.verify import count_entries, verify_run
from secfed.errors import RunFolderError
from secfed.parameters import load_vector, save_vector

ROUNDS = 3


def federation(folder, scans, **protection):
    """A run folder with one real masked job, trained."""
    settings = config(
        scans,
        federation={"rounds": ROUNDS, "server_optimizer": "fedavgm", "server_momentum": 0.9},
        protection=protection,
    )
    job = provision(folder, settings)
    train(job)
    return job


@pytest.fixture(scope="module")
def whole(tmp_path_factory, scans):
    """A run that keeps every round, as it was written."""
    folder = tmp_path_factory.mktemp("audited") / "run"
    federation(folder, scans, keep_uploads="all")
    return folder


@pytest.fixture(scope="module")
def pruned(tmp_path_factory, scans):
    """A run that keeps the last round only."""
    folder = tmp_path_factory.mktemp("audited") / "run"
    federation(folder, scans, keep_uploads=1)
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


def only(report):
    [verdict] = report.verdicts
    return verdict


def where_failed(report):
    return [finding.where for finding in only(report).failed]


def places(report, status, what):
    return [finding.where for finding in only(report).findings if (finding.status, finding.what) == (status, what)]


def flip(path, position=100):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))


def test_run_that_keeps_everything_is_replayed_to_its_final_model(whole):
    verdict = only(verify_run(whole))
    assert {finding.status for finding in verdict.findings} == {"proved"}
    assert verdict.replayed == (1, 2, 3)
    assert verdict.by_signatures == ()
    assert verdict.receipts == 4 * ROUNDS
    said = {finding.what for finding in verdict.findings}
    assert STEPPED in said
    assert "the last checkpoint is the model that the last round ended with" in said


def test_pruned_run_is_replayed_from_a_checkpoint_and_says_what_it_only_checked(pruned):
    report = verify_run(pruned)
    verdict = only(report)
    assert not verdict.failed
    assert verdict.replayed == (3,)
    assert verdict.by_signatures == (1, 2)
    assert places(report, "proved", STEPPED) == [entry_name(3)]
    assert places(report, "unchecked", CHAINED_ONLY) == [entry_name(1), entry_name(2)]
    assert places(report, "unchecked", "the momentum in this checkpoint is the aggregator's word")


def test_adaptive_step_is_replayed_from_a_checkpoint_with_both_of_its_moments(tmp_path, scans):
    settings = config(
        scans,
        federation={"rounds": ROUNDS, "server_optimizer": "fedadam", "server_momentum": 0.9},
        protection={"keep_uploads": 1},
    )
    job = provision(tmp_path / "run", settings)
    train(job)
    report = verify_run(tmp_path / "run")
    assert not only(report).failed
    assert places(report, "proved", STEPPED) == [entry_name(3)]
    for moment in ("momentum", "second moment"):
        assert places(report, "unchecked", f"the {moment} in this checkpoint is the aggregator's word")
    path = job.aggregator_folder / "checkpoints" / "round-000002.second_moment.npy"
    np.save(path, 4 * np.load(path))
    assert where_failed(verify_run(tmp_path / "run")) == [entry_name(3)]
    path.unlink()
    report = verify_run(tmp_path / "run")
    assert not only(report).failed
    assert places(report, "unchecked", CHAINED_ONLY) == [entry_name(1), entry_name(2), entry_name(3)]


@pytest.mark.parametrize("rule", ["fedbn", "fednorm"])
def test_rounds_with_layers_that_are_not_everybody_s_are_replayed(tmp_path, scans, rule):
    job = provision(
        tmp_path / "run",
        config(
            scans,
            model={"normalisation": "batch"},
            federation={"rounds": ROUNDS, "normalisation": rule, "server_optimizer": "fedadam"},
            protection={"keep_uploads": "all"},
        ),
    )
    train(job)
    verdict = only(verify_run(tmp_path / "run"))
    assert {finding.status for finding in verdict.findings} == {"proved"}
    assert verdict.replayed == (1, 2, 3)


def test_aggregator_folder_alone_is_verified_too(whole):
    verdict = only(verify_run(aggregator_of(whole)))
    assert not verdict.failed
    assert verdict.job == "aggregator"
    # The sites' folders lie beside the aggregator's, so that their receipts are found.
    assert verdict.receipts == 4 * ROUNDS


def test_anchor_of_the_auditor_counts_more_than_the_runs(whole, tmp_path):
    report = verify_run(whole)
    assert "of the run itself" in only(report).anchor
    given = tmp_path / "anchor.pub"
    given.write_bytes((aggregator_of(whole) / "anchor.pub").read_bytes())
    assert only(verify_run(whole, anchor=given)).anchor == "given by the auditor"
    given.write_bytes(bytes(range(32)))
    assert where_failed(verify_run(whole, anchor=given)) == [entry_name(0)]
    given.write_bytes(b"short")
    with pytest.raises(RunFolderError, match="32 bytes, this file has 5"):
        verify_run(whole, anchor=given)


def test_receipts_that_are_given_replace_the_runs_own(whole, tmp_path):
    own = whole / "jobs/federated/sites/ct-a/books/receipts.jsonl"
    report = verify_run(whole, receipts=[own])
    assert only(report).receipts == ROUNDS
    assert only(report).receipts_from == "given by the auditor"
    lines = own.read_text().splitlines()
    changed = tmp_path / "ct-a.jsonl"
    changed.write_text("\n".join([*lines, json.dumps({**json.loads(lines[0]), "context": "00" * 32}), "no json"]))
    assert where_failed(verify_run(whole, receipts=[changed])) == ["receipts of ct-a", "ct-a.jsonl"]


def test_receipt_of_an_unknown_session_is_not_lost(whole, tmp_path):
    own = whole / "jobs/federated/sites/ct-a/books/receipts.jsonl"
    other = tmp_path / "ct-a.jsonl"
    other.write_text(
        json.dumps({**json.loads(own.read_text().splitlines()[0]), "session": "11" * 32, "context": "22" * 32})
    )
    assert where_failed(verify_run(whole, receipts=[other])) == ["receipts of ct-a"]


@pytest.mark.parametrize("name", [entry_name(0), entry_name(2), HEAD, vector_name(2, "ct-b"), vector_name(3, SUM)])
def test_changed_byte_is_named_with_its_file(run, name):
    flip(aggregator_of(run) / "transcript" / name, position=50)
    assert where_failed(verify_run(run))[0] == name


def test_missing_entry_is_named_and_the_rest_still_checked(run):
    (aggregator_of(run) / "transcript" / entry_name(2)).unlink()
    verdict = only(verify_run(run))
    assert verdict.failed[0].where == entry_name(2)
    assert verdict.failed[0].what == "the entry is missing"
    assert verdict.replayed == (1, 3)


def test_checkpoint_plan_and_model_files_that_do_not_fit_are_named(run):
    folder = aggregator_of(run)
    newest = folder / "checkpoints" / "round-000003.safetensors"
    vector, layout, metadata = load_vector(newest)
    vector[0] += 1
    save_vector(newest, vector, layout, metadata)
    assert where_failed(verify_run(run)) == ["checkpoints/round-000003.safetensors"]
    shutil.copy(newest, folder / "initial.safetensors")
    assert entry_name(0) in where_failed(verify_run(run))
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps({**plan, "seed": plan["seed"] + 1}))
    assert "plan.json" in where_failed(verify_run(run))


def test_final_model_of_the_run_is_compared(run):
    folder = aggregator_of(run)
    vector, layout, _ = load_vector(folder / "checkpoints" / "round-000003.safetensors")
    final = folder.parent / "model.safetensors"
    save_vector(final, vector[: layout.model_size], layout.model_layout(), {})
    assert places(verify_run(run), "proved", "the model file of the run is the last checkpoint's model")
    save_vector(final, np.zeros_like(vector[: layout.model_size]), layout.model_layout(), {})
    assert where_failed(verify_run(run)) == ["model.safetensors"]


def test_published_sum_or_step_of_a_lying_aggregator_is_found(tmp_path, scans, monkeypatch):
    """It adds to the last round's model what no site sent: the sum is right, the step is not."""
    import aggregator.open_model as model_module

    honest = model_module.step

    def biased(state, average, **settings):
        stepped = honest(state, average, **settings)
        if stepped.completed == ROUNDS:
            stepped.model[0] += 1
        return stepped

    monkeypatch.setattr(model_module, "step", biased)
    federation(tmp_path / "run", scans, keep_uploads="all")
    found = only(verify_run(tmp_path / "run")).failed
    assert [(finding.where, finding.what) for finding in found] == [
        (entry_name(3), "the model after the round is NOT the server's step on the replayed sum")
    ]


def test_unknown_files_are_named(run):
    transcript = aggregator_of(run) / "transcript"
    (transcript / "entries" / "notes.txt").write_text("x")
    (transcript / "entries" / "999999999.cbor").write_bytes(b"x")
    (transcript / "vectors" / "000001" / "stranger.u32").write_bytes(b"x")
    found = places(verify_run(run), "unchecked", "is no part of the transcript")
    assert found == ["entries/999999999.cbor", "entries/notes.txt", "vectors/000001/stranger.u32"]


def test_job_whose_transcript_is_gone_is_not_verified(run):
    shutil.copytree(aggregator_of(run), run / "jobs" / "second" / "aggregator")
    shutil.rmtree(run / "jobs" / "second" / "aggregator" / "transcript")
    report = verify_run(run)
    assert report.missing == ("second",)
    assert not report.verified


def test_progress_is_reported_once_per_entry(whole):
    calls = []
    verify_run(whole, progress=lambda: calls.append(None))
    assert len(calls) == count_entries(whole) == ROUNDS + 1


def test_command_prints_what_was_proved_and_what_cannot_be(secfed, pruned):
    code, out, _ = secfed("audit", "verify", pruned)
    assert code == 0
    for text in (
        "3 rounds, 1 replayed in full (3)",
        "Checked by signatures and receipts only",
        "rounds 1-2",
        "Cannot be proved",
        "VERIFIED",
        "receipts of ct-a, ct-b, mr-a, mr-b",
    ):
        assert text in out
    assert "Problems" not in out


def test_command_lists_problems_first_and_fails(secfed, run):
    flip(aggregator_of(run) / "transcript" / vector_name(2, "mr-a"))
    code, out, _ = secfed("audit", "verify", run)
    assert code == 1
    assert "NOT VERIFIED" in out
    assert out.index("Problems") < out.index("Proved")
    assert f"{vector_name(2, 'mr-a')}: is not what mr-a signed" in out


def test_json_holds_every_finding(secfed, pruned):
    code, out, err = secfed("audit", "verify", pruned, "--json")
    found = json.loads(out)
    assert (code, err, found["verified"]) == (0, "", True)
    [transcript] = found["transcripts"]
    assert (transcript["replayed"], transcript["by_signatures"], transcript["failed"]) == ([3], [1, 2], [])
    assert {"where": entry_name(3), "what": STEPPED} in transcript["proved"]
    assert found["cannot_be_proved"] == list(CANNOT_BE_PROVED)


def test_run_without_a_transcript_says_why(secfed, tmp_path, scans):
    job = federation(tmp_path / "plain", scans, mode="plain")
    assert AggregatorFolder(job.aggregator_folder).plan().protection.mode == "plain"
    code, _, err = secfed("audit", "verify", tmp_path / "plain")
    assert code == 4
    assert "nothing to verify" in err
    assert "in the clear" in err
    (tmp_path / "empty" / "transcript" / "entries").mkdir(parents=True)
    assert secfed("audit", "verify", tmp_path / "empty")[0] == 4
    assert secfed("audit", "verify", tmp_path / "absent")[0] == 4


@pytest.mark.parametrize(
    ("numbers", "text"), [((), ""), ((3,), "3"), ((1, 2, 3), "1-3"), ((5, 1, 2, 7, 8), "1-2, 5, 7-8")]
)
def test_ranges_of_rounds_are_short(numbers, text):
    assert ranges(numbers) == text
