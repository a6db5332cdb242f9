"""Whoever follows a run is told which sites it goes on without, why, and who must do what, each once."""

import json

import pytest

from secfed.deployment.absences import WHAT_TO_DO, Absences, what_to_do, with_hint
from secfed.messages import REFUSAL_REASONS


def journal(place, number, *, survivors, lost):
    entry = {"event": "round", "round": number, "survivors": survivors, "lost": lost}
    with (place / "journal.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")


def audit(place, **entry):
    with (place / "audit.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")


@pytest.mark.parametrize("word", REFUSAL_REASONS)
def test_every_word_of_a_site_comes_with_what_to_do(word):
    assert what_to_do(f"refused: {word}")


def test_a_reason_that_says_it_all_stands_alone():
    assert with_hint("'stranger' is not a site of this run") == "'stranger' is not a site of this run"


def test_an_absence_is_told_once_until_it_changes_and_so_is_the_return(tmp_path):
    watch = Absences(tmp_path)
    assert not [*watch.news()]
    journal(tmp_path, 1, survivors=["a", "b", "c"], lost={})
    assert not [*watch.news()]
    journal(tmp_path, 2, survivors=["a", "b"], lost={"c": "silent"})
    (line,) = watch.news()
    assert line == f"Round 2, c: silent: {WHAT_TO_DO['silent']}"
    journal(tmp_path, 3, survivors=["a", "b"], lost={"c": "silent"})
    assert not [*watch.news()]
    journal(tmp_path, 4, survivors=["a", "b"], lost={})
    assert not [*watch.news()]
    journal(tmp_path, 5, survivors=["a", "b"], lost={"c": "refused: storage"})
    assert "make room" in next(watch.news())
    journal(tmp_path, 6, survivors=["a", "b", "c"], lost={})
    assert [*watch.news()] == ["Round 6: c took part again"]


def test_a_round_that_failed_is_told_before_any_was_done(tmp_path):
    watch = Absences(tmp_path)
    reason = "2 sites answered stage 'join', 3 are needed (a: refused: roster; b: error 7)"
    audit(tmp_path, event="round failed", round=1, reason=reason)
    first, *hints = watch.news()
    assert reason in first
    assert [hint.split(":")[0].strip() for hint in hints] == ["error 7", "refused"]


def test_what_was_there_before_is_not_news_and_a_line_that_is_still_written_waits(tmp_path):
    journal(tmp_path, 1, survivors=["a"], lost={"c": "silent"})
    watch = Absences(tmp_path)
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"event": "round", "round": 2, "survivors": ["a"], ')
        file.flush()
        assert not [*watch.news()]
        file.write('"lost": {"b": "error 8"}}\n')
    assert "worker.log" in next(watch.news())


def test_a_journal_that_was_rewound_is_followed_from_there(tmp_path):
    for number in (1, 2):
        journal(tmp_path, number, survivors=["a"], lost={})
    watch = Absences(tmp_path)
    path = tmp_path / "journal.jsonl"
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    assert not [*watch.news()]
    journal(tmp_path, 2, survivors=["a"], lost={"b": "silent"})
    assert next(watch.news()).startswith("Round 2, b: silent")
