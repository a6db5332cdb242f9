"""What a patient's gradient is does not depend on any other patient's images, whatever the augmentation."""

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.patient_training import PatientTraining, _Views
from clients.patients import patients_of
from clients.training import TrainingSource
from secfed.augmentation_config import AugmentationConfig
from secfed.config import TrainingPlan
from secfed.data.cases import ABDOMEN, Modality
from secfed.data.preprocessing import PreparedCase
from secfed.network import initial_vector

PLAN = TrainingPlan.model_validate(
    {
        "model": {"channels": [4, 8], "residual_units": 0, "dropout_prob": 0.2},
        "training": {"patch_size": [16, 16], "optimizer_state": "reset"},
        "privacy": {"mode": "distributed", "noise_multiplier": 1.0, "delta": 1e-5, "patches": 2, "views": 2},
    }
)


def case(name, seed, scale=1.0, tmp="nowhere"):
    rng = np.random.default_rng(seed)
    image = (scale * rng.normal(0, 1, (6, 16, 16))).astype(np.float32)
    label = rng.integers(0, ABDOMEN.num_classes, image.shape).astype(np.uint8)
    return PreparedCase(
        patient=name, modality=Modality.CT, image=image, label=label, spacing_mm=(5.0, 5.0, 5.0), source=tmp
    )


def opened(plan, cases, *, server_round=1):
    start, layout = initial_vector(plan, num_classes=ABDOMEN.num_classes)
    return PatientTraining.opened(
        plan=plan,
        layout=layout,
        patients=patients_of((TrainingSource(site="here", cases=tuple(cases)),), plan),
        start=start,
        server_round=server_round,
        device=torch.device("cpu"),
    )


@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.0, 1.0, 1e6, float("nan")]))
def test_another_patient_s_images_do_not_change_a_patient_s_gradient(seed, scale):
    mine = case("mine", 1)
    gradients = []
    for other in (case("other", 2), case("other", seed, scale)):
        for lot in ((0, 1), (0,)):
            with opened(PLAN, (mine, other)) as work:
                before = work.clipped_sum((1,)).vector if len(lot) == 2 else 0.0
                gradients.append(work.clipped_sum(lot).vector - before)
    alone = gradients[1]
    assert np.linalg.norm(alone) > 0
    for found in gradients:
        np.testing.assert_allclose(found, alone, rtol=0, atol=1e-12)
    # The control: other images of one's own do change it.
    with opened(PLAN, (case("mine", 3), case("other", 2))) as work:
        assert np.abs(work.clipped_sum((0,)).vector - alone).max() > 1e-6


def test_views_are_bound_to_patient_round_and_step_and_to_nothing_else():
    patients = patients_of((TrainingSource(site="here", cases=(case("a", 1), case("b", 1))),), PLAN)
    device = torch.device("cpu")
    first = _Views(PLAN, patients[0], 1, 0, device)()
    assert all(torch.equal(x, y) for x, y in zip(first, _Views(PLAN, patients[0], 1, 0, device)(), strict=True))
    for other in (
        _Views(PLAN, patients[1], 1, 0, device),
        _Views(PLAN, patients[0], 2, 0, device),
        _Views(PLAN, patients[0], 1, 1, device),
    ):
        assert not torch.equal(first[0], other()[0])
    assert first[0].shape == (4, 1, 16, 16)


def test_no_augmentation_looks_at_two_patients():
    # A further method has to be looked at before patients are promised anything under it.
    assert AugmentationConfig.model_fields["method"].annotation == Literal["none", "gin"]


@pytest.mark.parametrize("name", ["gin", "random_affine"])
def test_an_augmentation_of_a_batch_is_that_of_each_of_its_images(name):
    from secfed.augmentation.gin import gin
    from secfed.augmentation.spatial import random_affine

    images = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    labels = torch.zeros(4, 16, 16, dtype=torch.int64)

    def augmented(batch):
        generator = torch.Generator().manual_seed(5)
        if name == "gin":
            return gin(batch, config=PLAN.augmentation.gin, generator=generator)
        return random_affine(batch, labels, config=PLAN.augmentation.affine, generator=generator)[0]

    changed = images.clone()
    changed[2] *= 1e3
    before, after = augmented(images), augmented(changed)
    assert torch.equal(before[[0, 1, 3]], after[[0, 1, 3]])
    assert not torch.equal(before[2], after[2])
