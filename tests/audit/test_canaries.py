"""What leaves real runs tells as much about a canary as the ledger says; every flaw that gives more away is caught."""

import json
import math

import pytest
from flawed_privacy import FLAWS
from typer.testing import CliRunner

from secfed.audit import canaries
from secfed.audit.canaries import AGREES, LESS, MORE, SETTINGS, judged
from secfed.audit.canary_patients import canaries_in_place
from secfed.audit.canary_run import CanaryData, Setting, run_canaries
from secfed.cli import app
from secfed.errors import ConfigError

CANARIES, ROUNDS = 1200, 2
# mu = sqrt(2) / 0.25 = 5.7: a share of noise that is missing at one of four sites makes it 6.5.
LITTLE_NOISE = Setting(mode="distributed", protection="masked", noise_multiplier=0.25)
# Epsilon 2.0 in all, which is below what 200 right guesses show.
MUCH_NOISE = Setting(mode="distributed", protection="masked", noise_multiplier=2.8)


@pytest.fixture(scope="module")
def data():
    with CanaryData(count=CANARIES, rounds=ROUNDS, honest=4, seed=5) as found:
        yield found


def measure(data, setting):
    return judged(run_canaries(data, setting), setting=setting, seconds=0.0)


@pytest.mark.parametrize(
    "setting", [LITTLE_NOISE, MUCH_NOISE, *SETTINGS[1:3], *SETTINGS[5:]], ids=lambda setting: setting.name
)
def test_an_honest_run_gives_away_what_its_ledger_says(data, setting):
    row = measure(data, setting)
    assert row.verdict == AGREES
    assert abs(row.distance.value - row.distance.claimed) < row.distance.high - row.distance.low
    assert row.one_run.epsilon_at_least <= row.epsilon
    single = setting.sees_single_uploads and setting.mode == "distributed"
    expected = setting.sampling_prob * math.sqrt(ROUNDS) / setting.noise_multiplier * (2 if single else 1)
    assert row.distance.claimed == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_flaw_that_gives_more_away_than_the_ledger_says_is_caught(data, monkeypatch, flaw):
    FLAWS[flaw](monkeypatch)
    row = measure(data, LITTLE_NOISE)
    assert row.verdict == MORE
    assert row.distance.p_more < canaries.FALSE_ALARM
    assert row.distance.low > row.distance.claimed == pytest.approx(math.sqrt(ROUNDS) / 0.25, rel=1e-3)


@pytest.mark.parametrize("flaw", ["no_clipping", "the_same_noise_in_every_round", "slices_as_if_they_were_patients"])
def test_guessed_coins_alone_contradict_the_ledger_s_epsilon(data, monkeypatch, flaw):
    FLAWS[flaw](monkeypatch)
    row = measure(data, MUCH_NOISE)
    assert row.epsilon < 2.1
    assert row.one_run.epsilon_at_least > row.epsilon


def test_canaries_that_do_not_reach_the_sum_are_no_perfect_privacy(data, monkeypatch):
    monkeypatch.setattr("clients.private_contribution.poisson_lot", lambda *_: ())
    assert measure(data, LITTLE_NOISE).verdict == LESS


def test_a_site_s_software_is_its_own_again_after_a_canary_run(data):
    import clients.patient_training as place

    honest = place.PatientTraining
    with pytest.raises(KeyError), canaries_in_place(data.canaries):
        assert place.PatientTraining is not honest
        raise KeyError("a run that fails")
    assert place.PatientTraining is honest


def test_the_command_says_what_was_measured_and_fails_where_a_run_does_not_agree(monkeypatch):
    monkeypatch.setattr(canaries, "SETTINGS", (LITTLE_NOISE,))
    command = ["audit", "canaries", "--canaries", "400", "--rounds", "2", "--seed", "1", "--json"]
    honest = CliRunner().invoke(app, command)
    assert honest.exit_code == 0
    found = json.loads(honest.stdout)
    assert found["command"] == "secfed audit canaries --canaries 400 --rounds 2 --seed 1"
    assert found["agrees"]
    assert "per patient (zero-out), PLD" in found["rows"][0]["account"]
    row = found["rows"][0]
    assert row["distance"]["low"] < row["distance"]["value"] < row["distance"]["high"]
    FLAWS["two_thirds_of_the_noise"](monkeypatch)
    flawed = CliRunner().invoke(app, command[:-1])
    assert flawed.exit_code == 1
    page = " ".join(flawed.stdout.split())
    assert "0 of 1 runs agree" in page
    assert "delta 1e-05 per patient (zero-out)" in page


@pytest.mark.parametrize("wrong", [{"canaries": 10}, {"canaries": 4000}, {"rounds": 3}, {"rounds": 0}])
def test_numbers_that_measure_nothing_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        canaries.audit_canaries(**wrong)
