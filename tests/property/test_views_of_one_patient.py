"""What a patient's gradient is does not depend on any other patient's images, whatever the augmentation."""

import typing

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.patient_training import PatientTraining, _Views
from clients.patients import patients_of
from clients.training import TrainingSource
from secfed.augmentation.appearance import appearance
from secfed.augmentation.spatial import random_affine
from secfed.augmentation_config import COUPLING, AppearanceMethod, AugmentationConfig, SimpleMethod
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


def plan_under(mode, augmentation):
    """A plan that the validator of `mode` has no other objection to."""
    tables = PLAN.model_dump(mode="json", exclude_none=True)
    tables["augmentation"] = augmentation
    tables["privacy"]["mode"] = mode
    if mode == "clip_only":
        del tables["privacy"]["noise_multiplier"]
    if mode == "silo":
        tables["federation"]["weighting"] = "uniform"
    return TrainingPlan.model_validate(tables)


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


def others_change_with(config, *, pose=False):
    """Which of four images look different after the third one changed, with the same draws."""
    images = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    labels = torch.randint(3, (4, 16, 16), generator=torch.Generator().manual_seed(2))
    different, relabelled = images.clone(), labels.clone()
    different[2] = 1e3 * images[2].flip(1) + 7
    relabelled[2] = 1

    def augmented(batch, theirs):
        generator = torch.Generator().manual_seed(5)
        if pose:
            batch, theirs = random_affine(batch, theirs, config=config.affine, generator=generator)
        return appearance(batch, theirs, config=config, generator=generator)

    before, after = augmented(images, labels), augmented(different, relabelled)
    return (before != after).flatten(1).any(dim=1).tolist()


@pytest.mark.parametrize("mode", ["distributed", "local", "silo", "clip_only"])
def test_no_augmentation_looks_at_two_patients(mode):
    """Run every method: those that put one image into another are COUPLING, and exactly those are refused."""
    admitted = []
    for method in typing.get_args(AppearanceMethod):
        tables = {"method": method, "mix": ["gin", "piecewise"]}
        try:
            config = plan_under(mode, tables).augmentation
        except ValueError as refusal:
            expected = "puts one image into another" if method in COUPLING else "views that must agree"
            assert method in {*COUPLING, "gin_ipa"}
            assert expected in str(refusal)
        else:
            admitted.append(method)
            for air in (False, True):
                changed = others_change_with(config.model_copy(update={"keep_air": air}), pose=True)
                assert changed == [False, False, True, False]
    assert set(admitted) == set(typing.get_args(AppearanceMethod)) - COUPLING - {"gin_ipa"}


def test_the_methods_that_couple_images_are_those_that_are_called_coupling():
    coupling = {
        method
        for method in typing.get_args(SimpleMethod)
        if others_change_with(AugmentationConfig(method=method)) != [False, False, True, False]
    }
    assert coupling == COUPLING


@pytest.mark.parametrize("method", typing.get_args(SimpleMethod))
def test_a_mixture_is_refused_for_what_any_of_its_methods_does(method):
    tables = {"method": "mixed", "mix": [method, "gin"]}
    if method in COUPLING:
        with pytest.raises(ValueError, match=f"'{method}' puts one image into another"):
            plan_under("distributed", tables)
    else:
        config = plan_under("distributed", tables).augmentation
        assert others_change_with(config, pose=True) == [False, False, True, False]


@pytest.mark.parametrize("weight", [0.5, 10.0])
def test_views_that_must_agree_are_refused(weight):
    with pytest.raises(ValueError, match="views that must agree"):
        plan_under("distributed", {"consistency": {"weight": weight}})


@pytest.mark.parametrize("method", ["nnunet", "randconv", "bezier", "slaug", "piecewise", "mixed", "none"])
def test_a_patient_s_gradient_is_the_same_beside_anybody_under_every_method(method):
    plan = plan_under("distributed", {"method": method, "keep_air": True})
    found = []
    for others in ([], [case("other", 2)], [case("other", 3, 1e6), case("third", 4)]):
        with opened(plan, (case("mine", 1), *others)) as work:
            mine = [patient.key for patient in work.patients].index("mine")
            found.append(work.clipped_sum((mine,)).vector)
    assert np.linalg.norm(found[0]) > 0
    for gradient in found[1:]:
        np.testing.assert_array_equal(gradient, found[0])
