"""Predictions cover whole volumes of any size, and scores name patient, organ and millimetres."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from clients.evaluation import class_scores, evaluate_cases, mean_dice_by_modality, predict
from secfed.data.cases import ABDOMEN, Modality
from secfed.errors import DataError
from secfed.model import flatten, initial_model, layout_of

CPU = torch.device("cpu")


class Threshold(nn.Module):
    """Segments class i where the image is nearest to i, and demands lengths that are multiples of `factor`."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.batches: list[int] = []

    def forward(self, images):
        assert not self.training
        assert not torch.is_grad_enabled()
        assert all(length % self.factor == 0 for length in images.shape[2:])
        self.batches.append(len(images))
        classes = torch.arange(9.0).reshape(1, 9, *[1] * (images.ndim - 2))
        return -((images - classes) ** 2)


def labelled(make_case, shape):
    case = make_case(0, shape=shape)
    label = np.random.default_rng(0).integers(0, 9, shape).astype(np.uint8)
    return dataclasses.replace(case, image=label.astype(np.float32), label=label, spacing_mm=(4.0, 1.0, 2.0))


@pytest.mark.parametrize("shape", [(5, 16, 16), (3, 17, 30), (1, 9, 8), (7, 5, 3)])
def test_slices_of_any_size_are_segmented_in_place(make_plan, make_case, shape):
    plan = make_plan(model={"channels": [4, 8, 8]})
    case = labelled(make_case, shape)
    model = Threshold(factor=4).train()
    prediction = predict(model, case, plan=plan, device=CPU, batch_size=3)
    np.testing.assert_array_equal(prediction, case.label)
    assert prediction.dtype == np.uint8
    assert sum(model.batches) == shape[0]
    assert max(model.batches) <= 3
    assert model.training


def test_slices_are_padded_evenly_with_the_darkest_value(make_plan, make_case):
    case = labelled(make_case, (1, 9, 8))
    seen = []
    model = Threshold(factor=4)
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0, 0].numpy()))
    predict(model, case, plan=make_plan(model={"channels": [4, 8, 8]}), device=CPU)
    np.testing.assert_array_equal(seen[0], np.pad(case.image[0], ((1, 2), (0, 0)), constant_values=case.image.min()))


@pytest.mark.parametrize("shape", [(8, 16, 16), (9, 20, 17), (3, 5, 7)])
def test_volumes_of_any_size_are_segmented_in_place(make_plan, make_case, shape):
    plan = make_plan(model={"dimensions": 3}, training={"patch_size": [8, 16, 16]})
    case = labelled(make_case, shape)
    model = Threshold(factor=2)
    np.testing.assert_array_equal(predict(model, case, plan=plan, device=CPU, batch_size=2), case.label)
    assert max(model.batches) <= 2


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("shape", [(9, 20, 17), (3, 5, 7), (8, 16, 16)])
def test_class_scores_choose_the_labels_of_a_prediction(make_plan, make_case, dimensions, shape):
    plan = make_plan(model={"dimensions": dimensions}, training={"patch_size": [8, 16, 16][-dimensions:]})
    model = initial_model(plan.model, 9, 0)
    case, told = make_case(1, shape=shape), []
    scores = class_scores(model, case.image, plan=plan, device=CPU, batch_size=2, on_share=told.append)
    assert scores.shape == (9, *shape)
    np.testing.assert_array_equal(scores.argmax(dim=0), predict(model, case, plan=plan, device=CPU, batch_size=2))
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert sum(share < 1.0 for share in told) == len(told) - 1


def test_the_batch_size_does_not_change_a_prediction(make_plan, make_case):
    plan = make_plan()
    model = initial_model(plan.model, 9, 0)
    case = make_case(1, shape=(7, 15, 13))
    one, many = (predict(model, case, plan=plan, device=CPU, batch_size=size) for size in (1, 7))
    assert (one == many).mean() > 0.999


def test_scores_name_patient_modality_organ_and_distance(make_plan, make_case):
    case = make_case(3, modality=Modality.MR)
    image = case.label.astype(np.float32)
    image[image == 2] = 1.0
    scores = evaluate_cases(Threshold(2), [dataclasses.replace(case, image=image)], plan=make_plan(), device=CPU)
    assert [score.organ for score in scores] == list(ABDOMEN.organs)
    assert {(score.patient, score.modality) for score in scores} == {("patient-3", Modality.MR)}
    liver, spleen, *absent = scores
    assert 0 < liver.dice < 1
    assert liver.hd95_mm > 0
    assert spleen.dice == 0.0
    assert spleen.hd95_mm == pytest.approx(5 * np.sqrt(8**2 + 16**2 + 16**2))
    assert all(np.isnan(score.dice) and np.isnan(score.hd95_mm) for score in absent)


def test_distances_are_in_the_spacing_of_the_case(make_plan, make_case):
    case = labelled(make_case, (6, 16, 16))
    image = np.zeros((6, 16, 16), np.float32)
    image[0], label = 1.0, np.zeros((6, 16, 16), np.uint8)
    label[3] = 1
    (liver, *_) = evaluate_cases(
        Threshold(2), [dataclasses.replace(case, image=image, label=label)], plan=make_plan(), device=CPU
    )
    assert liver.hd95_mm == pytest.approx(12.0)


def test_mean_dice_is_added_up_per_modality(make_plan, make_case, cases):
    plan = make_plan()
    model = initial_model(plan.model, 9, 0)
    mr = make_case(9, modality=Modality.MR)
    empty = dataclasses.replace(mr, label=np.zeros_like(mr.label))
    everything = [*cases, mr, empty]
    totals = mean_dice_by_modality(flatten(model), layout_of(model), everything, plan=plan)
    for modality, expected in ((Modality.CT, cases), (Modality.MR, [mr, empty])):
        means = [
            np.nanmean([score.dice for score in evaluate_cases(model, [case], plan=plan, device=CPU)])
            for case in expected
        ]
        assert totals[modality] == (pytest.approx(sum(means)), len(means))


def test_a_case_without_any_organ_is_left_out(make_plan, make_case):
    plan = make_plan()
    model = initial_model(plan.model, 9, 0)
    with torch.no_grad():
        last = [parameter for parameter in model.parameters() if parameter.shape == (9,)][-1]
        last[0] = 1e6
    case = make_case(0)
    empty = dataclasses.replace(case, label=np.zeros_like(case.label))
    assert mean_dice_by_modality(flatten(model), layout_of(model), [empty], plan=plan) == {}


def test_a_case_without_labels_has_no_score(make_plan, make_case):
    plan = make_plan()
    model = initial_model(plan.model, 9, 0)
    bare = dataclasses.replace(make_case(0), label=None)
    with pytest.raises(DataError, match="patient-0 has no labels"):
        evaluate_cases(model, [bare], plan=plan, device=CPU)
    with pytest.raises(DataError, match="patient-0 has no labels"):
        mean_dice_by_modality(flatten(model), layout_of(model), [bare], plan=plan)
    assert predict(model, bare, plan=plan, device=CPU).shape == bare.image.shape


def test_the_global_generator_is_left_as_it_was(make_plan, cases):
    plan = make_plan()
    model = initial_model(plan.model, 9, 0)
    before = torch.get_rng_state()
    mean_dice_by_modality(flatten(model), layout_of(model), cases, plan=plan)
    assert torch.equal(torch.get_rng_state(), before)
