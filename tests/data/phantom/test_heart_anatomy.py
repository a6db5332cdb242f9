"""Random chests: every heart whole, of a plausible size, closed where hearts are closed, and in its place."""

import functools

import numpy as np
import pytest
from scipy import ndimage, stats

from secfed.data.cases import WHOLE_HEART
from secfed.data.phantom.anatomy import Subject
from secfed.data.phantom.chest_anatomy import draw_chest
from secfed.data.phantom.geometry import HEART_GRID, STANDARD_GRID, Grid
from secfed.data.phantom.heart_frame import HeartFrame, Ventricle
from secfed.data.phantom.heart_tissues import HeartTissue
from secfed.data.phantom.population import HEARTS, NORTH, POPULATIONS
from secfed.data.phantom.tissues import Tissue

SUBJECTS = 20
VOXEL_ML = float(np.prod(HEART_GRID.spacing_mm)) / 1000

# In ml, for hearts anywhere between full and two thirds emptied, healthy or somewhat enlarged. Left ventricle: the
# bounds asked of this phantom, around the 142 +- 21 ml (men) that cardiovascular magnetic resonance finds at the end of
# diastole. All others: assumption, wide around usual values.
PLAUSIBLE_ML = {
    "left_ventricle": (60, 200),
    "right_ventricle": (35, 260),
    "left_atrium": (25, 130),
    "right_atrium": (25, 150),
    "myocardium": (60, 200),
    "aorta": (6, 45),
    "pulmonary_artery": (4, 40),
}
PIECES = ndimage.generate_binary_structure(3, 1)


@functools.cache
def subjects(population: str, stream: int = 0) -> list[Subject]:
    return [
        draw_chest(np.random.default_rng([seed, 6, stream]), POPULATIONS[population], HEART_GRID)
        for seed in range(SUBJECTS)
    ]


def mask(subject: Subject, structure: str) -> np.ndarray:
    return subject.label == WHOLE_HEART.index(structure)


def centre(subject: Subject, structure: str) -> np.ndarray:
    return np.argwhere(mask(subject, structure)).mean(axis=0)


def volume_ml(subject: Subject, structure: str) -> float:
    return float(mask(subject, structure).sum()) * VOXEL_ML


def neighbours(inside: np.ndarray) -> np.ndarray:
    return ndimage.binary_dilation(inside, PIECES) & ~inside


def test_a_heart_costs_as_many_voxels_as_an_abdomen():
    assert HEART_GRID.shape == STANDARD_GRID.shape
    assert max(HEART_GRID.spacing_mm) < min(STANDARD_GRID.spacing_mm)


@pytest.mark.parametrize("population", POPULATIONS)
@pytest.mark.parametrize("structure", WHOLE_HEART.organs)
def test_every_subject_has_every_structure_in_a_plausible_size(population: str, structure: str):
    low, high = PLAUSIBLE_ML[structure]
    volumes = [volume_ml(subject, structure) for subject in subjects(population)]
    assert low <= min(volumes), sorted(volumes)
    assert max(volumes) <= high, sorted(volumes)


@pytest.mark.parametrize("population", POPULATIONS)
@pytest.mark.parametrize("structure", WHOLE_HEART.organs)
def test_every_structure_is_one_piece(population: str, structure: str):
    for subject in subjects(population):
        _, pieces = ndimage.label(mask(subject, structure), PIECES)
        assert pieces == 1


@pytest.mark.parametrize("population", POPULATIONS)
def test_muscle_and_valves_enclose_the_left_ventricle(population: str):
    """Its cavity meets muscle, and at the valves left atrium and aorta; never lung, fat or the blood of the right."""
    inner = WHOLE_HEART.index("myocardium")
    for subject in subjects(population):
        around = neighbours(mask(subject, "left_ventricle"))
        tissue, label = subject.tissue[around], subject.label[around]
        assert not np.isin(tissue, (Tissue.LUNG, Tissue.AIR, HeartTissue.RIGHT_BLOOD, HeartTissue.CAVAL_BLOOD)).any()
        assert (label == inner).mean() > 0.6
        blood = label[tissue == HeartTissue.LEFT_BLOOD]
        assert set(np.unique(blood)) <= {0, WHOLE_HEART.index("left_atrium"), WHOLE_HEART.index("aorta")}
        assert (blood == 0).sum() <= 5


@pytest.mark.parametrize("population", POPULATIONS)
def test_a_septum_parts_the_blood_of_both_sides(population: str):
    left = ("left_ventricle", "left_atrium", "aorta")
    right = ("right_ventricle", "right_atrium", "pulmonary_artery")
    for subject in subjects(population):
        here = np.logical_or.reduce([mask(subject, structure) for structure in left])
        there = np.logical_or.reduce([mask(subject, structure) for structure in right])
        # A voxel is wider than a septum, so a few voxels may touch.
        assert (neighbours(here) & there).sum() <= 0.02 * there.sum()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("left_ventricle", "left_atrium"),
        ("left_ventricle", "aorta"),
        ("right_ventricle", "right_atrium"),
        ("right_ventricle", "pulmonary_artery"),
    ],
)
def test_blood_flows_through_every_valve(first: str, second: str):
    open_valves = [
        bool((neighbours(mask(subject, first)) & mask(subject, second)).any())
        for population in POPULATIONS
        for subject in subjects(population)
    ]
    assert np.mean(open_valves) == 1


@pytest.mark.parametrize("population", POPULATIONS)
def test_chambers_lie_where_anatomy_puts_them(population: str):
    """(z, y, x) rises to the head, to the back and to the patient's left."""
    up, back, left = range(3)
    for subject in subjects(population):
        at = {structure: centre(subject, structure) for structure in WHOLE_HEART.organs}
        assert at["left_ventricle"][left] > at["right_atrium"][left]
        assert at["left_atrium"][back] > at["left_ventricle"][back] > at["right_ventricle"][back]
        assert at["left_atrium"][back] > at["right_atrium"][back]
        assert at["aorta"][up] > at["left_ventricle"][up]
        assert at["pulmonary_artery"][up] > at["right_ventricle"][up]
        assert at["pulmonary_artery"][left] > at["aorta"][left]
        liver = np.argwhere(subject.tissue == Tissue.LIVER).mean(axis=0)
        assert liver[up] < at["left_ventricle"][up]
        assert liver[left] < at["left_ventricle"][left]
        assert np.argwhere(subject.tissue == Tissue.CSF).mean(axis=0)[back] > at["left_atrium"][back]


@pytest.mark.parametrize("population", POPULATIONS)
def test_each_label_holds_its_own_tissue_and_lies_in_the_chest(population: str):
    tissues = {
        "left_ventricle": HeartTissue.LEFT_BLOOD,
        "right_ventricle": HeartTissue.RIGHT_BLOOD,
        "left_atrium": HeartTissue.LEFT_BLOOD,
        "right_atrium": HeartTissue.RIGHT_BLOOD,
        "myocardium": HeartTissue.MYOCARDIUM,
        "aorta": HeartTissue.LEFT_BLOOD,
        "pulmonary_artery": HeartTissue.RIGHT_BLOOD,
    }
    for subject in subjects(population):
        for structure, tissue in tissues.items():
            assert (subject.tissue[mask(subject, structure)] == tissue).all(), structure
        assert (subject.depth_mm[subject.label > 0] > 10).all()
        assert (subject.tissue[subject.depth_mm == 0] == Tissue.AIR).all()


def test_lungs_are_the_largest_part_of_the_field_of_view():
    for subject in subjects("north"):
        assert 0.15 < (subject.tissue == Tissue.LUNG).mean() < 0.6
        for side in (slice(0, 30), slice(50, 80)):
            assert (subject.tissue[:, :, side] == Tissue.LUNG).mean() > 0.1


def test_other_structures_carry_blood_without_a_label():
    """Pulmonary veins, branches and arch: the network has to tell them from what is labelled."""
    for subject in subjects("north"):
        for blood in (HeartTissue.LEFT_BLOOD, HeartTissue.RIGHT_BLOOD, HeartTissue.CAVAL_BLOOD):
            assert ((subject.tissue == blood) & (subject.label == 0)).sum() > 100


def test_equal_generators_give_equal_subjects_and_others_differ():
    first, second = (draw_chest(np.random.default_rng(3), NORTH, HEART_GRID) for _ in range(2))
    np.testing.assert_array_equal(first.tissue, second.tissue)
    np.testing.assert_array_equal(first.label, second.label)
    one, other = subjects("north")[:2]
    assert (one.label != other.label).mean() > 0.01


def test_coarser_grids_hold_the_same_kind_of_heart():
    grid = Grid(shape=(30, 40, 50), spacing_mm=(5.6, 5.6, 5.6))
    subject = draw_chest(np.random.default_rng(4), NORTH, grid)
    assert set(np.unique(subject.label)) == set(range(8))
    assert 60 < (subject.label == 1).sum() * 5.6**3 / 1000 < 220


def wall_share(subject: Subject) -> float:
    return volume_ml(subject, "myocardium") / volume_ml(subject, "left_ventricle")


def fat_ml(subject: Subject) -> float:
    return float((subject.tissue == Tissue.SUBCUTANEOUS_FAT).sum()) * VOXEL_ML


@pytest.mark.parametrize(("measure", "larger"), [(wall_share, "south"), (fat_ml, "north")])
def test_populations_differ_and_a_population_does_not_differ_from_itself(measure, larger: str):
    smaller = "south" if larger == "north" else "north"
    high, low, again = (
        [measure(subject) for subject in group]
        for group in (subjects(larger), subjects(smaller), subjects(larger, stream=1))
    )
    assert stats.mannwhitneyu(high, low, alternative="greater").pvalue < 1e-3
    assert stats.mannwhitneyu(high, again).pvalue > 1e-3


def test_every_population_has_hearts():
    assert set(HEARTS) == set(POPULATIONS)
    assert all(hearts.name == name for name, hearts in HEARTS.items())


def ellipsoid_beyond(centre_mm: float, long_mm: float, short_mm: float) -> float:
    """Volume beyond the valve's plane, by adding discs."""
    along = np.linspace(0, centre_mm + long_mm, 20_001)
    squared = short_mm**2 * np.clip(1 - ((along - centre_mm) / long_mm) ** 2, 0, None)
    return float(np.trapezoid(np.pi * squared, along)) / 1000


def test_muscle_keeps_its_volume_while_the_ventricle_empties():
    """Heart muscle is incompressible; without that rule the wall would lose a fifth of its volume."""
    for seed in range(8):
        full, contracted = (
            Ventricle.draw(np.random.default_rng(seed), population, scale=1.0)
            for population in (
                HEARTS["north"].__class__(name="full", emptied=(0.0, 0.0)),
                HEARTS["north"].__class__(name="contracted", emptied=(0.35, 0.35)),
            )
        )
        cavities, outers = (
            [ellipsoid_beyond(v.centre_mm, getattr(v, f"{part}_long_mm"), getattr(v, f"{part}_short_mm")) for v in both]
            for both, part in (((full, contracted), "cavity"), ((full, contracted), "outer"))
        )
        assert cavities[1] == pytest.approx(0.65 * cavities[0], rel=0.01)
        assert outers[1] - cavities[1] == pytest.approx(outers[0] - cavities[0], rel=0.06)


def test_the_axes_of_a_heart_are_a_right_angle_each_and_point_where_they_should():
    for seed in range(50):
        frame = HeartFrame.draw(np.random.default_rng(seed), base=np.zeros(3), scale=1.0)
        np.testing.assert_allclose(frame.axes @ frame.axes.T, np.eye(3), atol=1e-12)
        along, right, up = frame.axes
        assert along[0] < 0
        assert along[1] < 0
        assert along[2] > 0
        assert right[2] < 0
        assert up[0] > 0
