"""The budget ledger: what it charges and refuses, across runs, caps, attempts and data sets."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from privacy.accounting import spend, steps_left
from privacy.dataset_fingerprint import dataset_fingerprint, patient_marks
from privacy.errors import MisuseError, PrivacyError, RangeError
from privacy.ledger import BudgetSpentError, Head, Ledger, LedgerError
from privacy.ledger_check import verify
from privacy.ledger_entries import LABEL
from privacy.segment import Segment

FINGERPRINT = bytes(range(32))
PLAN = b"p" * 32
ROUND = Segment(sampling_prob=1.0, noise_multiplier=2.0, steps=1)


def opened(path: Path, **changes: object) -> Ledger:
    return Ledger.open(path, **{"fingerprint": FINGERPRINT, "cap_epsilon": 8.0, "delta": 1e-5, **changes})


def charged(ledger: Ledger, server_round: int, **changes: object):
    return ledger.charge(
        **{
            "run": "run-1",
            "server_round": server_round,
            "plan": PLAN,
            "segment": ROUND,
            "purpose": "training",
            **changes,
        }
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledgers" / "ct.ledger"


def statuses(found) -> set[str]:
    return {finding.status for finding in found}


def test_a_new_ledger_has_spent_nothing(path: Path) -> None:
    with opened(path) as ledger:
        assert ledger.spend().epsilon == 0.0
        assert ledger.segments() == ()
        assert ledger.head.count == 1
        assert (ledger.cap_epsilon, ledger.delta) == (8.0, 1e-5)


def test_charges_of_all_runs_add_up_as_the_accountant_says(path: Path) -> None:
    segments = [ROUND, replace(ROUND, sampling_prob=0.25, steps=3), ROUND]
    for i, segment in enumerate(segments):
        with opened(path) as ledger:
            charged(ledger, 1, run=f"run-{i}", segment=segment)
    with opened(path) as ledger:
        assert ledger.segments() == tuple(segments)
        assert ledger.spend().epsilon == spend(segments, delta=1e-5).epsilon
        assert [charge.run for charge in ledger.charges()] == ["run-0", "run-1", "run-2"]


def test_rounds_are_granted_until_the_cap_and_refused_after_it(path: Path) -> None:
    with opened(path) as ledger:
        granted = ledger.rounds_left(ROUND)
        assert granted == steps_left([], per_round=ROUND, cap_epsilon=8.0, delta=1e-5) > 1
        for server_round in range(granted):
            charged(ledger, server_round)
        before, head = ledger.spend().epsilon, ledger.head
        assert before <= 8.0
        with pytest.raises(BudgetSpentError, match=r"cap is epsilon 8 at delta 1e-05.*0 more rounds") as refusal:
            charged(ledger, granted)
        assert refusal.value.spent_epsilon == before
        assert refusal.value.asked_epsilon > 8.0
        assert ledger.head == head, "a refusal writes nothing"
        cheap = replace(ROUND, noise_multiplier=200.0)
        charged(ledger, granted, segment=cheap)
    with opened(path) as ledger, pytest.raises(BudgetSpentError):
        charged(ledger, granted + 1)
    assert isinstance(refusal.value, PrivacyError)


def test_a_refusal_says_how_many_smaller_rounds_would_fit(path: Path) -> None:
    with opened(path) as ledger:
        charged(ledger, 0)
        with pytest.raises(BudgetSpentError) as refusal:
            charged(ledger, 1, segment=replace(ROUND, steps=100))
        assert refusal.value.rounds_left == 0


def test_a_round_without_noise_is_refused(path: Path) -> None:
    with opened(path) as ledger, pytest.raises(BudgetSpentError, match="would bring it to inf"):
        charged(ledger, 0, segment=replace(ROUND, noise_multiplier=0.0))


def test_a_charged_attempt_is_not_charged_or_granted_again(path: Path) -> None:
    with opened(path) as ledger:
        assert ledger.next_attempt("run-1", 3) == 0
        charged(ledger, 3)
        with pytest.raises(LedgerError, match="the next one is 1"):
            charged(ledger, 3)
        with pytest.raises(LedgerError, match="the next one is 1"):
            charged(ledger, 3, attempt=2)
        assert ledger.next_attempt("run-1", 3) == 1
        charged(ledger, 3, attempt=1)
        assert ledger.segments() == (ROUND, ROUND), "sampling again costs again"
        charged(ledger, 3, run="run-2")
    with opened(path) as ledger, pytest.raises(LedgerError, match="the next one is 2"):
        charged(ledger, 3, attempt=1)


def test_only_the_bytes_that_a_charge_paid_for_may_leave(path: Path) -> None:
    upload = hashlib.sha256(b"upload").digest()
    with opened(path) as ledger:
        charge = charged(ledger, 0)
        ledger.sent(charge, upload=upload)
        head = ledger.head
    with opened(path) as ledger:
        ledger.sent(charge, upload=upload)
        assert ledger.head == head, "the same bytes again are no entry and no cost"
        with pytest.raises(LedgerError, match="other bytes were sent"):
            ledger.sent(charge, upload=bytes(32))
        with pytest.raises(LedgerError, match="is not charged"):
            ledger.sent(replace(charge, attempt=1), upload=upload)
        with pytest.raises(MisuseError, match="digest of 32 bytes"):
            ledger.sent(charge, upload=b"short")


def test_a_note_changes_no_charge(path: Path) -> None:
    with opened(path) as ledger:
        charged(ledger, 0)
        before = ledger.spend()
        ledger.note(run="run-1", server_round=0, text="8 of 8 sites survived: noise multiplier 2.3")
        assert ledger.spend() == before
        assert ledger.head.count == 3
        with pytest.raises(MisuseError, match="printable"):
            ledger.note(run="run-1", server_round=0, text="a\nb")


def test_a_lower_cap_holds_from_now_on(path: Path) -> None:
    with opened(path) as ledger:
        charged(ledger, 0)
    with opened(path, cap_epsilon=0.5) as ledger:
        assert ledger.cap_epsilon == 0.5
        assert ledger.rounds_left(ROUND) == 0
        with pytest.raises(BudgetSpentError, match=r"cap is epsilon 0\.5"):
            charged(ledger, 1)
    with pytest.raises(LedgerError, match=r"cap epsilon 0\.5, and 8 was asked for.*raise_cap"):
        opened(path)
    assert "failed" not in statuses(verify(path)), "what was spent before is no fault"


def test_a_cap_is_raised_only_by_a_signed_entry(path: Path) -> None:
    with opened(path) as ledger:
        with pytest.raises(MisuseError, match="name of who signs"):
            ledger.raise_cap(12.0, signed_off_by=" ", reason="second study")
        with pytest.raises(MisuseError, match="reason"):
            ledger.raise_cap(12.0, signed_off_by="Dr Example", reason="")
        for lower in (8.0, 3.0, float("nan")):
            with pytest.raises(LedgerError, match="not above"):
                ledger.raise_cap(lower, signed_off_by="Dr Example", reason="second study")
        with pytest.raises(LedgerError, match="positive finite"):
            ledger.raise_cap(float("inf"), signed_off_by="Dr Example", reason="second study")
        ledger.raise_cap(12.0, signed_off_by="Dr Example", reason="second study")
    with opened(path, cap_epsilon=12.0) as ledger:
        assert ledger.cap_epsilon == 12.0
    assert any("raised from 8 to 12 by Dr Example: second study" in finding.what for finding in verify(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fingerprint": bytes(32)}, "of another data set"),
        ({"delta": 1e-6}, "opened with delta = 1e-05"),
        ({"delta": 1e-4}, "opened with delta = 1e-05"),
        ({"cap_epsilon": 8.1}, "cap epsilon 8, and 8.1"),
        ({"cap_epsilon": -1.0}, "positive finite"),
    ],
)
def test_another_data_set_or_a_weaker_promise_is_refused(path: Path, changes: dict[str, object], message: str) -> None:
    opened(path).close()
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=message):
        opened(path, **changes)
    assert path.read_bytes() == before
    opened(path).close()


@pytest.mark.parametrize(
    "changes", [{"cap_epsilon": 0.0}, {"cap_epsilon": float("nan")}, {"delta": 0.0}, {"delta": 1.0}]
)
def test_a_ledger_is_not_begun_without_a_promise(path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(LedgerError):
        opened(path, **changes)
    assert not path.exists()
    opened(path).close()


def test_a_fingerprint_has_32_bytes(path: Path) -> None:
    with pytest.raises(MisuseError, match="32 are needed"):
        opened(path, fingerprint=b"short")


def test_conditional_sensitivities_are_taken_off_delta(path: Path) -> None:
    with opened(path) as ledger:
        for server_round in range(4):
            charged(ledger, server_round, extra_delta=2e-6)
        assert ledger.spend().delta == pytest.approx(2e-6)
        assert ledger.spend().epsilon >= spend([ROUND] * 4, delta=2e-6).epsilon
        assert ledger.rounds_left(ROUND, extra_delta=2e-6) == 0
        with pytest.raises(BudgetSpentError, match="to inf"):
            charged(ledger, 4, extra_delta=2e-6)
        assert ledger.rounds_left(ROUND, extra_delta=5e-7) == 3
        with pytest.raises(LedgerError, match="extra_delta"):
            charged(ledger, 4, extra_delta=-1e-6)


def test_steps_that_cannot_be_accounted_are_not_charged(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RangeError("delta is too small for so many steps")

    with opened(path) as ledger:
        head = ledger.head
        monkeypatch.setattr("privacy.ledger_account.spend", refuse)
        with pytest.raises(RangeError, match="too small"):
            charged(ledger, 0)
        assert ledger.head == head


def test_a_second_opening_waits_and_then_fails(path: Path) -> None:
    with opened(path):
        with pytest.raises(LedgerError, match="open already"):
            opened(path, wait_seconds=0.05)
        with pytest.raises(LedgerError, match="open already"):
            opened(path.with_name("other.ledger"), fingerprint=bytes(32))
    opened(path).close()


def test_a_closed_ledger_charges_nothing(path: Path) -> None:
    ledger = opened(path)
    ledger.close()
    with pytest.raises(LedgerError, match="closed"):
        charged(ledger, 0)


def test_a_ledger_whose_disk_failed_charges_nothing_until_it_is_read_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = opened(path)
    with monkeypatch.context() as patch:
        patch.setattr("privacy.ledger_file.os.fsync", _no_space)
        with pytest.raises(OSError, match="no space"):
            charged(ledger, 0)
    with pytest.raises(LedgerError, match="writing to it failed"):
        charged(ledger, 0)
    ledger.close()
    opened(path).close()


def _no_space(_: int) -> None:
    raise OSError("no space")


def test_patients_in_two_data_sets_pay_once_for_everything(tmp_path: Path) -> None:
    """A data set is extended: the fingerprint is new, the patients are not."""
    old, new, strangers = (tmp_path / f"{name}.ledger" for name in ("old", "new", "strangers"))
    people = {f"patient-{i}": bytes([i]) * 32 for i in range(3)}
    grown = {**people, "patient-9": b"9" * 32}
    with opened(old, patients=people) as ledger:
        charged(ledger, 0)
        charged(ledger, 1)
    with opened(strangers, fingerprint=b"s" * 32, patients={"someone": b"x" * 32}) as ledger:
        assert ledger.segments() == ()
        charged(ledger, 7)
    with opened(new, fingerprint=b"n" * 32, patients=grown) as ledger:
        assert ledger.segments() == (ROUND, ROUND)
        charged(ledger, 0, run="run-2")
        assert len(ledger.charges()) == 1
    with opened(old, patients=people) as ledger:
        assert ledger.segments() == (ROUND, ROUND, ROUND), "and the other way round"
    with opened(new, fingerprint=b"n" * 32) as ledger:
        assert ledger.segments() == (ROUND, ROUND, ROUND), "nothing is carried over twice"
    for path in (old, new, strangers):
        assert "failed" not in statuses(verify(path))


@pytest.mark.parametrize(
    "again", [{"patient-0": b"preprocessed anew".ljust(32)}, {"renamed": bytes(32)}], ids=["images", "name"]
)
def test_a_patient_is_known_again_by_name_or_by_images(tmp_path: Path, again: dict[str, bytes]) -> None:
    with opened(tmp_path / "old.ledger", patients={"patient-0": bytes(32)}) as ledger:
        charged(ledger, 0)
    with opened(tmp_path / "new.ledger", fingerprint=b"n" * 32, patients=again) as ledger:
        assert ledger.segments() == (ROUND,)


def test_two_ledgers_of_one_data_set_are_refused(tmp_path: Path) -> None:
    opened(tmp_path / "one.ledger").close()
    with pytest.raises(LedgerError, match="same data set"):
        opened(tmp_path / "two.ledger")


def test_a_fingerprint_depends_on_every_patient_and_on_no_order() -> None:
    digests = [bytes([i]) * 32 for i in range(4)]
    assert dataset_fingerprint(digests) == dataset_fingerprint(digests[::-1])
    assert len({dataset_fingerprint(digests[:i]) for i in range(1, 5)}) == 4
    assert len(dataset_fingerprint(digests)) == 32
    for wrong in ([], [b"short"]):
        with pytest.raises(MisuseError, match="data set needs patients"):
            dataset_fingerprint(wrong)
    with pytest.raises(MisuseError, match="needs a name"):
        patient_marks({"": bytes(32)})


def test_a_ledger_can_be_checked_with_standard_tools(path: Path) -> None:
    with opened(path, patients={"Jane Doe": bytes(32)}) as ledger:
        charged(ledger, 0, segment=replace(ROUND, sampling_prob=0.1))
    previous = "0" * 64
    for number, line in enumerate(path.read_text(encoding="ascii").splitlines()):
        digest, text = line.split(" ", 1)
        assert hashlib.sha256(text.encode()).hexdigest() == digest
        entry = json.loads(text)
        assert (entry["ledger"], entry["number"], entry["previous"]) == (LABEL, number, previous)
        previous = digest
    assert entry["sampling_prob"] == "0.1"
    assert entry["plan"] == PLAN.hex()
    assert "Jane" not in path.read_text(encoding="ascii")
    assert path.stat().st_mode & 0o077 == 0, "readable by its owner only"


def test_verify_proves_an_honest_ledger_and_its_pinned_head(path: Path) -> None:
    with opened(path) as ledger:
        charged(ledger, 0)
        pinned = ledger.head
        charged(ledger, 1)
    assert statuses(verify(path, pinned=pinned)) == {"proved"}
    assert [finding.status for finding in verify(path)].count("unchecked") == 1
    assert "failed" in statuses(verify(path, pinned=replace(pinned, digest="0" * 64)))
    assert "failed" in statuses(verify(path, pinned=Head(count=9, digest=pinned.digest)))
    assert "failed" in statuses(verify(path.with_name("missing")))


@pytest.mark.parametrize("prepare", [lambda ledger: None, lambda ledger: charged(ledger, 0)], ids=["empty", "used"])
def test_verify_writes_nothing(path: Path, prepare: Callable[[Ledger], object]) -> None:
    with opened(path) as ledger:
        prepare(ledger)
    before = {found: found.read_bytes() for found in path.parent.iterdir()}
    verify(path)
    assert {found: found.read_bytes() for found in path.parent.iterdir()} == before
