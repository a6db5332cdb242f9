"""Trap weights: the layout is honest, the sites train, and the sum over all of them is one site's gradient."""

from itertools import islice

import numpy as np
import pytest

from secfed.audit.attacks.trap_weights import ATTACKS, SUCCESS_DB, _behind_last_layer, attack, trap
from secfed.audit.inversion import Search
from secfed.audit.slices import slices_by_organ
from secfed.audit.small_run import ONE_STEP, run_small


def cohort(seed, sites):
    victim = next(slices_by_organ(seed, organ="gallbladder", present=True, size=(16, 16)))
    others = islice(slices_by_organ(seed + 1, organ="gallbladder", present=False, size=(16, 16)), sites - 1)
    return [[victim], *([other] for other in others)]


def test_trap_weights_silence_every_site_but_the_one_that_shows_the_organ():
    patients = cohort(2, 4)
    honest = run_small(patients, mode="plain", seed=2, tables=ONE_STEP)
    trapped = run_small(patients, mode="plain", seed=2, tables=ONE_STEP, start=trap(honest))
    behind = _behind_last_layer(trapped)

    def loudness(run):
        return [np.linalg.norm(run.gradient_in(upload)[behind]) for upload in run.uploads.values()]

    victim, *others = loudness(trapped)
    assert victim > 0.01
    assert max(others) < 1e-6 * victim
    assert min(loudness(honest)) > 0.01


def test_trap_weights_keep_the_honest_layout_and_all_layers_but_the_last():
    honest = run_small(cohort(2, 4), mode="plain", seed=2, tables=ONE_STEP)
    behind = _behind_last_layer(honest)
    trapped = trap(honest)
    assert trapped.shape == honest.start.shape
    parameters = slice(0, honest.layout.num_parameters)
    np.testing.assert_array_equal(trapped[parameters][behind], honest.start[parameters][behind])
    assert (trapped[parameters][~behind] != honest.start[parameters][~behind]).mean() > 0.9


def test_trap_weights_open_one_site_in_a_plain_upload():
    row = attack("plain", 0, sites=4, victims=1, search=Search(steps=150, total_variation=1e-3))
    assert row.verdict == "succeeded"
    assert row.figure > 2 * SUCCESS_DB


@pytest.mark.slow
def test_trap_weights_open_one_site_in_the_masked_sum_of_ten():
    row = ATTACKS[0].run("masked", 0)
    assert row.verdict == "succeeded"
    assert row.figure > 3 * SUCCESS_DB
    assert "cosine 1.0000" in row.outcome


def test_figures_of_trap_weights_follow_from_the_seed():
    first, again = (attack("masked", 3, sites=3, victims=1, search=Search(steps=20)) for _ in range(2))
    assert first == again


def test_trap_weights_come_to_no_site_of_an_encrypted_run():
    row = ATTACKS[0].run("encrypted", 0)
    assert row.verdict == "refused"
    assert row.figure == 0.0
    assert "0 of 4 sites stand on the weights" in row.outcome
