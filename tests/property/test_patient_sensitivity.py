"""One patient moves the sum by at most the clip norm, whoever it is and whatever the others are."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from patient_lots import example, image_losses, make_lot, network

from privacy.clipped_sum import ClippedAccumulator, ClippedSum, NotForRelease
from privacy.errors import PrivacyError
from privacy.opacus_backend import OpacusHooks
from privacy.patientwise import PatientLoop
from privacy.sensitivity_check import check_sensitivity

ANYTHING = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(
    gradients=st.lists(st.lists(ANYTHING, min_size=3, max_size=3), min_size=1, max_size=6),
    clip_norm=st.floats(1e-30, 1e30),
    left_out=st.integers(0, 5),
)
@settings(max_examples=200)
def test_leaving_a_gradient_out_changes_the_total_by_at_most_the_bound_in_exact_arithmetic(
    gradients, clip_norm, left_out
):
    totals = []
    for given_ones in (gradients, gradients[: left_out % len(gradients)] + gradients[left_out % len(gradients) + 1 :]):
        total = ClippedAccumulator([torch.Size([1]), torch.Size([2])], clip_norm=clip_norm, device=torch.device("cpu"))
        for gradient in given_ones:
            total.add([torch.tensor(gradient[:1]), torch.tensor(gradient[1:])])
        totals.append(total.result().vector.tolist())
    change = sum((Fraction(a) - Fraction(b)) ** 2 for a, b in zip(*totals, strict=True))
    assert change <= Fraction(clip_norm) ** 2


@pytest.mark.parametrize("backend", [PatientLoop, OpacusHooks])
@pytest.mark.parametrize("clip_norm", [1e-6, 0.05, 100.0])
def test_no_patient_of_random_lots_moves_the_sum_by_more(backend, clip_norm):
    made = backend(network(), loss=image_losses, clip_norm=clip_norm, example=example())
    for seed in range(3):
        found = check_sensitivity(made, make_lot(4, seed=seed))
        assert 0 < found.largest_change <= clip_norm
        if clip_norm < 0.1:
            # Everybody is clipped, so everybody counts the whole bound.
            assert found.largest_change == pytest.approx(clip_norm, rel=1e-4)


OUTLIERS = {
    "bright": lambda images: images * 1e6,
    "huge": lambda images: images + 3e38,
    "infinite": lambda images: images * math.inf,
    "not a number": lambda images: images * math.nan,
    "empty": lambda images: images * 0,
    "one pixel": lambda images: torch.where(images == images.max(), 1e30, 0.0),
}


@pytest.mark.parametrize("backend", [PatientLoop, OpacusHooks])
@pytest.mark.parametrize("kind", OUTLIERS)
def test_one_outlier_moves_the_sum_by_at_most_the_bound(backend, kind):
    """Also what the other patients contribute stays what it was."""
    made = backend(network(), loss=image_losses, clip_norm=0.05, example=example())
    (images, labels), *others = make_lot(3)
    lot = [(OUTLIERS[kind](images), labels), *others]
    whole, rest = made.sum(lot), made.sum(others)
    assert np.linalg.norm(whole.vector - rest.vector) <= 0.05
    assert check_sensitivity(made, lot).largest_change <= 0.05


def test_a_loss_that_rewards_one_patient_is_held_too():
    """The adversary chooses the loss of a patient: 1e30 times the others'."""

    def steep(logits, labels):
        losses = image_losses(logits, labels)
        return losses * torch.where(labels.flatten(1).float().mean(dim=1) == 0, 1e30, 1.0)

    made = PatientLoop(network(), loss=steep, clip_norm=0.5, example=example())
    lot = [(make_lot(1)[0][0], example()[1]), *make_lot(3, seed=1)]
    assert check_sensitivity(made, lot).largest_change <= 0.5


class UnclippedBackend:
    """Forgets to clip."""

    num_params = 2

    def sum(self, lot):
        return ClippedSum(
            vector=sum((np.asarray(patient) for patient in lot), np.zeros(2)),
            clip_norm=1.0,
            patients=len(lot),
            diagnostics=NotForRelease(norms=np.zeros(0), fraction_clipped=0.0, not_finite=0),
        )


@pytest.mark.parametrize(
    ("outlier", "message"),
    [
        ((3.0, 0.0), "patient 1 of the lot"),
        ((1.0 + 1e-12, 0.0), "patient 1 of the lot"),
        ((math.nan, 0.0), "not finite"),
        ((math.inf, 0.0), "not finite"),
    ],
)
def test_the_check_finds_a_sum_that_was_not_clipped(outlier, message):
    assert check_sensitivity(UnclippedBackend(), [(0.5, 0.5), (0.0, 1.0)]).patient == 1
    with pytest.raises(PrivacyError, match=message):
        check_sensitivity(UnclippedBackend(), [(0.5, 0.5), outlier])
