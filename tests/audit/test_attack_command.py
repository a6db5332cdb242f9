"""`secfed audit attack`: rows for scripts, a page for people, and an exit code that tells a regression."""

import functools
import json

import pytest
from command_line import call

from secfed.audit import expected
from secfed.audit.suite import ATTACKS


@pytest.fixture
def attack(monkeypatch, capfd):
    """Run the command in this process: (exit code, standard output, standard error)."""
    return functools.partial(call, monkeypatch, capfd, "audit", "attack")


def test_json_holds_a_row_for_each_attack_and_mode(attack):
    code, out, _ = attack("--json", "--only", "both-lists", "--only", "zero-uploads", "--seed", "4")
    found = json.loads(out)
    assert code == 0
    assert found["seed"] == 4
    assert found["deviations"] == []
    assert found["seconds"] > 0
    assert [(row["attack"], row["mode"], row["verdict"]) for row in found["rows"]] == [
        ("both-lists", "plain", "succeeded"),
        ("both-lists", "masked", "refused"),
        ("both-lists", "encrypted", "not applicable"),
        ("zero-uploads", "plain", "not applicable"),
        ("zero-uploads", "masked", "refused"),
        ("zero-uploads", "encrypted", "refused"),
    ]
    for row in found["rows"]:
        assert set(row) == {"attack", "mode", "control", "outcome", "figure", "unit", "verdict"}


def test_one_mode_can_be_chosen(attack):
    _, out, _ = attack("--json", "--mode", "masked", "--only", "wraparound")
    assert [row["mode"] for row in json.loads(out)["rows"]] == ["masked"]


def test_page_says_what_came_of_it_and_what_a_success_means(attack):
    code, out, err = attack("--only", "collusion-of-t-sites", "--only", "both-lists")
    assert code == 0
    assert "plain: 0 refused, 2 succeeded, 0 not applicable" in out
    assert "masked: 1 refused, 1 succeeded, 0 not applicable" in out
    assert "encrypted: 0 refused, 1 succeeded, 1 not applicable" in out
    assert "Limits of masked" in out
    assert "Limits of encrypted" in out
    assert "any t sites can open everything, by design" in out
    assert "All 6 verdicts are what this version claims" in out
    assert "largest error 0" in out, "chosen attacks are shown with their controls"
    assert "Attacking" in err


@pytest.mark.parametrize(("columns", "shown"), [(80, False), (160, True)])
def test_page_says_what_is_tried_where_there_is_room(attack, columns, shown):
    _, out, _ = attack("--only", "both-lists", columns=columns)
    assert ("the aggregator names a site both survived and dropped" in out) == shown
    assert ("A wider terminal shows what each attack tries" in out) != shown


def test_limits_of_each_mode_say_what_there_is_against_them_there(attack):
    _, out, _ = attack("--mode", "encrypted", "--only", "collusion-below-t")
    assert "every site holds the one key" in " ".join(out.split())
    assert "t shares are needed" not in out


def test_verdict_that_is_not_claimed_is_named_and_ends_with_one(attack, monkeypatch):
    claimed = {**expected.EXPECTED, "both-lists": {"plain": "succeeded", "masked": "succeeded"}}
    monkeypatch.setattr(expected, "EXPECTED", claimed)
    code, out, _ = attack("--mode", "masked", "--only", "both-lists")
    assert code == 1
    assert "DEVIATION  both-lists on masked: refused, expected was succeeded" in out
    code, out, _ = attack("--mode", "masked", "--only", "both-lists", "--json")
    assert code == 1
    assert json.loads(out)["deviations"] == ["both-lists on masked: refused, expected was succeeded"]


def test_attack_without_a_claim_is_a_deviation(attack, monkeypatch):
    monkeypatch.setattr(expected, "EXPECTED", {})
    code, out, _ = attack("--mode", "plain", "--only", "both-lists")
    assert code == 1
    assert "add it to the registry" in out


def test_unknown_attack_lists_the_known_ones_before_anything_runs(attack):
    code, out, err = attack("--only", "both-lists", "--only", "rowhammer")
    assert code == 2
    assert out == ""
    assert "rowhammer: no such attack" in err
    assert all(known.name in err for known in ATTACKS)


def test_unknown_mode_names_the_known_ones(attack):
    code, _, err = attack("--mode", "homomorphic")
    assert code == 2
    assert "known modes are plain, masked, encrypted and all" in err


def test_names_are_unique_and_every_attack_has_a_claim_for_every_mode():
    names = [known.name for known in ATTACKS]
    assert len(set(names)) == len(names)
    assert set(names) == set(expected.EXPECTED)
    assert all(set(claims) == {"plain", "masked", "encrypted"} for claims in expected.EXPECTED.values())
