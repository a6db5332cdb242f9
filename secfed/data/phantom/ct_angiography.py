"""The simulated CT angiography of the heart: tissue codes to Hounsfield units.

Iodine makes blood bright: the left heart at every scan, the right heart by the timing of the scan, the lower caval vein
hardly. X rays of a lower voltage are attenuated more by iodine and bone. Blood that is still mixing is streaky in the
right heart. Not simulated: motion, beam hardening, calcium, stents.
"""

import numpy as np

from secfed.data.phantom.anatomy import Subject
from secfed.data.phantom.ct import expose, with_couch
from secfed.data.phantom.geometry import Volume, smooth_field
from secfed.data.phantom.heart_tissues import HEART_PROPERTIES, HeartTissue
from secfed.data.phantom.population import PopulationConfig
from secfed.data.phantom.protocol import CtAngiographyProtocol
from secfed.data.phantom.tissues import Tissue

# Attenuation of iodine over that at 120 kV (assumption: the order of measured ratios).
IODINE_GAIN = {80: 1.60, 100: 1.25, 120: 1.0}
_BONE_GAIN = {80: 1.30, 100: 1.12, 120: 1.0}

# Share of the right heart's opacification by which its blood is uneven.
_MIXING = 0.22


def scan_ct_angiography(
    subject: Subject,
    generator: np.random.Generator,
    *,
    protocol: CtAngiographyProtocol,
    population: PopulationConfig,
) -> Volume:
    """One CT volume in HU, on the subject's grid."""
    kilovolts = protocol.kilovolts[int(generator.integers(len(protocol.kilovolts)))]
    dose = generator.uniform(*protocol.dose) * IODINE_GAIN[kilovolts]
    right_share = generator.uniform(*protocol.right_share)
    noise_hu = generator.uniform(*protocol.noise_hu) * population.ct_noise_scale
    numbers = np.zeros(len(HEART_PROPERTIES), np.float32)
    for tissue, properties in HEART_PROPERTIES.items():
        values = properties.hounsfield
        uptake = (values.arterial - values.unenhanced) * dose
        if tissue == HeartTissue.RIGHT_BLOOD:
            uptake *= right_share
        numbers[tissue] = values.unenhanced + uptake + generator.normal(0, values.spread)
    for bone in (Tissue.CORTICAL_BONE, Tissue.MARROW):
        numbers[bone] *= _BONE_GAIN[kilovolts]
    volume = numbers[with_couch(subject.tissue)]
    uneven = smooth_field(generator, subject.grid, scale_mm=22.0)
    right = subject.tissue == HeartTissue.RIGHT_BLOOD
    opacified = (
        float(numbers[HeartTissue.RIGHT_BLOOD]) - HEART_PROPERTIES[HeartTissue.RIGHT_BLOOD].hounsfield.unenhanced
    )
    volume[right] += np.float32(_MIXING * max(0.0, opacified)) * uneven[right]
    return expose(volume, subject, generator, noise_hu=noise_hu)
