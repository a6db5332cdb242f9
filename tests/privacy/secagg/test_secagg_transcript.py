"""Transcripts of honest runs: what is written, what a kill leaves, what is pruned, and that all of it verifies."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from recorded_run import RecordedRun, entry_files, failed, verify, verify_all

from aggregator.transcript import Transcript
from aggregator.transcript_store import STOPPED, TranscriptStore
from privacy.errors import MisuseError
from privacy.secagg.replay import REPLAYED
from privacy.secagg.roster import require_name
from privacy.secagg.transcript import (
    HEAD,
    NO_ENTRY,
    SUM,
    AbortEntry,
    Retention,
    RoundEntry,
    SessionEntry,
    decode_entry,
    decode_head,
    entry_name,
    vector_name,
)
from secfed.errors import RunFolderError


@pytest.fixture
def make(tmp_path):
    def make_run(**settings):
        run = RecordedRun(tmp_path / "transcript", **settings)
        run.open_session()
        return run

    return make_run


def contents(run):
    return [decode_entry(data).content for data in entry_files(run.folder)]


def kept(run):
    return sorted(path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*.u32"))


def places(findings, *, status, text):
    return [finding.where for finding in findings if finding.status == status and text in finding.what]


def test_chain_of_an_honest_run_verifies_and_every_sum_is_replayed(make):
    run = make()
    for absent in ("", "b", "", "d"):
        run.play(absent=absent)
    findings, checked = verify_all(run.folder, anchor=run.anchor, receipts=run.all_receipts())
    assert {finding.status for finding in findings} == {"proved"}
    assert places(findings, status="proved", text=REPLAYED) == [entry_name(number) for number in range(1, 5)]
    assert checked[2].sum.tolist() == [1101] * run.length
    assert checked[2].facts.survivors == ("a", "c", "d")


def test_every_entry_names_the_one_before_and_is_announced_to_the_sites(make):
    run = make()
    run.play()
    run.play()
    entries = [decode_entry(data) for data in entry_files(run.folder)]
    assert [entry.previous for entry in entries] == [NO_ENTRY, entries[0].digest, entries[1].digest]
    assert [receipt.previous for receipt in run.receipts["a"]] == [entries[0].digest, entries[1].digest]
    assert decode_head((run.folder / HEAD).read_bytes()) == (3, entries[2].digest) == (3, run.transcript.previous)


def test_aborted_rounds_and_a_second_session_verify(make):
    run = make()
    run.play(absent="ab")
    run.play(silent="ab")
    run.play()
    run.open_session()
    run.play(absent="c")
    kinds = [type(content) for content in contents(run)]
    assert kinds == [SessionEntry, AbortEntry, AbortEntry, RoundEntry, SessionEntry, RoundEntry]
    assert {path.split("/")[1] for path in kept(run)} == {"000003", "000005"}
    findings = verify(run.folder, anchor=run.anchor, receipts=run.all_receipts())
    assert not failed(findings)
    assert len(places(findings, status="proved", text=REPLAYED)) == 2


def test_evidence_of_an_aborted_round_convicts_and_allows_the_rerun(make):
    run = make()
    assert list(run.play(bad_dealer="c").guilty) == ["c"]
    evidence = contents(run)[1].evidence
    run.play(invited="abd", evidence=(evidence,))
    findings = verify(run.folder, anchor=run.anchor, receipts=run.all_receipts())
    assert not failed(findings)
    assert places(findings, status="proved", text="c made the round fail") == [entry_name(1)]


def test_round_without_an_anchor_is_checked_but_for_the_roster(make):
    run = make()
    run.play()
    findings = verify(run.folder, anchor=None, receipts=run.all_receipts())
    assert not failed(findings)
    assert places(findings, status="unchecked", text="no consortium key") == [entry_name(0)]


@pytest.mark.parametrize(("rounds", "expected"), [(None, 4), (2, 2), (1, 1), (0, 0)])
def test_retention_keeps_exactly_the_last_rounds(make, rounds, expected):
    run = make(retention=Retention(rounds))
    for _ in range(2):
        run.play()
    run.play(absent="ab")
    for _ in range(2):
        run.play()
    completed = [number for number, content in enumerate(contents(run)) if isinstance(content, RoundEntry)]
    names = [vector_name(number, owner) for number in completed[4 - expected :] for owner in (SUM, *run.names)]
    assert kept(run) == sorted(names)
    findings = verify(run.folder, anchor=run.anchor, receipts=run.all_receipts())
    assert not failed(findings)
    assert len(places(findings, status="proved", text=REPLAYED)) == expected
    gone = places(findings, status="unchecked", text="past the retention")
    assert sorted(gone) == [entry_name(number) for number in completed[: 4 - expected]]


def test_missing_vectors_within_the_retention_are_an_error_and_older_ones_are_not(make):
    run = make(retention=Retention(2))
    for _ in range(3):
        run.play()
    shutil.rmtree(run.folder / "vectors" / "000002")
    assert [finding.where for finding in failed(verify(run.folder, anchor=run.anchor))] == [entry_name(2)]
    (run.folder / vector_name(3, "b")).unlink()
    found = failed(verify(run.folder, anchor=run.anchor))
    assert [finding.where for finding in found] == [vector_name(3, "b"), entry_name(2)]


def test_setting_of_a_later_session_may_let_earlier_rounds_go(make):
    run = make()
    run.play()
    run.play()
    run.retention = Retention(1)
    run.reopen()
    run.open_session()
    run.play()
    assert {path.split("/")[1] for path in kept(run)} == {"000004"}
    assert not failed(verify(run.folder, anchor=run.anchor, receipts=run.all_receipts()))


def test_round_that_a_kill_ended_stands_in_the_chain_and_matches_the_receipts(make):
    run = make()
    run.play()
    run.play(stop="unmasking")
    run.reopen()
    run.open_session()
    run.play()
    assert [type(content) for content in contents(run)][2:] == [AbortEntry, SessionEntry, RoundEntry]
    assert contents(run)[2].reason == STOPPED
    assert len(run.receipts["a"]) == 3
    findings = verify(run.folder, anchor=run.anchor, receipts=run.all_receipts())
    assert not failed(findings)
    assert not places(findings, status="unchecked", text="no receipt")


def test_kill_before_the_checkpoint_lets_the_round_be_run_again(make):
    """The transcript is ahead of the checkpoint by one round; the same survivors may open the same sum once more."""
    run = make()
    run.play()
    model, completed = run.model, run.completed
    run.play()
    run.model, run.completed = model, completed
    run.reopen()
    run.open_session()
    run.play()
    findings = verify(run.folder, anchor=run.anchor, receipts=run.all_receipts())
    assert not failed(findings)
    assert places(findings, status="unchecked", text="were run again") == [entry_name(3)]


class KilledError(Exception):
    """Stands for the end of a process."""


def die(*_, **__):
    raise KilledError


def dying_write(doomed):
    """The writer's own write, which leaves half a temporary file and dies at the doomed one."""
    write = TranscriptStore._write

    def wrapped(self, path, data, *, durable):
        if doomed in path.as_posix():
            path.with_name(f".{path.name}.new").write_bytes(data[: len(data) // 2])
            raise KilledError
        write(self, path, data, durable=durable)

    return wrapped


@pytest.mark.parametrize("point", ["sum", "vectors", "entry", "head", "open round"])
def test_transcript_goes_on_after_a_kill_at_any_point(make, monkeypatch, point):
    run = make()
    run.play()
    honest = Transcript.complete_round
    target, name, broken = {
        "sum": (TranscriptStore, "keep", die),
        "vectors": (Path, "rename", die),
        "entry": (TranscriptStore, "_write", dying_write("entries/")),
        "head": (TranscriptStore, "_write", dying_write(HEAD)),
        "open round": (Path, "unlink", die),
    }[point]

    with monkeypatch.context() as patched:

        def complete(self, *messages, **facts):
            patched.setattr(target, name, broken)
            honest(self, *messages, **facts)

        patched.setattr(Transcript, "complete_round", complete)
        with pytest.raises(KilledError):
            run.play()
    run.reopen()
    found = contents(run)[2]
    assert isinstance(found, RoundEntry if point in ("head", "open round") else AbortEntry)
    if isinstance(found, RoundEntry):
        run.completed, run.model = found.server_round, found.model_after
    run.open_session()
    run.play()
    run.play()
    assert not list(run.folder.rglob(".*"))
    assert [type(content) for content in contents(run)[3:]] == [SessionEntry, RoundEntry, RoundEntry]
    findings = verify(run.folder, anchor=run.anchor, receipts=run.all_receipts())
    assert {finding.status for finding in findings} == {"proved"}


def test_damaged_or_missing_entry_is_not_written_over(make):
    run = make()
    run.play()
    run.play()
    path = run.folder / entry_name(2)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(RunFolderError, match="damaged entry"):
        run.reopen()
    path.write_bytes(whole)
    (run.folder / entry_name(1)).unlink()
    with pytest.raises(RunFolderError, match="entry is missing"):
        run.reopen()


def test_upload_that_was_not_kept_is_the_callers_mistake(make):
    run = make()
    keep, run.transcript.keep_upload = run.transcript.keep_upload, lambda *_, **__: None
    with pytest.raises(MisuseError, match="4 uploads are in the sum, but 0 were kept"):
        run.play()
    run.transcript.keep_upload = keep


def test_at_most_the_open_round_is_held_on_the_disk_beyond_the_retention(make):
    run = make(retention=Retention(0))
    run.play()
    assert not kept(run)
    assert contents(run)[1].upload_leaves == {}
    assert len(contents(run)[1].sum_leaves) == 1


def test_vectors_longer_than_a_leaf_are_replayed(make):
    run = make(length=2**18 + 5, count=3)
    run.play()
    findings, checked = verify_all(run.folder, anchor=run.anchor)
    assert not failed(findings)
    assert np.array_equal(checked[1].sum, np.full(run.length, 111, np.uint32))
    assert len(checked[1].content.sum_leaves) == 2


@pytest.mark.parametrize("text", ["all", "none", "last 1", "last 20"])
def test_retention_reads_what_it_writes(text):
    assert Retention.parse(text).text == text


@pytest.mark.parametrize("text", ["", "last", "last 0", "last -1", "last 1.5", "last 01", "ALL", "last 9999999999"])
def test_other_retention_is_refused(text):
    with pytest.raises(MisuseError, match="accepted are"):
        Retention.parse(text)


def test_negative_retention_is_refused():
    with pytest.raises(MisuseError, match="give 0 or more"):
        Retention(-1)


def test_no_site_can_have_the_name_of_the_sum():
    with pytest.raises(MisuseError, match="must be 1 to 31"):
        require_name(SUM)
