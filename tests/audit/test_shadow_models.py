"""Shadow models find patients of an overfitted model, and under distributed noise no more than its account allows."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from secfed.audit import shadow_models
from secfed.audit.attacks.membership import auc
from secfed.audit.shadow_models import as_expected, audit_membership, distributed, draw_halves, lira, unprotected
from secfed.cli import app
from secfed.errors import ConfigError


@pytest.fixture(scope="module")
def rows():
    trainings = (unprotected(rounds=3), distributed("epsilon 8", rounds=6, epsilon=8.0))
    return audit_membership(patients=32, models=4, seed=0, trainings=trainings)


def test_shadow_models_find_members_of_an_overfitted_model(rows):
    found = rows[0].attacker
    assert rows[0].epsilon is None
    assert found.auc > 0.75
    assert found.auc_low > 0.6
    assert found.rates[1].low > 0.1


def test_under_distributed_noise_they_find_no_more_than_the_accountant_allows(rows):
    found = rows[1].attacker
    assert rows[1].epsilon == pytest.approx(8.0, abs=0.05)
    assert found.auc_high < found.auc_cap == pytest.approx(0.881, abs=0.005)
    assert found.rates[1].high < found.rates[1].cap
    assert not found.exceeded
    assert found.auc < rows[0].attacker.auc_low
    assert as_expected(rows)


def test_an_attack_that_works_nowhere_proves_nothing(rows):
    assert not as_expected([row for row in rows if row.epsilon is not None] + [_without_account(rows[1])])


def _without_account(row):
    return shadow_models.MembershipRow(**{**vars(row), "epsilon": None})


def test_each_model_has_half_of_the_patients_and_its_neighbour_the_other_half():
    member = draw_halves(32, models=6, seed=1)
    assert member.shape == (6, 32)
    assert (member.sum(axis=1) == 16).all()
    assert (member[0::2] != member[1::2]).all()
    assert not np.array_equal(member[0], member[2])


def test_lira_finds_what_stands_in_the_scores_and_nothing_where_nothing_does():
    member = draw_halves(64, models=12, seed=2)
    rng = np.random.default_rng(3)
    level = rng.normal(0, 5, 64)
    told, silent = (lira(level + shift * member + rng.normal(size=member.shape), member) for shift in (2.0, 0.0))
    known = np.isfinite(told)
    assert auc(told[member & known], told[~member & known]) > 0.85
    known = np.isfinite(silent)
    assert 0.44 < auc(silent[member & known], silent[~member & known]) < 0.56


def test_a_model_s_complement_is_no_shadow_of_it():
    member = draw_halves(16, models=6, seed=4)
    phi = np.random.default_rng(5).normal(size=member.shape)
    changed = phi.copy()
    changed[1] += 100.0
    assert np.array_equal(lira(phi, member)[0], lira(changed, member)[0], equal_nan=True)
    assert not np.array_equal(lira(phi, member)[2], lira(changed, member)[2], equal_nan=True)


def test_the_command_prints_intervals_and_caps_as_one_json_object(monkeypatch, rows):
    monkeypatch.setattr(shadow_models, "audit_membership", lambda **_: rows)
    outcome = CliRunner().invoke(app, ["audit", "membership", "--models", "4", "--seed", "0", "--json"])
    assert outcome.exit_code == 0
    found = json.loads(outcome.stdout)
    assert found["command"] == "secfed audit membership --patients 32 --models 4 --seed 0"
    private = found["rows"][1]
    assert private["within_account"]
    assert "at delta 1e-05 per patient (zero-out), PLD" in private["account"]
    assert private["attacker"]["auc_low"] < private["attacker"]["auc"] < private["attacker"]["auc_cap"]
    page = CliRunner().invoke(app, ["audit", "membership", "--models", "4"]).stdout
    assert "no cap" in page
    assert "delta 1e-05 per patient (zero-out)" in " ".join(page.split())


@pytest.mark.parametrize("wrong", [{"models": 2}, {"models": 5}, {"patients": 8}, {"patients": 20}])
def test_numbers_that_leave_nothing_to_attack_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        audit_membership(**wrong)
