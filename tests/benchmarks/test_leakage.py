"""The benchmark of leakage: the attack works where nothing stops it, and a mask that does not mask would be seen."""

import dataclasses
import json
import sys

import numpy as np
import pytest

from benchmarks import leakage
from benchmarks.leakage import (
    GAIN,
    QUICK,
    STANDARD,
    Finding,
    Scale,
    _held_against,
    inversion_findings,
    membership_findings,
)
from secfed.audit import update_views
from secfed.audit.inversion import Search
from secfed.audit.rebuilt import SUCCESS_DB
from secfed.audit.shadow_models import distributed, unprotected
from secfed.audit.slices import slices
from secfed.audit.update_views import CLIPPED, PRIVATE, SUM, UPDATE, UpdateView
from secfed.results import decode, plain
from secfed.study.record import LeakageRow

TINY = Scale(
    repetitions=2,
    search=Search(steps=80),
    cohorts=(2,),
    models=4,
    patients=16,
    trainings=(unprotected(rounds=2), distributed("distributed epsilon 8", rounds=2, epsilon=8.0)),
)


pytestmark = pytest.mark.study


@pytest.fixture(scope="module")
def found():
    steps = []
    findings = leakage.findings(TINY, seed=0, on_step=lambda: steps.append(1))
    assert len(steps) == TINY.steps
    return findings


def gain(findings, target, protection):
    [finding] = [
        finding
        for finding in findings
        if (finding.row.target, finding.row.protection, finding.row.metric) == (target, protection, GAIN)
    ]
    return finding


def test_every_row_is_one_of_a_study_with_its_value_in_its_interval(found):
    rows = [finding.row for finding in found]
    for row in rows:
        assert decode(LeakageRow, plain(dataclasses.asdict(row)), "") == row
        assert row.low <= row.value <= row.high
        assert row.control is not None
        assert row.repetitions >= 2
        assert row.note
    keys = [(row.target, row.protection, row.cohort, row.metric) for row in rows]
    assert len(set(keys)) == len(keys)
    assert {row.attack for row in rows} == {"inversion", "membership"}
    assert {row.metric for row in rows if row.attack == "inversion"} == {"PSNR", "SSIM", GAIN}


def test_a_plain_update_gives_its_slice_away_and_a_protected_one_does_not(found):
    bare = gain(found, UPDATE, "plain")
    assert bare.met
    assert bare.row.value > 1.5 * SUCCESS_DB
    for protection in ("masked", "encrypted", PRIVATE):
        assert abs(gain(found, UPDATE, protection).row.value) < SUCCESS_DB
    assert gain(found, UPDATE, CLIPPED).met, "the view under noise can be read where there is none"


def test_a_sum_gives_less_away_than_one_update(found):
    summed = gain(found, SUM, "masked")
    assert summed.met
    assert summed.row.value > SUCCESS_DB
    assert summed.as_row().measure == f"sum of all sites (2 sites), masked: {GAIN}"


def test_a_mask_of_zeros_is_seen(monkeypatch):
    monkeypatch.setattr("privacy.secagg.masks.add_streams", lambda vector, streams: None)
    scale = dataclasses.replace(TINY, cohorts=(), search=Search(steps=60))
    broken = gain(inversion_findings(scale, seed=0, on_step=lambda: None), UPDATE, "masked")
    assert broken.row.value > 1.5 * SUCCESS_DB
    assert broken.met is False


def test_epsilons_of_the_noisy_views_are_in_their_notes(found):
    assert "epsilon 7.99" in gain(found, SUM, f"masked, {PRIVATE}").row.note
    share = gain(found, UPDATE, PRIVATE).row.note
    assert "such a share alone: epsilon 19." in share
    assert "not a DP guarantee" in share


def test_a_protected_sum_that_is_not_the_plain_one_is_an_error(monkeypatch):
    real = update_views.run_small

    def wrong(patients, *, mode, **others):
        run = real(patients, mode=mode, **others)
        return dataclasses.replace(run, state=run.state + np.float32(mode == "masked"))

    monkeypatch.setattr(update_views, "run_small", wrong)
    patients = slices(0, size=update_views.SIZE)
    views = update_views.update_views([next(patients) for _ in range(8)], seed=0, cohorts=())
    with pytest.raises(RuntimeError, match="cannot be compared"):
        next(views)


def test_membership_rows_name_cap_account_and_the_model_that_modes_share(found):
    rows = {(finding.row.protection, finding.row.metric): finding for finding in found if finding.row.cohort == 4}
    bare, private = (rows[name, "AUC"] for name in ("no DP", "distributed epsilon 8"))
    assert "end on one model (SHA-256 " in bare.row.note
    assert "no cap" in bare.row.note
    assert bare.target.startswith("interval above 0.5")
    assert "at most 0.881 by the account; epsilon 7.99" in private.row.note
    assert private.target == "<= 0.881, the account's cap"
    assert private.met
    assert private.row.control == 0.5
    assert "0.1 % false positives take 1,000 others and are left out" in private.row.note


def test_a_mode_that_changes_the_model_is_an_error(monkeypatch):
    monkeypatch.setattr(leakage, "first_model_digest", lambda training, **_: training.protection)
    with pytest.raises(RuntimeError, match="different models"):
        membership_findings(TINY, seed=0, on_step=lambda: None)


def row(value, *, low, high, **view):
    made = {"attack": "inversion", "metric": GAIN, "unit": "dB", "control": 0.0, "repetitions": 2, "note": "n"}
    return LeakageRow(value=value, low=low, high=high, **made, **view)


@pytest.mark.parametrize("protection", ["masked", "encrypted"])
def test_noise_gains_nothing_in_size_and_by_its_interval(protection):
    view = UpdateView(target=UPDATE, protection=protection, cohort=1)
    for value, low, high, met in ((0.2, -0.3, 0.7, True), (0.4, 0.1, 0.7, False), (1.1, -0.5, 2.7, False)):
        judged = row(value, low=low, high=high, target=UPDATE, protection=protection, cohort=1)
        assert _held_against(judged, view, {})[1] is met


def test_sums_are_held_against_the_next_smaller_one():
    plain_view, *sums = (
        UpdateView(target=UPDATE, protection="plain", cohort=1),
        UpdateView(target=SUM, protection="masked", cohort=2),
        UpdateView(target=SUM, protection="masked", cohort=4),
    )
    for gains, met in (
        ((9.0, 6.0, 3.0), [True, True]),
        ((9.0, 9.5, 9.2), [False, True]),
        ((9.0, 6.0, 7.0), [True, False]),
    ):
        known = dict(zip((plain_view, *sums), gains, strict=True))
        judged = [
            _held_against(
                row(known[view], low=0.0, high=9.9, target=SUM, protection="masked", cohort=view.cohort), view, known
            )
            for view in sums
        ]
        assert [one for _, one in judged] == met
        assert [target.split(":")[0] for target, _ in judged] == ["< that with 1 site", "< that with 2 sites"]


def test_the_command_writes_rows_and_the_study_s_rows(tmp_path, monkeypatch):
    made = row(4.0, low=3.0, high=5.0, target=UPDATE, protection="plain", cohort=1)
    asked = []
    monkeypatch.setattr(
        leakage, "findings", lambda scale, **_: asked.append(scale) or [Finding(row=made, target=">= 3", met=True)]
    )
    out, study = tmp_path / "a" / "leakage.json", tmp_path / "b" / "study.json"
    monkeypatch.setattr(sys, "argv", ["leakage", "--quick", "--json", str(out), "--study", str(study)])
    leakage.main()
    assert asked == [QUICK]
    assert json.loads(study.read_text()) == [dataclasses.asdict(made)]
    [written] = json.loads(out.read_text())
    assert written["met"] is True
    assert written["note"] == "95 % [3, 5]; control 0; n"
    assert leakage.measure(quick=False, seed=0) == (made,)
    assert asked[-1] is STANDARD
