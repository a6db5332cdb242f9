"""The simulated CT scanner: tissue codes to Hounsfield units.

Contrast phase, iodine dose, steatosis, oral contrast agent, couch, texture, point spread and correlated noise that is
strongest in the middle of the body. Not simulated: beam hardening, metal, motion.
"""

import numpy as np
from scipy import ndimage

from secfed.data.phantom.anatomy import Subject
from secfed.data.phantom.body import Codes
from secfed.data.phantom.geometry import Volume, smooth_field
from secfed.data.phantom.population import PopulationConfig
from secfed.data.phantom.protocol import CtProtocol, Phase
from secfed.data.phantom.tissues import PROPERTIES, Tissue

_ORAL_CONTRAST_HU = 220.0


def scan_ct(
    subject: Subject, generator: np.random.Generator, *, protocol: CtProtocol, population: PopulationConfig
) -> Volume:
    """One CT volume in HU, on the subject's grid."""
    phases, weights = zip(*protocol.phases, strict=True)
    phase = phases[int(generator.choice(len(phases), p=np.array(weights) / sum(weights)))]
    noise_hu = generator.uniform(*protocol.noise_hu) * population.ct_noise_scale

    table = _numbers(generator, phase, population)
    return expose(table[with_couch(subject.tissue)], subject, generator, noise_hu=noise_hu)


def expose(volume: Volume, subject: Subject, generator: np.random.Generator, *, noise_hu: float) -> Volume:
    """What a scanner makes of true CT numbers: texture, point spread and noise; `volume` is used up."""
    grain = 5.0 * smooth_field(generator, subject.grid, scale_mm=14.0)
    grain += 4.0 * smooth_field(generator, subject.grid, scale_mm=40.0)
    volume += np.where(volume > -300, grain, np.float32(0))

    blur_mm = 4.0 * generator.uniform(0.3, 0.6)
    volume = ndimage.gaussian_filter(volume, [blur_mm / spacing for spacing in subject.grid.spacing_mm], truncate=2.5)
    noise = ndimage.gaussian_filter(
        generator.standard_normal(volume.shape, dtype=np.float32), (0, 0.6, 0.6), truncate=2
    )
    # X rays through the middle of the body are attenuated most, so fewest photons arrive from there.
    noise *= noise_hu / noise.std() * (0.6 + 0.6 * subject.depth_mm / max(1.0, float(subject.depth_mm.max())))
    return np.asarray(volume + noise, dtype=np.float32)


def _numbers(generator: np.random.Generator, phase: Phase, population: PopulationConfig) -> Volume:
    """CT number of every tissue code in this subject."""
    enhancement = float(np.exp(generator.normal(0, 0.13)))
    steatosis_hu = max(0.0, generator.normal(0, population.steatosis_hu))
    numbers = np.zeros(len(Tissue), np.float32)
    for tissue, properties in PROPERTIES.items():
        values = properties.hounsfield
        uptake = {
            Phase.UNENHANCED: 0.0,
            Phase.ARTERIAL: values.arterial - values.unenhanced,
            Phase.PORTAL: values.portal - values.unenhanced,
            Phase.DELAYED: values.delayed - values.unenhanced,
        }[phase]
        numbers[tissue] = values.unenhanced + uptake * enhancement + generator.normal(0, values.spread)
    numbers[Tissue.LIVER] -= steatosis_hu
    if generator.random() < population.oral_contrast_prob:
        numbers[Tissue.BOWEL_CONTENT] += _ORAL_CONTRAST_HU
    return numbers


def with_couch(tissue: Codes) -> Codes:
    """The same codes with a curved couch just below the body."""
    _, depth, width = tissue.shape
    body_rows = np.flatnonzero((tissue[tissue.shape[0] // 2] != Tissue.AIR).any(axis=1))
    columns = np.arange(width // 8, width - width // 8)
    sag = (3 - 0.0016 * (columns - width / 2) ** 2).astype(int)
    rows = np.clip(body_rows[-1] + 1 + sag, 0, depth - 1)
    out = tissue.copy()
    couch = out[:, rows, columns]
    out[:, rows, columns] = np.where(couch == Tissue.AIR, np.uint8(Tissue.COUCH), couch)
    return out
