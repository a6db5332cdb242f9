"""Gradient inversion: plain uploads give slices away, masked ones do not, sums of few do."""

from dataclasses import replace

import pytest

from secfed.audit.attacks.gradient_inversion import ATTACKS, SUCCESS_DB, attack_one_upload, attack_sum
from secfed.audit.inversion import Search

ONE_UPLOAD, SUM = ATTACKS


@pytest.mark.parametrize("seed", [0, 1])
def test_gradient_inversion_rebuilds_a_slice_from_a_plain_upload(seed):
    row = attack_one_upload("plain", seed, victims=1, search=Search(steps=200))
    assert row.verdict == "succeeded"
    assert row.figure > 3 * SUCCESS_DB


@pytest.mark.slow
def test_gradient_inversion_gets_nothing_from_one_masked_upload():
    row = ONE_UPLOAD.run("masked", 0)
    assert row.verdict == "refused"
    assert abs(row.figure) < SUCCESS_DB / 2


def test_gradient_inversion_still_works_on_the_sum_of_four_sites_and_masks_change_nothing():
    plain, masked = (attack_sum(mode, 0, cohorts=(4,), search=Search(steps=150)) for mode in ("plain", "masked"))
    assert plain.verdict == "succeeded"
    assert plain.figure > 1.2 * SUCCESS_DB
    assert replace(masked, mode="plain") == plain


@pytest.mark.slow
def test_a_larger_cohort_blurs_what_the_sum_gives_away():
    row = SUM.run("masked", 1)
    assert row.verdict == "succeeded"
    four, ten = (float(part.split()[-1]) for part in row.outcome.split(" dB with ")[:2])
    assert four == pytest.approx(row.figure, abs=0.06)
    assert four > ten + 1


def test_figures_of_gradient_inversion_follow_from_the_seed():
    first, again = (attack_one_upload("masked", 4, victims=1, search=Search(steps=20)) for _ in range(2))
    assert first == again
