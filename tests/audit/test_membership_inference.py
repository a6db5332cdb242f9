"""Membership inference works on an overfitted model, masked or not; more patients make it harder."""

import numpy as np
import pytest

from secfed.audit.attacks.membership import ATTACKS, attack, auc, auc_interval


@pytest.mark.slow
def test_membership_of_an_overfitted_model_is_found_under_masks_too():
    row = ATTACKS[0].run("masked", 0)
    assert row.verdict == "succeeded"
    assert row.figure > 0.9
    assert "is the plain one bit for bit" in row.outcome
    spread = float(row.outcome.split("AUC ")[2].split()[0])
    assert 0.5 < spread < row.figure - 0.05
    control = float(row.control.split("AUC ")[1])
    assert 0.3 < control < 0.7


def test_membership_of_a_plain_run_is_found():
    row = attack("plain", 1, few=8, many=16, strangers=24, references=8)
    assert row.verdict == "succeeded"
    assert row.figure > 0.85


def test_membership_in_an_encrypted_run_is_found_by_whoever_has_the_model():
    row = attack("encrypted", 1, few=8, many=16, strangers=24, references=8)
    assert row.verdict == "succeeded"
    assert row.figure > 0.85
    assert "in the last round is the plain one bit for bit" in row.outcome


def test_membership_is_not_claimed_where_members_look_like_strangers(monkeypatch):
    def noise(target, reference, patients):
        del target, reference
        return np.random.default_rng(len(patients)).normal(size=len(patients))

    monkeypatch.setattr("secfed.audit.attacks.membership._scores", noise)
    monkeypatch.setattr("secfed.audit.attacks.membership._train", lambda *_, **__: None)
    assert attack("plain", 0, few=8, many=16, strangers=24, references=8).verdict == "refused"


def test_auc_is_the_share_of_ordered_pairs():
    members, strangers = np.array([3.0, 1.0, 2.0]), np.array([0.0, 2.0])
    assert auc(members, strangers) == pytest.approx((1 + 1 + 1 + 1 + 0 + 0.5) / 6)
    assert auc(strangers, members) == pytest.approx(1 - auc(members, strangers))


@pytest.mark.parametrize("found", [0.0, 0.3, 0.5, 0.97, 1.0])
def test_auc_interval_holds_its_estimate_and_narrows_with_patients(found):
    narrow, wide = auc_interval(found, 100, 100), auc_interval(found, 10, 10)
    assert 0 <= wide[0] <= narrow[0] <= found <= narrow[1] <= wide[1] <= 1
    assert wide[1] - wide[0] > narrow[1] - narrow[0] > 0


def test_auc_interval_covers_the_truth_as_often_as_it_says():
    # Two normal populations at distance 1.2 have an AUC of Phi(1.2 / sqrt 2) = 0.802.
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(400):
        low, high = auc_interval(auc(rng.normal(1.2, 1, 20), rng.normal(0, 1, 40)), 20, 40)
        covered += low <= 0.802 <= high
    assert 0.92 * 400 <= covered <= 0.985 * 400
