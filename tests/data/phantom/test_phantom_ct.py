"""The simulated CT scanner against published CT numbers and against its own protocol."""

import functools

import numpy as np
import pytest
from scipy import ndimage

from secfed.data.phantom.anatomy import Subject, draw_subject
from secfed.data.phantom.ct import scan_ct
from secfed.data.phantom.geometry import STANDARD_GRID
from secfed.data.phantom.population import NORTH
from secfed.data.phantom.protocol import PROTOCOLS, CtProtocol, Phase
from secfed.data.phantom.tissues import Tissue

SCANS = 16


@functools.cache
def subject(seed: int) -> Subject:
    return draw_subject(np.random.default_rng([seed, 2]), NORTH, STANDARD_GRID)


@functools.cache
def tissue_means(phase: Phase, tissue: Tissue) -> np.ndarray:
    """Mean HU inside a tissue, away from its border, of every subject that has some of it."""
    protocol = CtProtocol(name="one-phase", phases=((phase, 1.0),), noise_hu=(7.0, 13.0))
    means = []
    for seed in range(SCANS):
        volume = scan_ct(subject(seed), np.random.default_rng(seed), protocol=protocol, population=NORTH)
        inside = ndimage.binary_erosion(subject(seed).tissue == tissue)
        if inside.sum() > 20:
            means.append(float(volume[inside].mean()))
    return np.array(means)


def test_unenhanced_liver_lies_at_its_published_number():
    """58 +- 9 HU (Int J Leg Med 2019;133:1861), lowered a little by steatosis."""
    means = tissue_means(Phase.UNENHANCED, Tissue.LIVER)
    assert len(means) == SCANS
    assert 58 - 9 < means.mean() < 58 + 9
    assert 4 < means.std() < 20
    assert (np.abs(means - 58) < 4 * 9).all()


def test_unenhanced_fat_lies_in_its_published_range():
    assert -123 < tissue_means(Phase.UNENHANCED, Tissue.SUBCUTANEOUS_FAT).mean() < -89


def test_contrast_agent_brightens_liver_most_in_the_portal_phase():
    portal, arterial, plain = (
        tissue_means(phase, Tissue.LIVER).mean() for phase in (Phase.PORTAL, Phase.ARTERIAL, Phase.UNENHANCED)
    )
    assert portal > arterial + 20 > plain + 20


def test_arterial_aorta_is_the_brightest_soft_tissue():
    assert tissue_means(Phase.ARTERIAL, Tissue.ARTERY).mean() > 150
    assert tissue_means(Phase.PORTAL, Tissue.ARTERY).mean() < tissue_means(Phase.ARTERIAL, Tissue.ARTERY).mean()


def test_air_around_the_body_is_air():
    volume = scan_ct(subject(0), np.random.default_rng(0), protocol=PROTOCOLS["ct-portal"], population=NORTH)
    assert volume[:, :3].mean() == pytest.approx(-1000, abs=5)


def test_a_couch_lies_behind_the_body_and_nowhere_else():
    volume = scan_ct(subject(0), np.random.default_rng(0), protocol=PROTOCOLS["ct-portal"], population=NORTH)
    far = ndimage.binary_dilation(subject(0).tissue != Tissue.AIR, iterations=2)
    rows = np.flatnonzero(((volume > -700) & ~far).any(axis=(0, 2)))
    behind = np.flatnonzero((subject(0).tissue != Tissue.AIR).any(axis=(0, 2))).mean()
    assert len(rows) > 0
    assert (rows > behind).all()


def test_equal_generators_give_equal_scans():
    first, second = (
        scan_ct(subject(0), np.random.default_rng(9), protocol=PROTOCOLS["ct-any"], population=NORTH) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
