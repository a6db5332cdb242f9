"""What whoever follows a run reads when it has ended badly: the run's own words, and what to do where they are none."""

import json
from types import SimpleNamespace

import pytest

from secfed.deployment import training
from secfed.errors import GroupKeyLost, RoundAborted, SecfedError


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "progress_of", lambda place: None)
    return tmp_path


@pytest.mark.parametrize(
    ("reason", "kind", "said"),
    [
        ("RoundAborted: 2 of 4 sites answered", RoundAborted, r"^2 of 4 sites answered$"),
        ("GroupKeyLost: no holder is left", GroupKeyLost, r"^no holder is left$"),
        ("ConfigError: plan.toml: no such key", SecfedError, r"^plan.toml: no such key$"),
        ("KeyError: 0", SecfedError, r"^KeyError: 0$"),
        ("MemoryError: ", SecfedError, r"^MemoryError: $"),
        ("SystemExit: 0", SecfedError, r"--resume.*keep_models_in_memory"),
    ],
)
def test_a_run_that_failed_says_why_in_words_that_stand_alone(place, reason, kind, said):
    (place / "outcome.json").write_text(json.dumps({"status": "failed", "reason": reason, "process": 1}))
    with pytest.raises(kind, match=said):
        training.follow(place, place, progress=lambda now: None)


def test_a_superlink_that_does_not_answer_for_a_while_ends_nothing(place, monkeypatch):
    asked = []

    def running_id(folder, place):
        asked.append(place)
        if len(asked) == 2 * training.PATIENT_ASKS:
            (place / "outcome.json").write_text(json.dumps({"status": "done", "reason": "", "process": 1}))
        if len(asked) % training.PATIENT_ASKS == 0:
            return "1"
        raise SecfedError("Internal server error.")

    monkeypatch.setattr(training, "running_id", running_id)
    monkeypatch.setattr(training, "ASK_SECONDS", 0.0)
    monkeypatch.setattr(training, "POLL_SECONDS", 0.0)
    assert training.follow(place, place, progress=lambda now: None).status == "done"


def test_one_that_never_answers_is_given_up(place, monkeypatch):
    def running_id(folder, place):
        raise SecfedError("Internal server error.")

    monkeypatch.setattr(training, "running_id", running_id)
    monkeypatch.setattr(training, "ASK_SECONDS", 0.0)
    with pytest.raises(SecfedError, match="Internal server error"):
        training.follow(place, place, progress=lambda now: None)


@pytest.mark.parametrize(
    ("in_memory", "upload_bytes", "warned"), [(False, 100, True), (False, 99, False), (True, 1000, False)]
)
def test_a_run_too_large_for_the_database_is_pointed_out_before_it_starts(
    place, monkeypatch, in_memory, upload_bytes, warned
):
    service = SimpleNamespace(keep_models_in_memory=in_memory)
    monkeypatch.setattr(training, "load_aggregator_file", lambda folder: service)
    monkeypatch.setattr(training, "DATABASE_BYTES", 399)
    (place / "ready.json").write_text(json.dumps({"sites": list("abcd"), "upload_bytes": upload_bytes}))
    said = training.storage_warning(place, place)
    assert (said is not None) == warned
    if said is not None:
        assert "keep_models_in_memory = true in aggregator.toml" in said
    # A run that an earlier release prepared does not say how large it is.
    (place / "ready.json").write_text(json.dumps({"sites": list("abcd")}))
    assert training.storage_warning(place, place) is None
