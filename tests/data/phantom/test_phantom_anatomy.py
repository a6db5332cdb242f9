"""Random subjects: complete, plausible and inside the body."""

import functools

import numpy as np
import pytest
from scipy import ndimage

from secfed.data.cases import ABDOMEN
from secfed.data.phantom.anatomy import Subject, draw_subject
from secfed.data.phantom.geometry import FINE_GRID, STANDARD_GRID, Grid
from secfed.data.phantom.population import NORTH, POPULATIONS
from secfed.data.phantom.tissues import Tissue

# Volumes of adults in ml, wide on purpose: nearly every subject must lie within.
PLAUSIBLE_ML = {
    "liver": (500, 2600),
    "spleen": (15, 700),
    "kidney_right": (40, 330),
    "kidney_left": (40, 330),
    "pancreas": (8, 140),
    "gallbladder": (0.5, 90),
    "stomach": (40, 1000),
    "aorta": (30, 250),
}


@functools.cache
def subjects(population: str) -> list[Subject]:
    return [
        draw_subject(np.random.default_rng([seed, 1]), POPULATIONS[population], STANDARD_GRID) for seed in range(24)
    ]


@pytest.mark.parametrize("population", POPULATIONS)
def test_nearly_every_subject_has_all_eight_organs(population: str):
    complete = [set(np.unique(subject.label)) == set(range(9)) for subject in subjects(population)]
    assert np.mean(complete) >= 0.9


@pytest.mark.parametrize("population", POPULATIONS)
@pytest.mark.parametrize("organ", ABDOMEN.organs)
def test_organ_volumes_are_plausible(population: str, organ: str):
    low, high = PLAUSIBLE_ML[organ]
    volumes = [0.125 * (subject.label == ABDOMEN.index(organ)).sum() for subject in subjects(population)]
    assert np.mean([low <= volume <= high for volume in volumes]) >= 0.9, volumes


def test_labels_lie_inside_the_body():
    for subject in subjects("north"):
        assert (subject.depth_mm[subject.label > 0] > 5).all()


@pytest.mark.parametrize("population", POPULATIONS)
def test_nothing_sticks_out_of_the_skin(population: str):
    for subject in subjects(population):
        assert (subject.tissue[subject.depth_mm == 0] == Tissue.AIR).all()


def test_each_label_holds_its_own_tissues():
    allowed = {
        "liver": {Tissue.LIVER, Tissue.HEPATIC_VESSEL, Tissue.CYST},
        "spleen": {Tissue.SPLEEN, Tissue.CYST},
        "kidney_right": {Tissue.KIDNEY_CORTEX, Tissue.KIDNEY_MEDULLA, Tissue.URINE, Tissue.CYST},
        "kidney_left": {Tissue.KIDNEY_CORTEX, Tissue.KIDNEY_MEDULLA, Tissue.URINE, Tissue.CYST},
        "pancreas": {Tissue.PANCREAS, Tissue.URINE},
        "gallbladder": {Tissue.BILE, Tissue.URINE},
        "stomach": {Tissue.GUT_WALL, Tissue.GUT_FLUID, Tissue.BOWEL_CONTENT, Tissue.GUT_GAS},
        "aorta": {Tissue.ARTERY},
    }
    for subject in subjects("north"):
        for organ, tissues in allowed.items():
            assert set(np.unique(subject.tissue[subject.label == ABDOMEN.index(organ)])) <= tissues, organ


def test_paired_organs_lie_on_their_own_side():
    """Along x, volumes go from the patient's right to the left."""
    for subject in subjects("north"):
        middle = {organ: centre(subject, organ) for organ in ("liver", "spleen", "kidney_right", "kidney_left")}
        assert middle["liver"][2] < 39.5 < middle["spleen"][2]
        assert middle["kidney_right"][2] < 39.5 < middle["kidney_left"][2]


def test_front_and_back_and_head_and_foot_are_right():
    """Along y, volumes go to the back, along z to the head."""
    for subject in subjects("north"):
        assert centre(subject, "kidney_left")[1] > centre(subject, "stomach")[1]
        lung, canal = (np.argwhere(subject.tissue == tissue).mean(axis=0) for tissue in (Tissue.LUNG, Tissue.CSF))
        assert lung[0] > centre(subject, "kidney_left")[0]
        assert canal[1] > centre(subject, "aorta")[1]


def test_the_liver_is_one_piece():
    shares = []
    for subject in subjects("north"):
        pieces, _ = ndimage.label(subject.label == ABDOMEN.index("liver"), structure=np.ones((3, 3, 3)))
        sizes = np.bincount(pieces.ravel())[1:]
        shares.append(sizes.max() / sizes.sum())
    assert np.mean(shares) > 0.97


def test_subjects_differ():
    first, second = subjects("north")[:2]
    assert (first.label != second.label).mean() > 0.02


def test_equal_generators_give_equal_subjects():
    first, second = (draw_subject(np.random.default_rng(3), NORTH, STANDARD_GRID) for _ in range(2))
    np.testing.assert_array_equal(first.tissue, second.tissue)
    np.testing.assert_array_equal(first.label, second.label)


@pytest.mark.parametrize("grid", [FINE_GRID, Grid(shape=(24, 80, 100), spacing_mm=(10.0, 4.0, 4.0))])
def test_other_grids_hold_the_same_kind_of_subject(grid: Grid):
    subject = draw_subject(np.random.default_rng(4), NORTH, grid)
    assert subject.label.shape == grid.shape
    assert set(np.unique(subject.label)) == set(range(9))
    liver_ml = (subject.label == ABDOMEN.index("liver")).sum() * np.prod(grid.spacing_mm) / 1000
    assert 500 < liver_ml < 2600


def centre(subject: Subject, organ: str) -> np.ndarray:
    return np.argwhere(subject.label == ABDOMEN.index(organ)).mean(axis=0)
