"""The simulated cardiac MRI scanner: balanced steady-state free precession (bSSFP).

Its contrast is that of T2 over T1: blood and fat are bright, muscle is dark. The steady state of a train of pulses of
alternating sign in a voxel that is off resonance is that of Freeman and Hill (J Magn Reson 1971;4:366-383); on
resonance it is M0 sin(a) (1 - E1) / (1 - (E1 - E2) cos(a) - E1 E2) exp(-TE / T2). Where the field is off by half a
cycle per repetition the signal vanishes and then changes sign, which makes dark bands, and dark lines where fat meets
water. Bias, noise and sampling are those of `secfed.data.phantom.mri`. Not simulated: motion, flow beyond a gain,
magnetisation preparation.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from secfed.data.phantom.anatomy import Subject
from secfed.data.phantom.geometry import Volume, smooth_field
from secfed.data.phantom.heart_tissues import HEART_PROPERTIES, HeartTissue
from secfed.data.phantom.mri import Table, Timing, receive_bias, rician, sample, vary_tissues
from secfed.data.phantom.population import PopulationConfig
from secfed.data.phantom.protocol import BssfpProtocol
from secfed.data.phantom.tissues import Tissue

# Fat resonates 3.4 ppm below water: hertz at 1.5 T and 3 T.
_FAT_SHIFT_HZ = {1.5: -217.0, 3.0: -434.0}

_BLOOD = (HeartTissue.LEFT_BLOOD, HeartTissue.RIGHT_BLOOD, HeartTissue.CAVAL_BLOOD)


def steady_state(t1_ms: Table, t2_ms: Table, timing: Timing) -> Table:
    """On resonance: sin(a) (1 - E1) / (1 - (E1 - E2) cos(a) - E1 E2) exp(-TE / T2), with Ei = exp(-TR / Ti)."""
    e1, e2 = np.exp(-timing.repetition_ms / t1_ms), np.exp(-timing.repetition_ms / t2_ms)
    sine, cosine = np.sin(timing.flip_rad), np.cos(timing.flip_rad)
    return np.asarray(sine * (1 - e1) / (1 - (e1 - e2) * cosine - e1 * e2) * np.exp(-timing.echo_ms / t2_ms))


def off_resonance_gain(
    t1_ms: Table, t2_ms: Table, timing: Timing, off_resonance_hz: NDArray[np.float32] | float
) -> NDArray[np.float64]:
    """Signed factor on `steady_state` in voxels that are off resonance; 1 on resonance, shapes broadcast.

    The sign is that of the refocused magnetisation: it changes from one pass band to the next.
    """
    e1, e2 = np.exp(-timing.repetition_ms / t1_ms), np.exp(-timing.repetition_ms / t2_ms)
    cosine = np.cos(timing.flip_rad)
    turn = 2e-3 * np.pi * timing.repetition_ms * np.asarray(off_resonance_hz, dtype=np.float64)
    # Pulses of alternating sign shift the profile of equal ones by half a turn.
    phase = np.cos(turn + np.pi)

    def magnitude(towards: NDArray[np.float64] | float) -> NDArray[np.float64]:
        spread = np.sqrt(1 + e2**2 - 2 * e2 * towards)
        return np.asarray(spread / ((1 - e1 * cosine) * (1 - e2 * towards) - e2 * (e1 - cosine) * (e2 - towards)))

    return np.asarray(magnitude(phase) / magnitude(-1.0) * np.sign(np.cos(turn / 2)))


def scan_bssfp(
    subject: Subject, generator: np.random.Generator, *, protocol: BssfpProtocol, population: PopulationConfig
) -> Volume:
    """One magnitude volume in arbitrary units, about 1 for bright tissue, on the subject's grid."""
    field_tesla = protocol.field_tesla
    if field_tesla is None:
        field_tesla = 3.0 if generator.random() < population.three_tesla_prob else 1.5
    repetition = generator.uniform(2.7, 3.6)
    timing = Timing(
        repetition_ms=repetition,
        echo_ms=repetition / 2,
        flip_rad=float(np.deg2rad(generator.uniform(*protocol.flip_deg))),
    )
    tissues = vary_tissues(generator, HEART_PROPERTIES, field_tesla=field_tesla, population=population)
    error_hz = _field_error(subject, generator, amplitude_hz=protocol.off_resonance_hz)

    water_t1, water_t2 = tissues.t1_ms[subject.tissue], tissues.t2_ms[subject.tissue]
    water = (tissues.density * (1 - tissues.fat_fraction) * steady_state(tissues.t1_ms, tissues.t2_ms, timing))[
        subject.tissue
    ] * off_resonance_gain(water_t1, water_t2, timing, error_hz)
    one = slice(Tissue.SUBCUTANEOUS_FAT, Tissue.SUBCUTANEOUS_FAT + 1)
    fat_t1, fat_t2 = tissues.t1_ms[one], tissues.t2_ms[one]
    shift_hz = _FAT_SHIFT_HZ[3.0 if field_tesla > 2 else 1.5]
    fat = (tissues.density * tissues.fat_fraction)[subject.tissue] * steady_state(fat_t1, fat_t2, timing)
    fat = fat * off_resonance_gain(fat_t1, fat_t2, timing, error_hz + np.float32(shift_hz))

    image = np.asarray(water + fat, dtype=np.float32)
    image /= np.float32(np.percentile(np.abs(image[subject.tissue != Tissue.AIR]), 95) + 1e-6)
    fine = 0.05 * smooth_field(generator, subject.grid, scale_mm=12.0)
    image *= 1 + fine + 0.04 * smooth_field(generator, subject.grid, scale_mm=35.0)
    # Fresh blood flows in and some dephases; both are uneven.
    blood = np.isin(subject.tissue, _BLOOD)
    flow = generator.uniform(0.85, 1.15) * (1 + 0.25 * smooth_field(generator, subject.grid, scale_mm=25.0))
    image[blood] *= flow[blood]

    image = np.abs(sample(image, generator, subject, slice_mm=(2.5, 5.0)))
    amplitude = generator.uniform(*protocol.bias_amplitude) * population.mr_bias_scale
    image = image * receive_bias(generator, subject, amplitude=amplitude)
    reach_mm = generator.uniform(25, 45)
    image *= 1 + np.float32(generator.uniform(*protocol.surface_gain)) * np.exp(
        -subject.depth_mm / np.float32(reach_mm)
    )
    snr = generator.uniform(*protocol.muscle_snr) * population.mr_snr_scale
    deviation = float(np.median(image[subject.tissue == Tissue.MUSCLE])) / snr
    return rician(image, generator, deviation=0.7 * deviation)


def _field_error(subject: Subject, generator: np.random.Generator, *, amplitude_hz: tuple[float, float]) -> Volume:
    """How far off resonance every voxel is, in Hz, after the field was shimmed over the heart."""
    error = generator.uniform(*amplitude_hz) * smooth_field(generator, subject.grid, scale_mm=110.0)
    # Air and tissue are magnetised differently, so the field is worst beside the lungs.
    lung = (subject.tissue == Tissue.LUNG).astype(np.float32)
    near = ndimage.gaussian_filter(lung, [14 / spacing for spacing in subject.grid.spacing_mm])
    error += np.float32(generator.uniform(-0.6, 0.6) * amplitude_hz[1]) * near
    heart = subject.label > 0
    return np.asarray(error - (error[heart].mean() if heart.any() else 0), dtype=np.float32)
