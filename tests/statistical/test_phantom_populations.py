"""The two populations differ where they say, and noise is as strong as the protocol says: not weaker, not stronger."""

import functools

import numpy as np
import pytest
from scipy import ndimage, stats

from secfed.data.cases import ABDOMEN
from secfed.data.phantom.anatomy import Subject, draw_subject
from secfed.data.phantom.ct import scan_ct
from secfed.data.phantom.geometry import STANDARD_GRID
from secfed.data.phantom.mri import scan_mr
from secfed.data.phantom.population import NORTH, POPULATIONS
from secfed.data.phantom.protocol import CtProtocol, MrProtocol, Phase, Sequence
from secfed.data.phantom.tissues import Tissue

SUBJECTS = 24


@functools.cache
def subjects(population: str, stream: int = 0) -> list[Subject]:
    return [
        draw_subject(np.random.default_rng([seed, 5, stream]), POPULATIONS[population], STANDARD_GRID)
        for seed in range(SUBJECTS)
    ]


def body_litres(subject: Subject) -> float:
    return float((subject.depth_mm > 0).sum() * 125e-6)


def fat_share(subject: Subject) -> float:
    fat = np.isin(subject.tissue, (Tissue.SUBCUTANEOUS_FAT, Tissue.VISCERAL_FAT))
    return float(fat.sum() / (subject.depth_mm > 0).sum())


def spleen_to_liver(subject: Subject) -> float:
    spleen, liver = ((subject.label == ABDOMEN.index(organ)).sum() for organ in ("spleen", "liver"))
    return float(spleen / liver)


@pytest.mark.parametrize(
    ("measure", "larger"), [(body_litres, "north"), (fat_share, "north"), (spleen_to_liver, "south")]
)
def test_populations_differ_and_a_population_does_not_differ_from_itself(measure, larger: str):
    smaller = "south" if larger == "north" else "north"
    high, low, again = (
        [measure(subject) for subject in group]
        for group in (subjects(larger), subjects(smaller), subjects(larger, stream=1))
    )
    assert stats.mannwhitneyu(high, low, alternative="greater").pvalue < 1e-3
    assert stats.mannwhitneyu(high, again).pvalue > 1e-3


@pytest.mark.parametrize("noise_hu", [7.0, 20.0])
def test_ct_noise_has_the_deviation_of_the_protocol(noise_hu: float):
    """In air the noise is 0.6 of its mean strength; the wrong scales 2/3 and 3/2 are rejected."""
    protocol = CtProtocol(name="fixed", phases=((Phase.PORTAL, 1.0),), noise_hu=(noise_hu, noise_hu))
    subject = subjects("north")[0]
    volume = scan_ct(subject, np.random.default_rng(0), protocol=protocol, population=NORTH)
    air = ~ndimage.binary_dilation(subject.tissue != Tissue.AIR, iterations=6)
    air[:, air.shape[1] // 2 :] = False
    measured = float(volume[air].std()) / 0.6
    assert measured == pytest.approx(noise_hu, rel=0.1)
    assert measured != pytest.approx(noise_hu * 2 / 3, rel=0.1)
    assert measured != pytest.approx(noise_hu * 3 / 2, rel=0.1)


@pytest.mark.parametrize("snr", [10.0, 30.0])
def test_mri_background_is_rayleigh_noise_of_the_stated_strength(snr: float):
    """Without signal a magnitude image follows a Rayleigh law: mean over deviation is sqrt(pi / (4 - pi))."""
    protocol = MrProtocol(
        name="fixed",
        sequences=((Sequence.T1_FAT_SUPPRESSED, 1.0),),
        field_tesla=1.5,
        muscle_snr=(snr, snr),
        bias_amplitude=(0.0, 0.0),
    )
    subject = subjects("north")[1]
    volume = scan_mr(subject, np.random.default_rng(0), protocol=protocol, population=NORTH)
    # Ghosts and ringing run along y, so clean air lies beside the body.
    columns = (subject.tissue != Tissue.AIR).any(axis=(0, 1))
    beside = ndimage.binary_dilation(columns, iterations=4)
    air = volume[:, :, ~beside]
    assert air.size > 5000
    assert air.mean() / air.std() == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), rel=0.03)
    muscle = float(np.median(volume[subject.tissue == Tissue.MUSCLE]))
    expected = muscle / snr * 0.7 * np.sqrt(np.pi / 2)
    assert air.mean() == pytest.approx(expected, rel=0.1)
    assert air.mean() != pytest.approx(expected * 2 / 3, rel=0.1)
    assert air.mean() != pytest.approx(expected * 3 / 2, rel=0.1)
