"""Scanners of the heart: CT numbers as the protocol says, bSSFP against a Bloch simulation, contrast as expected."""

import functools

import numpy as np
import pytest
from scipy import ndimage

from secfed.data.cases import WHOLE_HEART
from secfed.data.phantom.anatomy import Subject
from secfed.data.phantom.bssfp import off_resonance_gain, scan_bssfp, steady_state
from secfed.data.phantom.chest_anatomy import draw_chest
from secfed.data.phantom.ct_angiography import IODINE_GAIN, scan_ct_angiography
from secfed.data.phantom.geometry import HEART_GRID, Volume
from secfed.data.phantom.heart_tissues import HEART_PROPERTIES, HeartTissue
from secfed.data.phantom.mri import Timing
from secfed.data.phantom.population import NORTH
from secfed.data.phantom.protocol import PROTOCOLS, BssfpProtocol, CtAngiographyProtocol
from secfed.data.phantom.tissues import PROPERTIES, Tissue

SCANS = 10
CT = ["ct-angio-a", "ct-angio-b", "ct-angio-any"]
MR = ["mr-bssfp-a", "mr-bssfp-b", "mr-bssfp-any"]


@functools.cache
def subject(seed: int = 0) -> Subject:
    return draw_chest(np.random.default_rng([seed, 8]), NORTH, HEART_GRID)


@functools.cache
def scan(name: str, seed: int = 0) -> Volume:
    protocol, generator = PROTOCOLS[name], np.random.default_rng([seed, 9])
    if isinstance(protocol, CtAngiographyProtocol):
        return scan_ct_angiography(subject(seed), generator, protocol=protocol, population=NORTH)
    assert isinstance(protocol, BssfpProtocol)
    return scan_bssfp(subject(seed), generator, protocol=protocol, population=NORTH)


def ct_with(*, kilovolts: int = 120, dose: float = 1.0, right_share: float = 0.5, seed: int = 0) -> Volume:
    protocol = CtAngiographyProtocol(
        name="fixed",
        kilovolts=(kilovolts,),
        dose=(dose, dose),
        right_share=(right_share, right_share),
        noise_hu=(10.0, 10.0),
    )
    return scan_ct_angiography(subject(seed), np.random.default_rng([seed, 10]), protocol=protocol, population=NORTH)


def deep(codes: np.ndarray, value: int) -> np.ndarray:
    """Voxels away from the border of a tissue or structure, where no other one blurs in."""
    inside = codes == value
    return ndimage.binary_erosion(inside) if inside.sum() > 400 else inside


def mean_in(volume: Volume, tissue: int, seed: int = 0) -> float:
    return float(volume[deep(subject(seed).tissue, tissue)].mean())


def structure_mean(volume: Volume, structure: str, seed: int = 0) -> float:
    return float(volume[deep(subject(seed).label, WHOLE_HEART.index(structure))].mean())


def test_the_table_goes_on_where_the_abdomen_ends():
    assert list(HEART_PROPERTIES) == [*PROPERTIES, *HeartTissue]
    assert [int(code) for code in HEART_PROPERTIES] == list(range(len(HEART_PROPERTIES)))
    assert all(HEART_PROPERTIES[tissue] is PROPERTIES[tissue] for tissue in Tissue)


@pytest.mark.parametrize("tissue", HeartTissue)
def test_every_new_value_is_sourced_or_marked_and_physical(tissue: HeartTissue):
    row = HEART_PROPERTIES[tissue]
    for part in (row.hounsfield, row.at_1_5_tesla, row.at_3_tesla, row.proton_density, row.fat_fraction):
        assert part.source.startswith(("assumption", "Granitz"))
    assert row.hounsfield.enhanced_source.startswith("assumption")
    assert 0 < row.at_1_5_tesla.t2_ms < row.at_1_5_tesla.t1_ms <= row.at_3_tesla.t1_ms
    assert 0 < row.proton_density.value <= 1


def test_relaxation_times_of_muscle_are_the_published_ones():
    """Granitz et al. 2019, abstract: 995.8 and 1183.8 ms (T1), 55.8 and 51.6 ms (T2) at 1.5 T and 3 T."""
    muscle = HEART_PROPERTIES[HeartTissue.MYOCARDIUM]
    assert (muscle.at_1_5_tesla.t1_ms, muscle.at_1_5_tesla.t2_ms) == (995.8, 55.8)
    assert (muscle.at_3_tesla.t1_ms, muscle.at_3_tesla.t2_ms) == (1183.8, 51.6)


@pytest.mark.parametrize("dose", [0.7, 1.0])
def test_left_blood_and_muscle_have_the_numbers_of_the_table(dose: float):
    volume = [ct_with(dose=dose, seed=seed) for seed in range(SCANS)]
    for structure, tissue in (("left_ventricle", HeartTissue.LEFT_BLOOD), ("myocardium", HeartTissue.MYOCARDIUM)):
        row = HEART_PROPERTIES[tissue].hounsfield
        expected = row.unenhanced + dose * (row.arterial - row.unenhanced)
        measured = np.mean([structure_mean(scan, structure, seed) for seed, scan in enumerate(volume)])
        assert measured == pytest.approx(expected, abs=12)


def test_iodine_is_brighter_at_a_lower_voltage_by_the_stated_gain():
    plain = HEART_PROPERTIES[HeartTissue.LEFT_BLOOD].hounsfield.unenhanced
    low, usual = (
        np.mean([structure_mean(ct_with(kilovolts=kv, seed=seed), "left_ventricle", seed) for seed in range(4)]) - plain
        for kv in (80, 120)
    )
    assert low / usual == pytest.approx(IODINE_GAIN[80], rel=0.03)


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_the_right_heart_has_its_share_of_the_opacification(share: float):
    plain = HEART_PROPERTIES[HeartTissue.LEFT_BLOOD].hounsfield.unenhanced
    scans = [ct_with(right_share=share, seed=seed) for seed in range(SCANS)]
    right, left = (
        np.mean([structure_mean(scan, structure, seed) for seed, scan in enumerate(scans)]) - plain
        for structure in ("right_ventricle", "left_ventricle")
    )
    assert right / left == pytest.approx(share, abs=0.06)


def test_the_two_ct_protocols_differ_in_the_right_heart_and_in_noise():
    shares: dict[str, list[float]] = {}
    noise: dict[str, list[float]] = {}
    for name in ("ct-angio-a", "ct-angio-b"):
        volumes = [scan(name, seed) for seed in range(SCANS)]
        shares[name] = [
            structure_mean(volume, "right_ventricle", seed) / structure_mean(volume, "left_ventricle", seed)
            for seed, volume in enumerate(volumes)
        ]
        noise[name] = [
            float(volume[deep(subject(seed).tissue, Tissue.LUNG)].std()) for seed, volume in enumerate(volumes)
        ]
    assert max(shares["ct-angio-a"]) < min(shares["ct-angio-b"])
    assert np.mean(noise["ct-angio-a"]) < np.mean(noise["ct-angio-b"])


@pytest.mark.parametrize("name", CT)
def test_ct_shows_lungs_black_fat_dark_and_left_blood_bright(name: str):
    volume = scan(name)
    assert mean_in(volume, Tissue.LUNG) < -700
    assert -130 < mean_in(volume, Tissue.SUBCUTANEOUS_FAT) < -80
    assert structure_mean(volume, "left_ventricle") > structure_mean(volume, "myocardium") + 120
    assert structure_mean(volume, "aorta") == pytest.approx(structure_mean(volume, "left_ventricle"), rel=0.15)


def bloch(t1_ms: float, t2_ms: float, timing: Timing, *, off_resonance_hz: float = 0.0) -> float:
    """Transverse magnetisation at the echo after eight T1 of pulses of alternating sign, by rotating a vector."""
    e1, e2 = np.exp(-timing.repetition_ms / t1_ms), np.exp(-timing.repetition_ms / t2_ms)
    turn = 2e-3 * np.pi * off_resonance_hz * timing.repetition_ms
    precess = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    vector = np.array([0.0, 0.0, 1.0])
    for pulse in range(int(8 * t1_ms / timing.repetition_ms)):
        angle = timing.flip_rad * (1 if pulse % 2 == 0 else -1)
        flip = np.array([[1, 0, 0], [0, np.cos(angle), np.sin(angle)], [0, -np.sin(angle), np.cos(angle)]])
        vector = flip @ vector
        just_after = vector
        vector = precess @ (np.diag([e2, e2, e1]) @ vector) + [0, 0, 1 - e1]
    return float(np.hypot(just_after[0], just_after[1]) * np.exp(-timing.echo_ms / t2_ms))


@pytest.mark.parametrize(
    ("t1_ms", "t2_ms", "flip_deg"),
    [(1441, 290, 60), (995.8, 55.8, 60), (343, 58, 45), (1183.8, 51.6, 35), (4000, 1500, 70)],
)
def test_steady_state_is_that_of_a_bloch_simulation(t1_ms: float, t2_ms: float, flip_deg: float):
    timing = Timing(repetition_ms=3.2, echo_ms=1.6, flip_rad=float(np.deg2rad(flip_deg)))
    formula = float(steady_state(np.array([t1_ms]), np.array([t2_ms]), timing)[0])
    assert formula == pytest.approx(bloch(t1_ms, t2_ms, timing), rel=1e-3)


@pytest.mark.parametrize("off_resonance_hz", [-300, -217, -156.25, -100, -20, 0, 50, 120, 156.25, 217, 300])
def test_off_resonance_is_that_of_a_bloch_simulation(off_resonance_hz: float):
    timing = Timing(repetition_ms=3.2, echo_ms=1.6, flip_rad=float(np.deg2rad(55)))
    t1, t2 = np.array([1000.0]), np.array([60.0])
    gain = float(off_resonance_gain(t1, t2, timing, off_resonance_hz)[0])
    on, off = bloch(1000.0, 60.0, timing), bloch(1000.0, 60.0, timing, off_resonance_hz=off_resonance_hz)
    assert abs(gain) == pytest.approx(off / on, rel=2e-3, abs=1e-4)


def test_bands_are_half_a_cycle_away_and_change_the_sign():
    timing = Timing(repetition_ms=4.0, echo_ms=2.0, flip_rad=1.0)
    t1, t2 = np.array([1441.0]), np.array([290.0])
    before, at, beyond = (float(off_resonance_gain(t1, t2, timing, hz)[0]) for hz in (90.0, 125.0, 160.0))
    assert before > 0.5
    assert abs(at) < 0.05
    assert beyond < -0.5


def test_fat_and_water_are_opposed_at_usual_repetition_times():
    """217 Hz at 1.5 T and 3 ms is past the first band, so fat meets water in a dark line."""
    timing = Timing(repetition_ms=3.0, echo_ms=1.5, flip_rad=1.0)
    assert off_resonance_gain(np.array([343.0]), np.array([58.0]), timing, -217.0)[0] < 0


@pytest.mark.parametrize("name", MR)
@pytest.mark.parametrize("seed", range(4))
def test_blood_is_bright_against_muscle_and_lungs_are_dark(name: str, seed: int):
    volume = scan(name, seed)
    muscle = structure_mean(volume, "myocardium", seed)
    for structure in ("left_ventricle", "right_ventricle", "left_atrium", "aorta"):
        assert structure_mean(volume, structure, seed) > 1.25 * muscle, structure
    assert mean_in(volume, Tissue.LUNG, seed) < 0.5 * muscle
    assert mean_in(volume, Tissue.SUBCUTANEOUS_FAT, seed) > 1.2 * mean_in(volume, Tissue.MUSCLE, seed)


@pytest.mark.parametrize("ct", CT[:2])
@pytest.mark.parametrize("mr", MR[:2])
def test_contrast_differs_between_ct_and_mri(ct: str, mr: str):
    """Fat is darkest on CT and bright on MRI; liver and right blood change places by timing: no monotone map helps."""
    soft = (Tissue.VISCERAL_FAT, Tissue.MUSCLE, HeartTissue.MYOCARDIUM, Tissue.LIVER)
    on_ct, on_mr = ([mean_in(scan(name), tissue) for tissue in soft] for name in (ct, mr))
    assert np.argmin(on_ct) == 0
    assert np.argmin(on_mr) != 0
    assert np.corrcoef(on_ct, on_mr)[0, 1] < 0.5


def test_the_protocol_at_3_tesla_sees_the_surface_better_than_that_at_1_5_tesla():
    """Fat has one signal, so how much brighter it is under the skin than beside the heart is the coils' doing."""
    brighter = {}
    for name in MR[:2]:
        ratios = []
        for seed in range(SCANS):
            volume, tissue = scan(name, seed), subject(seed).tissue
            skin, deep_fat = (
                float(np.median(volume[tissue == fat])) for fat in (Tissue.SUBCUTANEOUS_FAT, Tissue.VISCERAL_FAT)
            )
            ratios.append(skin / deep_fat)
        brighter[name] = float(np.mean(ratios))
    assert brighter["mr-bssfp-b"] > 1.1 * brighter["mr-bssfp-a"] > 1.1


@pytest.mark.parametrize("name", CT + MR)
def test_scans_are_finite_and_repeatable(name: str):
    volume = scan(name)
    again = scan.__wrapped__(name, 0)
    np.testing.assert_array_equal(volume, again)
    assert volume.dtype == np.float32
    assert volume.shape == HEART_GRID.shape
    assert np.isfinite(volume).all()
    if name in MR:
        assert volume.min() >= 0
        assert 0.3 < np.percentile(volume[subject().tissue != Tissue.AIR], 95) < 4
