"""Gradient inversion: plain uploads give slices away, masked ones do not, sums of few do."""

from dataclasses import replace
from itertools import islice

import pytest

from secfed.audit.attacks.gradient_inversion import ATTACKS, SUCCESS_DB, attack_one_upload, attack_sum
from secfed.audit.inversion import Search, invert, psnr_db
from secfed.audit.slices import slices
from secfed.audit.small_run import ONE_STEP, run_small
from secfed.torch_threads import one_torch_thread

ONE_UPLOAD, SUM = ATTACKS


@pytest.mark.parametrize("seed", [0, 1])
def test_gradient_inversion_rebuilds_a_slice_from_a_plain_upload(seed):
    row = attack_one_upload("plain", seed, victims=1, search=Search(steps=200))
    assert row.verdict == "succeeded"
    assert row.figure > 3 * SUCCESS_DB


def test_gradient_inversion_gets_nothing_from_one_masked_upload():
    row = ONE_UPLOAD.run("masked", 0)
    assert row.verdict == "refused"
    assert abs(row.figure) < SUCCESS_DB / 2


def test_gradient_inversion_gets_nothing_from_one_encrypted_upload_without_the_key():
    row = attack_one_upload("encrypted", 0, victims=1, search=Search(steps=100))
    assert row.verdict == "refused"
    assert abs(row.figure) < SUCCESS_DB
    assert "with the key of one colluding site 100% of an upload is read" in row.outcome


def test_the_sum_of_an_encrypted_run_gives_slices_away_to_its_sites_and_not_to_the_aggregator():
    row = attack_sum("encrypted", 0, cohorts=(4,), search=Search(steps=150))
    assert row.verdict == "succeeded"
    assert row.figure > 1.2 * SUCCESS_DB
    assert "of 4 sites the aggregator reads 0% of the sum, a site all of it" in row.outcome


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


def test_the_step_alone_gives_a_slice_away_where_moments_are_not_shared():
    tables = {**ONE_STEP, "training": {**ONE_STEP["training"], "optimizer_state": "keep"}}
    patients = [[patient] for patient in islice(slices(0, size=(16, 16)), 3)]
    run = run_small(patients, mode="plain", seed=0, tables=tables)
    (case,) = next(iter(run.cases.values()))
    own, other = (run.step_in(upload) for upload in list(run.uploads.values())[:2])
    with one_torch_thread():
        network = run.network(run.start)
        found, control = (
            psnr_db(invert(network, step, case.label, seed=0, search=Search(steps=200))[0], case.image[0])
            for step in (own, other)
        )
    assert found > control + SUCCESS_DB


def test_figures_of_gradient_inversion_follow_from_the_seed():
    first, again = (attack_one_upload("masked", 4, victims=1, search=Search(steps=20)) for _ in range(2))
    assert first == again
