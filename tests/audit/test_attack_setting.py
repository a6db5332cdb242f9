"""The small run, the slices and the search that attacks on learning share: they show what they say they show."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

import clients.participant
from clients.loss import losses_per_image
from secfed.audit.attacks import gradient_inversion, imprint_layers, membership, trap_weights
from secfed.audit.inversion import Search, invert, psnr_db, ssim
from secfed.audit.slices import slices, slices_by_organ
from secfed.audit.small_run import ONE_STEP, SitesRefused, run_small
from secfed.data.cases import ABDOMEN
from secfed.torch_threads import one_torch_thread


@pytest.fixture(scope="module")
def patients():
    return list(islice(slices(3, size=(16, 16)), 4))


@pytest.fixture(scope="module")
def runs(patients):
    return {
        mode: run_small([[patient] for patient in patients], mode=mode, seed=3, tables=ONE_STEP)
        for mode in ("plain", "masked")
    }


def gradient_of(run, case):
    network = run.network(run.start)
    losses = losses_per_image(
        network(torch.from_numpy(case.image)[:, None]),
        torch.from_numpy(case.label).long(),
        dice_weight=1.0,
        cross_entropy_weight=1.0,
        class_weights=None,
    )
    return torch.cat([g.flatten() for g in torch.autograd.grad(losses.mean(), list(network.parameters()))]).numpy()


def test_a_site_trains_on_exactly_the_slice_that_it_was_given(runs, patients):
    for (case,), patient in zip(runs["plain"].cases.values(), patients, strict=True):
        np.testing.assert_array_equal(case.image[0], patient.normalised())
        np.testing.assert_array_equal(case.label[0], patient.label)


def test_a_plain_upload_after_one_step_holds_the_gradient(runs):
    run = runs["plain"]
    for upload, (case,) in zip(run.uploads.values(), run.cases.values(), strict=True):
        expected = gradient_of(run, case)
        assert np.linalg.norm(run.gradient_in(upload) - expected) < 1e-4 * np.linalg.norm(expected)


def test_the_checkpoint_holds_the_mean_gradient_and_masks_change_no_bit_of_it(runs):
    plain = runs["plain"]
    mean = np.mean([plain.gradient_in(upload) for upload in plain.uploads.values()], axis=0)
    np.testing.assert_allclose(plain.gradient_in_sum(), mean, atol=1e-6)
    np.testing.assert_array_equal(runs["masked"].state, plain.state)


def test_a_masked_upload_does_not_hold_the_gradient(runs):
    run = runs["masked"]
    for upload, (case,) in zip(run.uploads.values(), run.cases.values(), strict=True):
        seen, expected = run.gradient_in(upload), gradient_of(run, case)
        cosine = seen @ expected / (np.linalg.norm(seen) * np.linalg.norm(expected))
        assert abs(cosine) < 6 / np.sqrt(expected.size)


def test_sites_that_refuse_say_why_in_their_own_log(patients, monkeypatch):
    def refuse(*_):
        raise clients.participant.PolicyRefusal("not today")

    monkeypatch.setattr(clients.participant, "_check_layout", refuse)
    with pytest.raises(SitesRefused, match="not today") as caught:
        run_small([[patient] for patient in patients], mode="plain", seed=3, tables=ONE_STEP)
    assert set(caught.value.reasons) == {f"site-{index:02d}" for index in range(4)}


def test_slices_show_the_organ_that_was_asked_for_or_do_not():
    with_it = list(islice(slices_by_organ(5, organ="gallbladder", present=True, size=(16, 16)), 3))
    without = list(islice(slices_by_organ(5, organ="gallbladder", present=False, size=(16, 16)), 3))
    assert all((patient.label == ABDOMEN.index("gallbladder")).sum() >= 4 for patient in with_it)
    assert not any((patient.label == ABDOMEN.index("gallbladder")).any() for patient in without)
    assert all(patient.image.shape == patient.label.shape == (16, 16) for patient in with_it + without)
    assert all((patient.label > 0).any() for patient in without)


def test_slices_follow_from_the_seed_and_never_repeat():
    first, again, other = (list(islice(slices(seed), 3)) for seed in (1, 1, 2))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.image, two.image)
    images = [patient.image.tobytes() for patient in first + other]
    assert len(set(images)) == 6


def test_a_gradient_of_zeros_gives_an_image_and_no_numbers_that_are_none(runs):
    run = runs["plain"]
    (case,) = next(iter(run.cases.values()))
    with one_torch_thread():
        found = invert(
            run.network(run.start), np.zeros(run.layout.num_parameters), case.label, seed=0, search=Search(steps=5)
        )
    assert np.isfinite(found).all()
    np.testing.assert_allclose([found.mean(), found.std()], [0, 1], atol=1e-6)


def test_the_search_looks_only_at_the_entries_that_it_may_use(runs):
    run = runs["plain"]
    (case,) = next(iter(run.cases.values()))
    gradient = gradient_of(run, case).astype(np.float64)
    used = np.arange(gradient.size) % 2 == 0
    spoilt = np.where(used, gradient, 1e3)
    network, search = run.network(run.start), Search(steps=5)
    with one_torch_thread():
        expected = invert(network, gradient, case.label, seed=0, search=search, used=used)
        found = invert(network, spoilt, case.label, seed=0, search=search, used=used)
        unrestricted = invert(network, spoilt, case.label, seed=0, search=search)
    np.testing.assert_array_equal(found, expected)
    assert np.abs(unrestricted - expected).max() > 1e-3


def test_psnr_counts_tenfold_errors_as_twenty_decibels():
    truth = np.linspace(0, 1, 64).reshape(8, 8)
    assert psnr_db(truth + 0.1, truth) == pytest.approx(20)
    assert psnr_db(truth + 0.01, truth) == pytest.approx(40)


def test_ssim_is_that_of_monai():
    from monai.metrics import SSIMMetric

    rng = np.random.default_rng(0)
    truth, noise = rng.normal(size=(2, 24, 16))
    for found in (truth, noise, truth + 0.3 * noise, 0.5 * truth + 1):
        metric = SSIMMetric(spatial_dims=2, data_range=float(np.ptp(truth)), kernel_type="uniform", win_size=7)
        expected = metric(torch.from_numpy(found)[None, None], torch.from_numpy(truth)[None, None])
        assert ssim(found, truth) == pytest.approx(float(expected), abs=1e-5)
    assert ssim(truth, truth) == pytest.approx(1)


def test_every_attack_has_a_name_of_its_own_and_says_what_it_threatens():
    modules = (gradient_inversion, membership, trap_weights, imprint_layers)
    attacks = [attack for module in modules for attack in module.ATTACKS]
    assert len({attack.name for attack in attacks}) == len(attacks) == 5
    assert all(attack.threat and attack.defence for attack in attacks)


def test_searches_cannot_be_changed_by_accident():
    with pytest.raises(AttributeError):
        Search().steps = 3
    assert replace(Search(), steps=3).steps == 3
