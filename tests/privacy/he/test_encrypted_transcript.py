"""Transcripts of honest encrypted runs: what is written, what a kill leaves, what is pruned, and that all verifies."""

import dataclasses
import shutil
from pathlib import Path

import pytest
from recorded_encrypted_run import RecordedEncryptedRun, contents, entry_files, failed, verify
from recorded_run import RecordedRun

import aggregator.transcript_store
from aggregator.encrypted_transcript import EncryptedTranscript
from aggregator.transcript_store import STOPPED
from privacy.chain import HEAD, NO_ENTRY, Retention, entry_name, label_of
from privacy.errors import HostileInputError, MisuseError
from privacy.he.layout import message_root
from privacy.he.parameters import HeParameters
from privacy.he.receipt import EncryptedReceipt
from privacy.he.receipt_check import MATCHED
from privacy.he.replay import REPLAYED
from privacy.he.requests import EncryptedAnnouncement
from privacy.he.transcript import (
    FORMAT,
    EncryptedAbortEntry,
    EncryptedEndEntry,
    EncryptedRoundEntry,
    EncryptedSessionEntry,
)
from privacy.he.verifier import RUN_AGAIN, UNSIGNED_SUM
from privacy.secagg.receipt import Receipt
from privacy.secagg.transcript import LABEL
from secfed.errors import RunFolderError


@pytest.fixture
def make(tmp_path):
    def make_run(**settings):
        run = RecordedEncryptedRun(tmp_path / "transcript", **settings)
        run.open_session()
        return run

    return make_run


def kept(run):
    return sorted(path.relative_to(run.folder).as_posix() for path in run.folder.rglob(f"*{FORMAT.ending}"))


def kinds(run):
    return [type(content) for content in contents(run.folder)]


def check(run):
    """What the verifier says of the whole run, with the sites' receipts."""
    return verify(run.folder, anchor=run.anchor, receipts=run.all_receipts())


def places(findings, *, status, text):
    return [finding.where for finding in findings if finding.status == status and text in finding.what]


def test_everything_of_an_honest_run_is_proved(make):
    run = make()
    for absent in ("", "b", "", "d"):
        run.play(absent=absent)
    run.open_session()
    run.play(absent="a")
    run.end()
    findings = check(run)
    assert {finding.status for finding in findings} == {"proved"}
    assert places(findings, status="proved", text=REPLAYED) == [entry_name(number) for number in (1, 2, 3, 4, 6)]
    assert places(findings, status="proved", text=MATCHED) == [f"receipts of {name}" for name in run.names]
    assert kinds(run)[-2:] == [EncryptedRoundEntry, EncryptedEndEntry]


def test_every_entry_names_the_one_before_and_is_announced_to_the_sites(make):
    run = make()
    first, second = run.play(), run.play()
    entries = [FORMAT.decode_entry(data) for data in entry_files(run.folder)]
    assert [entry.previous for entry in entries] == [NO_ENTRY, entries[0].digest, entries[1].digest]
    announced = [EncryptedAnnouncement.from_bytes(round_.announcement).previous for round_ in (first, second)]
    assert announced == [entries[0].digest, entries[1].digest]
    assert FORMAT.decode_head((run.folder / HEAD).read_bytes()) == (3, entries[2].digest)
    assert run.transcript.previous == entries[2].digest


def test_entry_holds_the_root_of_the_sum_that_was_published(make):
    run = make()
    run.play(absent="c")
    content = contents(run.folder)[1]
    assert content.sum_root == message_root(run.sums[0].total)
    assert content.headers == run.sums[0].headers
    assert len(content.headers) == 3


def test_rounds_that_were_aborted_or_lost_an_upload_verify(make):
    run = make()
    run.play(absent="a", fail=True)
    run.play(refused="b")
    run.play()
    run.end()
    findings = check(run)
    assert not failed(findings)
    assert kinds(run)[1] is EncryptedAbortEntry
    assert len(contents(run.folder)[1].headers) == 3
    assert {path.split("/")[1] for path in kept(run)} == {"000002", "000003"}
    assert places(findings, status="unchecked", text="late, was refused, or was left out") == ["receipts of b"]


def test_last_sum_is_signed_by_nobody_until_a_round_or_the_end_follows(make):
    run = make()
    run.play()
    assert places(check(run), status="unchecked", text=UNSIGNED_SUM) == [entry_name(1)]
    run.play(fail=True)
    assert not places(check(run), status="unchecked", text=UNSIGNED_SUM)


def test_round_that_is_run_again_is_noted_and_not_failed(make):
    run = make()
    run.play()
    run.play()
    run.rerun(absent="b")
    run.play()
    run.end()
    findings = check(run)
    assert not failed(findings)
    assert places(findings, status="unchecked", text=RUN_AGAIN) == [entry_name(3)]


def test_new_group_key_is_noted_while_nobody_stepped_on_a_sum(make):
    run = make()
    run.play()
    run.sums.clear()
    run.open_session(new_members=True)
    run.play()
    run.play()
    run.end()
    findings = check(run)
    assert not failed(findings)
    assert places(findings, status="unchecked", text="group key was replaced") == [entry_name(2)]
    assert places(findings, status="unchecked", text="goes on from round 0, as after a kill") == [entry_name(2)]


def test_aborted_end_is_held_again(make):
    run = make()
    run.play()
    run.end(stop=True)
    run.reopen()
    run.open_session()
    run.end()
    findings = check(run)
    assert not failed(findings)
    assert kinds(run)[2:] == [EncryptedAbortEntry, EncryptedSessionEntry, EncryptedEndEntry]
    assert not places(findings, status="unchecked", text="")


@pytest.mark.parametrize(("rounds", "expected"), [(None, 4), (2, 2), (1, 1), (0, 0)])
def test_retention_keeps_exactly_the_last_rounds(make, rounds, expected):
    run = make(retention=Retention(rounds))
    for fail in (False, False, True, False, False):
        run.play(fail=fail)
    run.end()
    completed = [number for number, kind in enumerate(kinds(run)) if kind is EncryptedRoundEntry]
    assert kept(run) == sorted(FORMAT.vector_name(n, name) for n in completed[4 - expected :] for name in run.names)
    findings = check(run)
    assert not failed(findings)
    assert len(places(findings, status="proved", text=REPLAYED)) == expected
    gone = places(findings, status="unchecked", text="past the retention")
    assert sorted(gone) == [entry_name(number) for number in completed[: 4 - expected]]


def test_missing_uploads_within_the_retention_are_an_error(make):
    run = make(retention=Retention(2))
    for _ in range(3):
        run.play()
    shutil.rmtree(run.folder / "vectors" / "000002")
    assert [finding.where for finding in failed(check(run))] == [entry_name(2)]
    (run.folder / FORMAT.vector_name(3, "b")).unlink()
    assert [finding.where for finding in failed(check(run))] == [FORMAT.vector_name(3, "b"), entry_name(2)]


def test_receipt_names_what_the_site_signed_and_by_which_sum_it_came_there(make):
    run = make()
    run.play()
    run.play()
    run.end()
    first, second, end = run.receipts["b"]
    published = run.sums[0]
    assert (first.sum_root, first.inputs_digest) == (bytes(32), bytes(32))
    assert (second.sum_root, second.inputs_digest) == (published.root, published.inputs_digest)
    assert (second.server_round, end.server_round) == (2, 3)
    assert second.fingerprint == run.world.server.fingerprint
    assert EncryptedReceipt.from_json(second.to_json()) == second
    with pytest.raises(HostileInputError):
        Receipt.from_json(second.to_json())


def test_site_that_signed_nothing_has_no_receipt(make):
    run = make()
    assert run.world.members["a"].receipt is None
    round_ = run.world.announce()
    run.world.accept("a", round_.announcement, None)
    assert run.world.members["a"].receipt is None
    run.world.upload(round_, "a")
    assert run.world.restore("a").receipt is not None
    run.world.members["a"].withdraw()
    assert run.world.members["a"].receipt is None


@pytest.mark.parametrize(
    "change",
    [
        {"protection": "masked"},
        {"round_number": True},
        {"server_round": 9},
        {"server_round": 0},
        {"context": "00"},
        {"context": "AA" * 32},
        {"context": "zz" * 32},
        {"session": "00" * 15},
        {"site": "A"},
        {"more": 1},
    ],
    ids=str,
)
def test_what_is_no_receipt_is_refused(change):
    honest = EncryptedReceipt(
        site="a",
        session=bytes(16),
        round_number=2,
        server_round=1,
        context=bytes(32),
        message_digest=bytes(32),
        sum_root=bytes(32),
        inputs_digest=bytes(32),
        fingerprint=bytes(32),
    )
    assert EncryptedReceipt.from_json(honest.to_json()) == honest
    with pytest.raises(HostileInputError):
        EncryptedReceipt.from_json({**honest.to_json(), **change})


def test_upload_that_was_not_kept_is_the_callers_mistake(make):
    run = make()
    run.transcript.keep_upload = lambda *_: None
    with pytest.raises(MisuseError, match=r"uploads of \['a', 'b', 'c', 'd'\] are in the sum, kept were those of \[\]"):
        run.play()


def test_transcript_of_another_protection_is_not_written_over(make, tmp_path):
    masked = RecordedRun(tmp_path / "masked", count=3)
    masked.open_session()
    with pytest.raises(RunFolderError, match="not an entry of secfed-encrypted"):
        EncryptedTranscript(masked.folder, retention=Retention(), durable=False)
    assert label_of(entry_files(masked.folder)[0]) == LABEL
    assert label_of(entry_files(make().folder)[0]) == FORMAT.label
    assert label_of(b"junk") == ""


def test_durable_transcript_writes_the_same_files(make, tmp_path):
    run = make(count=3)
    durable = EncryptedTranscript(tmp_path / "durable", retention=Retention(), durable=True)
    content = contents(run.folder)[0]
    durable._store.append(content)
    assert entry_files(tmp_path / "durable") == entry_files(run.folder)
    assert (tmp_path / "durable" / HEAD).read_bytes() == (run.folder / HEAD).read_bytes()


def test_weaker_parameters_are_no_parameters_of_a_session(make):
    """Every setting that the platform offers passes the auditor's floors."""
    run = make(count=3)
    [content] = contents(run.folder)
    for parameters in (
        HeParameters.exact(max_clients=2),
        HeParameters.exact(max_clients=5000),
        HeParameters.approximate(max_clients=100),
        HeParameters.common_ckks(max_clients=100),
    ):
        changed = dataclasses.replace(content, parameters=parameters.to_bytes())
        data, _ = FORMAT.encode_entry(changed, number=0, previous=NO_ENTRY)
        found = verify(run.folder, anchor=run.anchor, entries=[data])
        assert len(places(found, status="proved", text="128 bits of security by the table")) == 1


class KilledError(Exception):
    """Stands for the end of a process."""


class Killer:
    """Ends the process at the n-th change of the disk; a file that was being written is left half empty."""

    def __init__(self, patched, *, at):
        self.count, self.at = 0, at
        for owner, name in (
            (Path, "open"),
            (Path, "replace"),
            (Path, "rename"),
            (Path, "unlink"),
            (aggregator.transcript_store.shutil, "rmtree"),
        ):
            patched.setattr(owner, name, self.counting(getattr(owner, name), name))

    def counting(self, honest, name):
        def wrapped(path, *args, **kwargs):
            if name == "open" and args != ("wb",):
                return honest(path, *args, **kwargs)
            self.count += 1
            if self.count == self.at:
                if name == "open":
                    path.write_bytes(b"half")
                raise KilledError
            return honest(path, *args, **kwargs)

        return wrapped


def play_all(run):
    """Every kind of entry, with a retention that lets uploads go."""
    run.play()
    run.play(fail=True)
    run.play()
    run.end()


def test_transcript_goes_on_after_a_kill_at_any_write(tmp_path, monkeypatch):
    at, finished = 0, False
    while not finished:
        at += 1
        run = RecordedEncryptedRun(tmp_path / str(at), count=2, retention=Retention(1))
        with monkeypatch.context() as patched:
            killer = Killer(patched, at=at)
            try:
                run.open_session()
                play_all(run)
                finished = True
            except KilledError:
                assert killer.count == at
        run.reopen()
        if not finished:
            run.open_session()
            run.play()
            run.end()
        assert not list(run.folder.rglob(".*"))
        assert not failed(check(run))
    assert at > 40


def test_round_that_a_kill_ended_stands_in_the_chain_and_matches_the_receipts(make):
    run = make()
    run.play()
    run.play(stop=True)
    run.reopen()
    run.open_session()
    run.play()
    run.end()
    assert kinds(run)[2] is EncryptedAbortEntry
    assert contents(run.folder)[2].reason == STOPPED
    assert len(run.receipts["a"]) == 4
    assert {finding.status for finding in check(run)} == {"proved"}
