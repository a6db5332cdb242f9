"""The audit log is one unbroken chain: every change shows, a cut line is set aside, and nothing unlisted is written."""

import json
import multiprocessing
import resource

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secfed.audit_log import AUDIT_LOG, FIELDS, TORN, AuditLog, check_log, read_log
from secfed.errors import SecfedError


def made(folder, count=6):
    log = AuditLog(folder)
    for number in range(count):
        log.append("answered", run="r", session="s", stage="train", round=number)
    return log


def test_lines_follow_one_another_in_utc_and_say_what_was_noted(tmp_path):
    made(tmp_path)
    found = check_log(tmp_path / AUDIT_LOG)
    assert (found.lines, found.problems) == (6, ())
    entries = read_log(tmp_path / AUDIT_LOG)
    assert [entry["round"] for entry in entries] == list(range(6))
    assert all(entry["time"].endswith("Z") for entry in entries)
    assert found.last == entries[-1]["digest"]
    assert (tmp_path / AUDIT_LOG).stat().st_mode & 0o777 == 0o600


@settings(max_examples=60)
@given(data=st.data())
def test_any_changed_byte_shows(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("log")
    path = made(folder, 3).path
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(changed))
    assert check_log(path).problems


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[1:],
        lambda lines: [lines[0], *lines[2:]],
        lambda lines: [lines[1], lines[0], *lines[2:]],
        lambda lines: [*lines[:3], lines[2], *lines[3:]],
    ],
    ids=["the first taken out", "one taken out", "two swapped", "one doubled"],
)
def test_lines_that_were_moved_show(tmp_path, change):
    path = made(tmp_path).path
    path.write_bytes(b"".join(line + b"\n" for line in change(path.read_bytes().splitlines())))
    assert check_log(path).problems


def test_a_line_that_is_rewritten_with_a_fitting_digest_breaks_the_chain_after_it(tmp_path):
    path = made(tmp_path).path
    lines = path.read_bytes().splitlines()
    other = made(tmp_path / "other").path.read_bytes().splitlines()
    path.write_bytes(b"".join(line + b"\n" for line in [*lines[:2], other[2], *lines[3:]]))
    assert [problem.line for problem in check_log(path).problems] == [3, 4]


@pytest.mark.parametrize("cut", [1, 40, 120])
def test_a_line_that_a_kill_cut_short_is_set_aside_and_named(tmp_path, cut):
    log = made(tmp_path)
    whole = log.path.read_bytes()
    log.path.write_bytes(whole[:-cut])
    assert check_log(log.path).problems
    log.append("stopped", side="site")
    assert check_log(log.path).problems == ()
    events = [entry["event"] for entry in read_log(log.path)]
    assert events == ["answered"] * 5 + ["line cut short", "stopped"]
    assert (tmp_path / TORN).read_bytes().strip() == whole.splitlines(keepends=True)[-1][:-cut]


def test_a_full_disk_leaves_the_log_whole_and_is_an_error(tmp_path):
    log = made(tmp_path)
    before = log.path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Writing past this limit is cut short, as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, hard))
    try:
        with pytest.raises(SecfedError, match="cannot be written"):
            log.append("stopped", side="site")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert log.path.read_bytes() == before
    log.append("stopped", side="site")
    assert check_log(log.path).problems == ()


def test_nothing_is_added_to_a_broken_log(tmp_path):
    log = made(tmp_path)
    log.path.write_bytes(log.path.read_bytes() + b"not a line\n")
    with pytest.raises(SecfedError, match="nothing is added to a broken log"):
        log.append("stopped", side="site")


@pytest.mark.parametrize(
    ("event", "details"),
    [
        ("made up", {}),
        ("stopped", {"patient": "A"}),
        ("answered", {"loss": 0.5}),
        ("joined", {"folder": "/data"}),
        ("answered", {"previous": "x"}),
    ],
)
def test_an_event_or_field_that_is_not_on_the_list_is_never_written(tmp_path, event, details):
    log = AuditLog(tmp_path)
    with pytest.raises(ValueError, match="not on the list"):
        log.append(event, **details)
    assert not log.path.exists()


def test_a_site_s_policy_leaves_fields_out(tmp_path):
    AuditLog(tmp_path, fields=("stage",)).append("answered", run="r", session="s", stage="train", round=1)
    (entry,) = read_log(tmp_path / AUDIT_LOG)
    assert set(entry) == {"number", "time", "event", "stage", "previous", "digest"}
    assert check_log(tmp_path / AUDIT_LOG).problems == ()


def test_a_line_with_a_field_that_no_log_has_is_a_problem_though_its_digest_fits(tmp_path, monkeypatch):
    monkeypatch.setitem(FIELDS, "stopped", frozenset({"side", "patient"}))
    AuditLog(tmp_path).append("stopped", side="site", patient="A")
    monkeypatch.undo()
    assert "patient" in check_log(tmp_path / AUDIT_LOG).problems[0].what


def _append(folder, count):
    log = AuditLog(folder)
    for number in range(count):
        log.append("answered", run="r", session="s", stage="train", round=number)


def test_several_processes_write_one_chain(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append, args=(tmp_path, 20)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = check_log(tmp_path / AUDIT_LOG)
    assert (found.lines, found.problems) == (60, ())


def test_a_log_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SecfedError, match="cannot be read"):
        check_log(tmp_path / AUDIT_LOG)
    assert read_log(tmp_path / AUDIT_LOG) == []


def test_every_line_is_json_that_others_can_read(tmp_path):
    made(tmp_path)
    for line in (tmp_path / AUDIT_LOG).read_text(encoding="utf-8").splitlines():
        assert json.loads(line)["event"] == "answered"
