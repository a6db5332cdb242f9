"""The signal equations against closed forms, and the simulated scanner against what radiologists expect."""

import dataclasses
import functools

import numpy as np
import pytest

from secfed.data.phantom.anatomy import Subject, draw_subject
from secfed.data.phantom.ct import scan_ct
from secfed.data.phantom.geometry import STANDARD_GRID, Volume
from secfed.data.phantom.mri import (
    Timing,
    draw_timing,
    draw_tissues,
    scan_mr,
    spoiled_gradient_echo,
    tissue_signal,
    turbo_spin_echo,
)
from secfed.data.phantom.population import NORTH
from secfed.data.phantom.protocol import PROTOCOLS, MrProtocol, Sequence
from secfed.data.phantom.tissues import Tissue

# Gyromagnetic ratio of the proton in MHz per tesla, and the shift between water and fat in parts per million.
GYROMAGNETIC_MHZ, FAT_SHIFT_PPM = 42.577, 3.4


@functools.cache
def subject() -> Subject:
    return draw_subject(np.random.default_rng([1, 3]), NORTH, STANDARD_GRID)


def scan(sequence: Sequence, *, field_tesla: float = 1.5, seed: int = 0) -> Volume:
    protocol = MrProtocol(name="one-sequence", sequences=((sequence, 1.0),), field_tesla=field_tesla)
    return scan_mr(subject(), np.random.default_rng(seed), protocol=protocol, population=NORTH)


def mean_in(volume: Volume, tissue: Tissue) -> float:
    return float(volume[subject().tissue == tissue].mean())


def test_gradient_echo_with_full_recovery_is_pure_decay():
    timing = Timing(repetition_ms=1e6, echo_ms=10.0, flip_rad=np.pi / 2)
    signal = spoiled_gradient_echo(np.array([800.0]), np.array([20.0]), timing)
    assert signal == pytest.approx(np.exp(-0.5))


def test_gradient_echo_is_brightest_at_the_ernst_angle():
    """cos(a) = exp(-TR / T1) (Ernst and Anderson 1966)."""
    ernst = np.arccos(np.exp(-5 / 800))
    angles = ernst * np.array([0.9, 1.0, 1.1])
    signal = [
        float(
            spoiled_gradient_echo(
                np.array([800.0]), np.array([50.0]), Timing(repetition_ms=5, echo_ms=0, flip_rad=float(angle))
            )[0]
        )
        for angle in angles
    ]
    assert signal[1] > max(signal[0], signal[2])


def test_spin_echo_at_one_t1_and_one_t2_is_the_closed_form():
    signal = turbo_spin_echo(np.array([900.0]), np.array([80.0]), Timing(repetition_ms=900, echo_ms=80, flip_rad=0))
    assert signal == pytest.approx((1 - np.exp(-1)) * np.exp(-1))


@pytest.mark.parametrize("field_tesla", [1.5, 3.0])
def test_echo_times_match_the_chemical_shift(field_tesla: float):
    cycle_ms = 1e3 / (GYROMAGNETIC_MHZ * field_tesla * FAT_SHIFT_PPM)
    generator = np.random.default_rng(0)
    in_phase = draw_timing(generator, Sequence.T1_IN_PHASE, field_tesla=field_tesla).echo_ms
    opposed = draw_timing(generator, Sequence.T1_OPPOSED_PHASE, field_tesla=field_tesla).echo_ms
    assert in_phase == pytest.approx(cycle_ms, rel=0.02)
    assert opposed == pytest.approx(cycle_ms / 2, rel=0.02)


def test_opposed_phase_subtracts_fat_from_water():
    generator = np.random.default_rng(0)
    tissues = draw_tissues(generator, Sequence.T1_IN_PHASE, field_tesla=1.5, population=NORTH)
    timing = Timing(repetition_ms=150, echo_ms=2.3, flip_rad=1.2)
    together, apart = (
        tissue_signal(tissues, sequence, timing, field_tesla=1.5, fat_left=1.0)
        for sequence in (Sequence.T1_IN_PHASE, Sequence.T1_OPPOSED_PHASE)
    )
    assert apart[Tissue.SUBCUTANEOUS_FAT] < 0 < together[Tissue.SUBCUTANEOUS_FAT]
    assert abs(apart[Tissue.MARROW]) < 0.5 * together[Tissue.MARROW]
    assert apart[Tissue.CSF] == pytest.approx(together[Tissue.CSF])


def test_a_fatty_liver_loses_signal_in_opposed_phase():
    tissues = draw_tissues(np.random.default_rng(0), Sequence.T1_IN_PHASE, field_tesla=1.5, population=NORTH)
    fraction = tissues.fat_fraction.copy()
    fraction[Tissue.LIVER] = 0.3
    fatty = dataclasses.replace(tissues, fat_fraction=fraction)
    timing = Timing(repetition_ms=150, echo_ms=2.3, flip_rad=1.2)
    lean_signal, fatty_signal = (
        tissue_signal(drawn, Sequence.T1_OPPOSED_PHASE, timing, field_tesla=1.5, fat_left=1.0)[Tissue.LIVER]
        for drawn in (dataclasses.replace(tissues, fat_fraction=np.zeros_like(fraction)), fatty)
    )
    assert fatty_signal < 0.6 * lean_signal


def test_steatosis_raises_the_fat_of_the_liver_only():
    steatotic = dataclasses.replace(NORTH, steatosis_fat_fraction=0.2)
    lean = dataclasses.replace(NORTH, steatosis_fat_fraction=0.0)
    first, second = (
        draw_tissues(np.random.default_rng(1), Sequence.T1_IN_PHASE, field_tesla=1.5, population=people)
        for people in (steatotic, lean)
    )
    assert list(np.flatnonzero(first.fat_fraction != second.fat_fraction)) == [Tissue.LIVER]
    assert first.fat_fraction[Tissue.LIVER] > second.fat_fraction[Tissue.LIVER] == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("plain", "suppressed"),
    [
        (Sequence.T1_IN_PHASE, Sequence.T1_FAT_SUPPRESSED),
        (Sequence.T2_TURBO_SPIN_ECHO, Sequence.T2_FAT_SUPPRESSED),
    ],
)
def test_fat_suppression_darkens_fat_against_muscle(plain: Sequence, suppressed: Sequence):
    def ratio(sequence: Sequence) -> float:
        volume = scan(sequence)
        return mean_in(volume, Tissue.SUBCUTANEOUS_FAT) / mean_in(volume, Tissue.MUSCLE)

    assert ratio(plain) > 1.5
    assert ratio(suppressed) < 0.6 * ratio(plain)


@pytest.mark.parametrize("field_tesla", [1.5, 3.0])
def test_fluid_is_bright_on_t2_and_dark_on_t1(field_tesla: float):
    t1, t2 = (
        scan(sequence, field_tesla=field_tesla) for sequence in (Sequence.T1_IN_PHASE, Sequence.T2_TURBO_SPIN_ECHO)
    )
    assert mean_in(t2, Tissue.CSF) > 2 * mean_in(t2, Tissue.MUSCLE)
    assert mean_in(t1, Tissue.CSF) < mean_in(t1, Tissue.LIVER)


def test_liver_against_spleen_inverts_between_t1_and_t2():
    t1, t2 = scan(Sequence.T1_IN_PHASE), scan(Sequence.T2_TURBO_SPIN_ECHO, field_tesla=3.0)
    assert mean_in(t1, Tissue.LIVER) > mean_in(t1, Tissue.SPLEEN)
    assert mean_in(t2, Tissue.LIVER) < mean_in(t2, Tissue.SPLEEN)


def test_gadolinium_shortens_t1_of_perfused_tissue_only():
    plain, enhanced = (
        draw_tissues(np.random.default_rng(0), sequence, field_tesla=1.5, population=NORTH)
        for sequence in (Sequence.T1_FAT_SUPPRESSED, Sequence.T1_ENHANCED)
    )
    assert enhanced.t1_ms[Tissue.ARTERY] < 0.3 * plain.t1_ms[Tissue.ARTERY]
    assert enhanced.t1_ms[Tissue.LIVER] < 0.7 * plain.t1_ms[Tissue.LIVER]
    assert enhanced.t1_ms[Tissue.CSF] == plain.t1_ms[Tissue.CSF]


@pytest.mark.parametrize("name", ["mr-t1-gre", "mr-t2-tse"])
def test_contrast_inverts_between_ct_and_mri(name: str):
    """What makes a model of one modality collapse on the other: fat is dark on CT and bright on MRI."""
    ct = scan_ct(subject(), np.random.default_rng(0), protocol=PROTOCOLS["ct-portal"], population=NORTH)
    sequence = Sequence.T1_IN_PHASE if name == "mr-t1-gre" else Sequence.T2_TURBO_SPIN_ECHO
    field_tesla = PROTOCOLS[name].field_tesla
    mr = scan(sequence, field_tesla=field_tesla)
    soft = (Tissue.VISCERAL_FAT, Tissue.MUSCLE, Tissue.LIVER, Tissue.SPLEEN)
    on_ct, on_mr = ([mean_in(volume, tissue) for tissue in soft] for volume in (ct, mr))
    assert np.argmin(on_ct) == 0
    assert np.argmax(on_mr) == 0
    assert np.corrcoef(on_ct, on_mr)[0, 1] < -0.5


def test_magnitude_images_are_not_negative_and_finite():
    for sequence in Sequence:
        volume = scan(sequence)
        assert volume.dtype == np.float32
        assert np.isfinite(volume).all()
        assert volume.min() >= 0
        assert 0.3 < np.percentile(volume[subject().tissue != Tissue.AIR], 95) < 4


def test_equal_generators_give_equal_scans():
    np.testing.assert_array_equal(scan(Sequence.T1_ENHANCED, seed=5), scan(Sequence.T1_ENHANCED, seed=5))
