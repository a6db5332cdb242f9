"""`secfed privacy`: epsilon with everything that belongs to it, and wrong options by their name."""

import functools
import json

import pytest
from command_line import call

from privacy.accounting import ACCOUNTANT

ACCOUNT = ("--sampling-prob", "0.2", "--noise-multiplier", "2", "--steps", "20")


@pytest.fixture
def privacy(monkeypatch, capfd):
    return functools.partial(call, monkeypatch, capfd, "privacy", columns=120)


def test_the_price_of_a_plan_stands_with_unit_relation_accountant_and_attacker(privacy):
    code, out, err = privacy("account", *ACCOUNT, "--delta", "1e-5", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["epsilon"] == pytest.approx(2.2197, abs=1e-3)
    assert [found[key] for key in ("delta", "unit", "relation", "accountant")] == [
        1e-5,
        "patient",
        "zero-out",
        ACCOUNTANT,
    ]
    assert found["noise_multiplier"] == 2.0
    assert found["segments"] == [{"sampling_prob": 0.2, "noise_multiplier": 2.0, "steps": 20}]
    caps = found["attacker"]
    assert 0.01 < caps["tpr_at_1_percent_fpr"] <= caps["tpr_at_1_percent_fpr_from_epsilon_delta"]
    assert 0.5 < caps["auc"] <= caps["auc_from_epsilon_delta"]
    assert caps["basis"] == "trade-off curve"

    code, page, _ = privacy("account", *ACCOUNT, "--delta", "1e-5")
    assert code == 0
    percent = f"{100 * caps['tpr_at_1_percent_fpr']:.1f} %"
    for word in (
        f"{found['epsilon']:.4g}",
        "1e-05",
        "patient, zero-out",
        ACCOUNTANT,
        f"accepts 1 % false alarms finds at most {percent} of the patients",
        "as `secfed run` does",
    ):
        assert word in " ".join(page.split())


def test_stretches_add_up_and_delta_follows_the_patients(privacy):
    _, one, _ = privacy("account", *ACCOUNT, "--patients", "40", "--json")
    _, same, _ = privacy("account", "--segment", "0.2,2,5", "--segment", "0.2,2,15", "--patients", "40", "--json")
    _, more, _ = privacy("account", *ACCOUNT, "--segment", "0.2,2,5", "--patients", "1000000", "--json")
    assert json.loads(one)["epsilon"] == json.loads(same)["epsilon"]
    assert json.loads(one)["delta"] == 1e-5
    assert json.loads(more)["delta"] == pytest.approx(1e-7)
    assert json.loads(more)["epsilon"] > json.loads(one)["epsilon"]


def test_a_step_without_noise_is_null_in_json_and_plain_words_on_the_page(privacy):
    _, out, _ = privacy("account", "--segment", "0.2,0,1", "--delta", "1e-5", "--json")
    found = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found["epsilon"] is None
    assert found["attacker"]["tpr_at_1_percent_fpr"] == 1.0
    _, page, _ = privacy("account", "--segment", "0.2,0,1", "--delta", "1e-5")
    assert "infinite" in page
    assert "an attacker may find every patient" in " ".join(page.split())


def test_noise_for_a_budget_stays_within_it(privacy):
    options = ("--epsilon", "3", "--sampling-prob", "1", "--steps", "20", "--patients", "40")
    _, out, _ = privacy("calibrate", *options, "--json")
    found = json.loads(out)
    assert 2.98 < found["epsilon"] <= 3.0
    assert found["segments"][0]["noise_multiplier"] == found["noise_multiplier"]
    _, out, _ = privacy("calibrate", *options, "--before", "1,20,20", "--json")
    assert json.loads(out)["noise_multiplier"] > found["noise_multiplier"]
    assert len(json.loads(out)["segments"]) == 2
    code, page, _ = privacy("calibrate", *options)
    assert code == 0
    assert f"noise multiplier {found['noise_multiplier']:.6g}" in " ".join(page.split())


CALIBRATE = ("calibrate", "--epsilon", "3", "--sampling-prob", "0.2", "--steps", "20")
WRONG = {
    "negative budget": ((*CALIBRATE, "--delta", "1e-5", "--epsilon", "-1"), "--epsilon = -1.0 must be a positive"),
    "budget that is no number": ((*CALIBRATE, "--delta", "1e-5", "--epsilon", "nan"), "--epsilon = nan must be"),
    "spent budget": ((*CALIBRATE, "--delta", "1e-5", "--before", ".2,1,150"), "--epsilon = 3 at delta 1e-05 is out of"),
    "nobody sampled": ((*CALIBRATE, "--delta", "1e-5", "--sampling-prob", "0"), "--sampling-prob = 0 samples nobody"),
    "no delta": (CALIBRATE, "exactly one of --delta D and --patients N"),
    "two deltas": ((*CALIBRATE, "--delta", "1e-5", "--patients", "3"), "exactly one of --delta D and --patients N"),
    "no patients": ((*CALIBRATE, "--patients", "0"), "--patients = 0 must be a whole number"),
    "delta of one": (("account", *ACCOUNT, "--delta", "1"), "--delta = 1.0 must lie in"),
    "noise that is no number": (
        ("account", *ACCOUNT, "--noise-multiplier", "nan", "--delta", "1e-5"),
        "--noise-multiplier = nan",
    ),
    "probability above one": (("account", *ACCOUNT, "--sampling-prob", "2", "--delta", "1e-5"), "--sampling-prob = 2"),
    "no steps": (("account", *ACCOUNT, "--steps", "0", "--delta", "1e-5"), "--steps = 0 must be a whole number"),
    "half a plan": (("account", "--steps", "3", "--delta", "1e-5"), "belong together"),
    "no plan": (("account", "--delta", "1e-5"), "nothing to account"),
    "two numbers": (("account", "--segment", "1,2", "--delta", "1e-5"), "--segment = '1,2': expected Q,S,T"),
    "four numbers": (("account", "--segment", "1,2,3,4", "--delta", "1e-5"), "expected Q,S,T"),
    "words": (("account", "--segment", "a,b,c", "--delta", "1e-5"), "expected Q,S,T"),
    "bad number": (("account", "--segment", "0.1,-2,3", "--delta", "1e-5"), "'0.1,-2,3': noise_multiplier = -2.0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_options_are_named_and_end_as_configuration_errors(privacy, name):
    arguments, words = WRONG[name]
    code, out, err = privacy(*arguments)
    assert (code, out) == (2, "")
    assert words in " ".join(err.split())
    assert "Traceback" not in err
